//! `GET /v1/models` and `/v1/models/{id}`.

use crate::adopted::door::Passed;
use crate::adopted::server::{Offered, Server};
use crate::auth::Caller;
use crate::error::OpenAiError;
use crate::request::Path;
use crate::{Gateway, names, stream};
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::access::Action;
use ollamamax_core::adopted::ServerKind;
use ollamamax_core::record::ModelRecord;
use ollamamax_proto::ModelName;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// A model.
#[derive(Serialize, ToSchema)]
#[schema(as = Model)]
pub(crate) struct Entry {
    /// Its name.
    #[schema(examples("smollm2:135m"))]
    id: String,
    /// Always `model`.
    object: &'static str,
    /// When it was made, in seconds since 1970.
    created: u64,
    /// The namespace of its name, or the adopted server that has it.
    owned_by: String,
}

impl Entry {
    fn of(id: &str, model: &ModelRecord) -> Self {
        let owned_by = model.name.namespace().to_owned();
        let created = model.modified_at.0 / 1_000;
        Self { id: id.to_owned(), object: "model", created, owned_by }
    }

    /// One of an adopted server.
    fn offered(id: &str, server: &Server, offered: &Offered) -> Self {
        let created = offered.modified_at.0 / 1_000;
        Self { id: id.to_owned(), object: "model", created, owned_by: server.record.name.clone() }
    }
}

/// A server that speaks OpenAI's API alone has ids without tags: its clients know them so.
fn own_id(server: &Server, offered: &Offered, name: &ModelName) -> String {
    match server.record.kind {
        ServerKind::Ollama => name.to_string(),
        ServerKind::OpenAi => offered.id.clone(),
    }
}

/// All models.
#[derive(Serialize, ToSchema)]
#[schema(as = Models)]
pub(crate) struct List {
    /// Always `list`.
    object: &'static str,
    /// The newest first.
    data: Vec<Entry>,
}

/// Lists the models that there are.
#[utoipa::path(get, path = "/v1/models",
    responses((status = 200, description = "Those that the caller may see.", body = List)))]
pub(crate) async fn list(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    passed: Passed,
) -> Response {
    let state = gateway.control.state();
    let mut models: Vec<&ModelRecord> =
        state.models.values().filter(|model| caller.sees(&model.name)).collect();
    models.sort_by(|a, b| b.modified_at.cmp(&a.modified_at).then_with(|| a.name.cmp(&b.name)));
    let mut data: Vec<Entry> =
        models.into_iter().map(|model| Entry::of(&model.name.to_string(), model)).collect();
    for (name, (server, offered)) in gateway.offered_to(passed) {
        if !state.models.contains_key(&name) && caller.sees(&name) {
            data.push(Entry::offered(&own_id(&server, &offered, &name), &server, &offered));
        }
    }
    data.sort_by_key(|entry| std::cmp::Reverse(entry.created));
    stream::plain_json(&List { object: "list", data })
}

/// Shows one model, by the id as it was asked.
#[utoipa::path(get, path = "/v1/models/{id}",
    params(("id" = String, Path, description = "Its name; it may hold slashes.", example = "smollm2:135m")),
    responses((status = 200, description = "The model.", body = Entry)))]
pub(crate) async fn get(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    passed: Passed,
    Path(id): Path<String>,
) -> Result<Response, OpenAiError> {
    let state = gateway.control.state();
    let name = names::meant(&id).filter(|name| !state.models.contains_key(name));
    let offered = name.and_then(|name| Some((gateway.offered_to(passed).remove(&name)?, name)));
    if let Some(((server, offered), name)) = offered {
        caller.named(&name, &id, Action::ReadModels)?;
        return Ok(stream::plain_json(&Entry::offered(&id, &server, &offered)));
    }
    let model = caller.model(&state, &id, Action::ReadModels)?;
    Ok(stream::plain_json(&Entry::of(&id, &model)))
}
