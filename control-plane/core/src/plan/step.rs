//! From choices to steps: what is missing, what may go once its successor serves, and how many
//! sequences fit.

use super::PlanLimits;
use super::memory::kv_bytes;
use super::room::{Room, held_bytes};
use super::score::{Choice, Missing};
use super::view::View;
use crate::command::PlanStep;
use ollamamax_proto::placement::{Assignment, Stage, WorkerStatus};
use ollamamax_proto::{AssignmentId, Generation, ModelName, ReplicaId};
use std::collections::BTreeSet;

/// What goes.
#[derive(Default)]
pub(super) struct Drops {
    pub(super) placements: Vec<AssignmentId>,
    pub(super) rings: Vec<ReplicaId>,
    /// Names of which what served went before its successor was there.
    pub(super) gave_way: BTreeSet<ModelName>,
}

impl Drops {
    pub(super) fn steps(self) -> impl Iterator<Item = PlanStep> {
        let rings = self.rings.into_iter().map(|id| PlanStep::RemoveReplica { id });
        let placements = self.placements.into_iter().map(|id| PlanStep::Unassign { id });
        placements.chain(rings)
    }
}

/// The replicas to place, in the order of [`View::turn`]; no more of one model than there are
/// workers.
pub(super) fn missing(views: &[View<'_>], ready_count: usize) -> Vec<Missing> {
    let mut all: Vec<_> = views
        .iter()
        .enumerate()
        .flat_map(|(index, view)| {
            let count = view.missing_whole().min(ready_count);
            (0..count).map(move |nth| {
                let first = nth == 0 && view.serving_count() == 0;
                (view.turn(nth), Missing { view: index, first })
            })
        })
        .collect();
    all.sort_by_key(|(turn, missing)| (*turn, missing.view));
    all.into_iter().map(|(_, missing)| missing).collect()
}

/// Where a longer context found no other worker, the worker that holds the short one loads it anew:
/// one at a time, so that the others go on serving.
pub(super) fn replace_in_place(
    views: &mut [View<'_>],
    chosen: &mut Vec<Choice>,
    drops: &mut Drops,
    room: &mut Room,
) {
    for (index, view) in views.iter_mut().enumerate() {
        let placed = chosen.iter().filter(|choice| choice.view == index).count();
        let settled = view.is_settled() && view.may_give_way(drops);
        if placed > 0 || view.missing_whole() == 0 || !settled {
            continue;
        }
        let version = &view.record.version;
        let fits = view.small.iter().position(|old| {
            room.seats.get(&old.worker).is_some_and(|seat| {
                if !view.wish.allows(&seat.labels) {
                    return false;
                }
                let without = seat.taken_bytes.saturating_sub(held_bytes(version, old));
                seat.status == WorkerStatus::Ready
                    && without.saturating_add(view.least_bytes) <= seat.usable_bytes
            })
        });
        let Some(position) = fits else { continue };
        let old = view.small.remove(position);
        drops.placements.push(old.assignment.id);
        drops.gave_way.insert(view.name().clone());
        room.give_back(old.worker, view.key(), held_bytes(&view.record.version, old));
        room.take(old.worker, view.key(), view.least_bytes);
        chosen.push(Choice { view: index, first: view.serving.is_empty(), worker: old.worker });
    }
}

/// Placements that wait for a successor go when one serves; on a draining worker also when none can
/// be had.
pub(super) fn let_go(view: &View<'_>, chosen_count: usize, drops: &mut Drops) {
    if view.serving_count() > 0 && view.missing() == 0 && view.is_settled() {
        drops.placements.extend(view.small.iter().map(|placement| placement.assignment.id));
        drops.rings.extend(view.rings.old.iter().map(|held| held.record.id));
    }
    let alone = !view.rolls() && !view.successor_comes(chosen_count);
    let stood_in_for = view.is_stood_in_for() && !drops.gave_way.contains(view.name());
    if view.has_ready() || stood_in_for || alone {
        drops.placements.extend(view.leaving.iter().map(|placement| placement.assignment.id));
        drops.rings.extend(view.rings.leaving.iter().map(|held| held.record.id));
    }
}

/// The chosen placements, each with as many sequences as memory allows: in turn, so that none takes
/// all.
pub(super) fn assignments(
    views: &[View<'_>],
    chosen: &[Choice],
    room: &mut Room,
    limits: &PlanLimits,
) -> Vec<PlanStep> {
    let mut sequences = vec![1u32; chosen.len()];
    for _ in 1..limits.sequences_max {
        for (choice, count) in chosen.iter().zip(&mut sequences) {
            let view = &views[choice.view];
            let whole = Stage::whole(view.record.version.facts.layers);
            let more = kv_bytes(&view.record.version, &whole, view.context);
            if let Some(seat) = room.seats.get_mut(&choice.worker)
                && seat.free_bytes() >= more
            {
                seat.taken_bytes = seat.taken_bytes.saturating_add(more);
                *count += 1;
            }
        }
    }
    let step = |(choice, sequences_max): (&Choice, u32)| {
        let view = &views[choice.view];
        let version = &view.record.version;
        let assignment = Assignment {
            id: AssignmentId(0),
            generation: Generation(0),
            model: view.record.name.clone(),
            blob: version.blob,
            blob_bytes: version.blob_bytes,
            stage: Stage::whole(version.facts.layers),
            context_length: view.context,
            sequences_max,
        };
        PlanStep::Assign { worker: choice.worker, assignment }
    };
    chosen.iter().zip(sequences).map(step).collect()
}
