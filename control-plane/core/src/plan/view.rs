//! A demanded model as the plan sees it: its placements, sorted by what they are good for.

use super::memory::need_bytes;
use super::rings::{Held, RingWish, Rings};
use super::rolling::{self, Rolling};
use super::room::{Key, Room, Seat, held_bytes};
use super::step::Drops;
use super::{Observed, PlanLimits};
use crate::orders::Migration;
use crate::record::{Demand, Lifetime, ModelRecord, Placement};
use crate::replica::ReplicaRecord;
use crate::state::State;
use ollamamax_proto::placement::{Phase, Stage, WorkerStatus};
use ollamamax_proto::{AssignmentId, Millis, ModelName, WorkerId};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

pub(super) struct View<'a> {
    pub(super) record: Cow<'a, ModelRecord>,
    key: Key,
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
    /// Set where it is one of two versions of its name.
    pub(super) rolling: Option<Rolling<'a>>,
    /// When it was last wanted, as far as that is known; `None`: it is wanted for ever.
    pub(super) used_at: Option<Millis>,
}

impl View<'_> {
    pub(super) fn missing(&self) -> usize {
        self.replicas.saturating_sub(self.serving_count())
    }

    /// Replicas as wanted, whole or in several stages.
    pub(super) fn serving_count(&self) -> usize {
        self.serving.len() + self.rings.serving.len()
    }

    /// Of those the ones that take requests.
    pub(super) fn ready_count(&self) -> usize {
        let whole = self.serving.iter().filter(|placement| placement.phase == Phase::Ready);
        whole.count() + self.rings.serving.iter().filter(|held| held.ready).count()
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
            && !seat.models.contains(&self.key)
            && self.wish.allows(&seat.labels)
            && self.migration.is_none_or(|migration| migration.from != worker)
    }

    /// Whether no replica of it is loaded or about to be.
    pub(super) fn is_nowhere(&self) -> bool {
        self.serving.is_empty()
            && self.small.is_empty()
            && self.leaving.is_empty()
            && self.rings.all().next().is_none()
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

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Whether it is one of two versions of its name.
    pub(super) fn rolls(&self) -> bool {
        self.rolling.is_some()
    }

    /// Whether the other version of its name takes requests.
    pub(super) fn is_stood_in_for(&self) -> bool {
        self.rolling.as_ref().is_some_and(|rolling| rolling.other_ready)
    }

    /// Whether what serves may go before its successor does: during a rollout never the last of a name, so not while the
    /// other version does.
    pub(super) fn may_give_way(&self, drops: &Drops) -> bool {
        !self.rolls() || (self.is_stood_in_for() && !drops.gave_way.contains(self.name()))
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
    observed: &Observed,
    limits: &PlanLimits,
    now: Millis,
    room: &mut Room,
) -> (Vec<View<'a>>, Drops) {
    let mut views: BTreeMap<Key, View<'a>> = BTreeMap::new();
    for demand in state.demands.values().filter(|demand| demand.is_live(now)) {
        if let Some(record) = state.models.get(&demand.model) {
            let view = View::new(state, Cow::Borrowed(record), demand, limits);
            views.insert(view.key.clone(), view);
        }
        if let Some(old) = rolling::old_view(state, demand, limits) {
            views.insert(old.key.clone(), old);
        }
    }
    let lasts = |placement: &Placement| {
        let key = (&placement.assignment.model, placement.assignment.blob);
        rolling::lasts(state, observed, key, placement, now)
    };
    let mut drops = Drops::default();
    let mut members = BTreeSet::new();
    for record in state.replicas.values() {
        members.extend(record.members.iter().map(|member| member.assignment));
        let Some(first) = record.placements(state).next() else { continue };
        let key = (record.model.clone(), first.assignment.blob);
        let stays = match views.get_mut(&key) {
            Some(view) => view.shelve(state, record, (limits, now)),
            None => {
                let stays = record.placements(state).any(lasts);
                let version = state.known_version(&key.0, key.1).filter(|_| stays);
                let held = version.and_then(|version| Held::of(state, version, record));
                held.map(|held| held.take(room)).is_some()
            }
        };
        if !stays {
            drops.rings.push(record.id);
        }
    }
    let whole = state.placements.values().filter(|p| !members.contains(&p.assignment.id));
    for placement in whole {
        let key = (placement.assignment.model.clone(), placement.assignment.blob);
        let view = views.get_mut(&key);
        if view.is_none()
            && lasts(placement)
            && let Some(version) = state.known_version(&key.0, key.1)
        {
            room.take(placement.worker, &key, held_bytes(version, placement));
            continue;
        }
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
    rolling::pair(state, observed, now, &mut views, &mut drops);
    for view in views.values_mut() {
        view.set_out(None);
        drops.placements.extend(view.cut_surplus());
        let left = view.replicas - view.serving.len();
        drops.rings.extend(view.rings.cut_surplus(left));
        for placement in view.placements() {
            let bytes = held_bytes(&view.record.version, placement);
            room.take(placement.worker, view.key(), bytes);
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
        record: Cow<'a, ModelRecord>,
        demand: &Demand,
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
        let used_at = match demand.lifetime {
            Lifetime::Forever => None,
            Lifetime::Until(end) => {
                Some(Millis(end.0.saturating_sub(demand.keep_alive_ms.unsigned_abs())))
            }
        };
        Self {
            key: (record.name.clone(), record.version.blob),
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
            rolling: None,
            used_at,
            record,
        }
    }

    fn shelve(
        &mut self,
        state: &'a State,
        record: &'a ReplicaRecord,
        at: (&PlanLimits, Millis),
    ) -> bool {
        let Self { record: model, wish, rings, .. } = self;
        rings.shelve(state, record, &model.version, wish, at)
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
        let Self { serving, small, leaving, cooling, rolling, .. } = self;
        let busy = rolling.iter().flat_map(|rolling| &rolling.busy);
        serving.iter().chain(small).chain(leaving).chain(cooling).chain(busy).copied()
    }

    /// The order in which missing replicas are placed: first replicas before second ones, big
    /// models before small ones, because they fit in fewer places.
    pub(super) fn turn(&self, nth: usize) -> (usize, Reverse<u64>) {
        (self.serving_count() + nth, Reverse(self.least_bytes))
    }
}
