//! Where the greedy pass left a replica without a place, a bounded search for a packing that places
//! more.
//!
//! Depth first over the missing replicas: each goes to one of the workers, or nowhere. More models
//! served at all come before more replicas. Exact while the number of states stays in its bound,
//! else the best found; deterministic either way.

use super::room::Room;
use super::score::{Choice, Missing};
use super::view::View;
use ollamamax_proto::{WorkerId, limits};

/// What a packing is worth: models that get their first replica, then replicas.
type Worth = (usize, usize);

/// The better of `greedy`, whose room is taken, and what the search finds, whose room is taken
/// then.
pub(super) fn improve(
    views: &[View<'_>],
    missing: &[Missing],
    greedy: Vec<Choice>,
    room: &mut Room,
) -> Vec<Choice> {
    let pairs = missing.len().saturating_mul(room.ready_count());
    if pairs == 0 || pairs > limits::PLAN_SEARCH_PAIRS_COUNT {
        return greedy;
    }
    let mut empty = room.clone();
    for choice in &greedy {
        let view = &views[choice.view];
        empty.give_back(choice.worker, view.key(), view.least_bytes);
    }
    let best = worth(&greedy);
    let mut search = Search {
        views,
        missing,
        room: empty.clone(),
        path: Vec::new(),
        best,
        found: None,
        left: limits::PLAN_SEARCH_COUNT,
    };
    search.visit(0);
    let Some(found) = search.found else { return greedy };
    *room = empty;
    for choice in &found {
        let view = &views[choice.view];
        room.take(choice.worker, view.key(), view.least_bytes);
    }
    found
}

struct Search<'a> {
    views: &'a [View<'a>],
    missing: &'a [Missing],
    room: Room,
    path: Vec<Choice>,
    best: Worth,
    found: Option<Vec<Choice>>,
    left: u32,
}

impl Search<'_> {
    fn visit(&mut self, at: usize) {
        let now = worth(&self.path);
        if now > self.best {
            self.best = now;
            self.found = Some(self.path.clone());
        }
        let rest = &self.missing[at..];
        let firsts = rest.iter().filter(|missing| missing.first).count();
        if (now.0 + firsts, now.1 + rest.len()) <= self.best || self.left == 0 {
            return;
        }
        let Some(&Missing { view: index, first }) = rest.first() else { return };
        let view = &self.views[index];
        // Replicas of one model are alike: the later one goes to the higher worker, or nowhere if
        // the earlier went nowhere.
        let before = self.missing[..at].iter().filter(|missing| missing.view == index).count();
        let placed: Vec<WorkerId> =
            self.path.iter().filter(|choice| choice.view == index).map(|c| c.worker).collect();
        if placed.len() == before {
            let above = placed.last().copied();
            let open: Vec<WorkerId> = self
                .room
                .seats
                .iter()
                .filter(|(worker, seat)| {
                    above.is_none_or(|above| **worker > above)
                        && view.may_use(**worker, seat)
                        && seat.free_bytes() >= view.least_bytes
                })
                .map(|(worker, _)| *worker)
                .collect();
            for worker in open {
                if self.left == 0 {
                    return;
                }
                self.left -= 1;
                self.room.take(worker, view.key(), view.least_bytes);
                self.path.push(Choice { view: index, first, worker });
                self.visit(at + 1);
                self.path.pop();
                self.room.give_back(worker, view.key(), view.least_bytes);
            }
        }
        self.visit(at + 1);
    }
}

fn worth(choices: &[Choice]) -> Worth {
    (choices.iter().filter(|choice| choice.first).count(), choices.len())
}
