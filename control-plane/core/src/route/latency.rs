//! Power of two choices over peak EWMA: draw two, take the one with the shorter expected wait.
//! Mitzenmacher, "The power of two choices in randomized load balancing"; the cost is Finagle's:
//! latency times requests in flight.

use super::{Candidate, slot};

/// Longest latency that is told apart, in microseconds: over an hour, and products stay within a word.
const LATENCY_MAX_US: u64 = 1 << 33;
/// Most requests in flight that are told apart.
const RUNNING_MAX: u64 = 1 << 16;

/// The better of two that the coin draws.
pub fn pick(candidates: &[Candidate], coin: f64) -> Option<usize> {
    if let Some((first, second)) = pair(candidates.len(), coin)
        && candidates[first].is_open()
        && candidates[second].is_open()
    {
        return Some(better(candidates, first, second));
    }
    // Some are closed: the same draw, among the open ones.
    let count = candidates.iter().filter(|candidate| candidate.is_open()).count();
    match pair(count, coin) {
        None => nth_open(candidates, 0),
        Some((first, second)) => {
            let (first, second) = (nth_open(candidates, first)?, nth_open(candidates, second)?);
            Some(better(candidates, first, second))
        }
    }
}

/// One coin draws an ordered pair of different indices below `count`; none when there are not two.
fn pair(count: usize, coin: f64) -> Option<(usize, usize)> {
    let others = count.checked_sub(1).filter(|others| *others > 0)?;
    let pair = slot(coin, count * others);
    let (first, second) = (pair / others, pair % others);
    Some((first, if second >= first { second + 1 } else { second }))
}

fn nth_open(candidates: &[Candidate], nth: usize) -> Option<usize> {
    let mut open = candidates.iter().zip(0..).filter(|(candidate, _)| candidate.is_open());
    open.nth(nth).map(|(_, index)| index)
}

fn better(candidates: &[Candidate], first: usize, second: usize) -> usize {
    let (a, b) = (&candidates[first], &candidates[second]);
    // One not measured yet counts as fast as the other, and goes first where all else is equal: it
    // is tried soon, but not with everything at once.
    let latency = |of: &Candidate, other: &Candidate| match (of.latency_us, other.latency_us) {
        (0, 0) => 1,
        (0, us) | (us, _) => us.min(LATENCY_MAX_US),
    };
    let wait = |of: &Candidate, other: &Candidate| {
        latency(of, other) * (u64::from(of.running) + 1).min(RUNNING_MAX) * other.share()
    };
    let known = |of: &Candidate| of.latency_us != 0;
    let cost = |of: &Candidate, other| (wait(of, other), known(of), of.outstanding_tokens);
    if cost(b, a) < cost(a, b) { second } else { first }
}
