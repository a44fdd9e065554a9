//! The gateway: the Ollama, OpenAI and Anthropic APIs on every node.
//!
//! ```text
//! request -> body, options, converse -> demand (is it loaded?) -> dispatch (pick a worker, resume elsewhere when it breaks)
//!                                                                   |
//! client  <- stream (NDJSON, SSE or one object) <- answer <- events +
//! ```
//!
//! It reads the state as last applied on this node and changes it only by proposing ([`ports::ControlPlane`]). No request
//! for tokens waits for the quorum when its model is loaded somewhere.

#![forbid(unsafe_code)]

mod admin;
pub mod adopted;
mod answer;
mod anthropic;
pub mod auth;
mod body;
pub mod config;
mod converse;
mod demand;
mod dispatch;
pub mod edge;
pub mod error;
mod family;
mod format;
mod gate;
mod health;
mod history;
mod keep_alive;
mod layers;
mod logprobs;
mod names;
mod node;
mod ollama;
mod openai;
mod openapi;
mod options;
pub mod ports;
mod quotas;
mod registry;
mod request;
pub mod secrets;
mod sessions;
mod sharing;
mod sources;
mod stream;
pub mod streams;
mod telemetry;
mod transfers;
mod versions;
pub mod workers;

pub use admin::authorities::{seal as seal_authority, unseal as unseal_authority};
pub use admin::joins::id_of as join_token_id;
pub use auth::credential;
pub use config::Config;
pub use ollamamax_sources::Settings as Sources;
pub use sharing::{Sharing, UnknownSharing};

use auth::guard::Policy::{All, Known, Needs, Open};
use auth::guard::Routes;
pub use auth::guard::{Policy, Route};
pub use auth::oidc::OidcConfig;
use axum::Router;
use axum::extract::Request;
use axum::http::Method;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Response;
use bytes::Bytes;
use error::Failure;
use family::Family;
use ollamamax_core::access::Action;
use openapi::described;
use ports::{Blobs, ControlPlane};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

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
    templates: ollama::model::Templates,
    imports: ollama::import::Places,
    edge: edge::Edge,
    has_served: AtomicBool,
    tokens: auth::jwt::Tokens,
    throttle: auth::throttle::Throttle,
    refusals: auth::refusals::Refusals,
    quotas: quotas::Quotas,
    history: history::History,
    oidc: Option<Arc<auth::oidc::Oidc>>,
    transfers: transfers::Transfers,
    reach: Result<ollamamax_sources::Reach, String>,
    adopted: adopted::Servers,
    description: OnceLock<Bytes>,
}

impl Gateway {
    /// A gateway over what its node offers.
    pub fn new(control: Arc<dyn ControlPlane>, blobs: Arc<dyn Blobs>, config: Config) -> Arc<Self> {
        let tokens = auth::jwt::Tokens::new(config.sealing.clone());
        let oidc = config.oidc.clone().and_then(|oidc| auth::oidc::Oidc::new(oidc).ok());
        let workers = workers::Workers::new(config.tls.clone());
        let reach = config.sources.reach().map_err(|error| error.to_string());
        let adopted = adopted::Servers::new(config.adopting, config.sealing.clone());
        Arc::new(Self {
            control,
            blobs,
            edge: edge::Edge::new(&config.edge),
            config,
            workers,
            demands: demand::Demands::default(),
            versions: versions::Versions::default(),
            streams: streams::Book::default(),
            gate: Arc::default(),
            templates: ollama::model::Templates::default(),
            imports: ollama::import::Places::default(),
            has_served: AtomicBool::new(false),
            tokens,
            throttle: auth::throttle::Throttle::default(),
            refusals: auth::refusals::Refusals::default(),
            quotas: quotas::Quotas::default(),
            history: history::History::default(),
            oidc,
            transfers: transfers::Transfers::default(),
            reach,
            adopted,
            description: OnceLock::new(),
        })
    }

    /// The whole URL map.
    pub fn router(self: Arc<Self>) -> Router {
        let (router, ..) = self.routes().finish();
        let (inner, outer) = (Arc::clone(&self), Arc::clone(&self));
        tokio::spawn(auth::refusals::run(Arc::downgrade(&self)));
        tokio::spawn(adopted::run(Arc::downgrade(&self)));
        if let Some(oidc) = &self.oidc {
            tokio::spawn(auth::oidc::Oidc::run(Arc::downgrade(oidc)));
        }
        router
            .fallback(|request: Request| async move { shaped(&request, Failure::NoPath) })
            .method_not_allowed_fallback(|request: Request| async move {
                shaped(&request, Failure::NoMethod)
            })
            .layer(from_fn_with_state(inner, edge::guard))
            .layer(from_fn(request::observe))
            .layer(from_fn_with_state(outer, edge::arrive))
            .with_state(self)
    }

    /// What is served, and who may ask for it.
    pub fn inventory(self: &Arc<Self>) -> Vec<Route> {
        self.routes().finish().1
    }

    fn routes(self: &Arc<Self>) -> Routes {
        admin::routes(api(Routes::new(Arc::clone(self))))
    }
}

/// The APIs of others, and what every server has.
fn api(routes: Routes) -> Routes {
    let (read, manage, run) =
        (Needs(Action::ReadModels), Needs(Action::ManageModels), Needs(Action::RunInference));
    routes
        .get("/", Open, described!(health::root))
        .get("/health/live", Open, described!(health::live))
        .get("/health/ready", Open, described!(health::ready))
        .get("/metrics", All(Action::ReadMetrics), described!(health::metrics))
        .get("/api/version", Open, described!(health::version))
        .get("/api/status", Open, described!(health::status))
        .post("/api/generate", run, described!(ollama::generate::generate))
        .post("/api/chat", run, described!(ollama::chat::chat))
        .post("/api/embed", run, described!(ollama::embed::embed))
        .post("/api/embeddings", run, described!(ollama::embed::embeddings))
        .get("/api/tags", read, described!(ollama::models::tags))
        .get("/api/ps", read, described!(ollama::models::ps))
        .post("/api/show", read, described!(ollama::show::show))
        .post("/api/create", manage, described!(ollama::create::create))
        .post("/api/pull", manage, described!(ollama::pull::pull))
        .post("/api/push", manage, described!(ollama::push::push))
        .post("/api/copy", manage, described!(ollama::models::copy))
        .delete("/api/delete", manage, described!(ollama::models::delete))
        .add(Method::HEAD, "/api/blobs/{digest}", manage, described!(ollama::blobs::head))
        .post("/api/blobs/{digest}", manage, described!(ollama::blobs::post))
        .get("/v2/{namespace}/{model}/manifests/{tag}", read, described!(registry::get_manifest))
        .get("/v2/{namespace}/{model}/blobs/{digest}", read, described!(registry::get_blob))
        .get("/api/streams/{id}", run, described!(streams::handler::get))
        .get("/v1/models", read, described!(openai::models::list))
        .get("/v1/models/{*id}", read, described!(openai::models::get))
        .post("/v1/chat/completions", run, described!(openai::chat::chat))
        .post("/v1/completions", run, described!(openai::completions::completions))
        .post("/v1/responses", run, described!(openai::responses::responses))
        .post("/v1/messages", run, described!(anthropic::messages))
        .post("/v1/messages/count_tokens", run, described!(anthropic::count_tokens))
        .post("/v1/embeddings", run, described!(openai::embeddings::embeddings))
        .post("/auth/token", Open, described!(sessions::token))
        .post("/auth/refresh", Open, described!(sessions::refresh))
        .post("/auth/revoke", Open, described!(sessions::revoke))
        .post("/auth/logout", Known, described!(sessions::logout))
        .get("/auth/whoami", Known, described!(sessions::whoami))
        .get("/.well-known/jwks.json", Open, described!(sessions::jwks))
        .get("/openapi.json", Open, described!(openapi::get))
        .get("/docs", Open, described!(openapi::page::page))
        .get("/docs/{file}", Open, described!(openapi::page::file))
}

/// A failure in the shape of the family of endpoints the path belongs to.
fn shaped(request: &Request, failure: Failure) -> Response {
    let id = request.extensions().get::<request::RequestId>();
    shaped_at(request.uri().path(), id.map_or("", |id| &id.0), failure)
}

fn shaped_at(path: &str, request_id: &str, failure: Failure) -> Response {
    Family::of(path).respond(failure, request_id)
}
