//! How good a worker is for a replica, and the greedy pass that gives each missing one the best.

use super::room::Room;
use super::view::View;
use ollamamax_proto::WorkerId;
use std::cmp::Reverse;

/// The least is the best. The order of the fields is the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score {
    /// What is slow now is better than nothing, and worse than anything else.
    pub slow: bool,
    /// Placements it has: spread before anything else, one worker's loss shall cost little.
    pub placements: u32,
    /// Memory left to it, for long contexts and many sequences.
    pub free_bytes: Reverse<u64>,
    /// Requests it has.
    pub busy: u32,
    /// Decides what is left, the same way each time.
    pub worker: WorkerId,
}

/// A replica that is to be placed: the nth missing one of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) view: usize,
    /// Whether it would be the model's only one.
    pub(super) first: bool,
}

/// A replica and the worker it goes to; its room is taken, for one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) view: usize,
    pub(super) first: bool,
    pub(super) worker: WorkerId,
}

/// Places what can be placed, in the order of `missing`.
/// A model that moves goes where it shall go, if it can.
pub(super) fn place(views: &[View<'_>], missing: &[Missing], room: &mut Room) -> Vec<Choice> {
    let mut chosen = Vec::new();
    for &Missing { view: index, first } in missing {
        let view = &views[index];
        if let Some(score) = best(view, room) {
            room.take(score.worker, view.key(), view.least_bytes);
            chosen.push(Choice { view: index, first, worker: score.worker });
        }
    }
    chosen
}

fn best(view: &View<'_>, room: &Room) -> Option<Score> {
    let open = room
        .seats
        .iter()
        .filter(|(id, seat)| view.may_use(**id, seat) && seat.free_bytes() >= view.least_bytes);
    open.map(|(worker, seat)| Score {
        slow: seat.slow,
        placements: seat.placements,
        free_bytes: Reverse(seat.free_bytes()),
        busy: seat.busy,
        worker: *worker,
    })
    .min_by_key(|score| (view.target() != Some(score.worker), *score))
}
