//! A decision in the making: a copy of the state that each pushed change is applied to at once, so
//! that a command of many steps sees its own earlier ones.

use crate::change::Change;
use crate::record::Placement;
use crate::state::State;
use ollamamax_proto::{AssignmentId, Generation, Millis, NodeId, ReplicaId, Revision, mutant};
use std::collections::BTreeSet;

pub(super) struct Draft {
    state: State,
    changes: Vec<Change>,
    now: Millis,
}

impl Draft {
    pub(super) fn begin(state: &State, at: Millis) -> Self {
        Self { state: state.clone(), changes: Vec::new(), now: at.max(state.counters.clock) }
    }

    /// The state with what was pushed so far.
    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// The entry's time, never before the state's.
    pub(super) fn now(&self) -> Millis {
        self.now
    }

    /// The revision the state will have if this command changes something.
    pub(super) fn next_revision(&self) -> Revision {
        self.state.revision().next()
    }

    /// Makes `change` true; one that is true already is left out.
    pub(super) fn push(&mut self, change: Change) {
        if !self.holds(&change) {
            self.state.evolve(&change);
            self.changes.push(change);
        }
    }

    pub(super) fn next_node(&mut self) -> NodeId {
        self.state.counters.last_node = self.state.counters.last_node.next();
        self.state.counters.last_node
    }

    pub(super) fn next_assignment(&mut self) -> AssignmentId {
        self.state.counters.last_assignment = self.state.counters.last_assignment.next();
        self.state.counters.last_assignment
    }

    pub(super) fn next_generation(&mut self) -> Generation {
        if mutant::planted("one-generation") && self.state.counters.last_generation > 0 {
            return Generation(self.state.counters.last_generation);
        }
        self.state.counters.last_generation += 1;
        Generation(self.state.counters.last_generation)
    }

    /// Removes the placements that `gone` picks, and with a member of a replica the whole replica.
    pub(super) fn drop_placements(&mut self, gone: impl Fn(&Placement) -> bool) {
        let mut ids: BTreeSet<AssignmentId> = self
            .state
            .placements
            .values()
            .filter(|placement| gone(placement))
            .map(|placement| placement.assignment.id)
            .collect();
        let hit: Vec<ReplicaId> = self
            .state
            .replicas
            .values()
            .filter(|replica| replica.members.iter().any(|m| ids.contains(&m.assignment)))
            .map(|replica| replica.id)
            .collect();
        for id in hit {
            if let Some(replica) = self.state.replicas.get(&id) {
                ids.extend(replica.members.iter().map(|member| member.assignment));
            }
            self.push(Change::ReplicaRemoved(id));
        }
        for id in ids {
            self.push(Change::PlacementRemoved(id));
        }
    }

    /// The changes, ended by the counters; none when nothing was pushed.
    pub(super) fn finish(mut self) -> Vec<Change> {
        if self.changes.is_empty() {
            return self.changes;
        }
        let mut counters = self.state.counters;
        counters.revision = counters.revision.next();
        counters.clock = self.now;
        if self.changes.iter().any(Change::concerns_placement) {
            counters.placement_revision = counters.placement_revision.next();
        }
        self.changes.push(Change::Advanced(counters));
        self.changes
    }

    fn holds(&self, change: &Change) -> bool {
        let state = &self.state;
        match change {
            Change::ClusterPut(record) => state.cluster.as_ref() == Some(record),
            Change::NodePut(record) => state.nodes.get(&record.id) == Some(record),
            Change::NodeRemoved(id) => !state.nodes.contains_key(id),
            Change::ModelPut(record) => state.models.get(&record.name) == Some(record),
            Change::ModelRemoved(name) => !state.models.contains_key(name),
            Change::DemandPut(demand) => state.demands.get(&demand.model) == Some(demand),
            Change::DemandRemoved(name) => !state.demands.contains_key(name),
            Change::WorkerPut(record) => state.workers.get(&record.id) == Some(record),
            Change::WorkerRemoved(id) => !state.workers.contains_key(id),
            Change::PlacementPut(placement) => {
                state.placements.get(&placement.assignment.id) == Some(placement)
            }
            Change::PlacementRemoved(id) => !state.placements.contains_key(id),
            Change::CheckpointPut(checkpoint) => {
                state.checkpoints.get(&checkpoint.name) == Some(checkpoint)
            }
            Change::CheckpointRemoved(name) => !state.checkpoints.contains_key(name),
            Change::Advanced(counters) => state.counters == *counters,
            Change::DeploymentPut(record) => {
                state.deployments.get(&record.model) == Some(&**record)
            }
            Change::DeploymentRemoved(name) => !state.deployments.contains_key(name),
            Change::OrdersPut(record) => state.orders.get(&record.worker) == Some(record),
            Change::OrdersRemoved(id) => !state.orders.contains_key(id),
            Change::ReplicaPut(record) => state.replicas.get(&record.id) == Some(&**record),
            Change::ReplicaRemoved(id) => !state.replicas.contains_key(id),
            Change::MigrationPut(record) => state.migrations.get(&record.model) == Some(record),
            Change::MigrationRemoved(name) => !state.migrations.contains_key(name),
            Change::RolloutPut(record) => state.rollouts.get(&record.model) == Some(record),
            Change::RolloutRemoved(name) => !state.rollouts.contains_key(name),
            Change::VersionPut(record) => {
                let key = (record.model.clone(), record.version.digest);
                state.versions.get(&key) == Some(&**record)
            }
            Change::VersionRemoved(name, digest) => {
                !state.versions.contains_key(&(name.clone(), *digest))
            }
            Change::Access(change) => state.access.holds(change),
            Change::AdoptedPut(record) => state.adopted.get(&record.id) == Some(&**record),
            Change::AdoptedRemoved(id) => !state.adopted.contains_key(id),
        }
    }
}
