//! The records the state is made of: one struct per table, each stored under its own key.

use ollamamax_proto::model::ModelVersion;
use ollamamax_proto::placement::{Assignment, Device, Phase, WorkerStatus};
use ollamamax_proto::{Incarnation, Millis, ModelName, NodeId, Revision, WorkerId};
use serde::{Deserialize, Serialize};

/// The cluster itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// 32 hex digits drawn at bootstrap; every message between nodes carries it.
    pub id: String,
    /// For people.
    pub name: String,
    /// When it was bootstrapped.
    pub created_at: Millis,
}

/// A member of the quorum, or one about to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its identity, never reused.
    pub id: NodeId,
    /// host:port of its gateway.
    pub http: String,
    /// host:port of its gRPC services.
    pub raft: String,
    /// Process id on its machine, 0 while unknown.
    pub pid: u32,
    /// When it was admitted.
    pub admitted_at: Millis,
    /// Whether it shall vote once it has caught up.
    pub voter: bool,
    /// Set when it has been told to leave; the leader takes it out of the membership, then forgets
    /// it.
    pub leaving: bool,
}

/// A name in the catalogue and the version it stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// The name.
    pub name: ModelName,
    /// What it stands for.
    pub version: ModelVersion,
    /// When the name was last pointed at a version.
    pub modified_at: Millis,
    /// The revision at which that happened.
    pub revision: Revision,
}

/// How long a model is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lifetime {
    /// Until released.
    Forever,
    /// Until this moment, unless wanted again.
    Until(Millis),
}

/// That a model shall be loaded, by how many workers and how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// Which model.
    pub model: ModelName,
    /// On how many workers, as far as there are that many.
    pub replicas: u32,
    /// How long.
    pub lifetime: Lifetime,
    /// Tokens a sequence may hold; 0: the default.
    pub context_length: u32,
    /// Length of one renewal in milliseconds, as the last request asked; negative: forever.
    pub keep_alive_ms: i64,
}

impl Demand {
    /// Whether the model is still wanted at `now`.
    pub fn is_live(&self, now: Millis) -> bool {
        match self.lifetime {
            Lifetime::Forever => true,
            Lifetime::Until(end) => end > now,
        }
    }
}

/// A process that runs models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// Its identity, kept across its restarts.
    pub id: WorkerId,
    /// Which of its lives this is.
    pub incarnation: Incarnation,
    /// For people.
    pub name: String,
    /// host:port of its gRPC service.
    pub address: String,
    /// What it computes with.
    pub device: Device,
    /// Process id on its machine.
    pub pid: u32,
    /// Whether it can be used.
    pub status: WorkerStatus,
    /// Why the status is what it is, in words.
    pub reason: String,
    /// Since when it has this status.
    pub since: Millis,
}

/// An assignment, the worker that holds it, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// What to hold.
    pub assignment: Assignment,
    /// Who holds it.
    pub worker: WorkerId,
    /// Where it stands, as last confirmed.
    pub phase: Phase,
    /// Since when.
    pub since: Millis,
    /// Memory it takes as reported; 0 while unknown.
    pub resident_bytes: u64,
    /// How long loading took, in nanoseconds; 0 while unknown.
    pub load_ns: u64,
}

/// A named value with a revision: progress marks of jobs, changed by compare-and-set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Vec<u8>,
    /// The revision at which it was last set: what a compare-and-set expects.
    pub revision: Revision,
    /// When.
    pub modified_at: Millis,
}
