//! The cluster: its nodes, its workers, and who runs what.

use super::shape::{self, Placement};
use crate::adopted::server::Server;
use crate::auth::Caller;
use crate::error::{Failure, Problem};
use crate::ports::NodeStatus;
use crate::request::Path;
use crate::{Gateway, stream};
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::access::{Action, Object};
use ollamamax_core::plan::Observed;
use ollamamax_core::record::WorkerRecord;
use ollamamax_core::{Command, State as Snapshot};
use ollamamax_proto::placement::{DeviceHealth, WorkerStatus};
use ollamamax_proto::{
    AssignmentId, Generation, Incarnation, Millis, ModelName, NodeId, Revision, WorkerId,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::ToSchema;

/// What a worker holds of a model, at a glance.
#[derive(Serialize, ToSchema)]
#[schema(as = PlacementAtAGlance)]
pub(crate) struct Held {
    #[schema(value_type = u64)]
    id: AssignmentId,
    #[schema(value_type = u64)]
    generation: Generation,
    #[schema(value_type = String)]
    model: ModelName,
    #[schema(value_type = String)]
    worker: WorkerId,
    phase: String,
    /// Why it has failed.
    reason: Option<String>,
    /// Milliseconds since 1970.
    #[schema(value_type = u64)]
    since: Millis,
    resident_bytes: u64,
    /// Tokens of a sequence.
    context_length: u32,
}

/// Everything at a glance, as the node that answers sees it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Cluster {
    /// The id of the leader, when one is known to have a quorum.
    #[schema(value_type = Option<u64>)]
    leader: Option<NodeId>,
    /// Of Raft.
    term: u64,
    /// Of the state.
    #[schema(value_type = u64)]
    revision: Revision,
    nodes: Vec<NodeStatus>,
    workers: Vec<Worker>,
    /// The node that answers.
    #[schema(value_type = u64)]
    node: NodeId,
    /// The id of the cluster.
    cluster: String,
    name: Option<String>,
    /// Entries of the log that are applied.
    applied: u64,
    placements: Vec<Held>,
}

/// Shows everything at a glance, as the node that answers sees it.
#[utoipa::path(get, path = "/admin/v1/cluster", responses((status = 200, description = "The cluster.", body = Cluster)))]
pub(crate) async fn get(State(gateway): State<Arc<Gateway>>, caller: Caller) -> Response {
    let state = gateway.control.state();
    let quorum = gateway.control.quorum();
    let seen = state.placements.values().filter(|held| caller.sees(&held.assignment.model));
    let placements = seen.map(|placement| Held {
        id: placement.assignment.id,
        generation: placement.assignment.generation,
        model: placement.assignment.model.clone(),
        worker: placement.worker,
        phase: placement.phase.to_string(),
        reason: shape::reason(&placement.phase),
        since: placement.since,
        resident_bytes: placement.resident_bytes,
        context_length: placement.assignment.context_length,
    });
    stream::plain_json(&Cluster {
        leader: quorum.leader,
        term: quorum.term,
        revision: state.revision(),
        nodes: quorum.nodes,
        workers: workers(&gateway, &caller, &state),
        node: quorum.node,
        cluster: quorum.cluster,
        name: state.cluster.as_ref().map(|cluster| cluster.name.clone()),
        applied: quorum.applied,
        placements: placements.collect(),
    })
}

/// Let in, but never come: a token in wrong hands may be behind it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Enrolled {
    #[schema(value_type = String)]
    id: WorkerId,
    /// The id of the join token that let it in.
    token: String,
    /// Milliseconds since 1970.
    #[schema(value_type = u64)]
    at: Millis,
}

/// The workers.
#[derive(Serialize, ToSchema)]
pub(crate) struct Workers {
    /// Of the state they were read from.
    #[schema(value_type = u64)]
    revision: Revision,
    workers: Vec<Worker>,
    enrolled: Vec<Enrolled>,
}

/// Lists workers.
#[utoipa::path(get, path = "/admin/v1/workers",
    responses((status = 200, description = "Those that the caller may see.", body = Workers)))]
pub(crate) async fn list_workers(State(gateway): State<Arc<Gateway>>, caller: Caller) -> Response {
    let state = gateway.control.state();
    let workers = workers(&gateway, &caller, &state);
    let absent = state.access.enrolments.values().filter(|enrolment| {
        !state.workers.contains_key(&enrolment.worker) && caller.may(Action::ReadNodes, Object::All)
    });
    let absent = absent.map(|enrolment| Enrolled {
        id: enrolment.worker,
        token: enrolment.token.to_string(),
        at: enrolment.at,
    });
    let (revision, enrolled) = (state.revision(), absent.collect());
    stream::plain_json(&Workers { revision, workers, enrolled })
}

fn workers(gateway: &Gateway, caller: &Caller, state: &Snapshot) -> Vec<Worker> {
    let observed = gateway.control.observed();
    let seen = state.workers.values().filter(|worker| {
        super::workers::check(caller, state, worker.id, Action::ReadNodes).is_ok()
    });
    let own = seen.map(|record| worker(gateway, caller, state, &observed, record));
    let servers = gateway.adopted.all(state);
    let servers = servers.iter().filter(|server| {
        super::workers::check(caller, state, server.record.id, Action::ReadNodes).is_ok()
    });
    own.chain(servers.map(|server| adopted(caller, state, server))).collect()
}

/// How a GPU is; what it does not tell is absent.
#[derive(ToSchema)]
#[schema(as = DeviceHealth)]
#[expect(dead_code, reason = "it stands in the description for a type that knows nothing of it")]
struct Health {
    memory_used_bytes: Option<u64>,
    busy_percent: Option<u32>,
    celsius: Option<u32>,
    /// Those that could not be corrected.
    memory_errors: Option<u64>,
    /// The last failure, as the driver numbers them.
    xid: Option<u64>,
}

/// A worker with the models it holds, what operators say of it, and, on the leader, how fast it is.
#[derive(Serialize, ToSchema)]
pub(crate) struct Worker {
    #[schema(value_type = String)]
    id: WorkerId,
    name: String,
    /// `ready`, `suspect`, `down` or `draining`.
    #[schema(value_type = String, examples("ready"))]
    status: WorkerStatus,
    /// Why it is not ready.
    reason: String,
    /// `cpu` or `cuda`; of an adopted server its kind.
    device: String,
    device_name: String,
    memory_bytes: u64,
    threads: u32,
    /// Where other processes reach it.
    address: String,
    pid: u32,
    /// How often it has started.
    #[schema(value_type = u64)]
    incarnation: Incarnation,
    /// Milliseconds since 1970.
    #[schema(value_type = u64)]
    since: Millis,
    models: Vec<String>,
    labels: BTreeMap<String, String>,
    /// Why an operator drains it.
    drained: Option<String>,
    /// How fast it reads memory; known to the leader.
    ns_per_mib: Option<u64>,
    /// How its GPU is; known to the leader.
    #[schema(value_type = Option<Health>)]
    health: Option<DeviceHealth>,
    /// Whether it has become slow.
    slow: bool,
    /// Tokens that this node waits for.
    outstanding_tokens: u64,
    /// Where it is an adopted server: what that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    adopted: Option<Adopted>,
    /// What it holds, where one worker is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placements: Option<Vec<Placement>>,
}

pub(super) fn worker(
    gateway: &Gateway,
    caller: &Caller,
    state: &Snapshot,
    observed: &Observed,
    worker: &WorkerRecord,
) -> Worker {
    let held = state.placements.values().filter(|placement| placement.worker == worker.id);
    let seen = held.filter(|placement| caller.sees(&placement.assignment.model));
    let models: Vec<_> = seen.map(|placement| placement.assignment.model.to_string()).collect();
    let orders = state.orders.get(&worker.id);
    Worker {
        id: worker.id,
        name: worker.name.clone(),
        status: worker.status,
        reason: worker.reason.clone(),
        device: worker.device.kind.clone(),
        device_name: worker.device.name.clone(),
        memory_bytes: worker.device.memory_bytes,
        threads: worker.device.threads,
        address: worker.address.clone(),
        pid: worker.pid,
        incarnation: worker.incarnation,
        since: worker.since,
        models,
        labels: orders.map(|orders| orders.labels.clone()).unwrap_or_default(),
        drained: orders.and_then(|orders| orders.drained.clone()),
        ns_per_mib: observed.ns_per_mib.get(&worker.id).copied(),
        health: observed.health.get(&worker.id).copied(),
        slow: observed.slow.contains(&worker.id),
        outstanding_tokens: gateway.workers.outstanding_tokens(worker.id),
        adopted: None,
        placements: None,
    }
}

/// What an adopted server is, as the node that answers sees it.
#[derive(Serialize, ToSchema)]
#[schema(as = AdoptedServer)]
struct Adopted {
    /// Where it is.
    url: String,
    /// `ollama`, or `openai` where it speaks OpenAI's API alone.
    #[schema(examples("ollama"))]
    kind: &'static str,
    /// Its version, where it tells one.
    version: String,
    /// Whether it is asked with an API key.
    has_key: bool,
    /// Requests that each node may have in flight there.
    max_concurrent: u32,
    /// Those of this node.
    running: u32,
    /// Models it has that cannot have a name here.
    unnamed: usize,
}

/// Whether an adopted server can be used.
pub(super) fn status(state: &Snapshot, server: &Server) -> WorkerStatus {
    let drains = state.orders.get(&server.record.id).is_some_and(|o| o.drained.is_some());
    match server.seen().status {
        WorkerStatus::Ready | WorkerStatus::Suspect if drains => WorkerStatus::Draining,
        status => status,
    }
}

/// An adopted server as a worker; its health is as this node sees it.
pub(super) fn adopted(caller: &Caller, state: &Snapshot, server: &Server) -> Worker {
    let (record, seen, orders) =
        (&server.record, server.seen(), state.orders.get(&server.record.id));
    let drained = orders.and_then(|orders| orders.drained.clone());
    let models = seen.models.keys().filter(|name| caller.sees(name));
    let host = record.url.split_once("://").map_or(record.url.as_str(), |(_, rest)| rest);
    let now = Millis::now();
    Worker {
        id: record.id,
        name: record.name.clone(),
        status: status(state, server),
        reason: drained.clone().unwrap_or_else(|| seen.reason.clone()),
        device: record.kind.to_string(),
        device_name: format!("adopted {} {}", record.kind, seen.version).trim_end().to_owned(),
        memory_bytes: 0,
        threads: 0,
        address: host.split('/').next().unwrap_or_default().to_owned(),
        pid: 0,
        incarnation: Incarnation(0),
        since: seen.since,
        models: models.map(ToString::to_string).collect(),
        labels: orders.map(|orders| orders.labels.clone()).unwrap_or_default(),
        drained,
        ns_per_mib: None,
        health: None,
        slow: server.meter.is_out(now),
        outstanding_tokens: server.outstanding_tokens(),
        adopted: Some(Adopted {
            url: record.url.clone(),
            kind: record.kind.name(),
            version: seen.version.clone(),
            has_key: record.key.is_some(),
            max_concurrent: record.places,
            running: server.meter.running(),
            unnamed: seen.unnamed,
        }),
        placements: None,
    }
}

/// A node that shall leave.
#[derive(Serialize, ToSchema)]
pub(crate) struct NodeLeaves {
    #[schema(value_type = u64)]
    node: NodeId,
    /// Of the state it is in.
    #[schema(value_type = u64)]
    revision: Revision,
}

/// Lets a node leave the cluster.
#[utoipa::path(delete, path = "/admin/v1/cluster/nodes/{id}", params(("id" = u64, Path, example = 3)),
    responses((status = 200, description = "It shall leave.", body = NodeLeaves)))]
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
    Ok(stream::plain_json(&NodeLeaves { node, revision: outcome.revision() }))
}
