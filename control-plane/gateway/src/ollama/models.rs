//! The catalogue: tags, ps, copy, delete.

use super::model::Details;
use crate::adopted::door::Passed;
use crate::adopted::server::Loaded;
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
use ollamamax_proto::placement::Phase;
use ollamamax_proto::{Millis, ModelName, WorkerId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// A model of the catalogue.
#[derive(Serialize, ToSchema)]
pub(crate) struct ListedModel {
    /// With its tag.
    #[schema(value_type = String, examples("smollm2:135m"))]
    name: ModelName,
    /// The same.
    #[schema(value_type = String)]
    model: ModelName,
    #[schema(format = DateTime)]
    modified_at: String,
    /// Bytes of its file.
    size: u64,
    /// Of its version, in hex.
    digest: String,
    details: Details,
    /// `completion`, `tools`, `embedding`.
    capabilities: Vec<String>,
}

/// The catalogue.
#[derive(Serialize, ToSchema)]
pub(crate) struct ModelList {
    /// The newest first.
    models: Vec<ListedModel>,
}

/// Lists the models that there are.
#[utoipa::path(get, path = "/api/tags",
    responses((status = 200, description = "Those that the caller may see.", body = ModelList)))]
pub(crate) async fn tags(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    passed: Passed,
) -> Response {
    let state = gateway.control.state();
    let mut models: Vec<_> =
        state.models.values().filter(|model| caller.sees(&model.name)).collect();
    models.sort_by(|a, b| b.modified_at.cmp(&a.modified_at).then_with(|| a.name.cmp(&b.name)));
    let mut list = Vec::with_capacity(models.len());
    for model in models {
        let version = &model.version;
        list.push(ListedModel {
            name: model.name.clone(),
            model: model.name.clone(),
            modified_at: timestamp_of(model.modified_at),
            size: version.blob_bytes,
            digest: version.digest.hex(),
            details: Details::from(version),
            capabilities: gateway.capabilities(version).into_iter().map(str::to_owned).collect(),
        });
    }
    for (name, (_, offered)) in gateway.offered_to(passed) {
        // What the catalogue has, it tells.
        if state.models.contains_key(&name) || !caller.sees(&name) {
            continue;
        }
        list.push(ListedModel {
            name: name.clone(),
            model: name,
            modified_at: timestamp_of(offered.modified_at),
            size: offered.size,
            digest: offered.digest.clone(),
            details: offered.details.clone(),
            capabilities: offered.capabilities.clone(),
        });
    }
    // Times of one form sort as texts.
    list.sort_by(|a, b| b.modified_at.cmp(&a.modified_at));
    stream::ollama_json(&ModelList { models: list })
}

/// A worker that has a model loaded.
#[derive(Serialize, ToSchema)]
pub(crate) struct RunningOn {
    #[schema(value_type = String)]
    id: WorkerId,
    name: Option<String>,
    /// `cpu` or `cuda`.
    device: Option<String>,
    /// Bytes of its memory that the model takes.
    resident_bytes: u64,
}

/// A model that some worker has loaded.
#[derive(Serialize, ToSchema)]
pub(crate) struct RunningModel {
    /// With its tag.
    #[schema(value_type = String, examples("smollm2:135m"))]
    name: ModelName,
    /// The same.
    #[schema(value_type = String)]
    model: ModelName,
    /// Bytes it takes on one worker.
    size: u64,
    /// Of its version, in hex.
    digest: String,
    details: Details,
    /// When it may go if nobody asks for it.
    #[schema(format = DateTime)]
    expires_at: String,
    /// Bytes it takes on a GPU.
    size_vram: u64,
    /// Tokens of a sequence.
    context_length: u32,
    workers: Vec<RunningOn>,
}

/// What is loaded.
#[derive(Serialize, ToSchema)]
pub(crate) struct RunningModels {
    /// Those that stay longest first.
    models: Vec<RunningModel>,
}

/// Lists the models that some worker has loaded.
#[utoipa::path(get, path = "/api/ps",
    responses((status = 200, description = "Those that the caller may see.", body = RunningModels)))]
pub(crate) async fn ps(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    passed: Passed,
) -> Response {
    /// Ollama's "forever" is some centuries away; this is the last moment its clients can parse.
    const FOREVER: Millis = Millis(253_402_214_400_000);
    let state = gateway.control.state();
    let mut running: Vec<(Millis, RunningModel)> = Vec::new();
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
        let place = |placement: &&Placement| RunningOn {
            id: placement.worker,
            name: worker(placement).map(|worker| worker.name.clone()),
            device: worker(placement).map(|worker| worker.device.kind.clone()),
            resident_bytes: placement.resident_bytes,
        };
        let record = RunningModel {
            name: model.name.clone(),
            model: model.name.clone(),
            size: placements.iter().map(bytes).max().unwrap_or(0),
            digest: model.version.digest.hex(),
            details: Details::from(&model.version),
            expires_at: timestamp_of(until),
            size_vram: placements.iter().filter(on_gpu).map(bytes).max().unwrap_or(0),
            context_length: first.assignment.context_length,
            workers: placements.iter().map(place).collect(),
        };
        running.push((until, record));
    }
    for server in gateway.adopted_servers().iter().filter(|_| !passed.0) {
        for (name, offered) in &server.seen().models {
            let Some(loaded) = &offered.loaded else { continue };
            let at = RunningOn {
                id: server.record.id,
                name: Some(server.record.name.clone()),
                device: Some(server.record.kind.to_string()),
                resident_bytes: loaded.size,
            };
            let known = running.iter_mut().find(|(_, record)| record.name == *name);
            match known {
                Some((_, record)) => record.workers.push(at),
                None if state.models.contains_key(name) || !caller.sees(name) => {}
                None => {
                    let record = RunningModel {
                        name: name.clone(),
                        model: name.clone(),
                        size: loaded.size,
                        digest: offered.digest.clone(),
                        details: offered.details.clone(),
                        expires_at: expiry(loaded, FOREVER),
                        size_vram: loaded.size_vram,
                        context_length: loaded.context_length,
                        workers: vec![at],
                    };
                    running.push((Millis(0), record));
                }
            }
        }
    }
    running.sort_by_key(|(until, _)| std::cmp::Reverse(*until));
    let models = running.into_iter().map(|(_, record)| record).collect();
    stream::ollama_json(&RunningModels { models })
}

/// When a model of an adopted server may go, as that tells it; one that says nothing lets none go.
fn expiry(loaded: &Loaded, forever: Millis) -> String {
    let told = loaded.expires_at.as_ref().and_then(|at| at.parse::<jiff::Timestamp>().ok());
    told.map_or_else(|| timestamp_of(forever), |at| format!("{at:.9}"))
}

/// A model under another name.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct CopyRequest {
    /// Its name.
    #[serde(default)]
    #[schema(required, examples("smollm2:135m"))]
    source: String,
    /// The other name.
    #[serde(default)]
    #[schema(required, examples("mine"))]
    destination: String,
}

/// Gives a model another name.
#[utoipa::path(post, path = "/api/copy", request_body = CopyRequest,
    responses((status = 200, description = "It has it.")))]
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

/// A model that shall go.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(examples(json!({"model": "mine"})))]
pub(crate) struct DeleteRequest {
    /// Its name.
    #[serde(default)]
    model: Option<String>,
    /// The same, as older clients send it.
    #[serde(default)]
    name: Option<String>,
}

/// Takes a name, and what nobody else calls by another, out of the catalogue.
#[utoipa::path(delete, path = "/api/delete", request_body = DeleteRequest,
    responses((status = 200, description = "It is gone.")))]
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
