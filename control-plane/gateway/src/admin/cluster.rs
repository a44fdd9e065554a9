//! The cluster: its nodes, its workers, and who runs what.

use crate::auth::Caller;
use crate::error::{Failure, Problem};
use crate::{Gateway, stream};
use axum::extract::{Path, State};
use axum::response::Response;
use ollamamax_core::access::{Action, Object};
use ollamamax_core::plan::Observed;
use ollamamax_core::record::WorkerRecord;
use ollamamax_core::{Command, State as Snapshot};
use ollamamax_proto::NodeId;
use serde_json::{Value, json};
use std::sync::Arc;

/// `GET /admin/v1/cluster`: everything at a glance, as this node sees it.
pub(crate) async fn get(State(gateway): State<Arc<Gateway>>, caller: Caller) -> Response {
    let state = gateway.control.state();
    let quorum = gateway.control.quorum();
    let seen = state.placements.values().filter(|held| caller.sees(&held.assignment.model));
    let placements = seen.map(|placement| {
        json!({
            "id": placement.assignment.id,
            "generation": placement.assignment.generation,
            "model": placement.assignment.model,
            "worker": placement.worker,
            "phase": placement.phase.to_string(),
            "reason": match &placement.phase {
                ollamamax_proto::placement::Phase::Failed { reason } => Some(reason),
                _ => None,
            },
            "since": placement.since,
            "resident_bytes": placement.resident_bytes,
            "context_length": placement.assignment.context_length,
        })
    });
    stream::plain_json(&json!({
        "leader": quorum.leader,
        "term": quorum.term,
        "revision": state.revision(),
        "nodes": quorum.nodes,
        "workers": workers(&gateway, &caller, &state),
        "node": quorum.node,
        "cluster": quorum.cluster,
        "name": state.cluster.as_ref().map(|cluster| cluster.name.as_str()),
        "applied": quorum.applied,
        "placements": placements.collect::<Vec<_>>(),
    }))
}

/// `GET /admin/v1/workers`.
pub(crate) async fn list_workers(State(gateway): State<Arc<Gateway>>, caller: Caller) -> Response {
    let state = gateway.control.state();
    let workers = workers(&gateway, &caller, &state);
    // Let in, but never come: a token in wrong hands may be behind it.
    let absent = state.access.enrolments.values().filter(|enrolment| {
        !state.workers.contains_key(&enrolment.worker) && caller.may(Action::ReadNodes, Object::All)
    });
    let absent: Vec<Value> = absent
        .map(|enrolment| {
            json!({"id": enrolment.worker, "token": enrolment.token.to_string(), "at": enrolment.at})
        })
        .collect();
    let revision = state.revision();
    stream::plain_json(&json!({"revision": revision, "workers": workers, "enrolled": absent}))
}

fn workers(gateway: &Gateway, caller: &Caller, state: &Snapshot) -> Vec<Value> {
    let observed = gateway.control.observed();
    let seen = state.workers.values().filter(|worker| {
        super::workers::check(caller, state, worker.id, Action::ReadNodes).is_ok()
    });
    seen.map(|record| worker(gateway, caller, state, &observed, record)).collect()
}

/// A worker with the models it holds, what operators say of it, and, on the leader, how fast it is.
pub(super) fn worker(
    gateway: &Gateway,
    caller: &Caller,
    state: &Snapshot,
    observed: &Observed,
    worker: &WorkerRecord,
) -> Value {
    let held = state.placements.values().filter(|placement| placement.worker == worker.id);
    let seen = held.filter(|placement| caller.sees(&placement.assignment.model));
    let models: Vec<_> = seen.map(|placement| placement.assignment.model.to_string()).collect();
    let orders = state.orders.get(&worker.id);
    json!({
        "id": worker.id,
        "name": worker.name,
        "status": worker.status,
        "reason": worker.reason,
        "device": worker.device.kind,
        "device_name": worker.device.name,
        "memory_bytes": worker.device.memory_bytes,
        "threads": worker.device.threads,
        "address": worker.address,
        "pid": worker.pid,
        "incarnation": worker.incarnation,
        "since": worker.since,
        "models": models,
        "labels": orders.map(|orders| orders.labels.clone()).unwrap_or_default(),
        "drained": orders.and_then(|orders| orders.drained.as_deref()),
        "ns_per_mib": observed.ns_per_mib.get(&worker.id),
        "health": observed.health.get(&worker.id),
        "slow": observed.slow.contains(&worker.id),
        "outstanding_tokens": gateway.workers.outstanding_tokens(worker.id),
    })
}

/// `DELETE /admin/v1/cluster/nodes/{id}`: a node shall leave.
pub(crate) async fn remove(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let node = id.parse().map(NodeId);
    let node =
        node.map_err(|_| Failure::invalid(format!("`{id}` is no node id; expected a number")))?;
    let command = Command::RemoveNode { node };
    let outcome = caller.propose(&gateway, "node.remove", node, command).await?;
    Ok(stream::plain_json(&json!({"node": node, "revision": outcome.revision()})))
}
