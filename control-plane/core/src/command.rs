//! What can be asked of the state, and what comes back.
//!
//! Commands are stored in the log, in an encoding that names no fields: variants are only ever
//! added at the end, never changed or reordered, and a variant's fields stay as they are (a new
//! need is a new variant). Golden bytes pin each one.

use crate::access::AccessCommand;
use crate::adopted::AdoptedServer;
use crate::deployment::Deployment;
use crate::record::{ClusterRecord, Demand};
use crate::replica::NewReplica;
use ollamamax_proto::audit::Note;
use ollamamax_proto::model::ModelVersion;
use ollamamax_proto::placement::{Assignment, Device, Phase, WorkerStatus};
use ollamamax_proto::{
    AssignmentId, Digest, Generation, Incarnation, Millis, ModelName, NodeId, ReplicaId, Revision,
    WorkerId,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A command in its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The log index of the batch it came in.
    pub index: u64,
    /// When it was proposed, by the proposer's clock; the state never lets time go back.
    pub at: Millis,
    /// What is asked.
    pub command: Command,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Gives the cluster its identity and its first node. Accepted once.
    Bootstrap {
        /// The identity.
        cluster: ClusterRecord,
        /// host:port of the first node's gateway.
        http: String,
        /// host:port of the first node's gRPC services.
        raft: String,
    },
    /// Allocates a node id for a process that wants to join. The same gRPC address gets the same id
    /// as long as that node has not been told to leave.
    AdmitNode {
        /// host:port of its gateway.
        http: String,
        /// host:port of its gRPC services.
        raft: String,
        /// Whether it shall vote.
        voter: bool,
    },
    /// A node tells where it is now and as which process.
    AnnounceNode {
        /// Which node.
        node: NodeId,
        /// host:port of its gateway.
        http: String,
        /// host:port of its gRPC services.
        raft: String,
        /// Its process id.
        pid: u32,
    },
    /// Makes a learner vote.
    PromoteNode {
        /// Which node.
        node: NodeId,
    },
    /// Tells a node to leave; refused when it would leave the cluster without a node.
    RemoveNode {
        /// Which node.
        node: NodeId,
    },
    /// Forgets a node that has left the membership.
    ForgetNode {
        /// Which node.
        node: NodeId,
    },
    /// Points a name at a version, replacing what it stood for.
    PutModel {
        /// The name.
        name: ModelName,
        /// The version.
        version: Box<ModelVersion>,
    },
    /// Points another name at the same version.
    CopyModel {
        /// The existing name.
        source: ModelName,
        /// The name to point.
        destination: ModelName,
    },
    /// Removes a name, its demand and its placements.
    DeleteModel {
        /// The name.
        name: ModelName,
    },
    /// Wants a model loaded, or renews that wish; replicas never shrink by renewal.
    DemandModel {
        /// What is wanted; `lifetime` `Until` is computed from the entry's time and
        /// `keep_alive_ms`.
        demand: Demand,
    },
    /// No longer wants a model loaded.
    ReleaseModel {
        /// The name.
        name: ModelName,
    },
    /// Drops demands whose time is over as of the entry's time.
    ExpireDemands,
    /// A worker came up, or came back.
    RegisterWorker {
        /// Its identity.
        id: WorkerId,
        /// Which life: older ones than the known are refused.
        incarnation: Incarnation,
        /// For people.
        name: String,
        /// host:port of its gRPC service.
        address: String,
        /// What it computes with.
        device: Device,
        /// Its process id.
        pid: u32,
    },
    /// A worker's usability changed.
    SetWorkerStatus {
        /// Which worker.
        id: WorkerId,
        /// In which life.
        incarnation: Incarnation,
        /// What it is now.
        status: WorkerStatus,
        /// Why, in words.
        reason: String,
    },
    /// Forgets a worker and its placements.
    RemoveWorker {
        /// Which worker.
        id: WorkerId,
    },
    /// Changes who runs what; refused when the state has moved on since it was planned.
    ApplyPlan {
        /// The placement revision the plan was computed from.
        base: Revision,
        /// What to do, in order.
        steps: Vec<PlanStep>,
    },
    /// What a worker said about its assignments, where it differs from what is known.
    ReportPlacements {
        /// Which worker.
        worker: WorkerId,
        /// In which life.
        incarnation: Incarnation,
        /// The transitions.
        transitions: Vec<Transition>,
    },
    /// Sets a checkpoint.
    PutCheckpoint {
        /// Its name.
        name: String,
        /// The new value.
        value: Vec<u8>,
        /// `None`: whatever is there; `Some(0)`: only if absent; else only at this revision.
        expected: Option<Revision>,
    },
    /// Removes a checkpoint.
    DeleteCheckpoint {
        /// Its name.
        name: String,
        /// `None`: whatever is there; else only at this revision.
        expected: Option<Revision>,
    },
    /// Says how a model is spread, and wants it loaded: both or nothing.
    Deploy {
        /// How.
        deployment: Box<Deployment>,
        /// How many and how long, exactly: replicas may shrink.
        demand: Demand,
    },
    /// No longer says how a model is spread.
    ClearDeployment {
        /// The name.
        name: ModelName,
    },
    /// Sets and removes labels of a worker.
    LabelWorker {
        /// Which worker.
        id: WorkerId,
        /// Values by key; `None` removes.
        labels: BTreeMap<String, Option<String>>,
    },
    /// An operator has a worker give away what it holds, until it is resumed.
    DrainWorker {
        /// Which worker.
        id: WorkerId,
        /// Why, in words.
        reason: String,
    },
    /// An operator lets a worker be used again.
    ResumeWorker {
        /// Which worker.
        id: WorkerId,
    },
    /// Moves a model from one worker to another.
    MigrateModel {
        /// The name.
        name: ModelName,
        /// Who holds it.
        from: WorkerId,
        /// Who shall hold it.
        to: WorkerId,
    },
    /// Points a name at a version as [`Command::PutModel`] does; but where the name is served, what it stood for goes on
    /// serving beside the new version until that serves everything.
    RollOut {
        /// The name.
        name: ModelName,
        /// The version.
        version: Box<ModelVersion>,
        /// Percent of the requests for it once it is ready, 1 to 100; at 100 the old version goes.
        weight: u32,
    },
    /// Says how the requests for a name are shared among its versions; for one of its former versions it starts a rollout.
    ShiftTraffic {
        /// The name.
        name: ModelName,
        /// Which version; `None`: the one that the name stands for.
        version: Option<Digest>,
        /// Percent of the requests for that version, 0 to 100; the other version gets the rest.
        weight: u32,
    },
    /// Points a name at its old version again.
    RevertRollout {
        /// The name.
        name: ModelName,
        /// Which rollout: the revision at which it began.
        began: Revision,
        /// Why, in words.
        reason: String,
    },
    /// Wants another number of replicas of a deployed model, as its load asks for; passed over when the number is no longer
    /// what it was.
    ScaleModel {
        /// The name.
        name: ModelName,
        /// Replicas it was wanted with.
        from: u32,
        /// Replicas it is wanted with now; within what its deployment allows.
        to: u32,
    },
    /// Changes who may do what.
    Access(Box<AccessCommand>),
    /// A command that somebody asked for: what comes of it goes into the trail, in the same moment or not at all.
    Noted {
        /// Who asked, for what, on what; `outcome` is filled in.
        note: Box<Note>,
        /// What is asked; not itself noted.
        #[serde(with = "flat")]
        command: Box<Command>,
    },
    /// Has a server of others answer whole requests.
    AdoptServer {
        /// Which; `adopted_at` is set when it is applied.
        server: Box<AdoptedServer>,
    },
    /// Lets an adopted server go.
    ReleaseServer {
        /// Which one.
        id: WorkerId,
    },
}

/// A command within a command, as bytes of their own: commands must not nest, however deep somebody wrote them.
mod flat {
    use super::Command;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

    /// The number of [`Command::Noted`] among the variants.
    const NOTED: u8 = 30;

    pub(super) fn serialize<S: Serializer>(command: &Command, to: S) -> Result<S::Ok, S::Error> {
        let bytes = postcard::to_stdvec(command).map_err(ser::Error::custom)?;
        bytes.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Box<Command>, D::Error> {
        let bytes = Vec::<u8>::deserialize(from)?;
        if bytes.first() == Some(&NOTED) {
            return Err(de::Error::custom("a noted command inside another"));
        }
        postcard::from_bytes(&bytes).map(Box::new).map_err(de::Error::custom)
    }
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlanStep {
    /// Give a worker a stage. The assignment's id and generation are allocated when the plan is
    /// applied.
    Assign {
        /// Who shall hold it.
        worker: WorkerId,
        /// What; `id` and `generation` are ignored.
        assignment: Assignment,
    },
    /// Take a stage away; with one of a replica, all of it.
    Unassign {
        /// Which one.
        id: AssignmentId,
    },
    /// Give several workers a replica, whole or not at all.
    AddReplica {
        /// The replica.
        replica: Box<NewReplica>,
    },
    /// Take a replica of several stages away.
    RemoveReplica {
        /// Which one.
        id: ReplicaId,
    },
    /// No longer want a model that was idle for the longest time: another one needs its memory.
    Release {
        /// Which model.
        model: ModelName,
    },
}

impl PlanStep {
    /// Whether it takes something away; those come first in a plan.
    pub fn takes(&self) -> bool {
        match self {
            Self::Unassign { .. } | Self::RemoveReplica { .. } | Self::Release { .. } => true,
            Self::Assign { .. } | Self::AddReplica { .. } => false,
        }
    }
}

/// A placement's change of phase, as its worker reported it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// Which assignment.
    pub id: AssignmentId,
    /// Of which generation.
    pub generation: Generation,
    /// Where it stands now.
    pub phase: Phase,
    /// Memory it takes.
    pub resident_bytes: u64,
    /// How long loading took, in nanoseconds.
    pub load_ns: u64,
}

/// What an accepted command answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Done; `changed` tells whether anything is different now.
    Done {
        /// Whether the state changed.
        changed: bool,
        /// The revision after it.
        revision: Revision,
    },
    /// The id of an admitted node and the cluster it belongs to.
    Admitted {
        /// The node's id.
        node: NodeId,
        /// The cluster's id.
        cluster: String,
        /// The revision after it.
        revision: Revision,
    },
    /// A refresh token was presented that had been replaced: its session is over.
    Reused {
        /// The revision after it.
        revision: Revision,
    },
}

impl Outcome {
    /// The revision after the command.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Done { revision, .. }
            | Self::Admitted { revision, .. }
            | Self::Reused { revision } => *revision,
        }
    }
}
