//! The workers as the plan fills them.

use super::memory::{need_bytes, usable_bytes};
use super::{Observed, PlanLimits, rings};
use crate::record::Placement;
use crate::state::State;
use ollamamax_proto::model::ModelVersion;
use ollamamax_proto::placement::{Assignment, WorkerStatus};
use ollamamax_proto::{Digest, ModelName, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

/// A version of a model: its name and its bytes.
pub(super) type Key = (ModelName, Digest);

/// One worker.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub(super) status: WorkerStatus,
    pub(super) usable_bytes: u64,
    pub(super) taken_bytes: u64,
    pub(super) placements: u32,
    pub(super) busy: u32,
    /// As operators set them.
    pub(super) labels: BTreeMap<String, String>,
    /// Nanoseconds it takes to read a MiB of weights.
    pub(super) ns_per_mib: u64,
    /// Much slower than usual, for a while.
    pub(super) slow: bool,
    /// Which host it is on.
    pub(super) place: u32,
    /// Models it holds, or is left alone with after a failure.
    pub(super) models: BTreeSet<Key>,
}

impl Seat {
    pub(super) fn free_bytes(&self) -> u64 {
        self.usable_bytes.saturating_sub(self.taken_bytes)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Room {
    pub(super) seats: BTreeMap<WorkerId, Seat>,
}

impl Room {
    pub(super) fn new(state: &State, observed: &Observed, limits: &PlanLimits) -> Self {
        let places = rings::places(state);
        let place = |address: &str| {
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            places.get(host).copied().unwrap_or(0)
        };
        let labels =
            |worker: &WorkerId| state.orders.get(worker).map(|orders| orders.labels.clone());
        let seat = |worker: &crate::record::WorkerRecord| Seat {
            status: worker.status,
            usable_bytes: usable_bytes(&worker.device, limits.headroom_percent),
            taken_bytes: 0,
            placements: 0,
            busy: observed.busy.get(&worker.id).copied().unwrap_or(0),
            labels: labels(&worker.id).unwrap_or_default(),
            ns_per_mib: rings::speed(observed, worker),
            slow: observed.slow.contains(&worker.id),
            place: place(&worker.address),
            models: BTreeSet::new(),
        };
        Self { seats: state.workers.values().map(|worker| (worker.id, seat(worker))).collect() }
    }

    pub(super) fn ready_count(&self) -> usize {
        self.seats.values().filter(|seat| seat.status == WorkerStatus::Ready).count()
    }

    pub(super) fn take(&mut self, worker: WorkerId, model: &Key, bytes: u64) {
        if let Some(seat) = self.seats.get_mut(&worker) {
            seat.taken_bytes = seat.taken_bytes.saturating_add(bytes);
            seat.placements += 1;
            seat.models.insert(model.clone());
        }
    }

    pub(super) fn give_back(&mut self, worker: WorkerId, model: &Key, bytes: u64) {
        if let Some(seat) = self.seats.get_mut(&worker) {
            seat.taken_bytes = seat.taken_bytes.saturating_sub(bytes);
            seat.placements = seat.placements.saturating_sub(1);
            seat.models.remove(model);
        }
    }
}

/// What a placement takes: as computed, or as its worker reports where that is more.
pub(super) fn held_bytes(version: &ModelVersion, placement: &Placement) -> u64 {
    let Assignment { stage, context_length, sequences_max, .. } = &placement.assignment;
    need_bytes(version, stage, *context_length, *sequences_max).max(placement.resident_bytes)
}
