//! Why a node did not start, or stopped: each with what to do next and the exit code that says it to scripts.

use ollamamax_storage::StorageError;
use std::io;
use std::net::SocketAddr;

/// Exit code of a node that lost what it had promised to keep: it must come back under a new id.
pub const EXIT_AMNESIA: u8 = 70;
/// Exit code of a node whose disk failed or is full.
pub const EXIT_IO: u8 = 74;
/// Exit code of a node that was told something impossible.
pub const EXIT_CONFIG: u8 = 78;

/// A node that did not start. Its data is untouched.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot work.
    #[error("`{field}` is invalid: {reason}")]
    Config {
        /// The setting.
        field: &'static str,
        /// Why.
        reason: String,
    },
    /// Somebody else listens there.
    #[error(
        "cannot listen on `{address}` for {purpose}: the port is in use; stop the other process or choose another port"
    )]
    PortInUse {
        /// The address asked for.
        address: SocketAddr,
        /// What it was for.
        purpose: &'static str,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on `{address}` for {purpose}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What it was for.
        purpose: &'static str,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// An empty directory and no word of what to do with it.
    #[error(
        "`{0}` holds no node yet; start it with `--bootstrap` for a new cluster or `--join URL` for an existing one"
    )]
    NothingToOpen(String),
    /// The data directory cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Nobody let this node in.
    #[error("cannot join the cluster: {reason}; check that `{url}` is the URL of a running node")]
    Join {
        /// The last URL tried.
        url: String,
        /// What happened there.
        reason: String,
    },
    /// Raft refused to run.
    #[error("cannot start raft: {0}")]
    Raft(String),
    /// A thread or runtime could not be made.
    #[error("cannot start the node's threads: {0}")]
    Runtime(#[source] io::Error),
}

impl StartError {
    /// What the process should exit with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config { .. } | Self::NothingToOpen(_) => EXIT_CONFIG,
            Self::Storage(error) if error.must_not_vote() => EXIT_AMNESIA,
            Self::Storage(StorageError::Io { .. }) => EXIT_IO,
            _ => 1,
        }
    }
}

/// Why a running node cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeFailure {
    /// The Raft core has stopped: a failed disk, or a state machine that could not go on.
    #[error("raft has stopped: {0}; the node has to be restarted")]
    Raft(String),
    /// The cluster told this node to leave, and it has left.
    #[error("node {0} was removed from the cluster; its data directory is of no more use")]
    Removed(u64),
    /// A server task ended by itself.
    #[error("the {0} server has stopped")]
    Server(&'static str),
}

impl NodeFailure {
    /// What the process should exit with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Raft(_) => EXIT_IO,
            Self::Removed(_) => 0,
            Self::Server(_) => 1,
        }
    }
}
