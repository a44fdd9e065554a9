//! The gateway: the Ollama and OpenAI APIs on every node.
//!
//! ```text
//! request -> body, options, names -> demand (is it loaded?) -> dispatch (pick a worker, resume elsewhere when it breaks)
//!                                                                   |
//! client  <- stream (NDJSON, SSE or one object) <- events ----------+
//! ```
//!
//! It reads the state as last applied on this node and changes it only by proposing ([`ports::ControlPlane`]). No request
//! for tokens waits for the quorum when its model is loaded somewhere.

#![forbid(unsafe_code)]

mod admin;
mod body;
pub mod config;
mod demand;
mod dispatch;
pub mod edge;
mod error;
mod format;
mod gate;
mod health;
mod keep_alive;
mod logprobs;
mod names;
mod ollama;
mod openai;
mod options;
pub mod ports;
mod request;
mod stream;
pub mod streams;
mod telemetry;
mod versions;
pub mod workers;

pub use config::Config;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, head, post};
use error::{Failure, OllamaError, OpenAiError, Problem};
use ports::{Blobs, ControlPlane};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// One gateway: what it was given and what it remembers between requests.
pub struct Gateway {
    control: Arc<dyn ControlPlane>,
    blobs: Arc<dyn Blobs>,
    config: Config,
    workers: workers::Workers,
    demands: demand::Demands,
    versions: versions::Versions,
    streams: streams::Book,
    gate: Arc<gate::Gate>,
    headers: ollama::model::Headers,
    edge: edge::Edge,
    has_served: AtomicBool,
}

impl Gateway {
    /// A gateway over what its node offers.
    pub fn new(control: Arc<dyn ControlPlane>, blobs: Arc<dyn Blobs>, config: Config) -> Arc<Self> {
        Arc::new(Self {
            control,
            blobs,
            edge: edge::Edge::new(&config.edge),
            config,
            workers: workers::Workers::default(),
            demands: demand::Demands::default(),
            versions: versions::Versions::default(),
            streams: streams::Book::default(),
            gate: Arc::default(),
            headers: ollama::model::Headers::default(),
            has_served: AtomicBool::new(false),
        })
    }

    /// The whole URL map.
    pub fn router(self: Arc<Self>) -> Router {
        let (inner, outer) = (Arc::clone(&self), Arc::clone(&self));
        Router::new()
            .route("/", get(health::root))
            .route("/api/version", get(health::version))
            .route("/api/generate", post(ollama::generate::generate))
            .route("/api/chat", post(ollama::chat::chat))
            .route("/api/embed", post(ollama::embed::embed))
            .route("/api/embeddings", post(ollama::embed::embeddings))
            .route("/api/tags", get(ollama::models::tags))
            .route("/api/ps", get(ollama::models::ps))
            .route("/api/show", post(ollama::show::show))
            .route("/api/create", post(ollama::create::create))
            .route("/api/copy", post(ollama::models::copy))
            .route("/api/delete", delete(ollama::models::delete))
            .route("/api/blobs/{digest}", head(ollama::blobs::head).post(ollama::blobs::post))
            .route("/api/streams/{id}", get(streams::get))
            .route("/v1/models", get(openai::models::list))
            .route("/v1/models/{*id}", get(openai::models::get))
            .route("/v1/chat/completions", post(openai::chat::chat))
            .route("/v1/embeddings", post(openai::embeddings::embeddings))
            .route("/health/live", get(health::live))
            .route("/health/ready", get(health::ready))
            .route("/metrics", get(health::metrics))
            .route("/admin/v1/cluster", get(admin::cluster::get))
            .route("/admin/v1/cluster/nodes", post(admin::cluster::admit))
            .route("/admin/v1/cluster/nodes/{id}", delete(admin::cluster::remove))
            .route("/admin/v1/workers", get(admin::cluster::list_workers))
            .route("/admin/v1/workers/{id}", get(admin::workers::get))
            .route("/admin/v1/workers/{id}/drain", post(admin::workers::drain))
            .route("/admin/v1/workers/{id}/resume", post(admin::workers::resume))
            .route("/admin/v1/workers/{id}/label", post(admin::workers::label))
            .route("/admin/v1/placement", get(admin::placement::show))
            .route("/admin/v1/placement/plan", get(admin::placement::plan))
            .route("/admin/v1/placement/explain/{*model}", get(admin::placement::explanation))
            .route("/admin/v1/rebalance", post(admin::placement::even_out))
            .route(
                "/admin/v1/models/{*rest}",
                post(admin::models::post).delete(admin::models::clear),
            )
            .route(
                "/admin/v1/checkpoints/{*name}",
                get(admin::checkpoints::get)
                    .put(admin::checkpoints::put)
                    .delete(admin::checkpoints::delete),
            )
            .fallback(|request: Request| async move { shaped(&request, Failure::NoPath) })
            .method_not_allowed_fallback(|request: Request| async move {
                shaped(&request, Failure::NoMethod)
            })
            .layer(from_fn_with_state(inner, edge::guard))
            .layer(from_fn(request::observe))
            .layer(from_fn_with_state(outer, edge::arrive))
            .with_state(self)
    }
}

/// A failure in the shape of the family of endpoints the path belongs to.
fn shaped(request: &Request, failure: Failure) -> Response {
    shaped_at(request.uri().path(), failure)
}

fn shaped_at(path: &str, failure: Failure) -> Response {
    if path.starts_with("/v1/") {
        OpenAiError(failure).into_response()
    } else if path.starts_with("/admin/") {
        Problem(failure).into_response()
    } else {
        OllamaError(failure).into_response()
    }
}
