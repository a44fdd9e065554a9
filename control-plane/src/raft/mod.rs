//! All contact with the consensus library: settings, state machine, network and the batcher in front of it.
//!
//! The core runs on a tokio runtime of its own (threads named `raft`), so that a burst of requests on the same machine
//! cannot delay a heartbeat into an election.

pub mod batcher;
pub mod machine;
pub mod network;
pub mod peers;
pub mod plausible;
pub mod server;

use crate::config::Timings;
use crate::error::StartError;
use machine::Machine;
use ollamamax_proto::limits;
use ollamamax_storage::TypeConfig;
use openraft::{Config, SnapshotPolicy};
use std::sync::Arc;

/// Raft as this crate uses it.
pub type Raft = openraft::Raft<TypeConfig, Machine>;
/// What Raft says about itself.
pub type Metrics = openraft::RaftMetrics<TypeConfig>;
/// A channel on which Raft says it.
pub type MetricsWatch = openraft::type_config::alias::WatchReceiverOf<TypeConfig, Metrics>;

/// The library's settings for these timings.
pub fn settings(cluster: &str, timings: &Timings) -> Result<Arc<Config>, StartError> {
    let config = Config {
        cluster_name: cluster.to_owned(),
        heartbeat_interval: timings.heartbeat_ms,
        election_timeout_min: timings.election_min_ms,
        election_timeout_max: timings.election_max_ms,
        max_payload_entries: limits::RAFT_APPEND_ENTRIES,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(timings.snapshot_entries),
        max_in_snapshot_log_to_keep: timings.keep_entries,
        // A follower lacking more than is kept could only be served by a snapshot anyway.
        replication_lag_threshold: timings.keep_entries.max(1),
        install_snapshot_timeout: limits::SNAPSHOT_TIMEOUT_MS,
        // A node that cannot win must not depose a leader that others still hear.
        enable_pre_vote: Some(true),
        // A restarted leader has to be elected again: its lease may have been given away.
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        // Short first steps: a peer that comes back within an election timeout should be found within it.
        backoff: "50ms 100ms 200ms ...500ms".to_owned(),
        ..Config::default()
    };
    config.validate().map(Arc::new).map_err(|error| StartError::Raft(error.to_string()))
}
