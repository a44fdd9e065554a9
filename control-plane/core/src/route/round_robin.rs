//! Each open candidate in turn. What is kept is where the last one stood, not how many picks there
//! were: the neighbour of a closed one then gets no double share.

use super::{Candidate, slot};

/// The next open candidate after `last`, which moves there. The coin decides whether a fresh one
/// takes its turn or lets it pass.
pub fn pick(candidates: &[Candidate], last: &mut usize, coin: f64) -> Option<usize> {
    let start = last.wrapping_add(1);
    let start = if start < candidates.len() { start } else { 0 };
    let takes_turn = |candidate: &Candidate| {
        candidate.is_open() && slot(coin, super::FULL_SHARE as usize) < candidate.share() as usize
    };
    let picked = after(candidates, start, takes_turn)
        .or_else(|| after(candidates, start, Candidate::is_open))?;
    *last = picked;
    Some(picked)
}

/// The first that is `fit`, from `start` on and round once.
fn after(
    candidates: &[Candidate],
    start: usize,
    fit: impl Fn(&Candidate) -> bool,
) -> Option<usize> {
    let (head, tail) = candidates.split_at_checked(start)?;
    let later = tail.iter().position(&fit).map(|nth| start + nth);
    later.or_else(|| head.iter().position(&fit))
}
