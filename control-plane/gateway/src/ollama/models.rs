//! The catalogue: tags, ps, copy, delete.

use super::model::Details;
use crate::auth::Caller;
use crate::error::{Failure, OllamaError};
use crate::stream::{self, timestamp_of};
use crate::{Gateway, body, names};
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use ollamamax_core::Command;
use ollamamax_core::access::{Action, Object};
use ollamamax_core::record::{Lifetime, Placement};
use ollamamax_proto::Millis;
use ollamamax_proto::placement::Phase;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// `GET /api/tags`, newest first.
pub(crate) async fn tags(State(gateway): State<Arc<Gateway>>, caller: Caller) -> Response {
    let state = gateway.control.state();
    let mut models: Vec<_> =
        state.models.values().filter(|model| caller.sees(&model.name)).collect();
    models.sort_by(|a, b| b.modified_at.cmp(&a.modified_at).then_with(|| a.name.cmp(&b.name)));
    let mut list = Vec::with_capacity(models.len());
    for model in models {
        let version = &model.version;
        list.push(json!({
            "name": model.name,
            "model": model.name,
            "modified_at": timestamp_of(model.modified_at),
            "size": version.blob_bytes,
            "digest": version.digest.hex(),
            "details": Details::from(version),
            "capabilities": gateway.capabilities(version),
        }));
    }
    stream::ollama_json(&json!({"models": list}))
}

/// `GET /api/ps`: models that some worker has loaded, longest remaining first.
pub(crate) async fn ps(State(gateway): State<Arc<Gateway>>, caller: Caller) -> Response {
    /// Ollama's "forever" is some centuries away; this is the last moment its clients can parse.
    const FOREVER: Millis = Millis(253_402_214_400_000);
    let state = gateway.control.state();
    let mut running: Vec<(Millis, Value)> = Vec::new();
    for model in state.models.values().filter(|model| caller.sees(&model.name)) {
        let loaded = |placement: &&Placement| {
            placement.phase == Phase::Ready && placement.assignment.model == model.name
        };
        let placements: Vec<&Placement> = state.placements.values().filter(loaded).collect();
        let Some(first) = placements.first() else { continue };
        let until = match state.demands.get(&model.name).map(|demand| demand.lifetime) {
            Some(Lifetime::Until(end)) => end.min(FOREVER),
            Some(Lifetime::Forever) => FOREVER,
            None => Millis::now(),
        };
        let worker = |placement: &&Placement| state.workers.get(&placement.worker);
        let on_gpu = |p: &&&Placement| worker(p).is_some_and(|worker| worker.device.kind != "cpu");
        let bytes = |p: &&Placement| match p.resident_bytes {
            0 => model.version.facts.weight_bytes(),
            known => known,
        };
        let place = |placement: &&Placement| {
            json!({
                "id": placement.worker,
                "name": worker(placement).map(|worker| worker.name.as_str()),
                "device": worker(placement).map(|worker| worker.device.kind.as_str()),
                "resident_bytes": placement.resident_bytes,
            })
        };
        let record = json!({
            "name": model.name,
            "model": model.name,
            "size": placements.iter().map(bytes).max(),
            "digest": model.version.digest.hex(),
            "details": Details::from(&model.version),
            "expires_at": timestamp_of(until),
            "size_vram": placements.iter().filter(on_gpu).map(bytes).max().unwrap_or(0),
            "context_length": first.assignment.context_length,
            "workers": placements.iter().map(place).collect::<Vec<_>>(),
        });
        running.push((until, record));
    }
    running.sort_by_key(|(until, _)| std::cmp::Reverse(*until));
    let models: Vec<Value> = running.into_iter().map(|(_, record)| record).collect();
    stream::ollama_json(&json!({"models": models}))
}

#[derive(Debug, Deserialize)]
struct CopyRequest {
    #[serde(default)]
    source: String,
    #[serde(default)]
    destination: String,
}

/// `POST /api/copy`.
pub(crate) async fn copy(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    body: Body,
) -> Result<StatusCode, OllamaError> {
    let request: CopyRequest = body::json(body, gateway.config.body_bytes).await?;
    let invalid =
        |field: &str, text: &str| Failure::invalid(format!("{field} {text:?} is invalid"));
    let source = names::well_formed(&request.source);
    let source = source.map_err(|_| invalid("source", &request.source))?;
    let destination = names::well_formed(&request.destination);
    let destination = destination.map_err(|_| invalid("destination", &request.destination))?;
    let state = gateway.control.state();
    let unknown = || Failure::NotFound(format!("model {:?} not found", request.source));
    let known = state.models.get(&source).filter(|model| caller.sees(&model.name));
    let version = Box::new(known.ok_or_else(unknown)?.version.clone());
    let shown = destination.to_string();
    caller.check(Action::ManageModels, Object::Model(&shown), &shown)?;
    // Under another name it would answer whom it must not answer under its own.
    let from = source.to_string();
    caller.check(Action::RunInference, Object::Model(&from), &from)?;
    // A name that is served already goes over to the copy as to any other version.
    let command = match state.models.contains_key(&destination) {
        true => Command::RollOut { name: destination, version, weight: 100 },
        false => Command::CopyModel { source, destination },
    };
    gateway.let_make(&caller)?;
    caller.propose(&gateway, "model.copy", shown, command).await?;
    Ok(StatusCode::OK)
}

#[derive(Debug, Deserialize)]
struct DeleteRequest {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    name: Option<String>,
}

/// `DELETE /api/delete`.
pub(crate) async fn delete(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    body: Body,
) -> Result<StatusCode, OllamaError> {
    let request: DeleteRequest = body::json(body, gateway.config.body_bytes).await?;
    let asked = names::named(request.model, request.name)?;
    let name = caller.model(&gateway.control.state(), &asked, Action::ManageModels)?.name;
    let command = Command::DeleteModel { name: name.clone() };
    caller.propose(&gateway, "model.delete", name, command).await?;
    Ok(StatusCode::OK)
}
