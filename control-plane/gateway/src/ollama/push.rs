//! `POST /api/push`: a model to the registry that its name says.

use crate::auth::Caller;
use crate::error::{Failure, OllamaError};
use crate::layers::{manifest, texts};
use crate::sources::failed;
use crate::transfers::{Key, Steps, TransferProgress};
use crate::{Gateway, body, names};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::access::{Action, Object};
use ollamamax_proto::audit::Note;
use ollamamax_proto::model::ModelVersion;
use ollamamax_sources::push::{self, Content};
use ollamamax_sources::{Layer, Reference, Registry, Source};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// A model to give away.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(examples(json!({"model": "registry.example.com/me/mine"})))]
pub(crate) struct PushRequest {
    /// Its name, which says where it goes: `[host/]namespace/model[:tag]`.
    #[serde(default)]
    model: Option<String>,
    /// The same, as older clients send it.
    #[serde(default)]
    name: Option<String>,
    /// Without TLS, where the operator of the node allows the host.
    #[serde(default)]
    insecure: Option<bool>,
    /// Records as they come, or the last one only.
    #[serde(default)]
    #[schema(default = true)]
    stream: Option<bool>,
}

/// Gives a model to a registry.
#[utoipa::path(post, path = "/api/push", request_body = PushRequest, responses(
    (status = 200, description = "How far it is, a record on each line, or the last only.",
        content((TransferProgress = "application/x-ndjson"), (TransferProgress = "application/json"))),
    (status = 500), (status = 502)))]
pub(crate) async fn push(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    body: Body,
) -> Result<Response, OllamaError> {
    let request: PushRequest = body::json(body, gateway.config.body_bytes).await?;
    let asked = names::named(request.model, request.name)?;
    let reference = Reference::parse(&asked).map_err(failed)?;
    let Source::Registry(repository) = reference.source else {
        return Err(Failure::invalid(
            "a model is pushed to a registry: expected `[host/]namespace/model[:tag]`",
        )
        .into());
    };
    let shown = reference.name.to_string();
    let model = caller.model(&gateway.control.state(), &shown, Action::ManageModels)?;
    // Whoever has its bytes elsewhere can have it answer there.
    caller.check(Action::RunInference, Object::Model(&shown), &shown)?;
    let insecure = request.insecure == Some(true);
    let reach = gateway.reach()?;
    let registry = Registry::new(&reach.http, &reach.credentials, repository, insecure).writable();
    registry.check().map_err(failed)?;
    let key = Key { what: "push", name: shown.clone(), of: asked, insecure };
    let work = Arc::clone(&gateway);
    let note = caller.note("model.push", shown);
    let listener = gateway.transfers.join(key, |steps| async move {
        let outcome = work.push(&registry, &model.version, &steps).await;
        let told = outcome
            .as_ref()
            .map_or_else(|error| format!("failed: {error}"), |()| "done".to_owned());
        work.refusals.add(Note { outcome: told, ..note });
        outcome
    })?;
    Ok(listener.respond(request.stream != Some(false)).await?)
}

impl Gateway {
    async fn push(
        &self,
        registry: &Registry,
        version: &ModelVersion,
        steps: &Steps,
    ) -> Result<(), Failure> {
        steps.step("retrieving manifest");
        let _hold = self.blobs.hold(version.blob);
        let path = self.blobs.open(version.blob).await?;
        let manifest = manifest(version);
        let texts = texts(version).into_iter().map(|(_, content)| content);
        let contents = std::iter::once(Content::File(path)).chain(texts);
        for (layer, content) in manifest.layers.iter().zip(contents) {
            let status = format!("pushing {}", layer.digest.short());
            let tell =
                |layer: &Layer, done| steps.bytes(&status, Some(layer.digest), layer.bytes, done);
            push::layer(registry, layer, &content, &tell).await.map_err(failed)?;
        }
        steps.step("pushing manifest");
        push::manifest(registry, &manifest).await.map_err(failed)?;
        steps.step("success");
        Ok(())
    }
}
