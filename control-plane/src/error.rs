//! Why a node did not start, or stopped: each with what to do next and the exit code that says it to scripts.

use crate::credentials::CredentialError;
use ollamamax_storage::StorageError;
use ollamamax_tls::JoinError;
use std::io;
use std::net::SocketAddr;

/// Exit code of a node that lost what it had promised to keep: it must come back under a new id.
pub const EXIT_AMNESIA: u8 = 70;
/// Exit code of a node whose disk failed or is full.
pub const EXIT_IO: u8 = 74;
/// Exit code of a process that the cluster does not let in.
pub const EXIT_DENIED: u8 = 77;
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
        "`{0}` holds no node yet; start it with `--bootstrap` for a new cluster or with a join token for an existing one"
    )]
    NothingToOpen(String),
    /// The data directory cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// It cannot prove who it is, or nobody let it in.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
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
            Self::Credentials(error) => credential_exit_code(error),
            Self::Storage(error) if error.must_not_vote() => EXIT_AMNESIA,
            Self::Storage(StorageError::Io { .. }) => EXIT_IO,
            _ => 1,
        }
    }
}

fn credential_exit_code(error: &CredentialError) -> u8 {
    match error {
        CredentialError::NoLog { .. } => EXIT_AMNESIA,
        CredentialError::Io { .. } => EXIT_IO,
        CredentialError::Join(JoinError::Refused { .. }) => EXIT_DENIED,
        CredentialError::Join(JoinError::Nobody { .. }) => 1,
        _ => EXIT_CONFIG,
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
    /// It cannot prove any more who it is.
    #[error("{0}")]
    Credentials(String),
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
            Self::Credentials(_) => EXIT_CONFIG,
            Self::Server(_) => 1,
        }
    }
}
