//! The types Raft is instantiated with, named once for everybody who talks to it.
//!
//! Commands and replies are opaque bytes here: the log stores what the control plane encoded and never looks inside.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One encoded batch of commands: what a Raft entry carries.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch(pub Vec<u8>);

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} bytes)", self.0.len())
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// The encoded outcomes of one batch: what applying an entry answers.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply(pub Vec<u8>);

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({} bytes)", self.0.len())
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// Where a member of the quorum is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `host:port` of its Raft and control service.
    pub raft: String,
    /// `host:port` of its gateway.
    pub http: String,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "raft {} http {}", self.raft, self.http)
    }
}

openraft::declare_raft_types!(
    /// The instantiation of Raft used everywhere.
    pub TypeConfig:
        D = Batch,
        R = Reply,
        NodeId = u64,
        Node = Node,
);

/// Who proposed a log entry: term and node.
pub type LeaderId = openraft::type_config::alias::LeaderIdOf<TypeConfig>;
/// Position and proposer of a log entry.
pub type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
/// What a node has promised to whom.
pub type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
/// One log entry.
pub type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
/// What a log entry carries.
pub type EntryPayload = openraft::EntryPayload<Batch, u64, Node>;
/// The members of the quorum and their addresses.
pub type Membership = openraft::Membership<u64, Node>;
/// A membership with the log id that established it.
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
/// A snapshot as Raft passes it around.
pub type Snapshot =
    openraft::type_config::alias::SnapshotOf<TypeConfig, crate::snapshot::SnapshotFile>;

/// Whose data a directory holds. Both parts are fixed for the life of the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster, at most [`ollamamax_proto::limits::CLUSTER_ID_CHARS`] bytes.
    pub cluster: String,
    /// The Raft member, never reused.
    pub node: u64,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} of cluster {}", self.node, self.cluster)
    }
}
