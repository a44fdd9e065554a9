//! The errors of each operation, and what they look like: which can come follows from what the route asks for and takes.

use crate::auth::guard::Policy;
use crate::family::Family;
use axum::http::StatusCode;
use ollamamax_core::access::Action;
use serde_json::{Map, Value, json};

/// Every status an error may have, and what it says. 405 is what operations are answered that are not described.
const WORDS: &[(u16, &str)] = &[
    (400, "The request makes no sense; the text names the field."),
    (401, "No credential, or none that is good: which of it is not told."),
    (403, "The credential is good and has not the permission; or a page asks that may not."),
    (404, "What the request names is not there, or not to be seen by who asks."),
    (405, "The path is there, the method is not: `Allow` tells which are."),
    (408, "The body came too slowly."),
    (409, "The request collides with what is there."),
    (412, "The value is not at the revision that was expected."),
    (413, "The body is larger than accepted."),
    (414, "The URL is longer than accepted."),
    (415, "The body is in a form that is not taken."),
    (421, "The request is for a host that this node is not."),
    (429, "Over a quota, or too many failures; `Retry-After` says when to try again."),
    (500, "It is the server's fault."),
    (
        502,
        "Another server, from which or to which this one transfers, failed or sent what it must not.",
    ),
    (503, "Not now: no quorum, no worker, or too many wait; `Retry-After` says when to try again."),
    (504, "The time that `X-Request-Timeout` gave is over."),
    (507, "The disk of the node is full."),
];

/// The statuses that can come of what a route is.
pub(super) fn of(method: &str, path: &str, policy: Policy, has_body: bool) -> Vec<u16> {
    let runs = policy == Policy::Needs(Action::RunInference);
    let guarded = policy != Policy::Open;
    let writes = guarded && !matches!(method, "get" | "head");
    let names = path.contains('{') || (has_body && guarded);
    let possible = |status: u16| match status {
        400 | 403 | 414 | 415 | 421 => true,
        401 | 429 => guarded,
        404 => names || writes,
        408 | 413 => has_body,
        409 => writes,
        500 | 504 => runs,
        503 => writes || runs,
        _ => false,
    };
    WORDS.iter().map(|(status, _)| *status).filter(|status| possible(*status)).collect()
}

/// Where an error of an operation is described.
pub(super) fn reference(path: &str, status: u16) -> Value {
    json!({"$ref": format!("#/components/responses/{}", name(Family::of(path), status))})
}

fn name(family: Family, status: u16) -> String {
    format!("{family:?}{status}")
}

/// All of them, in each shape.
pub(super) fn responses() -> Map<String, Value> {
    let families = [Family::Ollama, Family::OpenAi, Family::Anthropic, Family::Ours];
    let all = families.into_iter().flat_map(|family| WORDS.iter().map(move |line| (family, *line)));
    all.map(|(family, (status, words))| {
        let (content_type, schema) = family.describe();
        let schema = json!({"$ref": format!("#/components/schemas/{schema}")});
        let mut response = json!({
            "description": words,
            "headers": {"X-Request-Id": header("X-Request-Id")},
            "content": {content_type: {"schema": schema}},
        });
        match StatusCode::from_u16(status) {
            Ok(StatusCode::UNAUTHORIZED) => {
                response["headers"]["WWW-Authenticate"] = header("WWW-Authenticate");
            }
            Ok(StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => {
                response["headers"]["Retry-After"] = header("Retry-After");
            }
            _ => {}
        }
        (name(family, status), response)
    })
    .collect()
}

fn header(name: &str) -> Value {
    json!({"$ref": format!("#/components/headers/{name}")})
}

/// The headers that answers share.
pub(super) fn headers() -> Value {
    json!({
        "X-Request-Id": {
            "description": "The id of the request, in logs and the trail, too.",
            "schema": {"type": "string"},
        },
        "WWW-Authenticate": {"description": "How to say who asks.", "schema": {"type": "string"}},
        "Retry-After": {
            "description": "When to try again, in seconds.",
            "schema": {"type": "integer", "minimum": 0},
        },
    })
}
