//! Room for a model that is asked for and loaded nowhere: those that were used least lately go, if nobody uses them now.
//!
//! Only what was last wanted before may go, so that two models never drive each other out again and again by themselves. What is
//! wanted for ever, runs a request, was loaded a moment ago or changes its version stays.

use super::Observed;
use super::report::Note;
use super::room::{Room, held_bytes};
use super::score::{self, Choice};
use super::split::Split;
use super::step;
use super::view::View;
use crate::command::PlanStep;
use ollamamax_proto::placement::Phase;
use ollamamax_proto::{AssignmentId, Millis, ModelName, WorkerId, limits};
use std::collections::BTreeSet;

/// A model that goes.
pub(super) struct Evicted {
    /// Which view.
    pub(super) view: usize,
    /// What is told of it.
    pub(super) note: Note,
    model: ModelName,
    placements: Vec<AssignmentId>,
}

impl Evicted {
    pub(super) fn steps(&self) -> impl Iterator<Item = PlanStep> + '_ {
        let gone = self.placements.iter().map(|id| PlanStep::Unassign { id: *id });
        gone.chain([PlanStep::Release { model: self.model.clone() }])
    }
}

pub(super) fn make_room(
    views: &[View<'_>],
    split: &Split,
    chosen: &mut Vec<Choice>,
    room: &mut Room,
    (observed, now): (&Observed, Millis),
) -> Vec<Evicted> {
    let mut evicted: Vec<Evicted> = Vec::new();
    for (index, view) in views.iter().enumerate() {
        let placed = chosen.iter().any(|choice| choice.view == index)
            || split.planned.iter().any(|planned| planned.view == index);
        let waits = !placed && view.missing_whole() > 0 && view.is_nowhere() && !view.rolls();
        if !waits {
            continue;
        }
        let may_go = |other: &usize| {
            *other != index
                && chosen.iter().all(|choice| choice.view != *other)
                && split.planned.iter().all(|planned| planned.view != *other)
                && evicted.iter().all(|gone| gone.view != *other)
                && is_idle(&views[*other], observed, now)
                && (views[*other].used_at < view.used_at || view.used_at.is_none())
        };
        let mut idle: Vec<usize> = (0..views.len()).filter(may_go).collect();
        idle.sort_by_key(|other| (views[*other].used_at, *other));
        let Some((worker, victims)) = cheapest(views, view, &idle, room) else { continue };
        for victim in victims {
            let gone = &views[victim];
            for placement in gone.placements() {
                let bytes = held_bytes(&gone.record.version, placement);
                room.give_back(placement.worker, gone.key(), bytes);
            }
            let (model, by) = (gone.name().clone(), view.name().clone());
            evicted.push(Evicted {
                view: victim,
                note: Note::Evicted { model: model.clone(), by },
                model,
                placements: gone.placements().map(|placement| placement.assignment.id).collect(),
            });
        }
        room.take(worker, view.key(), view.least_bytes);
        chosen.push(Choice { view: index, first: true, worker });
    }
    if !evicted.is_empty() {
        let mut rest = step::missing(views, room.ready_count());
        rest.retain(|missing| evicted.iter().all(|gone| gone.view != missing.view));
        for choice in chosen.iter() {
            let placed = rest.iter().position(|missing| missing.view == choice.view);
            placed.map(|nth| rest.remove(nth));
        }
        // What has become free may be enough for more than was asked for.
        chosen.extend(score::place(views, &rest, room));
    }
    evicted
}

/// The worker that could take the model at the loss of what was used least lately, and what would go.
fn cheapest(
    views: &[View<'_>],
    view: &View<'_>,
    idle: &[usize],
    room: &Room,
) -> Option<(WorkerId, BTreeSet<usize>)> {
    let on = |worker: &WorkerId| {
        let seat = room.seats.get(worker).filter(|seat| view.may_use(*worker, seat))?;
        let mut free = seat.free_bytes();
        let mut victims = BTreeSet::new();
        let mut latest = None;
        for other in idle {
            if free >= view.least_bytes {
                break;
            }
            let gone = &views[*other];
            let held = gone.placements().filter(|placement| placement.worker == *worker);
            let bytes = held.map(|p| held_bytes(&gone.record.version, p)).sum::<u64>();
            if bytes > 0 {
                free = free.saturating_add(bytes);
                victims.insert(*other);
                latest = gone.used_at;
            }
        }
        let enough = free >= view.least_bytes && !victims.is_empty();
        enough.then_some(((latest, victims.len(), *worker), victims))
    };
    let found = room.seats.keys().filter_map(on).min_by_key(|(cost, _)| *cost);
    found.map(|((.., worker), victims)| (worker, victims))
}

/// Whether nobody uses the model now, or has just waited for it.
fn is_idle(view: &View<'_>, observed: &Observed, now: Millis) -> bool {
    let settled = view.used_at.is_some()
        && !view.rolls()
        && view.migration.is_none()
        && view.rings.all().next().is_none()
        && view.leaving.is_empty()
        && !view.serving.is_empty();
    settled
        && view.serving.iter().chain(&view.small).all(|placement| {
            let requests = observed.requests.get(&placement.assignment.id);
            placement.phase == Phase::Ready
                && requests.is_none_or(|requests| *requests == 0)
                && placement.since.plus(limits::EVICTION_LOADED_MS) <= now
        })
}
