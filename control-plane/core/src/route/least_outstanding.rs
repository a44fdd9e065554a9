//! The fewest outstanding tokens. At most [`limits::PICK_SCAN_COUNT`] candidates are compared, from
//! where the coin points: gateways with the same stale view then do not all pick the same one.

use super::{Candidate, FULL_SHARE, Shape, slot};
use ollamamax_proto::limits;

/// Load no real worker reaches; above it all are alike, and products stay within a word.
const LOAD_TOKENS_MAX: u64 = 1 << 40;

/// The least loaded of those compared, the request itself counted in: a fresh candidate's share
/// makes it weigh more there.
pub fn pick(candidates: &[Candidate], shape: &Shape, coin: f64) -> Option<usize> {
    let start = slot(coin, candidates.len());
    let (head, tail) = candidates.split_at_checked(start)?;
    let mut scan = Scan { tokens: shape.tokens(), best: u128::MAX, nth: 0, open: 0 };
    tail.iter().chain(head).try_for_each(|candidate| scan.compare(candidate));
    let nth = (scan.best != u128::MAX).then_some(scan.best as u32 as usize)?;
    Some((start + nth) % candidates.len())
}

/// The comparison so far. Each candidate is one number, in this order of weight: load, requests,
/// place in the scan. The smallest is found without a branch that a processor could guess wrong.
struct Scan {
    tokens: u64,
    best: u128,
    nth: u32,
    open: usize,
}

impl Scan {
    /// `None` ends the scan.
    fn compare(&mut self, candidate: &Candidate) -> Option<()> {
        let own = if candidate.is_open() {
            self.open += 1;
            let load = candidate.outstanding_tokens.saturating_add(self.tokens);
            let load = load.min(LOAD_TOKENS_MAX) * u64::from(FULL_SHARE);
            let load = match candidate.share() {
                share if share == u64::from(FULL_SHARE) => load,
                share => load * u64::from(FULL_SHARE) / share,
            };
            (u128::from(load) << 64) | (u128::from(candidate.running) << 32) | u128::from(self.nth)
        } else {
            u128::MAX
        };
        self.best = self.best.min(own);
        self.nth += 1;
        (self.open < limits::PICK_SCAN_COUNT).then_some(())
    }
}
