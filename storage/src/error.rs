//! What can go wrong with a data directory, as values a caller can tell apart.
//!
//! The important cut is between an error that another try may cure ([`StorageError::InUse`], a full disk) and one that
//! takes the vote away from this node for ever ([`StorageError::Amnesia`], [`StorageError::Corrupt`],
//! [`StorageError::Uncovered`]): see [`StorageError::must_not_vote`].

use std::io;
use std::path::{Path, PathBuf};

/// Everything this crate reports.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused an operation.
    #[error("cannot {action} `{path}`: {source}")]
    Io {
        /// What was tried, as a verb: "open", "sync".
        action: &'static str,
        /// The file or directory it was tried on.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// Bytes that were once durable do not match their checksum or their neighbours any more.
    #[error(
        "`{file}` is corrupt at byte {offset}: {reason}; remove this node and join again under a new node id"
    )]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where the damage was noticed, in bytes from the start of the file.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// The log holds less than this node has acknowledged: whoever votes on that breaks promises it made before.
    #[error(
        "storage amnesia: `{dir}` should hold {expected} but holds {found}; remove this node and join again \
         under a new node id"
    )]
    Amnesia {
        /// The directory that lost its tail.
        dir: PathBuf,
        /// What the high-water record says was durable.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The log was purged further than snapshot and state reach, so the state cannot be rebuilt.
    #[error(
        "`{dir}` cannot be rebuilt: the log was purged up to index {purged} but snapshot and state only reach \
         {covered}; remove this node and join again under a new node id"
    )]
    Uncovered {
        /// The data directory.
        dir: PathBuf,
        /// Last index that is gone from the log.
        purged: u64,
        /// Last index that snapshot or state covers, "nothing" when there is none.
        covered: String,
    },
    /// The directory belongs to another cluster.
    #[error(
        "`{dir}` belongs to cluster `{found}`, expected `{expected}`; choose another data directory"
    )]
    WrongCluster {
        /// The data directory.
        dir: PathBuf,
        /// The cluster the caller named.
        expected: String,
        /// The cluster on disk.
        found: String,
    },
    /// The directory belongs to another node of the cluster.
    #[error("`{dir}` belongs to node {found}, expected {expected}; choose another data directory")]
    WrongNode {
        /// The data directory.
        dir: PathBuf,
        /// The node id the caller named.
        expected: u64,
        /// The node id on disk.
        found: u64,
    },
    /// The bytes were written by another version of this program.
    #[error(
        "`{file}` has on-disk version {found}, this program reads {expected}; use the matching release"
    )]
    Version {
        /// The file that says so.
        file: PathBuf,
        /// The version found.
        found: u32,
        /// The version this program reads and writes.
        expected: u32,
    },
    /// Another process holds the directory.
    #[error("`{dir}` is in use by another process; stop it or choose another data directory")]
    InUse {
        /// The data directory.
        dir: PathBuf,
    },
    /// There is no store in the directory.
    #[error("`{dir}` holds no data of a node; bootstrap a cluster or join one first")]
    Missing {
        /// The data directory.
        dir: PathBuf,
    },
    /// There already is a store in the directory.
    #[error(
        "`{dir}` already holds the data of node {node}; open it or choose another data directory"
    )]
    Exists {
        /// The data directory.
        dir: PathBuf,
        /// The node it belongs to.
        node: u64,
    },
    /// The materialised state is not what was written; it can be rebuilt from snapshot and log.
    #[error("state in `{dir}` is damaged: {reason}; it has to be rebuilt from snapshot and log")]
    Damaged {
        /// The directory of the state.
        dir: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The log failed before and accepts nothing any more.
    #[error("the log has stopped after a failure: {reason}; restart this node")]
    Stopped {
        /// The first failure.
        reason: String,
    },
    /// The caller asked for something that has no meaning.
    #[error("invalid request to the storage: {reason}")]
    Invalid {
        /// What was wrong with it.
        reason: String,
    },
    /// The bytes of a blob do not have the digest they were announced with.
    #[error("blob `{expected}` has digest `{found}` and {bytes} bytes; fetch it again")]
    DigestMismatch {
        /// The digest announced.
        expected: String,
        /// The digest of the bytes received.
        found: String,
        /// How many bytes were received.
        bytes: u64,
    },
}

impl StorageError {
    /// Whether this node has lost something it may have promised, so that it must never vote with this directory again.
    pub fn must_not_vote(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Amnesia { .. } | Self::Uncovered { .. })
    }

    pub(crate) fn corrupt(file: &Path, offset: u64, reason: impl Into<String>) -> Self {
        Self::Corrupt { file: file.to_owned(), offset, reason: reason.into() }
    }

    pub(crate) fn damaged(dir: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged { dir: dir.to_owned(), reason: reason.into() }
    }

    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid { reason: reason.into() }
    }
}

impl From<StorageError> for io::Error {
    fn from(error: StorageError) -> Self {
        let kind = match &error {
            StorageError::Io { source, .. } => source.kind(),
            StorageError::Corrupt { .. } | StorageError::Damaged { .. } => {
                io::ErrorKind::InvalidData
            }
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// Names the action and path of a failed operation.
pub(crate) trait Context<T> {
    /// Turns a bare error of the operating system into one that names its subject.
    fn context(self, action: &'static str, path: &Path) -> Result<T, StorageError>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, StorageError> {
        self.map_err(|source| StorageError::Io { action, path: path.to_owned(), source })
    }
}
