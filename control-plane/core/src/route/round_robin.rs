//! Each open candidate in turn.

use super::{Candidate, Shape, open};

/// The candidate whose turn it is. The coin is not used.
pub fn pick(candidates: &[Candidate], shape: &Shape, _coin: f64) -> Option<usize> {
    let open = open(candidates);
    let count = u64::try_from(open.len()).ok()?;
    let turn = usize::try_from(shape.turn.checked_rem(count)?).ok()?;
    open.get(turn).copied()
}
