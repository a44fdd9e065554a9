//! What became true. The same list feeds the stored tables, the state in memory and the watchers.

use crate::access::AccessChange;
use crate::adopted::AdoptedServer;
use crate::deployment::Deployment;
use crate::orders::{Migration, WorkerOrders};
use crate::record::{
    Checkpoint, ClusterRecord, Demand, ModelRecord, NodeRecord, Placement, WorkerRecord,
};
use crate::replica::ReplicaRecord;
use crate::rollout::{Rollout, VersionRecord};
use ollamamax_proto::{
    AssignmentId, Digest, Millis, ModelName, NodeId, ReplicaId, Revision, WorkerId,
};
use serde::{Deserialize, Serialize};

/// One fact. Stored and sent to watchers: variants are only added at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The cluster got its identity.
    ClusterPut(ClusterRecord),
    /// A node is or changed.
    NodePut(NodeRecord),
    /// A node is gone.
    NodeRemoved(NodeId),
    /// A model name is or changed.
    ModelPut(Box<ModelRecord>),
    /// A model name is gone.
    ModelRemoved(ModelName),
    /// A model is wanted.
    DemandPut(Demand),
    /// It is no longer.
    DemandRemoved(ModelName),
    /// A worker is or changed.
    WorkerPut(WorkerRecord),
    /// A worker is gone.
    WorkerRemoved(WorkerId),
    /// An assignment is or changed.
    PlacementPut(Placement),
    /// An assignment is gone.
    PlacementRemoved(AssignmentId),
    /// A checkpoint is or changed.
    CheckpointPut(Checkpoint),
    /// A checkpoint is gone.
    CheckpointRemoved(String),
    /// Counters, always the last change of a command that changed something.
    Advanced(Counters),
    /// How a model is spread is or changed.
    DeploymentPut(Box<Deployment>),
    /// Nobody says any more how a model is spread.
    DeploymentRemoved(ModelName),
    /// What operators say of a worker is or changed.
    OrdersPut(WorkerOrders),
    /// Nothing is ordered of a worker any more.
    OrdersRemoved(WorkerId),
    /// A replica of several stages is or changed.
    ReplicaPut(Box<ReplicaRecord>),
    /// A replica of several stages is gone.
    ReplicaRemoved(ReplicaId),
    /// A model moves.
    MigrationPut(Migration),
    /// A model moves no longer.
    MigrationRemoved(ModelName),
    /// A model changes from one version to another, or does it otherwise.
    RolloutPut(Rollout),
    /// A model stands for one version only.
    RolloutRemoved(ModelName),
    /// A former version of a model is or changed.
    VersionPut(Box<VersionRecord>),
    /// A former version of a model, by its digest, is forgotten.
    VersionRemoved(ModelName, Digest),
    /// Who may do what changed.
    Access(AccessChange),
    /// An adopted server is or changed.
    AdoptedPut(Box<AdoptedServer>),
    /// An adopted server is gone.
    AdoptedRemoved(WorkerId),
}

impl Change {
    /// Whether the planner looks at what this changes: workers, models, demands, placements.
    pub fn concerns_placement(&self) -> bool {
        match self {
            Self::ModelPut(_)
            | Self::ModelRemoved(_)
            | Self::DemandPut(_)
            | Self::DemandRemoved(_)
            | Self::WorkerPut(_)
            | Self::WorkerRemoved(_)
            | Self::PlacementPut(_)
            | Self::PlacementRemoved(_)
            | Self::DeploymentPut(_)
            | Self::DeploymentRemoved(_)
            | Self::OrdersPut(_)
            | Self::OrdersRemoved(_)
            | Self::ReplicaPut(_)
            | Self::ReplicaRemoved(_)
            | Self::MigrationPut(_)
            | Self::MigrationRemoved(_)
            | Self::RolloutPut(_)
            | Self::RolloutRemoved(_)
            | Self::VersionPut(_)
            | Self::VersionRemoved(..) => true,
            Self::ClusterPut(_)
            | Self::NodePut(_)
            | Self::NodeRemoved(_)
            | Self::CheckpointPut(_)
            | Self::CheckpointRemoved(_)
            | Self::Access(_)
            | Self::AdoptedPut(_)
            | Self::AdoptedRemoved(_)
            | Self::Advanced(_) => false,
        }
    }
}

/// Numbers that only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Commands that changed something.
    pub revision: Revision,
    /// Commands that changed what the planner looks at: workers, models, demands, placements.
    pub placement_revision: Revision,
    /// The latest time seen.
    pub clock: Millis,
    /// The last node id given out.
    pub last_node: NodeId,
    /// The last assignment id given out.
    pub last_assignment: AssignmentId,
    /// The last generation given out.
    pub last_generation: u64,
}
