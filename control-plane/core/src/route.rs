//! Which worker gets a request: pure picks over a slice of candidates, one policy per file.
//!
//! ```text
//! affinity (who has the beginning cached) --+
//! slow_start (how much a fresh one gets) ---+--> Candidate --> pick --> an index
//! outlier (who is left out for a while) ----+
//! ```
//!
//! A pick sees numbers, a coin and what it remembered last time. No policy ever picks a candidate
//! that is not open: dead, draining, behind an open breaker, ejected, or full. A pick walks the slice
//! and allocates nothing; only [`weighted`] makes room in its memory when the slice has grown.

pub mod affinity;
pub mod chain;
pub mod latency;
pub mod least_outstanding;
pub mod outlier;
pub mod policy;
pub mod prefix;
pub mod round_robin;
pub mod slow_start;
pub mod weighted;

use ollamamax_proto::WorkerId;
pub use policy::{Policy, UnknownPolicy};

/// A share in full, in thousandths.
pub const FULL_SHARE: u32 = 1_000;

/// A placement that could take the request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Who holds it.
    pub worker: WorkerId,
    /// Prompt tokens still to process plus tokens that may still be generated, over all its
    /// requests: the unit of load.
    pub outstanding_tokens: u64,
    /// Smoothed time to the first token, in microseconds, 0 while unknown; see
    /// [`crate::ewma::PeakEwma`].
    pub latency_us: u64,
    /// Requests sent to it and not yet ended.
    pub running: u32,
    /// How many it may have.
    pub capacity: u32,
    /// Its share under the weighted policy; 0 gets nothing there.
    pub weight: u32,
    /// What it gets of a usual share, in thousandths, 1 to [`FULL_SHARE`]; see
    /// [`slow_start::share`].
    pub share: u32,
    /// Tokens of the prompt that it likely has cached; see [`affinity::PrefixIndex`].
    pub cached_tokens: u32,
    /// Its worker and phase are ready, its breaker permits, and it is not ejected.
    pub usable: bool,
}

impl Candidate {
    /// Nobody: not open. What a slice of fixed length is filled with.
    pub const NOBODY: Self = Self {
        worker: WorkerId(0),
        outstanding_tokens: 0,
        latency_us: 0,
        running: 0,
        capacity: 0,
        weight: 0,
        share: FULL_SHARE,
        cached_tokens: 0,
        usable: false,
    };

    /// Whether it may be picked at all.
    pub fn is_open(&self) -> bool {
        self.usable && self.running < self.capacity
    }

    fn share(&self) -> u64 {
        u64::from(self.share.clamp(1, FULL_SHARE))
    }
}

/// The request, as far as a pick looks at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens it may generate.
    pub max_tokens: u32,
    /// Hash of the beginning of the rendered conversation; see [`chain`].
    pub prefix_hash: u64,
}

impl Shape {
    /// The load it brings, in tokens.
    pub fn tokens(&self) -> u64 {
        u64::from(self.prompt_tokens) + u64::from(self.max_tokens)
    }
}

/// What policies remember from one pick to the next, over the same candidates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Where round robin was, as an index.
    pub last: usize,
    /// The current weights of the weighted policy, by index.
    pub current: Vec<i64>,
}

/// Picks by `policy`. `coin` is uniform in [0, 1).
pub fn pick(
    policy: Policy,
    candidates: &[Candidate],
    shape: &Shape,
    memory: &mut Memory,
    coin: f64,
) -> Option<usize> {
    match policy {
        Policy::RoundRobin => round_robin::pick(candidates, &mut memory.last, coin),
        Policy::Weighted => weighted::pick(candidates, &mut memory.current),
        Policy::LeastTokens => least_outstanding::pick(candidates, shape, coin),
        Policy::Latency => latency::pick(candidates, coin),
        Policy::Prefix => prefix::pick(candidates, shape, coin),
    }
}

/// An index below `count` from a coin; total for any coin, also one outside [0, 1) or not a number.
fn slot(coin: f64, count: usize) -> usize {
    let coin = if coin.is_finite() { coin.clamp(0.0, 1.0) } else { 0.0 };
    // Casting a float to an integer saturates, so the product cannot wrap.
    ((coin * count as f64) as usize).min(count.saturating_sub(1))
}
