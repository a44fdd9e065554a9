//! `GET /v1/models` and `/v1/models/{id}`.

use crate::error::OpenAiError;
use crate::{Gateway, names, stream};
use axum::extract::{Path, State};
use axum::response::Response;
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
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>) -> Response {
    let state = gateway.control.state();
    let mut models: Vec<&ModelRecord> = state.models.values().collect();
    models.sort_by(|a, b| b.modified_at.cmp(&a.modified_at).then_with(|| a.name.cmp(&b.name)));
    let data: Vec<Value> =
        models.into_iter().map(|model| entry(&model.name.to_string(), model)).collect();
    stream::plain_json(&json!({"object": "list", "data": data}))
}

/// One model, by the id as it was asked. Ids may hold slashes.
pub(crate) async fn get(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
) -> Result<Response, OpenAiError> {
    let model = names::resolve(&gateway.control.state(), &id)?;
    Ok(stream::plain_json(&entry(&id, &model)))
}
