//! Who leads, as this node sees it, and how sure that is.
//!
//! Raft keeps naming the last leader until another is elected: with pre-vote a cut-off follower never moves on. So
//! "there is a leader" means here: one is named, and it was heard of within the quorum timeout.

use crate::raft::peers::Peers;
use crate::raft::{Metrics, Raft};
use ollamamax_proto::NodeId;
use openraft::ServerState;
use openraft::async_runtime::{Instant as _, WatchReceiver};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A leader that was heard of lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leader {
    /// This node, with a quorum behind it.
    Me,
    /// Another node.
    Other {
        /// Which.
        id: NodeId,
        /// `host:port` of its gRPC services.
        address: String,
    },
}

/// The view of one node.
#[derive(Clone)]
pub struct Leadership {
    raft: Raft,
    peers: Arc<Peers>,
    started: Instant,
    lost: Duration,
}

impl Leadership {
    /// The view over `raft`; the quorum counts as lost after `lost` of silence.
    pub fn new(raft: Raft, peers: Arc<Peers>, lost: Duration) -> Self {
        Self { raft, peers, started: Instant::now(), lost }
    }

    /// What Raft says now.
    pub fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow_watched().clone()
    }

    /// Whether this node leads, with or without a quorum behind it.
    pub fn is_leader(&self) -> bool {
        self.raft.metrics().borrow_watched().state == ServerState::Leader
    }

    /// The leader, if one was heard of lately.
    pub fn current(&self) -> Option<Leader> {
        let metrics = self.metrics();
        let leader = metrics.current_leader?;
        if leader == metrics.id {
            return self.has_quorum(&metrics).then_some(Leader::Me);
        }
        let silence = self.peers.silence(leader).unwrap_or_else(|| self.started.elapsed());
        if silence > self.lost {
            return None;
        }
        let member = metrics.membership_config.membership().get_node(&leader);
        let member = member.map(|node| node.raft.clone());
        let address = self.peers.address(leader).or(member)?;
        Some(Leader::Other { id: NodeId(leader), address })
    }

    /// Whether this node leads and a quorum answered it lately.
    pub fn leads(&self) -> bool {
        self.current() == Some(Leader::Me)
    }

    fn has_quorum(&self, metrics: &Metrics) -> bool {
        if metrics.state != ServerState::Leader {
            return false;
        }
        let alone = metrics.membership_config.voter_ids().all(|id| id == metrics.id);
        let acked = metrics.last_quorum_acked.map(|at| at.into_inner().elapsed());
        alone || acked.is_some_and(|age| age <= self.lost)
    }

    /// Why there is no quorum, naming who is reached, and whether waiting for one has become pointless.
    pub fn outage(&self) -> (String, bool) {
        let metrics = self.metrics();
        let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
        let silent: Vec<u64> =
            voters.iter().copied().filter(|id| *id != metrics.id && !self.reached(*id)).collect();
        let reached = voters.len() - silent.len();
        let mut reason = format!("{reached} of {} voting nodes are reached", voters.len());
        if !silent.is_empty() {
            let names: Vec<String> = silent.iter().map(u64::to_string).collect();
            reason += &format!(", no word of node {}", names.join(", "));
        }
        // While the voters change, both sets of them have to agree.
        let has_majority = |voters: &BTreeSet<u64>| {
            let silent = voters.iter().filter(|id| silent.contains(id)).count();
            silent * 2 < voters.len()
        };
        let configs = metrics.membership_config.membership().get_joint_config();
        let hopeless = !configs.iter().all(has_majority) && self.started.elapsed() > self.lost;
        if configs.len() > 1 {
            reason += ", and the voters are being changed";
        }
        (reason, hopeless)
    }

    fn reached(&self, id: u64) -> bool {
        self.peers.silence(id).is_some_and(|silence| silence <= self.lost)
    }

    /// Waits until Raft's view changes, at most `wait`.
    pub async fn changed(&self, wait: Duration) {
        let mut metrics = self.raft.server_metrics();
        // The sender lives in the core; when it is gone there is nothing to wait for but the time.
        if tokio::time::timeout(wait, metrics.changed()).await.is_ok_and(|changed| changed.is_err())
        {
            tokio::time::sleep(wait).await;
        }
    }
}
