//! Whether this process lives, whether it can serve, and what it measured.

use crate::Gateway;
use crate::config::OLLAMA_VERSION;
use crate::stream;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// `GET /`: what Ollama says; health checks compare the text.
pub(crate) async fn root() -> &'static str {
    "Ollama is running"
}

/// `GET /api/version`.
pub(crate) async fn version() -> Response {
    let ours = env!("CARGO_PKG_VERSION");
    stream::ollama_json(&json!({"version": OLLAMA_VERSION, "ollamamax": ours}))
}

/// `GET /health/live`: the process answers.
pub(crate) async fn live() -> Response {
    stream::plain_json(&json!({"status": "live"}))
}

/// `GET /health/ready`: requests may be sent here. A node that once knew a leader stays ready without one, because models
/// that are loaded are served all the same.
pub(crate) async fn ready(State(gateway): State<Arc<Gateway>>) -> Response {
    let quorum = gateway.control.quorum();
    let has_cluster = gateway.control.state().cluster.is_some();
    if quorum.leader.is_some() && has_cluster {
        gateway.has_served.store(true, Ordering::Relaxed);
    }
    let served = gateway.has_served.load(Ordering::Relaxed);
    let mut reasons = Vec::new();
    if !has_cluster {
        reasons.push("this node belongs to no cluster yet");
    }
    if quorum.leader.is_none() {
        reasons.push("no leader is known; changes have to wait");
    }
    let ready = has_cluster && (quorum.leader.is_some() || served);
    let body = json!({
        "status": if ready { "ready" } else { "not ready" },
        "ready": ready,
        "reasons": reasons,
        "node": quorum.node,
        "leader": quorum.leader,
    });
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, stream::plain_json(&body)).into_response()
}

/// `GET /metrics`, in Prometheus' text format.
pub(crate) async fn metrics(State(gateway): State<Arc<Gateway>>) -> Response {
    stream::typed("text/plain; version=0.0.4; charset=utf-8", (gateway.config.metrics)())
}
