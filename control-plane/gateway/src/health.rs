//! Whether this process lives, whether it can serve, and what it measured.

use crate::Gateway;
use crate::config::OLLAMA_VERSION;
use crate::stream;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use ollamamax_proto::NodeId;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use utoipa::ToSchema;

/// Says what Ollama says; health checks compare the text.
#[utoipa::path(get, path = "/",
    responses((status = 200, description = "It runs.", body = String, example = "Ollama is running")))]
pub(crate) async fn root() -> &'static str {
    "Ollama is running"
}

/// Which programs answer.
#[derive(Serialize, ToSchema)]
pub(crate) struct Version {
    /// Of the Ollama whose API this is.
    #[schema(examples("0.33.0"))]
    version: &'static str,
    /// Of this program.
    #[schema(examples("0.1.0"))]
    ollamamax: &'static str,
}

/// Tells the versions.
#[utoipa::path(get, path = "/api/version", responses((status = 200, description = "Both.", body = Version)))]
pub(crate) async fn version() -> Response {
    let ollamamax = env!("CARGO_PKG_VERSION");
    stream::ollama_json(&Version { version: OLLAMA_VERSION, ollamamax })
}

/// What runs elsewhere.
#[derive(Serialize, ToSchema)]
pub(crate) struct Status {
    cloud: Cloud,
}

/// Whether models of ollama.com can be had through this server.
#[derive(Serialize, ToSchema)]
struct Cloud {
    /// They cannot.
    disabled: bool,
    /// Who says so: `config`.
    source: &'static str,
}

/// Tells that nothing is run on ollama.com's machines: what is asked here stays here.
#[utoipa::path(get, path = "/api/status",
    responses((status = 200, description = "It is not.", body = Status)))]
pub(crate) async fn status() -> Response {
    stream::ollama_json(&Status { cloud: Cloud { disabled: true, source: "config" } })
}

/// Whether the process lives.
#[derive(Serialize, ToSchema)]
pub(crate) struct Live {
    /// `live`.
    status: &'static str,
}

/// Whether the process answers.
#[utoipa::path(get, path = "/health/live", responses((status = 200, description = "It does.", body = Live)))]
pub(crate) async fn live() -> Response {
    stream::plain_json(&Live { status: "live" })
}

/// Whether requests may be sent here.
#[derive(Serialize, ToSchema)]
pub(crate) struct Ready {
    /// `ready` or `not ready`.
    status: &'static str,
    ready: bool,
    /// What is missing.
    reasons: Vec<&'static str>,
    /// The id of this node.
    #[schema(value_type = u64)]
    node: NodeId,
    /// That of the leader.
    #[schema(value_type = Option<u64>)]
    leader: Option<NodeId>,
}

/// Whether requests may be sent here.
///
/// A node that once knew a leader stays ready without one, because models that are loaded are served all the same.
#[utoipa::path(get, path = "/health/ready", responses(
    (status = 200, description = "They may.", body = Ready), (status = 503, description = "Not yet.", body = Ready)))]
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
    let said = if ready { "ready" } else { "not ready" };
    let (node, leader) = (quorum.node, quorum.leader);
    let body = Ready { status: said, ready, reasons, node, leader };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, stream::plain_json(&body)).into_response()
}

/// Tells what was measured, in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", responses((status = 200, description = "The figures.", body = String)))]
pub(crate) async fn metrics(State(gateway): State<Arc<Gateway>>) -> Response {
    stream::typed("text/plain; version=0.0.4; charset=utf-8", (gateway.config.metrics)())
}
