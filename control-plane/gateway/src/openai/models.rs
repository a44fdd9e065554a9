//! `GET /v1/models` and `/v1/models/{id}`.

use crate::auth::Caller;
use crate::error::OpenAiError;
use crate::{Gateway, stream};
use axum::extract::{Path, State};
use axum::response::Response;
use ollamamax_core::access::Action;
use ollamamax_core::record::ModelRecord;
use serde_json::{Value, json};
use std::sync::Arc;

fn entry(id: &str, model: &ModelRecord) -> Value {
    json!({
        "id": id,
        "object": "model",
        "created": model.modified_at.0 / 1_000,
        "owned_by": model.name.namespace(),
    })
}

/// All models.
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>, caller: Caller) -> Response {
    let state = gateway.control.state();
    let mut models: Vec<&ModelRecord> =
        state.models.values().filter(|model| caller.sees(&model.name)).collect();
    models.sort_by(|a, b| b.modified_at.cmp(&a.modified_at).then_with(|| a.name.cmp(&b.name)));
    let data: Vec<Value> =
        models.into_iter().map(|model| entry(&model.name.to_string(), model)).collect();
    stream::plain_json(&json!({"object": "list", "data": data}))
}

/// One model, by the id as it was asked. Ids may hold slashes.
pub(crate) async fn get(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, OpenAiError> {
    let model = caller.model(&gateway.control.state(), &id, Action::ReadModels)?;
    Ok(stream::plain_json(&entry(&id, &model)))
}
