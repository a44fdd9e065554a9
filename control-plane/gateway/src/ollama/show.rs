//! `POST /api/show`: everything about one model.

use super::model::{Details, TEMPLATE_KEY, modelfile, parameters_text};
use crate::auth::Caller;
use crate::error::{Failure, OllamaError};
use crate::stream::{self, timestamp_of};
use crate::{Gateway, admin, body, names};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::access::Action;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

#[derive(Debug, Deserialize)]
pub(crate) struct ShowRequest {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    verbose: Option<bool>,
    #[serde(default)]
    system: Option<String>,
}

/// The handler.
pub(crate) async fn show(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    body: Body,
) -> Result<Response, OllamaError> {
    let request: ShowRequest = body::json(body, gateway.config.body_bytes).await?;
    let asked = names::named(request.model, request.name)?;
    let name = names::well_formed(&asked)?;
    // Here Ollama names the model with its tag.
    let model = caller.model(&gateway.control.state(), &name.to_string(), Action::ReadModels)?;
    let mut version = model.version.clone();
    if let Some(system) = request.system.filter(|text| !text.is_empty()) {
        version.system = Some(system);
    }
    let template = gateway.template(&version);
    let metadata = serde_json::from_str::<Map<String, Value>>(&version.facts.metadata_json);
    let mut metadata = metadata.unwrap_or_default();
    // It has a field of its own.
    metadata.shift_remove(TEMPLATE_KEY);
    let mut shown = json!({
        "license": version.licenses.join("\n"),
        "modelfile": modelfile(&model.name.to_string(), &version, template.as_deref()),
        "parameters": parameters_text(&version),
        "template": template.unwrap_or_default(),
        "system": version.system.clone().unwrap_or_default(),
        "details": Details::from(&version),
        "messages": version.messages,
        "model_info": metadata,
        "capabilities": gateway.capabilities(&version),
        "modified_at": timestamp_of(model.modified_at),
    });
    // Which versions a name has is nothing that Ollama knows; where there is one only, its answer is as Ollama's.
    let versions = admin::versions::of(&gateway.control.state(), &model.name);
    if versions.len() > 1 {
        shown["versions"] = Value::Array(versions);
    }
    if request.verbose == Some(true) {
        let tensors = gateway.tensors(version.blob).await;
        shown["tensors"] = Value::Array(tensors.ok_or_else(|| {
            Failure::unavailable(format!("blob \"{}\" cannot be read", version.blob))
        })?);
    }
    if let Value::Object(fields) = &mut shown {
        // Ollama leaves these out when empty; clients test for the key.
        let empty = |value: &Value| value == "" || value.as_array().is_some_and(Vec::is_empty);
        let optional = ["license", "parameters", "system", "messages"];
        fields.retain(|key, value| !(optional.contains(&key.as_str()) && empty(value)));
    }
    Ok(stream::ollama_json(&shown))
}
