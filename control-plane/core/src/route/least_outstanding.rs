//! The fewest outstanding tokens. At most [`limits::PICK_SCAN_COUNT`] candidates are compared, from
//! where the coin points: gateways with the same stale view then do not all pick the same one.

use super::{Candidate, Shape, slot};
use ollamamax_proto::limits;

/// Load no real worker reaches; above it all are alike, and products stay within a word.
const LOAD_TOKENS_MAX: u64 = 1 << 48;

/// The least loaded of those compared, the request itself counted in: a fresh candidate's share
/// makes it weigh more there.
pub fn pick(candidates: &[Candidate], shape: &Shape, coin: f64) -> Option<usize> {
    let start = slot(coin, candidates.len());
    let (head, tail) = candidates.split_at_checked(start)?;
    let all = tail.iter().zip(start..).chain(head.iter().zip(0..));
    let open = all.filter(|(candidate, _)| candidate.is_open()).take(limits::PICK_SCAN_COUNT);
    let best = open.reduce(|best, next| if less(next.0, best.0, shape) { next } else { best });
    best.map(|(_, index)| index)
}

fn less(a: &Candidate, b: &Candidate, shape: &Shape) -> bool {
    let load = |candidate: &Candidate| {
        candidate.outstanding_tokens.saturating_add(shape.tokens()).min(LOAD_TOKENS_MAX)
    };
    let (left, right) = (load(a) * b.share(), load(b) * a.share());
    left < right || (left == right && a.running < b.running)
}
