//! Which worker gets a request: pure picks over a list of candidates, one policy per file.
//!
//! A pick sees numbers and a coin, and answers an index. No policy ever picks a candidate that is
//! not open: dead, draining, behind an open breaker, or full.

pub mod latency;
pub mod least_outstanding;
pub mod prefix;
pub mod round_robin;
pub mod weighted;

use ollamamax_proto::{AssignmentId, Generation, WorkerId};

/// A placement that could take the request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Who holds it.
    pub worker: WorkerId,
    /// Which assignment.
    pub assignment: AssignmentId,
    /// Its generation, carried by the request.
    pub generation: Generation,
    /// Its worker and phase are ready and its breaker permits.
    pub usable: bool,
    /// Prompt tokens still to process plus tokens that may still be generated, over all its
    /// requests: the unit of load.
    pub outstanding_tokens: u64,
    /// Requests sent to it and not yet ended.
    pub running: u32,
    /// How many it may have.
    pub capacity: u32,
    /// Smoothed time to the first token, in microseconds; see [`crate::ewma::PeakEwma`].
    pub ewma_latency_us: u64,
    /// Its share under the weighted policy; 0 gets nothing there.
    pub weight: u32,
}

impl Candidate {
    /// Whether it may be picked at all.
    pub fn is_open(&self) -> bool {
        self.usable && self.running < self.capacity
    }
}

/// The request, as far as a pick looks at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Picks made before this one by the same gateway: what round robin counts.
    pub turn: u64,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens it may generate.
    pub max_tokens: u32,
    /// Hash of the beginning of the rendered conversation; see [`prefix::hash`].
    pub prefix_hash: u64,
}

/// A policy by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Each in turn.
    RoundRobin,
    /// By weight.
    Weighted,
    /// The fewest outstanding tokens.
    LeastOutstanding,
    /// The shorter expected wait of two drawn.
    Latency,
    /// Who has likely seen the beginning before, within bounds; else the fewest outstanding tokens.
    #[default]
    Prefix,
}

/// Picks by `policy`. `coin` is uniform in [0, 1).
pub fn pick(policy: Policy, candidates: &[Candidate], shape: &Shape, coin: f64) -> Option<usize> {
    match policy {
        Policy::RoundRobin => round_robin::pick(candidates, shape, coin),
        Policy::Weighted => weighted::pick(candidates, shape, coin),
        Policy::LeastOutstanding => least_outstanding::pick(candidates, shape, coin),
        Policy::Latency => latency::pick(candidates, shape, coin),
        Policy::Prefix => prefix::pick(candidates, shape, coin),
    }
}

/// The indices of the open candidates.
fn open(candidates: &[Candidate]) -> Vec<usize> {
    (0..candidates.len()).filter(|&index| candidates[index].is_open()).collect()
}

/// An index below `count` from a coin; total for any coin, also one outside [0, 1) or not a number.
fn slot(coin: f64, count: usize) -> usize {
    let coin = if coin.is_finite() { coin.clamp(0.0, 1.0) } else { 0.0 };
    // Casting a float to an integer saturates, so the product cannot wrap.
    ((coin * count as f64) as usize).min(count.saturating_sub(1))
}
