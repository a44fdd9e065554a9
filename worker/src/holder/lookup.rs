//! Why a request finds nothing that would run it.

use ollamamax_proto::{AssignmentId, Digest, Generation};

/// Why there is no runner for a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// Never heard of, or given up.
    #[error("assignment `{0}` is not held here")]
    Unknown(AssignmentId),
    /// The request was routed by another generation.
    #[error("assignment `{id}` is held in generation `{held}`, the request names `{asked}`")]
    Generation {
        /// Which one.
        id: AssignmentId,
        /// What is held.
        held: Generation,
        /// What was asked for.
        asked: Generation,
    },
    /// The request was made for other bytes.
    #[error("assignment `{id}` runs blob `{held}`, the request names `{asked}`")]
    Blob {
        /// Which one.
        id: AssignmentId,
        /// What is held.
        held: Digest,
        /// What was asked for.
        asked: Digest,
    },
    /// It is a stage that another one drives.
    #[error("assignment `{0}` is a stage that does not drive; requests go to the stage that does")]
    Stage(AssignmentId),
    /// It is not ready, and why.
    #[error("assignment `{id}` is not ready: {reason}")]
    NotReady {
        /// Which one.
        id: AssignmentId,
        /// In words.
        reason: String,
    },
}
