//! Who runs what: devices, stages, assignments and their states.

use crate::ids::{AssignmentId, Digest, Generation, ModelName, ReplicaId, WorkerId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a worker computes with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// `cpu` or `cuda`.
    pub kind: String,
    /// As the system names it.
    pub name: String,
    /// Bytes usable for weights and KV cache.
    pub memory_bytes: u64,
    /// Compute threads on a CPU, else 0.
    pub threads: u32,
}

/// How a GPU is; what it does not tell is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceHealth {
    /// Bytes of its memory that all processes use.
    pub memory_used_bytes: Option<u64>,
    /// Percent of the time in which a kernel ran.
    pub busy_percent: Option<u32>,
    /// Its temperature.
    pub celsius: Option<u32>,
    /// Memory errors that could not be corrected, since the driver was loaded.
    pub memory_errors: Option<u64>,
    /// The last failure since the worker started, as the driver numbers them.
    pub xid: Option<u64>,
}

/// A part of a model. The whole model on one worker is one stage with everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stage {
    /// First layer.
    pub first_layer: u32,
    /// One past the last layer.
    pub end_layer: u32,
    /// Starts from tokens instead of activations.
    pub embedding: bool,
    /// Ends in sampled tokens instead of activations.
    pub head: bool,
    /// Which shard of each layer.
    pub shard: u32,
    /// How many shards each layer is split into.
    pub shards: u32,
}

impl Stage {
    /// The whole model of `layers` layers.
    pub fn whole(layers: u32) -> Self {
        Self { first_layer: 0, end_layer: layers, embedding: true, head: true, shard: 0, shards: 1 }
    }

    /// Whether this stage needs no other.
    pub fn is_whole(&self, layers: u32) -> bool {
        *self == Self::whole(layers)
    }
}

/// One stage of one model version that one worker must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Its identity.
    pub id: AssignmentId,
    /// Fences it: a worker refuses an older one.
    pub generation: Generation,
    /// The model's name when it was placed.
    pub model: ModelName,
    /// The GGUF to load.
    pub blob: Digest,
    /// Its size.
    pub blob_bytes: u64,
    /// The part of the model.
    pub stage: Stage,
    /// Tokens a sequence may hold.
    pub context_length: u32,
    /// Sequences run at once.
    pub sequences_max: u32,
}

/// What stages of one replica hand to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activations {
    /// As they are computed: splitting a model changes no bit of its output.
    #[default]
    F32,
    /// Rounded to half the bytes, for slow networks.
    Bf16,
}

impl Activations {
    /// Its name, as configured and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

/// A replica whose stages lie on several workers.
///
/// Peers stand in the order in which activations pass them, stage by stage, and within a stage shard by shard. Shard 0
/// of the last stage drives: it takes requests, schedules and samples, and sends the tokens of a step to the first stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Which replica.
    pub replica: ReplicaId,
    /// What goes from stage to stage.
    pub activations: Activations,
    /// Steps (micro-batches) on their way at once, at least 1.
    pub steps_in_flight: u32,
    /// The stages.
    pub peers: Vec<Peer>,
}

impl Ring {
    /// The peer that drives.
    pub fn driver(&self) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.stage.head && peer.stage.shard == 0)
    }
}

/// A stage of a replica, and who holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Which assignment.
    pub assignment: AssignmentId,
    /// In which generation.
    pub generation: Generation,
    /// Its worker.
    pub worker: WorkerId,
    /// host:port of its worker.
    pub address: String,
    /// The part of the model.
    pub stage: Stage,
    /// First key-value head of its shard.
    pub first_head: u32,
    /// One past the last.
    pub end_head: u32,
}

/// An assignment as its worker gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// What to hold.
    pub assignment: Assignment,
    /// The replica it is a part of; `None` when it is the whole model.
    pub ring: Option<Ring>,
}

/// Where an assignment stands. Transitions come from the worker's reports, proposed by the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Decided, not yet confirmed by the worker.
    Pending,
    /// The worker fetches bytes or builds the model.
    Loading,
    /// Requests may be sent.
    Ready,
    /// It cannot be held there, and why.
    Failed {
        /// The worker's words.
        reason: String,
    },
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Failed { .. } => "failed",
        })
    }
}

/// What a worker says about one assignment, in each heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignmentReport {
    /// Which one.
    pub id: AssignmentId,
    /// Of which generation.
    pub generation: Generation,
    /// Where it stands there.
    pub phase: Phase,
    /// Memory it takes.
    pub resident_bytes: u64,
    /// Sequences in flight.
    pub running: u32,
    /// Requests queued.
    pub waiting: u32,
    /// How long loading took, in nanoseconds; 0 while unknown.
    pub load_ns: u64,
    /// What a step of few tokens took lately, in nanoseconds per MiB of weights, keys and values; 0: none ran.
    pub step_ns_per_mib: u64,
}

/// Whether a worker can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerStatus {
    /// Heard of lately.
    Ready,
    /// Silent for a while: gets no new requests.
    Suspect,
    /// Silent too long: its assignments move.
    Down,
    /// Finishes what it runs and takes nothing new.
    Draining,
}

impl fmt::Display for WorkerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Draining => "draining",
        })
    }
}
