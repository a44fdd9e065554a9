//! The state everyone agrees on: tables of records in persistent maps, so that a snapshot for
//! readers is one cheap clone.

use crate::access::Access;
use crate::adopted::AdoptedServer;
use crate::change::{Change, Counters};
use crate::deployment::Deployment;
use crate::orders::{Migration, WorkerOrders};
use crate::record::{
    Checkpoint, ClusterRecord, Demand, ModelRecord, NodeRecord, Placement, WorkerRecord,
};
use crate::replica::ReplicaRecord;
use crate::rollout::{Rollout, VersionRecord};
use imbl::OrdMap;
use ollamamax_proto::{AssignmentId, Digest, ModelName, NodeId, ReplicaId, Revision, WorkerId};

/// Everything the cluster agrees on. Cloning is O(1): the maps share their structure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Absent before the bootstrap.
    pub cluster: Option<ClusterRecord>,
    /// Members and those about to be.
    pub nodes: OrdMap<NodeId, NodeRecord>,
    /// The catalogue.
    pub models: OrdMap<ModelName, ModelRecord>,
    /// What shall be loaded.
    pub demands: OrdMap<ModelName, Demand>,
    /// Who can load it.
    pub workers: OrdMap<WorkerId, WorkerRecord>,
    /// Who loads what: the partition map.
    pub placements: OrdMap<AssignmentId, Placement>,
    /// Named values.
    pub checkpoints: OrdMap<String, Checkpoint>,
    /// How models are spread, by name.
    pub deployments: OrdMap<ModelName, Deployment>,
    /// What operators say of workers.
    pub orders: OrdMap<WorkerId, WorkerOrders>,
    /// Replicas of several stages; those of one have only their placement.
    pub replicas: OrdMap<ReplicaId, ReplicaRecord>,
    /// Models on their way from worker to worker.
    pub migrations: OrdMap<ModelName, Migration>,
    /// Models that change from one version to another.
    pub rollouts: OrdMap<ModelName, Rollout>,
    /// Former versions by name and digest, among them the old ones of rollouts.
    pub versions: OrdMap<(ModelName, Digest), VersionRecord>,
    /// Servers of others that answer whole requests.
    pub adopted: OrdMap<WorkerId, AdoptedServer>,
    /// Who may do what.
    pub access: Access,
    /// Numbers that only grow.
    pub counters: Counters,
}

impl State {
    /// How many commands have changed something.
    pub fn revision(&self) -> Revision {
        self.counters.revision
    }

    /// Whether a node was once admitted and is a member no more. Ids count up, so an id that was given out and has no
    /// record belonged to a node that was removed.
    pub fn has_removed(&self, node: NodeId) -> bool {
        node.0 != 0 && node <= self.counters.last_node && !self.nodes.contains_key(&node)
    }

    /// The replica of several stages that an assignment is a part of.
    pub fn replica_of(&self, id: AssignmentId) -> Option<&ReplicaRecord> {
        self.replicas
            .values()
            .find(|replica| replica.members.iter().any(|member| member.assignment == id))
    }

    /// Makes a change true. Total: what `decide` returned always applies.
    pub fn evolve(&mut self, change: &Change) {
        match change.clone() {
            Change::ClusterPut(record) => self.cluster = Some(record),
            Change::NodePut(record) => {
                self.nodes.insert(record.id, record);
            }
            Change::NodeRemoved(id) => {
                self.nodes.remove(&id);
            }
            Change::ModelPut(record) => {
                self.models.insert(record.name.clone(), *record);
            }
            Change::ModelRemoved(name) => {
                self.models.remove(&name);
            }
            Change::DemandPut(demand) => {
                self.demands.insert(demand.model.clone(), demand);
            }
            Change::DemandRemoved(name) => {
                self.demands.remove(&name);
            }
            Change::WorkerPut(record) => {
                self.workers.insert(record.id, record);
            }
            Change::WorkerRemoved(id) => {
                self.workers.remove(&id);
            }
            Change::PlacementPut(placement) => {
                self.placements.insert(placement.assignment.id, placement);
            }
            Change::PlacementRemoved(id) => {
                self.placements.remove(&id);
            }
            Change::CheckpointPut(checkpoint) => {
                self.checkpoints.insert(checkpoint.name.clone(), checkpoint);
            }
            Change::CheckpointRemoved(name) => {
                self.checkpoints.remove(&name);
            }
            Change::Advanced(counters) => self.counters = counters,
            Change::DeploymentPut(deployment) => {
                self.deployments.insert(deployment.model.clone(), *deployment);
            }
            Change::DeploymentRemoved(name) => {
                self.deployments.remove(&name);
            }
            Change::OrdersPut(orders) => {
                self.orders.insert(orders.worker, orders);
            }
            Change::OrdersRemoved(worker) => {
                self.orders.remove(&worker);
            }
            Change::ReplicaPut(replica) => {
                self.replicas.insert(replica.id, *replica);
            }
            Change::ReplicaRemoved(id) => {
                self.replicas.remove(&id);
            }
            Change::MigrationPut(migration) => {
                self.migrations.insert(migration.model.clone(), migration);
            }
            Change::MigrationRemoved(name) => {
                self.migrations.remove(&name);
            }
            Change::RolloutPut(rollout) => {
                self.rollouts.insert(rollout.model.clone(), rollout);
            }
            Change::RolloutRemoved(name) => {
                self.rollouts.remove(&name);
            }
            Change::VersionPut(record) => {
                let key = (record.model.clone(), record.version.digest);
                self.versions.insert(key, *record);
            }
            Change::VersionRemoved(name, digest) => {
                self.versions.remove(&(name, digest));
            }
            Change::Access(change) => self.access.evolve(change),
            Change::AdoptedPut(server) => {
                self.adopted.insert(server.id, *server);
            }
            Change::AdoptedRemoved(id) => {
                self.adopted.remove(&id);
            }
        }
    }

    /// The state as the changes that rebuild it from nothing: for snapshots and new watchers.
    pub fn to_changes(&self) -> Vec<Change> {
        let cluster = self.cluster.iter().cloned().map(Change::ClusterPut);
        let nodes = self.nodes.values().cloned().map(Change::NodePut);
        let models = self.models.values().cloned().map(Box::new).map(Change::ModelPut);
        let demands = self.demands.values().cloned().map(Change::DemandPut);
        let workers = self.workers.values().cloned().map(Change::WorkerPut);
        let placements = self.placements.values().cloned().map(Change::PlacementPut);
        let checkpoints = self.checkpoints.values().cloned().map(Change::CheckpointPut);
        let deployments =
            self.deployments.values().cloned().map(Box::new).map(Change::DeploymentPut);
        let orders = self.orders.values().cloned().map(Change::OrdersPut);
        let replicas = self.replicas.values().cloned().map(Box::new).map(Change::ReplicaPut);
        let migrations = self.migrations.values().cloned().map(Change::MigrationPut);
        let rollouts = self.rollouts.values().cloned().map(Change::RolloutPut);
        let versions = self.versions.values().cloned().map(Box::new).map(Change::VersionPut);
        let adopted = self.adopted.values().cloned().map(Box::new).map(Change::AdoptedPut);
        cluster
            .chain(nodes)
            .chain(models)
            .chain(demands)
            .chain(workers)
            .chain(placements)
            .chain(checkpoints)
            .chain(deployments)
            .chain(orders)
            .chain(replicas)
            .chain(migrations)
            .chain(rollouts)
            .chain(versions)
            .chain(adopted)
            .chain(self.access.to_changes().into_iter().map(Change::Access))
            .chain([Change::Advanced(self.counters)])
            .collect()
    }
}
