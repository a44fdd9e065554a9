//! By weight: the coin falls on a line cut into pieces as long as the weights.

use super::{Candidate, Shape};

/// A candidate with a chance in proportion to its weight; none when all open weights are 0.
pub fn pick(candidates: &[Candidate], _shape: &Shape, coin: f64) -> Option<usize> {
    let open = || candidates.iter().enumerate().filter(|(_, c)| c.is_open() && c.weight > 0);
    let total: u64 = open().map(|(_, candidate)| u64::from(candidate.weight)).sum();
    let mut left = super::slot(coin, usize::try_from(total).ok()?) as u64;
    for (index, candidate) in open() {
        match left.checked_sub(u64::from(candidate.weight)) {
            Some(rest) => left = rest,
            None => return Some(index),
        }
    }
    None
}
