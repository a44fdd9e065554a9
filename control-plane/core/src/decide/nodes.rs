//! Cluster and nodes: ids count up and are never reused, the last voter stays.

use super::check;
use super::draft::Draft;
use crate::change::Change;
use crate::record::{ClusterRecord, NodeRecord};
use crate::rejection::Rejection;
use ollamamax_proto::{NodeId, limits};

pub(super) fn bootstrap(
    draft: &mut Draft,
    cluster: &ClusterRecord,
    http: &str,
    raft: &str,
) -> Result<NodeId, Rejection> {
    if let Some(known) = &draft.state().cluster {
        return Err(Rejection::AlreadyBootstrapped(known.id.clone()));
    }
    let hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    if cluster.id.len() != 32 || !cluster.id.chars().all(hex) {
        return Err(check::invalid("cluster.id", "expected 32 lower-case hex digits"));
    }
    check::display_name("cluster.name", &cluster.name)?;
    check::address("http", http)?;
    check::address("raft", raft)?;
    draft.push(Change::ClusterPut(cluster.clone()));
    Ok(add(draft, http, raft, true))
}

pub(super) fn admit(
    draft: &mut Draft,
    http: &str,
    raft: &str,
    voter: bool,
) -> Result<NodeId, Rejection> {
    check::address("http", http)?;
    check::address("raft", raft)?;
    let same = draft.state().nodes.values().find(|node| node.raft == raft && !node.leaving);
    if let Some(node) = same {
        let node = NodeRecord { http: http.to_owned(), ..node.clone() };
        let id = node.id;
        draft.push(Change::NodePut(node));
        return Ok(id);
    }
    if draft.state().nodes.len() >= limits::NODES_COUNT {
        return Err(check::over("nodes", limits::NODES_COUNT));
    }
    Ok(add(draft, http, raft, voter))
}

pub(super) fn announce(
    draft: &mut Draft,
    id: NodeId,
    http: &str,
    raft: &str,
    pid: u32,
) -> Result<(), Rejection> {
    let node = find(draft, id)?;
    check::address("http", http)?;
    check::address("raft", raft)?;
    let (http, raft) = (http.to_owned(), raft.to_owned());
    draft.push(Change::NodePut(NodeRecord { http, raft, pid, ..node }));
    Ok(())
}

pub(super) fn promote(draft: &mut Draft, id: NodeId) -> Result<(), Rejection> {
    let node = find(draft, id)?;
    if node.leaving {
        return Err(check::invalid("node", format!("node `{id}` is leaving and cannot vote")));
    }
    draft.push(Change::NodePut(NodeRecord { voter: true, ..node }));
    Ok(())
}

pub(super) fn remove(draft: &mut Draft, id: NodeId) -> Result<(), Rejection> {
    let node = find(draft, id)?;
    let others =
        draft.state().nodes.values().any(|other| other.id != id && other.voter && !other.leaving);
    if node.voter && !others {
        return Err(Rejection::LastVoter(id));
    }
    draft.push(Change::NodePut(NodeRecord { leaving: true, ..node }));
    Ok(())
}

pub(super) fn forget(draft: &mut Draft, id: NodeId) -> Result<(), Rejection> {
    let node = find(draft, id)?;
    if !node.leaving {
        let reason = format!("node `{id}` has not been told to leave; remove it first");
        return Err(check::invalid("node", reason));
    }
    draft.push(Change::NodeRemoved(id));
    Ok(())
}

fn find(draft: &Draft, id: NodeId) -> Result<NodeRecord, Rejection> {
    draft.state().nodes.get(&id).cloned().ok_or(Rejection::UnknownNode(id))
}

fn add(draft: &mut Draft, http: &str, raft: &str, voter: bool) -> NodeId {
    let id = draft.next_node();
    draft.push(Change::NodePut(NodeRecord {
        id,
        http: http.to_owned(),
        raft: raft.to_owned(),
        pid: 0,
        admitted_at: draft.now(),
        voter,
        leaving: false,
    }));
    id
}
