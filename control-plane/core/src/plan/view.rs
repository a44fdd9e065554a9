//! A demanded model as the plan sees it: its placements, sorted by what they are good for.

use super::PlanLimits;
use super::memory::need_bytes;
use super::room::{Room, held_bytes};
use crate::record::{Demand, ModelRecord, Placement};
use crate::state::State;
use ollamamax_proto::placement::{Phase, Stage, WorkerStatus};
use ollamamax_proto::{AssignmentId, Millis, ModelName};
use std::cmp::Reverse;
use std::collections::BTreeMap;

pub(super) struct View<'a> {
    pub(super) record: &'a ModelRecord,
    pub(super) demand: &'a Demand,
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
}

impl View<'_> {
    pub(super) fn missing(&self) -> usize {
        (self.demand.replicas as usize).saturating_sub(self.serving.len())
    }

    pub(super) fn name(&self) -> &ModelName {
        &self.record.name
    }

    /// Whether some placement, long enough or not, takes requests.
    pub(super) fn has_ready(&self) -> bool {
        self.serving.iter().chain(&self.small).any(|placement| placement.phase == Phase::Ready)
    }
}

/// The demanded models in the order of their names, and the placements that go at once. What stays
/// takes its room.
pub(super) fn sort<'a>(
    state: &'a State,
    limits: &PlanLimits,
    now: Millis,
    room: &mut Room,
) -> (Vec<View<'a>>, Vec<AssignmentId>) {
    let mut views: BTreeMap<&ModelName, View<'a>> = BTreeMap::new();
    for demand in state.demands.values().filter(|demand| demand.is_live(now)) {
        if let Some(record) = state.models.get(&demand.model) {
            views.insert(&demand.model, View::new(record, demand, limits));
        }
    }
    let mut drops = Vec::new();
    for placement in state.placements.values() {
        let view = views.get_mut(&placement.assignment.model);
        let status = state.workers.get(&placement.worker).map(|worker| worker.status);
        let shelf = match (view, status) {
            (Some(view), Some(status)) => view.shelf(placement, status, limits, now),
            _ => None,
        };
        match shelf {
            Some(shelf) => shelf.push(placement),
            None => drops.push(placement.assignment.id),
        }
    }
    for view in views.values_mut() {
        drops.extend(view.cut_surplus());
        for placement in view.placements() {
            let bytes = held_bytes(&view.record.version, placement);
            room.take(placement.worker, view.name(), bytes);
        }
    }
    (views.into_values().collect(), drops)
}

impl<'a> View<'a> {
    fn new(record: &'a ModelRecord, demand: &'a Demand, limits: &PlanLimits) -> Self {
        let facts = &record.version.facts;
        let trained = if facts.context_length == 0 { u32::MAX } else { facts.context_length };
        let wanted = match demand.context_length {
            0 => limits.context_tokens,
            tokens => tokens,
        };
        let context = wanted.min(trained).max(1);
        let whole = Stage::whole(facts.layers);
        Self {
            record,
            demand,
            context,
            least_bytes: need_bytes(&record.version, &whole, context, 1),
            serving: Vec::new(),
            small: Vec::new(),
            leaving: Vec::new(),
            cooling: Vec::new(),
        }
    }

    /// Where `placement` belongs; `None`: nowhere, it goes.
    fn shelf(
        &mut self,
        placement: &Placement,
        status: WorkerStatus,
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
                Some(if short { &mut self.small } else { &mut self.serving })
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
        let keep = self.serving.len().min(self.demand.replicas as usize);
        self.serving.split_off(keep).iter().map(|placement| placement.assignment.id).collect()
    }

    pub(super) fn placements(&self) -> impl Iterator<Item = &'a Placement> + '_ {
        let Self { serving, small, leaving, cooling, .. } = self;
        serving.iter().chain(small).chain(leaving).chain(cooling).copied()
    }

    /// The order in which missing replicas are placed: first replicas before second ones, big
    /// models before small ones, because they fit in fewer places.
    pub(super) fn turn(&self, nth: usize) -> (usize, Reverse<u64>) {
        (self.serving.len() + nth, Reverse(self.least_bytes))
    }
}
