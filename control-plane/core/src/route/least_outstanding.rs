//! The fewest outstanding tokens. At most [`limits::PICK_SCAN_COUNT`] candidates are compared, from
//! where the coin points: gateways with the same stale view then do not all pick the same one.

use super::{Candidate, Shape, open, slot};
use ollamamax_proto::limits;

/// The least loaded of those compared.
pub fn pick(candidates: &[Candidate], _shape: &Shape, coin: f64) -> Option<usize> {
    let open = open(candidates);
    let start = slot(coin, open.len());
    let scanned = open.iter().cycle().skip(start).take(open.len().min(limits::PICK_SCAN_COUNT));
    scanned
        .copied()
        .enumerate()
        .min_by_key(|&(nth, index)| {
            let candidate = &candidates[index];
            (candidate.outstanding_tokens, candidate.running, nth)
        })
        .map(|(_, index)| index)
}
