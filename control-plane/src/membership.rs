//! Brings Raft's membership in line with the nodes in the state: learners first, voters once they have caught up, out
//! when told to leave. Only the leader acts, one step at a time.

use crate::client::Client;
use crate::leader::Leadership;
use crate::raft::peers::Peers;
use crate::raft::{Metrics, Raft};
use crate::watch::Published;
use ollamamax_core::{Command, State};
use ollamamax_proto::{NodeId, limits};
use ollamamax_storage::Node;
use openraft::ChangeMembers;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One step towards the wanted membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Start sending a node the log.
    AddLearner(u64, Node),
    /// Let it vote.
    Promote(u64),
    /// It is reached elsewhere now.
    Move(u64, Node),
    /// Take it out.
    Remove {
        /// Which.
        node: u64,
        /// Whether it votes.
        voter: bool,
    },
    /// It is out: drop its record.
    Forget(u64),
    /// This node has to leave: somebody else must lead first.
    HandOver,
    /// Leave the old configuration of a change that a new leader found half done.
    Finish,
}

/// The next step, if any. `lag` tells how many entries a node lacks, as far as known.
pub fn next_step(
    state: &State,
    metrics: &Metrics,
    lag: impl Fn(u64) -> Option<u64>,
) -> Option<Step> {
    let membership = metrics.membership_config.membership();
    if !is_settled(metrics) {
        return Some(Step::Finish);
    }
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    for record in state.nodes.values() {
        let id = record.id.0;
        let known = membership.get_node(&id);
        if record.leaving {
            return Some(match known {
                None => Step::Forget(id),
                Some(_) if id == metrics.id => Step::HandOver,
                Some(_) => Step::Remove { node: id, voter: voters.contains(&id) },
            });
        }
        let node = Node { raft: record.raft.clone(), http: record.http.clone() };
        match known {
            None => return Some(Step::AddLearner(id, node)),
            Some(before) if *before != node => return Some(Step::Move(id, node)),
            Some(_) => {}
        }
        let caught_up = || lag(id).is_some_and(|lag| lag <= limits::PROMOTE_LAG_ENTRIES);
        if record.voter && !voters.contains(&id) && caught_up() {
            return Some(Step::Promote(id));
        }
    }
    None
}

/// Keeps the membership in line as long as the node runs.
pub struct Keeper {
    /// The consensus library.
    pub raft: Raft,
    /// Who leads.
    pub leadership: Leadership,
    /// The state.
    pub published: Arc<Published>,
    /// For forgetting nodes that are out.
    pub client: Client,
    /// The connections, which follow the nodes' addresses.
    pub peers: Arc<Peers>,
    /// How often to look when nothing changes.
    pub period: Duration,
}

impl Keeper {
    /// Runs until cancelled.
    pub async fn run(self) {
        let mut revisions = self.published.revisions();
        loop {
            let state = self.published.state();
            self.peers.locate(state.nodes.values().map(|node| (node.id.0, node.raft.clone())));
            if self.leadership.leads() {
                self.round().await;
            }
            // Progress of learners shows in no revision, so look again after a while.
            let _ = tokio::time::timeout(self.period, revisions.changed()).await;
        }
    }

    async fn round(&self) {
        let metrics = self.leadership.metrics();
        let state = self.published.state();
        if state.cluster.is_none() {
            return;
        }
        let Some(step) = next_step(&state, &metrics, |id| lag(&metrics, id)) else { return };
        let wait = Duration::from_millis(limits::MEMBERSHIP_TIMEOUT_MS);
        match tokio::time::timeout(wait, self.take(&step)).await {
            Ok(Ok(())) => tracing::info!(?step, "membership step done"),
            Ok(Err(reason)) => {
                tracing::warn!(?step, reason, "membership step failed, will try again")
            }
            Err(_) => tracing::warn!(?step, "membership step takes long, will look again"),
        }
    }

    async fn take(&self, step: &Step) -> Result<(), String> {
        let change = match step {
            Step::AddLearner(id, node) => {
                ChangeMembers::AddNodes(BTreeMap::from([(*id, node.clone())]))
            }
            Step::Promote(id) => ChangeMembers::AddVoterIds(BTreeSet::from([*id])),
            Step::Move(id, node) => ChangeMembers::SetNodes(BTreeMap::from([(*id, node.clone())])),
            Step::Remove { node, voter: true } => {
                ChangeMembers::RemoveVoters(BTreeSet::from([*node]))
            }
            Step::Remove { node, voter: false } => {
                ChangeMembers::RemoveNodes(BTreeSet::from([*node]))
            }
            Step::Forget(id) => {
                let forget = Command::ForgetNode { node: NodeId(*id) };
                return self
                    .client
                    .propose(forget)
                    .await
                    .map(drop)
                    .map_err(|error| error.to_string());
            }
            Step::HandOver => return hand_over(&self.raft, &self.leadership).await,
            // Any change goes from the configuration that was being entered, so none at all finishes it.
            Step::Finish => ChangeMembers::AddVoterIds(BTreeSet::new()),
        };
        self.raft
            .change_membership(change, false)
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    }
}

/// Whether one configuration decides. While the voters change two do, and each needs a majority of its own.
fn is_settled(metrics: &Metrics) -> bool {
    metrics.membership_config.membership().get_joint_config().len() <= 1
}

/// Waits a while until the voters no longer change: of two voters that become three, neither may stop before that.
pub async fn settle(raft: &Raft, leadership: &Leadership) {
    if leadership.current().is_none() {
        return;
    }
    let wait = raft.wait(Some(Duration::from_millis(limits::HANDOVER_TIMEOUT_MS)));
    if let Err(error) = wait.metrics(is_settled, "one set of voters decides").await {
        tracing::info!(%error, "the node stops while the voters change");
    }
}

/// How many entries node `id` lacks, as this leader knows it.
fn lag(metrics: &Metrics, id: u64) -> Option<u64> {
    let matched = metrics.replication.as_ref()?.get(&id)?.as_ref()?.index;
    Some(metrics.last_log_index.unwrap_or(0).saturating_sub(matched))
}

/// Makes the voter that lacks least lead instead of this node, and waits until it does. Tried more than once: a voter
/// that still honours the old leader's lease when the candidate asks refuses it.
pub async fn hand_over(raft: &Raft, leadership: &Leadership) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_millis(limits::HANDOVER_TIMEOUT_MS);
    loop {
        let metrics = leadership.metrics();
        let others = metrics.membership_config.voter_ids().filter(|id| *id != metrics.id);
        let best = others.filter_map(|id| lag(&metrics, id).map(|lag| (lag, id))).min();
        let Some((_, successor)) = best else {
            return Err("there is no other voting node that is reached".to_owned());
        };
        raft.trigger().transfer_leader(successor).await.map_err(|error| error.to_string())?;
        let wait = raft.wait(Some(Duration::from_millis(limits::HANDOVER_RETRY_MS)));
        let handed = wait.metrics(
            |metrics| metrics.current_leader.is_some_and(|leader| leader != metrics.id),
            "another node leads",
        );
        match handed.await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error.to_string()),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollamamax_core::record::NodeRecord;
    use ollamamax_core::{Change, State};
    use ollamamax_proto::Millis;
    use ollamamax_storage::{Membership, StoredMembership};

    fn place(id: u64) -> Node {
        Node { raft: format!("raft:{id}"), http: format!("http:{id}") }
    }

    fn record(id: u64, leaving: bool) -> NodeRecord {
        let Node { raft, http } = place(id);
        let admitted_at = Millis(1);
        NodeRecord { id: NodeId(id), http, raft, pid: 1, admitted_at, voter: true, leaving }
    }

    fn step(records: &[NodeRecord], voters: &[u64], members: &[u64], lag: u64) -> Option<Step> {
        step_from(records, &[voters], members, lag)
    }

    fn step_from(
        records: &[NodeRecord],
        configs: &[&[u64]],
        members: &[u64],
        lag: u64,
    ) -> Option<Step> {
        let mut state = State::default();
        for record in records {
            state.evolve(&Change::NodePut(record.clone()));
        }
        let nodes: BTreeMap<u64, Node> = members.iter().map(|id| (*id, place(*id))).collect();
        let configs = configs.iter().map(|voters| voters.iter().copied().collect()).collect();
        let membership = Membership::new(configs, nodes).expect("every voter has a node");
        let mut metrics = Metrics::new_initial(1);
        metrics.membership_config = Arc::new(StoredMembership::new(None, membership));
        next_step(&state, &metrics, |_| Some(lag))
    }

    #[test]
    fn a_node_is_sent_the_log_before_it_votes_and_votes_once_it_has_it() {
        let wanted = [record(1, false), record(2, false)];
        assert_eq!(step(&wanted, &[1], &[1], 0), Some(Step::AddLearner(2, place(2))));
        assert_eq!(step(&wanted, &[1], &[1, 2], limits::PROMOTE_LAG_ENTRIES + 1), None);
        assert_eq!(step(&wanted, &[1], &[1, 2], 0), Some(Step::Promote(2)));
        assert_eq!(step(&wanted, &[1, 2], &[1, 2], 0), None);
    }

    #[test]
    fn a_change_found_half_done_is_finished_before_anything_else() {
        let wanted = [record(1, false), record(2, false), record(3, true)];
        let half_done = step_from(&wanted, &[&[1, 2], &[1, 2, 3]], &[1, 2, 3], 0);
        assert_eq!(half_done, Some(Step::Finish));
    }

    #[test]
    fn a_leaving_node_is_taken_out_then_forgotten_and_a_leaving_leader_hands_over() {
        let leaving = [record(1, false), record(2, true)];
        let out = Step::Remove { node: 2, voter: true };
        assert_eq!(step(&leaving, &[1, 2], &[1, 2], 0), Some(out));
        let out = Step::Remove { node: 2, voter: false };
        assert_eq!(step(&leaving, &[1], &[1, 2], 0), Some(out));
        assert_eq!(step(&leaving, &[1], &[1], 0), Some(Step::Forget(2)));
        let me = [record(1, true), record(2, false)];
        assert_eq!(step(&me, &[1, 2], &[1, 2], 0), Some(Step::HandOver));
    }

    #[test]
    fn a_node_with_a_new_address_is_moved() {
        let moved = NodeRecord { raft: "elsewhere:1".to_owned(), ..record(2, false) };
        let to = Node { raft: "elsewhere:1".to_owned(), ..place(2) };
        let records = [record(1, false), moved];
        assert_eq!(step(&records, &[1, 2], &[1, 2], 0), Some(Step::Move(2, to)));
    }
}
