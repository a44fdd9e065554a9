//! A request goes where its beginning is cached, as long as that saves more than the queue there
//! costs; what nobody has cached finds its home by rendezvous hashing with bounded loads (Mirrokni,
//! Thorup, Zadimoghaddam, "Consistent hashing with bounded loads").
//!
//! ```text
//! somebody has it cached --> most of (tokens saved - tokens queued above the mean), within the bound
//!                                |  all of them beyond the bound: the fewest outstanding tokens
//! nobody has it -----------> first in rank within the bound; else the fewest outstanding tokens
//! ```
//!
//! Each worker's rank is a hash of the prefix and its id, so a worker that comes or goes moves only
//! its own share.

use super::{Candidate, FULL_SHARE, Shape, least_outstanding};
use ollamamax_proto::{WorkerId, limits};

/// The loads of all open candidates together.
struct Loads {
    tokens: u64,
    count: u64,
}

/// Where the cache saves most, or the home of the prefix.
pub fn pick(candidates: &[Candidate], shape: &Shape, coin: f64) -> Option<usize> {
    let mut loads = Loads { tokens: shape.tokens(), count: 0 };
    let mut cached = false;
    for candidate in candidates.iter().filter(|candidate| candidate.is_open()) {
        loads.tokens = loads.tokens.saturating_add(candidate.outstanding_tokens);
        loads.count += 1;
        cached |= candidate.cached_tokens > 0;
    }
    let first =
        if cached { warmest(candidates, shape, &loads) } else { home(candidates, shape, &loads) };
    first.or_else(|| least_outstanding::pick(candidates, shape, coin))
}

/// Who saves most; none when all that have something cached are loaded beyond the bound, or their
/// queues cost more than is saved.
fn warmest(candidates: &[Candidate], shape: &Shape, loads: &Loads) -> Option<usize> {
    let mean = loads.tokens.saturating_sub(shape.tokens()) / loads.count.max(1);
    let bound = loads.bound(limits::PREFIX_IMBALANCE_PERCENT);
    let mut best: Option<(usize, (u64, u64))> = None;
    for (index, candidate) in candidates.iter().enumerate() {
        if candidate.cached_tokens == 0 || !candidate.is_open() {
            continue;
        }
        let load = candidate.outstanding_tokens.saturating_add(shape.tokens());
        let queued = candidate.outstanding_tokens.saturating_sub(mean);
        let saved = u64::from(candidate.cached_tokens).saturating_sub(queued);
        if candidate.outstanding_tokens > 0 && (saved == 0 || load > bound) {
            continue;
        }
        // Of two that save the same the idler one.
        let score = (saved, u64::MAX - candidate.outstanding_tokens);
        if best.is_none_or(|(_, most)| score > most) {
            best = Some((index, score));
        }
    }
    best.map(|(index, _)| index)
}

/// The first in rank that is not loaded beyond the bound.
fn home(candidates: &[Candidate], shape: &Shape, loads: &Loads) -> Option<usize> {
    let bound = loads.bound(limits::PREFIX_LOAD_PERCENT);
    let mut best: Option<(usize, (u64, WorkerId))> = None;
    for (index, candidate) in candidates.iter().enumerate().filter(|(_, c)| c.is_open()) {
        // An idle worker always takes a request, however much that request alone exceeds the mean.
        let load = candidate.outstanding_tokens.saturating_add(shape.tokens());
        let share = bound.saturating_mul(candidate.share()) / u64::from(FULL_SHARE);
        if candidate.outstanding_tokens > 0 && load > share {
            continue;
        }
        let rank = (rank(shape.prefix_hash, candidate.worker), candidate.worker);
        if best.is_none_or(|(_, highest)| rank > highest) {
            best = Some((index, rank));
        }
    }
    best.map(|(index, _)| index)
}

impl Loads {
    /// So many percent of the mean.
    fn bound(&self, percent: u64) -> u64 {
        self.tokens.saturating_mul(percent) / (100 * self.count.max(1))
    }
}

fn rank(prefix: u64, worker: WorkerId) -> u64 {
    let (low, high) = (worker.0 as u64, (worker.0 >> 64) as u64);
    super::chain::mix(super::chain::mix(prefix ^ low) ^ high)
}
