//! Power of two choices over peak EWMA: draw two, take the one with the shorter expected wait.
//! Mitzenmacher, "The power of two choices in randomized load balancing"; the cost is Finagle's:
//! latency times requests in flight.

use super::{Candidate, Shape, open, slot};

/// The better of two that the coin draws.
pub fn pick(candidates: &[Candidate], _shape: &Shape, coin: f64) -> Option<usize> {
    let open = open(candidates);
    match open[..] {
        [] => None,
        [only] => Some(only),
        _ => {
            // One coin draws an ordered pair of different candidates.
            let others = open.len() - 1;
            let pair = slot(coin, open.len() * others);
            let (first, second) = (pair / others, pair % others);
            let second = if second >= first { second + 1 } else { second };
            let (first, second) = (open[first], open[second]);
            let better = cost(&candidates[second]) < cost(&candidates[first]);
            Some(if better { second } else { first })
        }
    }
}

/// Expected wait. A worker not measured yet counts as fast, so that it gets its first requests.
fn cost(candidate: &Candidate) -> (u128, u64) {
    let wait = u128::from(candidate.ewma_latency_us) * (u128::from(candidate.running) + 1);
    (wait, candidate.outstanding_tokens)
}
