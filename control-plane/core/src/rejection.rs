//! Why a command was refused: deterministic, so every node refuses alike.

use ollamamax_proto::{
    AssignmentId, Digest, Incarnation, ModelName, NodeId, ReplicaId, Revision, WorkerId,
};
use serde::{Deserialize, Serialize};

/// A refused command changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    /// Nothing but a bootstrap is accepted before one.
    #[error("the cluster is not bootstrapped; start its first node with `--bootstrap`")]
    NotBootstrapped,
    /// A second bootstrap.
    #[error("the cluster is already bootstrapped as `{0}`; join it instead")]
    AlreadyBootstrapped(String),
    /// No such model.
    #[error("model '{0}' not found")]
    UnknownModel(ModelName),
    /// No such worker.
    #[error("worker `{0}` not found")]
    UnknownWorker(WorkerId),
    /// No such node.
    #[error("node `{0}` not found")]
    UnknownNode(NodeId),
    /// The last voter cannot go.
    #[error("node `{0}` is the last voter and cannot be removed")]
    LastVoter(NodeId),
    /// A newer process has this worker's identity.
    #[error("worker `{id}` runs as incarnation {known}, this message is from {got}")]
    StaleIncarnation {
        /// The worker.
        id: WorkerId,
        /// The one known.
        known: Incarnation,
        /// The one that spoke.
        got: Incarnation,
    },
    /// The plan was made for another state.
    #[error("the plan was made at placement revision {base}, it is {current} now; plan again")]
    StalePlan {
        /// What the plan saw.
        base: Revision,
        /// What is.
        current: Revision,
    },
    /// No such assignment.
    #[error("assignment `{0}` not found")]
    UnknownAssignment(AssignmentId),
    /// No such checkpoint.
    #[error("checkpoint `{0}` not found")]
    UnknownCheckpoint(String),
    /// A compare-and-set lost.
    #[error("checkpoint `{name}` is at revision {current}, expected {expected}; read it again")]
    CheckpointMoved {
        /// Which.
        name: String,
        /// What was expected.
        expected: Revision,
        /// What is; 0 when absent.
        current: Revision,
    },
    /// A limit was reached.
    #[error("`{what}` would exceed {limit}")]
    OverLimit {
        /// What is limited.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// A field's value makes no sense.
    #[error("`{field}` is invalid: {reason}")]
    Invalid {
        /// The field.
        field: String,
        /// Why.
        reason: String,
    },
    /// No such replica of several stages.
    #[error("replica `{0}` not found")]
    UnknownReplica(ReplicaId),
    /// The model has no such version.
    #[error("model '{model}' has no version `{version}`; `show {model}` lists those it has")]
    UnknownVersion {
        /// The model.
        model: ModelName,
        /// What was asked for.
        version: Box<Digest>,
    },
    /// The model changes from no version to another, or not in that rollout any more.
    #[error("model '{0}' is in no such rollout; `placement show` lists those on their way")]
    UnknownRollout(ModelName),
    /// No such user, role, key, session or token.
    #[error("{kind} `{name}` not found")]
    Unknown {
        /// What kind of thing.
        kind: String,
        /// Which.
        name: String,
    },
    /// It is there already.
    #[error("{kind} `{name}` exists already")]
    Exists {
        /// What kind of thing.
        kind: String,
        /// Which.
        name: String,
    },
    /// What was presented lets nobody in: unknown, used up, expired or wrong, which is nobody's business.
    #[error(
        "the join token is not valid, was used, or has expired; create another one with `join-token create`"
    )]
    NotLetIn,
    /// The last one who may change access cannot go.
    #[error("`{0}` is the last enabled user with the role `admin`; make another one first")]
    LastAdmin(String),
}
