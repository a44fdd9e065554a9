//! `POST /api/show`: everything about one model.

use super::model::{Details, TEMPLATE_KEY, Tensor, modelfile, parameters_text};
use crate::admin::versions::{self, VersionShown};
use crate::auth::Caller;
use crate::error::{Failure, OllamaError};
use crate::stream::{self, timestamp_of};
use crate::{Gateway, body, names};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::access::Action;
use ollamamax_proto::model::SeedMessage;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;
use utoipa::ToSchema;

/// Which model, and how much of it.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(examples(json!({"model": "smollm2:135m"})))]
pub(crate) struct ShowRequest {
    /// Its name.
    #[serde(default)]
    model: Option<String>,
    /// The same, as older clients send it.
    #[serde(default)]
    name: Option<String>,
    /// Its tensors, too.
    #[serde(default)]
    #[schema(default = false)]
    verbose: Option<bool>,
    /// Shown in place of its own.
    #[serde(default)]
    system: Option<String>,
}

/// Everything about a model. What Ollama leaves out when it is empty is left out here, too.
#[derive(Serialize, ToSchema)]
pub(crate) struct ModelShown {
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    license: String,
    /// What makes the same model.
    modelfile: String,
    /// One on each line.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    parameters: String,
    template: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    system: String,
    details: Details,
    /// What comes before every conversation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false, value_type = Vec<SeedMessageShown>)]
    messages: Vec<SeedMessage>,
    /// The metadata of its file.
    model_info: Map<String, Value>,
    /// `completion`, `tools`, `embedding`.
    capabilities: Vec<&'static str>,
    #[schema(format = DateTime)]
    modified_at: String,
    /// Where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    versions: Vec<VersionShown>,
    /// Where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<Vec<Tensor>>,
}

/// A message before every conversation.
#[derive(ToSchema)]
#[schema(as = SeedMessage)]
#[expect(dead_code, reason = "it stands in the description for a type that knows nothing of it")]
struct SeedMessageShown {
    role: String,
    content: String,
}

/// Shows everything about a model.
#[utoipa::path(post, path = "/api/show", request_body = ShowRequest, responses(
    (status = 200, description = "What is known.", body = ModelShown), (status = 503)))]
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
    // Which versions a name has is nothing that Ollama knows; where there is one only, its answer is as Ollama's.
    let versions = versions::of(&gateway.control.state(), &model.name);
    let mut shown = ModelShown {
        license: version.licenses.join("\n"),
        modelfile: modelfile(&model.name.to_string(), &version, template.as_deref()),
        parameters: parameters_text(&version),
        template: template.unwrap_or_default(),
        system: version.system.clone().unwrap_or_default(),
        details: Details::from(&version),
        messages: version.messages.clone(),
        model_info: metadata,
        capabilities: gateway.capabilities(&version),
        modified_at: timestamp_of(model.modified_at),
        versions: if versions.len() > 1 { versions } else { Vec::new() },
        tensors: None,
    };
    if request.verbose == Some(true) {
        let tensors = gateway.tensors(version.blob).await;
        shown.tensors = Some(tensors.ok_or_else(|| {
            Failure::unavailable(format!("blob \"{}\" cannot be read", version.blob))
        })?);
    }
    Ok(stream::ollama_json(&shown))
}
