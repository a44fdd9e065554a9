//! What the gateway sees of the node it runs in.

use crate::client::Client;
use crate::leader::{Leader, Leadership};
use crate::open::Addresses;
use crate::raft;
use crate::raft::peers::Peers;
use crate::watch::Published;
use crate::workers::Workers;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ollamamax_core::plan::Observed;
use ollamamax_core::record::NodeRecord;
use ollamamax_core::{Command, Outcome, State};
use ollamamax_gateway::ports::{ControlError, ControlPlane, NodeStatus, QuorumStatus};
use ollamamax_proto::{NodeId, Revision, limits, mutant};
use ollamamax_storage::Identity;
use openraft::ServerState;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The gateway's view of this node.
pub(crate) struct NodeControl {
    pub identity: Identity,
    pub addresses: Addresses,
    pub client: Client,
    pub leadership: Leadership,
    pub published: Arc<Published>,
    pub peers: Arc<Peers>,
    pub workers: Arc<Workers>,
    /// Since when no leader with a quorum was heard of; `None` while there is one.
    pub leaderless: Mutex<Option<Instant>>,
}

impl ControlPlane for NodeControl {
    fn state(&self) -> Arc<State> {
        self.published.state()
    }

    fn revisions(&self) -> watch::Receiver<Revision> {
        self.published.revisions()
    }

    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Outcome, ControlError>> {
        self.client.propose(command).boxed()
    }

    fn linearizable(&self) -> BoxFuture<'_, Result<Arc<State>, ControlError>> {
        self.client.linearizable().boxed()
    }

    fn observed(&self) -> Observed {
        self.workers.observed()
    }

    fn silence(&self) -> Duration {
        let since = *self.leaderless.lock().unwrap_or_else(PoisonError::into_inner);
        since.map(|since| since.elapsed()).unwrap_or_default()
    }

    fn quorum(&self) -> QuorumStatus {
        let metrics = self.leadership.metrics();
        let leader = match self.leadership.current() {
            _ if mutant::planted("everybody-leads") => Some(NodeId(self.identity.node)),
            Some(Leader::Me) => Some(NodeId(self.identity.node)),
            Some(Leader::Other { id, .. }) => Some(id),
            None => None,
        };
        let state = self.published.state();
        let nodes = state.nodes.values().map(|record| self.node_status(record, leader, &metrics));
        QuorumStatus {
            node: NodeId(self.identity.node),
            cluster: self.identity.cluster.clone(),
            leader,
            term: metrics.current_term,
            applied: self.published.applied(),
            nodes: nodes.collect(),
        }
    }
}

impl NodeControl {
    /// Looks whether there is a leader, for [`ControlPlane::silence`]; asked a few times a second.
    pub fn note_leader(&self) {
        let led = self.leadership.current().is_some();
        let mut since = self.leaderless.lock().unwrap_or_else(PoisonError::into_inner);
        *since = if led { None } else { Some(since.unwrap_or_else(Instant::now)) };
    }

    fn node_status(
        &self,
        record: &NodeRecord,
        leader: Option<NodeId>,
        metrics: &raft::Metrics,
    ) -> NodeStatus {
        let id = record.id;
        let me = id.0 == self.identity.node;
        // One that is being let in or out does not count: the others cannot rely on it.
        let mut configs = metrics.membership_config.membership().get_joint_config().iter();
        let voter = configs.all(|voters| voters.contains(&id.0));
        let lost = Duration::from_millis(limits::QUORUM_LOST_MS);
        let heard = self.peers.silence(id.0).is_some_and(|silence| silence <= lost);
        let leads = leader.is_some_and(|leader| leader.0 == self.identity.node);
        let role = match metrics.state {
            _ if leader == Some(id) => "leader",
            ServerState::Candidate if me => "candidate",
            _ if leads && !me && !heard => "unreachable",
            _ if voter => "follower",
            _ => "learner",
        };
        let matched = metrics.replication.as_ref().and_then(|replication| replication.get(&id.0));
        let applied = match matched {
            _ if me => Some(self.published.applied()),
            Some(Some(log_id)) => Some(log_id.index),
            _ => None,
        };
        NodeStatus {
            id,
            role: role.to_owned(),
            http: record.http.clone(),
            raft: record.raft.clone(),
            pid: record.pid,
            applied,
            voter,
        }
    }
}
