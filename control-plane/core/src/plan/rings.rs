//! Replicas of several stages in the plan: which of those there are serve on, and where missing ones go.
//!
//! ```text
//! replica --sort--> serve | old (not as wanted) | leave (draining member) | cool (failed member) | drop
//! missing --> partition over the room that is left --> AddReplica, whole
//! ```
//!
//! What serves is never moved for something better. A replica that is not as wanted goes when its successor serves, or in
//! the same step as the successor comes where there is no room for both.

use super::partition::{Attention, Choice, Load, Misfit, Site, Wish, choose};
use super::room::{Key, Room, Seat};
use super::view::View;
use super::{Observed, PlanLimits};
use crate::command::PlanStep;
use crate::deployment::{Deployment, Policy, Strategy};
use crate::replica::{NewMember, NewReplica, ReplicaRecord};
use crate::state::State;
use ollamamax_proto::model::ModelVersion;
use ollamamax_proto::placement::{Activations, Assignment, Phase, WorkerStatus};
use ollamamax_proto::{AssignmentId, Generation, Millis, ReplicaId, WorkerId, limits};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Nanoseconds from a process to another on the same host.
const NEAR_NS: u64 = 25_000;
/// Nanoseconds from host to host over an ordinary network.
const FAR_NS: u64 = 100_000;

/// The replicas of several stages of one model, by what they are good for.
#[derive(Default)]
pub(super) struct Rings<'a> {
    /// As wanted, on workers that are ready or only suspect.
    pub(super) serving: Vec<Held<'a>>,
    /// Cut otherwise than wanted now, or too short.
    pub(super) old: Vec<Held<'a>>,
    /// With a member on a draining worker.
    pub(super) leaving: Vec<Held<'a>>,
    /// With a member that failed lately.
    pub(super) cooling: Vec<Held<'a>>,
    /// Of an old version whose requests are about to end.
    pub(super) busy: Vec<Held<'a>>,
}

/// A replica, and what each member takes where.
#[derive(Clone)]
pub(super) struct Held<'a> {
    pub(super) record: &'a ReplicaRecord,
    pub(super) taken: Vec<(WorkerId, u64)>,
    pub(super) ready: bool,
    /// The members that could not be loaded: who, since when and in which words.
    pub(super) failed: Vec<(WorkerId, Millis, String)>,
    pub(super) since: Millis,
    key: Key,
}

/// A replica to add.
pub(super) struct Planned {
    pub(super) view: usize,
    pub(super) choice: Choice,
    pub(super) sequences: u32,
}

impl<'a> Rings<'a> {
    pub(super) fn all(&self) -> impl Iterator<Item = &Held<'a>> {
        let Self { serving, old, leaving, cooling, busy } = self;
        serving.iter().chain(old).chain(leaving).chain(cooling).chain(busy)
    }

    /// Puts `record` on its shelf; answers whether it may stay at all.
    pub(super) fn shelve(
        &mut self,
        state: &'a State,
        record: &'a ReplicaRecord,
        version: &ModelVersion,
        wish: &RingWish<'_>,
        (limits, now): (&PlanLimits, Millis),
    ) -> bool {
        let Some(held) = Held::of(state, version, record) else { return false };
        let statuses = || held.taken.iter().filter_map(|(id, _)| state.workers.get(id));
        let is = |status| statuses().any(|worker| worker.status == status);
        let failed = held.failed.iter().map(|(_, since, _)| *since).max();
        let shelf = match failed {
            _ if is(WorkerStatus::Down) => return false,
            Some(_) if is(WorkerStatus::Draining) => return false,
            Some(since) if now >= since.plus(limits.retry_ms) => return false,
            Some(_) => &mut self.cooling,
            None if is(WorkerStatus::Draining) => &mut self.leaving,
            None if !wish.is_met(state, record) => &mut self.old,
            None => &mut self.serving,
        };
        shelf.push(held);
        true
    }

    /// More than `keep`: those that are ready, then the oldest, stay.
    pub(super) fn cut_surplus(&mut self, keep: usize) -> Vec<ReplicaId> {
        self.serving.sort_by_key(|held| (Reverse(held.ready), held.since, held.record.id));
        let keep = self.serving.len().min(keep);
        self.serving.split_off(keep).iter().map(|held| held.record.id).collect()
    }
}

impl<'a> Held<'a> {
    pub(super) fn of(
        state: &'a State,
        version: &ModelVersion,
        record: &'a ReplicaRecord,
    ) -> Option<Self> {
        let key = (record.model.clone(), version.blob);
        let heads = record.heads();
        let mut taken = Vec::with_capacity(record.members.len());
        let (mut ready, mut since, mut failed) = (true, Millis(0), Vec::new());
        for member in &record.members {
            let placement = state.placements.get(&member.assignment)?;
            let share = (member.end_head.saturating_sub(member.first_head), heads);
            let bytes = super::member_bytes(version, &placement.assignment, share);
            taken.push((placement.worker, bytes.max(placement.resident_bytes)));
            if let Phase::Failed { reason } = &placement.phase {
                failed.push((placement.worker, placement.since, reason.clone()));
            }
            ready &= placement.phase == Phase::Ready;
            since = since.max(placement.since);
        }
        Some(Self { record, taken, ready, failed, since, key })
    }

    pub(super) fn take(&self, room: &mut Room) {
        for (worker, bytes) in &self.taken {
            room.take(*worker, &self.key, *bytes);
        }
    }

    pub(super) fn give_back(&self, room: &mut Room) {
        for (worker, bytes) in &self.taken {
            room.give_back(*worker, &self.key, *bytes);
        }
    }
}

/// How a model's replicas shall be cut, as the plan sees it.
#[derive(Clone, Copy)]
pub(super) struct RingWish<'a> {
    pub(super) deployment: Option<&'a Deployment>,
    /// Tokens a sequence shall hold.
    pub(super) context: u32,
}

impl RingWish<'_> {
    fn strategy(&self) -> Strategy {
        self.deployment.map_or(Strategy::Auto, |deployment| deployment.strategy)
    }

    /// Whether replicas are split even where they would fit whole.
    pub(super) fn splits(&self) -> bool {
        !matches!(self.strategy(), Strategy::Data | Strategy::Auto)
    }

    /// Whether replicas may be split where they do not fit whole.
    pub(super) fn may_split(&self) -> bool {
        self.strategy() != Strategy::Data
    }

    /// Whether a worker has the labels that are asked for.
    pub(super) fn allows(&self, labels: &BTreeMap<String, String>) -> bool {
        self.deployment.is_none_or(|deployment| {
            deployment.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        })
    }

    fn wish(&self, replicas: u32) -> Wish {
        match self.deployment {
            // Whoever said nothing gets the fewest workers.
            None => Wish {
                strategy: Strategy::Layer,
                stages: 0,
                shards: 0,
                policy: Policy::Latency,
                replicas,
            },
            Some(d) => Wish {
                strategy: d.strategy,
                stages: d.stages,
                shards: d.shards,
                policy: d.policy,
                replicas,
            },
        }
    }

    fn is_met(&self, state: &State, record: &ReplicaRecord) -> bool {
        let long = record
            .placements(state)
            .all(|placement| placement.assignment.context_length >= self.context);
        let Some(deployment) = self.deployment else { return long };
        let stages: Vec<_> =
            record.placements(state).map(|placement| placement.assignment.stage).collect();
        let shards = stages.first().map_or(1, |stage| stage.shards);
        let count = stages.iter().filter(|stage| stage.shard == 0).count();
        let strategy = match deployment.strategy {
            Strategy::Data => false,
            Strategy::Auto => true,
            asked => asked == record.strategy,
        };
        let labelled = record.placements(state).all(|placement| {
            let orders = state.orders.get(&placement.worker);
            orders.map_or(deployment.labels.is_empty(), |orders| self.allows(&orders.labels))
        });
        long && strategy
            && labelled
            && record.activations == deployment.activations
            && (deployment.stages == 0 || deployment.stages as usize == count)
            && (deployment.shards == 0 || deployment.shards == shards)
            && (deployment.steps_in_flight == 0
                || deployment.steps_in_flight == record.steps_in_flight)
    }
}

/// The workers that may hold a part of the view's model, with what they have left.
fn sites(view: &View<'_>, room: &Room) -> Vec<Site> {
    let open = room.seats.iter().filter(|(id, seat)| view.may_use(**id, seat));
    let site = |(worker, seat): (&WorkerId, &Seat)| Site {
        worker: *worker,
        free_bytes: seat.free_bytes(),
        ns_per_mib: seat.ns_per_mib,
        near_ns: NEAR_NS,
        far_ns: FAR_NS,
        place: seat.place,
    };
    let mut sites: Vec<Site> = open.map(site).filter(|site| site.free_bytes > 0).collect();
    if sites.len() > limits::PARTITION_WORKERS_COUNT {
        sites.sort_by_key(|site| (Reverse(site.free_bytes), site.worker));
        sites.truncate(limits::PARTITION_WORKERS_COUNT);
        sites.sort_by_key(|site| site.worker);
    }
    sites
}

/// The best partition of one more replica over the room that is left, and how many sequences it holds: as many as need no
/// worker more than one does.
pub(super) fn search(
    view: &View<'_>,
    room: &Room,
    limits: &PlanLimits,
) -> Result<(Choice, u32), Misfit> {
    let version = &view.record.version;
    let sites = sites(view, room);
    let wish = view.wish.wish(u32::try_from(view.replicas).unwrap_or(u32::MAX));
    if let Some(misfit) = missing_label(view, room) {
        return Err(misfit);
    }
    let attention = Attention::of(&version.facts);
    let of =
        |sequences| choose(&Load::new(version, view.context, sequences), &attention, &sites, &wish);
    let least = of(1)?;
    let mut sequences = limits.sequences_max;
    while sequences > 1 {
        if let Ok(choice) = of(sequences)
            && choice.map.parts.len() <= least.map.parts.len()
            && choice.map.form.strategy == least.map.form.strategy
        {
            return Ok((choice, sequences));
        }
        sequences /= 2;
    }
    Ok((least, 1))
}

/// Every way to place one replica of one sequence, the cheapest first.
pub(super) fn every(view: &View<'_>, room: &Room) -> Result<Choice, Misfit> {
    if let Some(misfit) = missing_label(view, room) {
        return Err(misfit);
    }
    let version = &view.record.version;
    let replicas = u32::try_from(view.replicas).unwrap_or(u32::MAX);
    let wish = Wish { strategy: Strategy::Auto, stages: 0, shards: 0, ..view.wish.wish(replicas) };
    let attention = Attention::of(&version.facts);
    choose(&Load::new(version, view.context, 1), &attention, &sites(view, room), &wish)
}

/// The labels asked for that no ready worker has, one alone or all together.
pub(super) fn missing_label(view: &View<'_>, room: &Room) -> Option<Misfit> {
    let labels = view.wish.deployment.map(|deployment| &deployment.labels)?;
    let ready: Vec<&Seat> =
        room.seats.values().filter(|seat| seat.status == WorkerStatus::Ready).collect();
    if ready.is_empty() || ready.iter().any(|seat| view.wish.allows(&seat.labels)) {
        return None;
    }
    let absent = |(key, value): &(&String, &String)| {
        ready.iter().all(|seat| seat.labels.get(*key) != Some(*value))
    };
    let written = |(key, value): (&String, &String)| format!("{key}={value}");
    let (label, mut known): (String, Vec<String>) = match labels.iter().find(absent) {
        Some((key, value)) => {
            let values = ready.iter().filter_map(|seat| seat.labels.get(key)).cloned();
            (written((key, value)), values.collect())
        }
        None => {
            let join = |labels: &BTreeMap<String, String>| {
                labels.iter().map(written).collect::<Vec<_>>().join(",")
            };
            (join(labels), ready.iter().map(|seat| join(&seat.labels)).collect())
        }
    };
    known.retain(|value| !value.is_empty());
    known.sort();
    known.dedup();
    Some(Misfit::Label { label, known })
}

/// Takes the room of a partition.
pub(super) fn take(choice: &Choice, view: &View<'_>, room: &mut Room) {
    for part in &choice.map.parts {
        room.take(part.worker, view.key(), part.bytes);
    }
}

/// The step that adds a planned replica.
pub(super) fn step(planned: &Planned, view: &View<'_>) -> PlanStep {
    let version = &view.record.version;
    let map = &planned.choice.map;
    let deployment = view.wish.deployment;
    let assignment = |stage| Assignment {
        id: AssignmentId(0),
        generation: Generation(0),
        model: view.name().clone(),
        blob: version.blob,
        blob_bytes: version.blob_bytes,
        stage,
        context_length: view.context,
        sequences_max: planned.sequences,
    };
    let members = map.parts.iter().map(|part| NewMember {
        worker: part.worker,
        assignment: assignment(part.stage),
        first_head: part.first_head,
        end_head: part.end_head,
    });
    let steps = deployment.map_or(0, |deployment| deployment.steps_in_flight);
    let replica = NewReplica {
        model: view.name().clone(),
        strategy: map.form.strategy,
        activations: deployment.map_or(Activations::F32, |deployment| deployment.activations),
        steps_in_flight: if steps > 0 { steps } else { map.form.stages.max(1) },
        members: members.collect(),
    };
    PlanStep::AddReplica { replica: Box::new(replica) }
}

/// The hosts of all workers, numbered: who is near whom.
pub(super) fn places(state: &State) -> BTreeMap<&str, u32> {
    let hosts = state.workers.values().map(|worker| {
        let address = worker.address.as_str();
        address.rsplit_once(':').map_or(address, |(host, _)| host)
    });
    let mut places: BTreeMap<&str, u32> = hosts.map(|host| (host, 0)).collect();
    places.values_mut().zip(0..).for_each(|(place, nth)| *place = nth);
    places
}

/// The speed of a worker: as observed, else by what it is.
pub(super) fn speed(observed: &Observed, worker: &crate::record::WorkerRecord) -> u64 {
    let measured = observed.ns_per_mib.get(&worker.id).copied();
    measured.unwrap_or_else(|| Site::unmeasured_ns_per_mib(&worker.device))
}
