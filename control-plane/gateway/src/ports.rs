//! What the gateway needs from the node it runs in. It changes state only by proposing through [`ControlPlane`]; it has no path
//! to Raft or to storage.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use ollamamax_core::plan::Observed;
use ollamamax_core::{Command, Outcome, Rejection, State};
use ollamamax_proto::{Digest, NodeId, Revision};
use serde::Serialize;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use utoipa::ToSchema;

/// Why a proposal or a linearizable read brought no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The state refused; nothing changed.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// No leader with a quorum could be reached in time. For a proposal it is unknown whether it will still happen when
    /// `proposed` is true; nothing was proposed otherwise.
    #[error(
        "the control plane has no quorum: {reason}; running models are still served, changes have to wait"
    )]
    NoQuorum {
        /// What was seen.
        reason: String,
        /// Whether a proposal may already be in the log.
        proposed: bool,
    },
    /// Too many proposals are waiting.
    #[error("the control plane is busy: {waiting} proposals are waiting; try again later")]
    Busy {
        /// How many.
        waiting: usize,
    },
    /// The command is too large to be replicated.
    #[error("the command takes {bytes} bytes, at most {limit} are accepted")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

/// A member as the answering node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct NodeStatus {
    /// Its id.
    #[schema(value_type = u64)]
    pub id: NodeId,
    /// `leader`, `follower`, `candidate`, `learner` or `unreachable`, the last when the leader has not heard of it lately.
    pub role: String,
    /// host:port of its gateway.
    pub http: String,
    /// host:port of its gRPC services.
    pub raft: String,
    /// Process id on its machine.
    pub pid: u32,
    /// Last log index it is known to have applied (self) or to hold (others, when the answering node leads); `None` when
    /// not known here.
    pub applied: Option<u64>,
    /// Whether it votes.
    pub voter: bool,
}

/// The quorum as the answering node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QuorumStatus {
    /// The answering node.
    pub node: NodeId,
    /// The cluster's id.
    pub cluster: String,
    /// The leader, when one is known to have a quorum.
    pub leader: Option<NodeId>,
    /// The Raft term.
    pub term: u64,
    /// Last log index applied here.
    pub applied: u64,
    /// All members.
    pub nodes: Vec<NodeStatus>,
}

/// The state as a gateway may use it and the ways to change it.
pub trait ControlPlane: Send + Sync + 'static {
    /// The state as last applied on this node: never blocks, may lag the leader.
    fn state(&self) -> Arc<State>;

    /// Wakes when the state has moved on.
    fn revisions(&self) -> watch::Receiver<Revision>;

    /// Proposes a command, through the leader wherever it is, and waits until it is applied on this node too.
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Outcome, ControlError>>;

    /// The state including every command acknowledged before this call, anywhere.
    fn linearizable(&self) -> BoxFuture<'_, Result<Arc<State>, ControlError>>;

    /// What the leader has seen of the workers; nothing on other nodes.
    fn observed(&self) -> Observed {
        Observed::default()
    }

    /// For how long this node has not heard of a leader with a quorum: what it knows may be that old.
    fn silence(&self) -> Duration {
        Duration::ZERO
    }

    /// The quorum as this node sees it.
    fn quorum(&self) -> QuorumStatus;
}

/// Why a blob could not be stored or found.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The bytes are not what the digest says.
    #[error("digest mismatch, expected \"{expected}\", got \"{got}\"")]
    Mismatch {
        /// The digest named.
        expected: Digest,
        /// The digest of what came.
        got: Digest,
    },
    /// No node has it.
    #[error("blob \"{0}\" not found")]
    NotFound(Digest),
    /// More bytes than accepted.
    #[error("the blob has more than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// The body ended early or could not be read.
    #[error("the upload broke off: {0}")]
    Upload(String),
    /// The disk failed or is full.
    #[error("the blob store failed: {0}")]
    Io(#[from] io::Error),
}

/// Keeps a blob from being removed for as long as it lives: from before it is looked for until something that names it is in the
/// state.
pub struct Hold(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Hold {
    /// Calls `release` at its end.
    pub fn new(release: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(release)))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(release) = self.0.take() {
            release();
        }
    }
}

/// Writes a blob, on a thread that may block.
pub type Maker = Box<dyn FnOnce(&mut dyn io::Write) -> io::Result<()> + Send>;

/// Content-addressed bytes on this node and its peers.
pub trait Blobs: Send + Sync + 'static {
    /// Size of a blob held here.
    fn stat(&self, digest: Digest) -> Option<u64>;

    /// Stores bytes under their digest. `Ok(false)` when they were there already.
    fn put(
        &self,
        digest: Digest,
        body: BoxStream<'static, io::Result<Bytes>>,
    ) -> BoxFuture<'_, Result<bool, BlobError>>;

    /// Stores what is written, whatever its digest, and says which it is and how many bytes. What was written goes when the
    /// writing fails.
    fn make(&self, write: Maker) -> BoxFuture<'_, Result<(Digest, u64), BlobError>>;

    /// A file with the blob's bytes, fetched from a peer first when only a peer has it.
    fn open(&self, digest: Digest) -> BoxFuture<'_, Result<PathBuf, BlobError>>;

    /// Keeps a blob, which need not be there yet, from being removed.
    fn hold(&self, digest: Digest) -> Hold;

    /// A directory on the same file system, for files that are coming. What nobody has written to for a while goes.
    fn incoming(&self) -> PathBuf;

    /// Takes in a file of that directory which is whole, durable, and has the digest.
    fn adopt(&self, file: PathBuf, digest: Digest) -> BoxFuture<'_, Result<(), BlobError>>;
}
