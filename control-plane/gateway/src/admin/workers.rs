//! `/admin/v1/workers/{id}`: one worker, its labels, and whether it drains.

use super::cluster::Worker;
use super::shape;
use crate::auth::Caller;
use crate::error::{Failure, Problem};
use crate::request::Path;
use crate::{Gateway, body, stream};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::access::{Action, Object};
use ollamamax_core::{Command, State as Snapshot};
use ollamamax_proto::placement::WorkerStatus;
use ollamamax_proto::{Revision, WorkerId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::ToSchema;

/// The worker or adopted server that `text` means: its name, its id, or the beginning of one.
pub(super) fn find(state: &Snapshot, text: &str) -> Result<WorkerId, Failure> {
    let named = |(id, name): &(WorkerId, &str)| *name == text || id.to_string() == text;
    let begins = |(id, _): &(WorkerId, &str)| text.len() >= 4 && id.to_string().starts_with(text);
    let all = || {
        let servers = state.adopted.values().map(|server| (server.id, server.name.as_str()));
        state.workers.values().map(|worker| (worker.id, worker.name.as_str())).chain(servers)
    };
    let exact: Vec<_> = all().filter(named).collect();
    let found: Vec<_> = match exact.is_empty() {
        true => all().filter(begins).collect(),
        false => exact,
    };
    match found.as_slice() {
        [(id, _)] => Ok(*id),
        [] => Err(Failure::NotFound(format!("worker `{text}` not found"))),
        several => {
            let ids: Vec<String> = several.iter().map(|(id, _)| id.to_string()).collect();
            let text = format!("`{text}` means several workers: {}; name one", ids.join(", "));
            Err(Failure::Conflict(text))
        }
    }
}

/// A worker as orders have left it.
#[derive(Serialize, ToSchema)]
#[schema(as = WorkerChanged)]
pub(crate) struct Changed {
    #[schema(value_type = String)]
    worker: WorkerId,
    /// `ready`, `suspect`, `down` or `draining`; nothing of a worker that is gone.
    #[schema(value_type = Option<String>)]
    status: Option<WorkerStatus>,
    labels: Option<BTreeMap<String, String>>,
    /// Of the state it is in.
    #[schema(value_type = u64)]
    revision: Revision,
}

/// A worker that is gone.
#[derive(Serialize, ToSchema)]
#[schema(as = WorkerRemoved)]
pub(crate) struct Removed {
    #[schema(value_type = String)]
    worker: WorkerId,
    /// Of the state it is in.
    #[schema(value_type = u64)]
    revision: Revision,
}

/// Shows a worker with what it holds.
#[utoipa::path(get, path = "/admin/v1/workers/{id}",
    params(("id" = String, Path, description = "Its id, the beginning of it, or its name.", example = "worker-1")),
    responses((status = 200, description = "The worker.", body = Worker), (status = 409)))]
pub(crate) async fn get(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let state = gateway.control.state();
    let id = find(&state, &id)?;
    check(&caller, &state, id, Action::ReadNodes)?;
    let Some(worker) = state.workers.get(&id) else {
        let servers = gateway.adopted.all(&state);
        let server = servers.iter().find(|server| server.record.id == id);
        let server = server.ok_or_else(|| Failure::NotFound(format!("worker `{id}` not found")))?;
        return Ok(stream::plain_json(&super::cluster::adopted(&caller, &state, server)));
    };
    let mut shown =
        super::cluster::worker(&gateway, &caller, &state, &gateway.control.observed(), worker);
    let held = state
        .placements
        .values()
        .filter(|held| held.worker == worker.id && caller.sees(&held.assignment.model));
    shown.placements = Some(held.map(|held| shape::placement(&state, held)).collect());
    Ok(stream::plain_json(&shown))
}

/// Why a worker drains.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DrainRequest)]
pub(crate) struct Drain {
    #[serde(default)]
    #[schema(examples("its fan is replaced"))]
    reason: Option<String>,
}

/// Drains a worker: it gives away what it holds and takes nothing new until it is resumed.
#[utoipa::path(post, path = "/admin/v1/workers/{id}/drain", request_body = Option<Drain>,
    params(("id" = String, Path, description = "Its id, the beginning of it, or its name.", example = "worker-1")),
    responses((status = 200, description = "It drains.", body = Changed)))]
pub(crate) async fn drain(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let bytes = body::read(body, gateway.config.body_bytes).await?;
    let empty = bytes.iter().all(u8::is_ascii_whitespace);
    let Drain { reason } = body::parse(if empty { b"{}" } else { &bytes })?;
    let id = find(&gateway.control.state(), &id)?;
    let reason = reason.unwrap_or_else(|| "an operator drains it".to_owned());
    order(&gateway, &caller, id, "worker.drain", Command::DrainWorker { id, reason }).await
}

/// Ends the draining of a worker.
#[utoipa::path(post, path = "/admin/v1/workers/{id}/resume",
    params(("id" = String, Path, description = "Its id, the beginning of it, or its name.", example = "worker-1")),
    responses((status = 200, description = "It serves again.", body = Changed)))]
pub(crate) async fn resume(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = find(&gateway.control.state(), &id)?;
    order(&gateway, &caller, id, "worker.resume", Command::ResumeWorker { id }).await
}

/// Labels of a worker.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LabelRequest, examples(json!({"labels": {"zone": "a", "old": null}})))]
pub(crate) struct Label {
    /// Values by key; `null` removes one.
    labels: BTreeMap<String, Option<String>>,
}

/// Labels a worker.
#[utoipa::path(post, path = "/admin/v1/workers/{id}/label", request_body = Label,
    params(("id" = String, Path, description = "Its id, the beginning of it, or its name.", example = "worker-1")),
    responses((status = 200, description = "It has them.", body = Changed)))]
pub(crate) async fn label(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let Label { labels } = body::json(body, gateway.config.body_bytes).await?;
    let id = find(&gateway.control.state(), &id)?;
    order(&gateway, &caller, id, "worker.label", Command::LabelWorker { id, labels }).await
}

/// Refuses what the caller may not do to a worker.
pub(super) fn check(
    caller: &Caller,
    state: &Snapshot,
    id: WorkerId,
    action: Action,
) -> Result<(), Failure> {
    let none = BTreeMap::new();
    let labels = state.orders.get(&id).map_or(&none, |orders| &orders.labels);
    caller.check(action, Object::Worker(labels), &id.to_string())
}

/// Forgets a worker, which comes back only with another join token, or lets an adopted server go.
#[utoipa::path(delete, path = "/admin/v1/workers/{id}",
    params(("id" = String, Path, description = "Its id, the beginning of it, or its name.", example = "worker-1")),
    responses((status = 200, description = "It is gone.", body = Removed)))]
pub(crate) async fn remove(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let state = gateway.control.state();
    let enrolled = id.parse().ok().filter(|id| state.access.enrolments.contains_key(id));
    let id = match enrolled {
        Some(id) => id,
        None => find(&state, &id)?,
    };
    check(&caller, &state, id, Action::ManageNodes)?;
    let (action, command) = match state.adopted.contains_key(&id) {
        true => ("worker.release", Command::ReleaseServer { id }),
        false => ("worker.remove", Command::RemoveWorker { id }),
    };
    let revision = caller.propose(&gateway, action, id, command).await?.revision();
    Ok(stream::plain_json(&Removed { worker: id, revision }))
}

async fn order(
    gateway: &Gateway,
    caller: &Caller,
    id: WorkerId,
    action: &str,
    command: Command,
) -> Result<Response, Problem> {
    check(caller, &gateway.control.state(), id, Action::ManageNodes)?;
    let revision = caller.propose(gateway, action, id, command).await?.revision();
    let state = gateway.control.state();
    let servers = gateway.adopted.all(&state);
    let server = servers.iter().find(|server| server.record.id == id);
    let status = state.workers.get(&id).map(|worker| worker.status);
    let status = status.or(server.map(|server| super::cluster::status(&state, server)));
    let labels = state.orders.get(&id).map(|orders| orders.labels.clone());
    Ok(stream::plain_json(&Changed { worker: id, status, labels, revision }))
}
