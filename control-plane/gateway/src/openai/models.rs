//! `GET /v1/models` and `/v1/models/{id}`.

use crate::auth::Caller;
use crate::error::OpenAiError;
use crate::request::Path;
use crate::{Gateway, stream};
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::access::Action;
use ollamamax_core::record::ModelRecord;
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
    /// The namespace of its name.
    owned_by: String,
}

impl Entry {
    fn of(id: &str, model: &ModelRecord) -> Self {
        let owned_by = model.name.namespace().to_owned();
        let created = model.modified_at.0 / 1_000;
        Self { id: id.to_owned(), object: "model", created, owned_by }
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
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>, caller: Caller) -> Response {
    let state = gateway.control.state();
    let mut models: Vec<&ModelRecord> =
        state.models.values().filter(|model| caller.sees(&model.name)).collect();
    models.sort_by(|a, b| b.modified_at.cmp(&a.modified_at).then_with(|| a.name.cmp(&b.name)));
    let data = models.into_iter().map(|model| Entry::of(&model.name.to_string(), model)).collect();
    stream::plain_json(&List { object: "list", data })
}

/// Shows one model, by the id as it was asked.
#[utoipa::path(get, path = "/v1/models/{id}",
    params(("id" = String, Path, description = "Its name; it may hold slashes.", example = "smollm2:135m")),
    responses((status = 200, description = "The model.", body = Entry)))]
pub(crate) async fn get(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, OpenAiError> {
    let model = caller.model(&gateway.control.state(), &id, Action::ReadModels)?;
    Ok(stream::plain_json(&Entry::of(&id, &model)))
}
