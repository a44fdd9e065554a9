//! A demanded model as the plan sees it: its placements, sorted by what they are good for.

use super::PlanLimits;
use super::memory::need_bytes;
use super::rings::{RingWish, Rings};
use super::room::{Room, Seat, held_bytes};
use super::step::Drops;
use crate::orders::Migration;
use crate::record::{Demand, ModelRecord, Placement};
use crate::state::State;
use ollamamax_proto::placement::{Phase, Stage, WorkerStatus};
use ollamamax_proto::{AssignmentId, Millis, ModelName, WorkerId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

pub(super) struct View<'a> {
    pub(super) record: &'a ModelRecord,
    /// Tokens a sequence shall hold.
    pub(super) context: u32,
    /// Memory of a placement with one sequence.
    pub(super) least_bytes: u64,
    /// Count as replicas: as wanted, on a worker that is ready or only suspect.
    pub(super) serving: Vec<&'a Placement>,
    /// Hold too short a context.
    pub(super) small: Vec<&'a Placement>,
    /// On a draining worker.
    pub(super) leaving: Vec<&'a Placement>,
    /// Failed lately: they keep the plan from trying the same worker again at once.
    pub(super) cooling: Vec<&'a Placement>,
    /// Replicas of several stages.
    pub(super) rings: Rings<'a>,
    /// How replicas shall be cut.
    pub(super) wish: RingWish<'a>,
    /// How many there shall be.
    pub(super) replicas: usize,
    /// The model moves: from where and to where.
    pub(super) migration: Option<&'a Migration>,
}

impl View<'_> {
    pub(super) fn missing(&self) -> usize {
        self.replicas.saturating_sub(self.serving_count())
    }

    /// Replicas as wanted, whole or in several stages.
    pub(super) fn serving_count(&self) -> usize {
        self.serving.len() + self.rings.serving.len()
    }

    /// Missing replicas that may be whole.
    pub(super) fn missing_whole(&self) -> usize {
        if self.wish.splits() { 0 } else { self.missing() }
    }

    /// Whether every replica that is as wanted takes requests.
    pub(super) fn is_settled(&self) -> bool {
        self.serving.iter().all(|placement| placement.phase == Phase::Ready)
            && self.rings.serving.iter().all(|held| held.ready)
    }

    /// Whether something can take over from what leaves.
    pub(super) fn successor_comes(&self, chosen_count: usize) -> bool {
        let kept = self.serving_count() + self.small.len() + self.rings.old.len();
        chosen_count > 0 || kept > 0
    }

    /// Whether a worker can be given the model, memory aside.
    pub(super) fn may_use(&self, worker: WorkerId, seat: &Seat) -> bool {
        seat.status == WorkerStatus::Ready
            && !seat.models.contains(self.name())
            && self.wish.allows(&seat.labels)
            && self.migration.is_none_or(|migration| migration.from != worker)
    }

    /// Where the model shall move.
    pub(super) fn target(&self) -> Option<WorkerId> {
        self.migration.map(|migration| migration.to)
    }

    /// Whether some ready worker could hold it whole if it held nothing else.
    pub(super) fn fits_alone(&self, room: &Room) -> bool {
        room.seats.values().any(|seat| {
            seat.status == WorkerStatus::Ready
                && self.wish.allows(&seat.labels)
                && seat.usable_bytes >= self.least_bytes
        })
    }

    pub(super) fn name(&self) -> &ModelName {
        &self.record.name
    }

    /// Whether some placement, long enough or not, takes requests.
    pub(super) fn has_ready(&self) -> bool {
        let mut whole = self.serving.iter().chain(&self.small);
        let mut rings = self.rings.serving.iter().chain(&self.rings.old);
        whole.any(|placement| placement.phase == Phase::Ready) || rings.any(|held| held.ready)
    }
}

/// The demanded models in the order of their names, and the placements that go at once. What stays
/// takes its room.
pub(super) fn sort<'a>(
    state: &'a State,
    limits: &PlanLimits,
    now: Millis,
    room: &mut Room,
) -> (Vec<View<'a>>, Drops) {
    let mut views: BTreeMap<&ModelName, View<'a>> = BTreeMap::new();
    for demand in state.demands.values().filter(|demand| demand.is_live(now)) {
        if let Some(record) = state.models.get(&demand.model) {
            views.insert(&demand.model, View::new(state, record, demand, limits));
        }
    }
    let mut drops = Drops::default();
    let mut members = BTreeSet::new();
    for record in state.replicas.values() {
        members.extend(record.members.iter().map(|member| member.assignment));
        let stays = views.get_mut(&record.model).is_some_and(|view| {
            let wish = view.wish;
            view.rings.shelve(state, record, &wish, limits, now)
        });
        if !stays {
            drops.rings.push(record.id);
        }
    }
    let whole = state.placements.values().filter(|p| !members.contains(&p.assignment.id));
    for placement in whole {
        let view = views.get_mut(&placement.assignment.model);
        let status = state.workers.get(&placement.worker).map(|worker| worker.status);
        let shelf = match (view, status) {
            (Some(view), Some(status)) => {
                let labels = room.seats.get(&placement.worker).map(|seat| &seat.labels);
                let placed = (status, labels.is_none_or(|labels| view.wish.allows(labels)));
                view.shelf(placement, placed, limits, now)
            }
            _ => None,
        };
        match shelf {
            Some(shelf) => shelf.push(placement),
            None => drops.placements.push(placement.assignment.id),
        }
    }
    for view in views.values_mut() {
        view.set_out(None);
        drops.placements.extend(view.cut_surplus());
        let left = view.replicas - view.serving.len();
        drops.rings.extend(view.rings.cut_surplus(left));
        for placement in view.placements() {
            let bytes = held_bytes(&view.record.version, placement);
            room.take(placement.worker, view.name(), bytes);
        }
        view.rings.all().for_each(|held| held.take(room));
    }
    // Only once all room is taken is it known whether a model that moves has a place to go to.
    views.values_mut().for_each(|view| view.set_out(Some(room)));
    (views.into_values().collect(), drops)
}

impl<'a> View<'a> {
    pub(super) fn new(
        state: &'a State,
        record: &'a ModelRecord,
        demand: &'a Demand,
        limits: &PlanLimits,
    ) -> Self {
        let facts = &record.version.facts;
        let trained = if facts.context_length == 0 { u32::MAX } else { facts.context_length };
        let wanted = match demand.context_length {
            0 => limits.context_tokens,
            tokens => tokens,
        };
        let context = wanted.min(trained).max(1);
        let whole = Stage::whole(facts.layers);
        let deployment = state.deployments.get(&record.name);
        let replicas = match deployment {
            Some(deployment) => deployment.clamp(demand.replicas),
            None => demand.replicas,
        };
        Self {
            record,
            context,
            least_bytes: need_bytes(&record.version, &whole, context, 1),
            serving: Vec::new(),
            small: Vec::new(),
            leaving: Vec::new(),
            cooling: Vec::new(),
            rings: Rings::default(),
            wish: RingWish { deployment, context },
            replicas: replicas as usize,
            migration: state.migrations.get(&record.name),
        }
    }

    /// What shall move counts as leaving, if there is room where it shall go; else it stays, and no move is on its way.
    fn set_out(&mut self, room: Option<&Room>) {
        let Some(migration) = self.migration else { return };
        let waits = |placement: &&Placement| placement.worker == migration.to;
        let there = self.serving.iter().any(waits);
        let seat = room.and_then(|room| room.seats.get(&migration.to));
        let open = seat.is_some_and(|seat| {
            self.may_use(migration.to, seat) && seat.free_bytes() >= self.least_bytes
        });
        if !there && !open {
            if room.is_some() {
                self.migration = None;
            }
            return;
        }
        let serving = std::mem::take(&mut self.serving);
        let (moves, stays): (Vec<_>, Vec<_>) =
            serving.into_iter().partition(|placement| placement.worker == migration.from);
        self.leaving.extend(moves);
        self.serving = stays;
    }

    /// Where `placement` belongs; `None`: nowhere, it goes.
    fn shelf(
        &mut self,
        placement: &Placement,
        (status, labelled): (WorkerStatus, bool),
        limits: &PlanLimits,
        now: Millis,
    ) -> Option<&mut Vec<&'a Placement>> {
        let assignment = &placement.assignment;
        let version = &self.record.version;
        let current =
            assignment.blob == version.blob && assignment.stage.is_whole(version.facts.layers);
        let failed = matches!(placement.phase, Phase::Failed { .. });
        match status {
            _ if !current => None,
            WorkerStatus::Down => None,
            WorkerStatus::Draining if failed => None,
            WorkerStatus::Draining => Some(&mut self.leaving),
            WorkerStatus::Ready | WorkerStatus::Suspect if failed => {
                (now < placement.since.plus(limits.retry_ms)).then_some(&mut self.cooling)
            }
            WorkerStatus::Ready | WorkerStatus::Suspect => {
                let short = assignment.context_length < self.context;
                let old = short || self.wish.splits() || !labelled;
                Some(if old { &mut self.small } else { &mut self.serving })
            }
        }
    }

    /// More replicas than wanted: those that are ready, then the oldest, stay.
    fn cut_surplus(&mut self) -> Vec<AssignmentId> {
        self.serving.sort_by_key(|placement| {
            let rank = match placement.phase {
                Phase::Ready => 0,
                Phase::Loading => 1,
                Phase::Pending | Phase::Failed { .. } => 2,
            };
            (rank, placement.since, placement.assignment.id)
        });
        let keep = self.serving.len().min(self.replicas);
        self.serving.split_off(keep).iter().map(|placement| placement.assignment.id).collect()
    }

    pub(super) fn placements(&self) -> impl Iterator<Item = &'a Placement> + '_ {
        let Self { serving, small, leaving, cooling, .. } = self;
        serving.iter().chain(small).chain(leaving).chain(cooling).copied()
    }

    /// The order in which missing replicas are placed: first replicas before second ones, big
    /// models before small ones, because they fit in fewer places.
    pub(super) fn turn(&self, nth: usize) -> (usize, Reverse<u64>) {
        (self.serving_count() + nth, Reverse(self.least_bytes))
    }
}
