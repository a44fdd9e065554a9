//! What is served, described: OpenAPI 3.1 at `/openapi.json`, made from the handlers and the types themselves, and a page to read
//! it at `/docs`.
//!
//! To describe a route, write at its handler `#[utoipa::path(post, path = "/api/chat", request_body = ChatRequest, ...)]`: the
//! first line of its comment is the summary, the rest the description, and the attribute has the parameters and the good answers,
//! whose types derive `ToSchema`. Then it goes into the table of routes as `described!(ollama::chat::chat)`; a handler that is
//! not described does not compile there. Ranges that come from the limits are lines of [`ranges`].
//!
//! What a stream consists of is told by the type of one piece: a line (`application/x-ndjson`), or the data of an event
//! (`text/event-stream`).
//!
//! What routes have in common is added here and written nowhere else: an id, a tag, who may ask, and the errors, in the shape of
//! the family of endpoints.

mod failures;
mod options;
pub mod page;
mod ranges;
pub mod shapes;

pub use options::GenerationOptions;
pub(crate) use utoipa_axum::routes as described;

use crate::Gateway;
use crate::auth::guard::Policy;
use crate::config::OLLAMA_VERSION;
use crate::error::{
    AnthropicErrorBody, AnthropicErrorDetail, OllamaErrorBody, OpenAiErrorBody, OpenAiErrorDetail,
    ProblemBody,
};
use crate::stream::typed;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use utoipa::openapi::path::Paths;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::UtoipaMethodRouter;

/// A handler with its description.
pub(crate) type Served = UtoipaMethodRouter<Arc<Gateway>>;

/// What a program may know before it asks anything.
const ABOUT: &str = "One Ollama- and OpenAI-compatible endpoint in front of many machines; every node answers the same.\n\n\
    Who asks is told by `Authorization: Bearer`, with an API key or the access token of a login; beside each operation stands the \
    permission it needs. Errors have the shape of the family of endpoints: `{\"error\": \"...\"}` on Ollama's, \
    `{\"error\": {...}}` on OpenAI's and Anthropic's, problem details (RFC 9457) under `/admin/v1/` and `/auth/`. A path that is not here is \
    404 and a method that is not here 405, in the same shapes. Every answer has an `X-Request-Id`: the one that was sent, or a new \
    one. `X-Request-Timeout` bounds, in seconds, how long a request may take; `X-Priority: batch` says that it can wait. What an adopted server \
    answers in the words of its client is passed on as it comes, with what that server tells beside.";

/// A description in the making.
#[derive(Default)]
pub struct Sheet {
    paths: Map<String, Value>,
    schemas: Map<String, Value>,
}

impl Sheet {
    /// Adds operations that all ask the same of who comes.
    pub fn add(
        &mut self,
        policy: Policy,
        schemas: Vec<(String, RefOr<Schema>)>,
        operations: &Paths,
    ) {
        let schemas = schemas.into_iter().map(|(name, schema)| (name, written(&schema)));
        self.schemas.extend(schemas);
        for (path, item) in &operations.paths {
            let Value::Object(item) = written(item) else { continue };
            for (method, mut operation) in item {
                dress(&mut operation, &method, path, policy);
                let item = self.paths.entry(path).or_insert_with(|| json!({}));
                item[method] = operation;
            }
        }
    }

    /// The whole description.
    pub fn finish(mut self) -> Value {
        self.take::<OllamaErrorBody>();
        self.take::<OpenAiErrorBody>();
        self.take::<OpenAiErrorDetail>();
        self.take::<AnthropicErrorBody>();
        self.take::<AnthropicErrorDetail>();
        self.take::<ProblemBody>();
        ranges::apply(&mut self.schemas);
        self.schemas.values_mut().for_each(widen);
        self.schemas.sort_keys();
        self.paths.sort_keys();
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "OllamaMax",
                "version": env!("CARGO_PKG_VERSION"),
                "description": ABOUT,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
                "x-ollama-version": OLLAMA_VERSION,
            },
            "tags": tags(&self.paths),
            "servers": [{"url": "/", "description": "The node that answers."}],
            "paths": self.paths,
            "components": {
                "schemas": self.schemas,
                "responses": failures::responses(),
                "headers": failures::headers(),
                "securitySchemes": {
                    "bearer": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "An API key (`omk_...`), or an access token from `POST /auth/token`.",
                    },
                    "key": {
                        "type": "apiKey",
                        "in": "header",
                        "name": "x-api-key",
                        "description": "An API key, as Anthropic's clients send it.",
                    },
                },
            },
        })
    }

    fn take<T: ToSchema + PartialSchema>(&mut self) {
        self.schemas.insert(T::name().into_owned(), written(&T::schema()));
    }
}

fn written(part: &impl serde::Serialize) -> Value {
    serde_json::to_value(part).expect("descriptions have text keys and no failing serializers")
}

/// Numbers without a sign reach further than the formats that utoipa gives them.
fn widen(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.get("minimum") == Some(&json!(0)) {
                match fields.get("format").and_then(Value::as_str) {
                    Some("int32") => {
                        fields.remove("format");
                        fields.entry("maximum").or_insert(json!(u32::MAX));
                    }
                    Some("int64") => drop(fields.remove("format")),
                    _ => {}
                }
            }
            fields.values_mut().for_each(widen);
        }
        Value::Array(parts) => parts.iter_mut().for_each(widen),
        _ => {}
    }
}

/// Handlers say what a piece of a stream is; that it may end in an error, and what an event is made of, is the same for all.
fn streams(response: &mut Value) {
    let with_error = |piece: &Value, error: &str| json!({"anyOf": [piece, {"$ref": format!("#/components/schemas/{error}")}]});
    if let Some(line) = response.pointer_mut("/content/application~1x-ndjson/schema") {
        *line = with_error(line, "OllamaErrorBody");
    }
    if let Some(event) = response.pointer_mut("/content/text~1event-stream/schema") {
        *event = json!({
            "type": "object",
            "required": ["data"],
            "properties": {
                "id": {"type": "string", "description": "How many bytes of text the client has with it."},
                "event": {"type": "string"},
                "data": {"anyOf": [
                    {
                        "type": "string",
                        "contentMediaType": "application/json",
                        "contentSchema": with_error(event, "OpenAiErrorBody"),
                    },
                    {"type": "string", "const": "[DONE]", "description": "It is the last."},
                ]},
            },
        });
    }
}

/// A body that may be absent is not one that may be `null`.
fn without_null(operation: &mut Value) {
    let schema = operation.pointer_mut("/requestBody/content/application~1json/schema");
    let Some(schema) = schema else { return };
    let bodies = schema["oneOf"].as_array();
    if let Some([body, Value::Object(null)]) = bodies.map(Vec::as_slice)
        && null.get("type") == Some(&json!("null"))
    {
        *schema = body.clone();
    }
}

/// What every operation has, beside what its handler says.
fn dress(operation: &mut Value, method: &str, path: &str, policy: Policy) {
    let has_body = operation.get("requestBody").is_some();
    let responses = &mut operation["responses"];
    for status in failures::of(method, path, policy, has_body) {
        if responses.get(status.to_string()).is_none() {
            responses[status.to_string()] = failures::reference(path, status);
        }
    }
    // A handler that names an error only means the usual one.
    for (status, response) in responses.as_object_mut().into_iter().flatten() {
        streams(response);
        let status = status.parse().unwrap_or(0);
        if status >= 400 && response.get("content").is_none() {
            *response = failures::reference(path, status);
        }
    }
    without_null(operation);
    operation["operationId"] = id(method, path).into();
    operation["tags"] = json!([tag(path)]);
    let needed: Vec<&str> = match policy {
        Policy::Open | Policy::Known => Vec::new(),
        Policy::Needs(action) | Policy::All(action) => vec![action.name()],
    };
    operation["security"] = match policy {
        Policy::Open => json!([]),
        _ => json!([{"bearer": needed}, {"key": needed}]),
    };
    let who = match policy {
        Policy::Open => return,
        Policy::Known => "For anybody with a credential.".to_owned(),
        Policy::Needs(action) => format!("Needs the permission `{action}` on what it is about."),
        Policy::All(action) => format!("Needs the permission `{action}` on everything."),
    };
    let said = operation["description"].as_str().filter(|said| !said.is_empty());
    operation["description"] = said.map_or(who.clone(), |said| format!("{said}\n\n{who}")).into();
}

/// `post_api_chat`: what generated clients call it.
fn id(method: &str, path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    std::iter::once(method).chain(words).collect::<Vec<_>>().join("_")
}

fn tag(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    match parts.as_slice() {
        ["admin", "v1", area, ..] => format!("admin-{area}"),
        ["api", ..] => "Ollama".to_owned(),
        ["v1", "messages", ..] => "Anthropic".to_owned(),
        ["v1", ..] => "OpenAI".to_owned(),
        ["v2", ..] => "registry".to_owned(),
        ["auth" | ".well-known", ..] => "logins".to_owned(),
        _ => "server".to_owned(),
    }
}

/// All tags, what most people look for first.
fn tags(paths: &Map<String, Value>) -> Vec<Value> {
    let mut tags: Vec<String> = paths.keys().map(|path| tag(path)).collect();
    let rank = |tag: &str| {
        ["Ollama", "OpenAI", "Anthropic", "logins", "registry", "server"]
            .iter()
            .position(|t| *t == tag)
    };
    tags.sort_by_key(|tag| (rank(tag).unwrap_or(usize::MAX), tag.clone()));
    tags.dedup();
    tags.into_iter().map(|tag| json!({"name": tag})).collect()
}

/// This description.
#[utoipa::path(get, path = "/openapi.json",
    responses((status = 200, description = "OpenAPI 3.1.", body = Object)))]
pub(crate) async fn get(State(gateway): State<Arc<Gateway>>) -> Response {
    typed("application/json", gateway.description_json())
}

impl Gateway {
    /// What is served, as OpenAPI 3.1.
    pub fn description(self: &Arc<Self>) -> Value {
        self.routes().finish().2
    }

    fn description_json(self: &Arc<Self>) -> Bytes {
        self.description.get_or_init(|| self.description().to_string().into()).clone()
    }
}
