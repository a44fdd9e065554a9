//! `POST /admin/v1/models/{name}/deploy`: a model on so many workers, for so long.

use crate::error::{Failure, Problem};
use crate::keep_alive::KeepAlive;
use crate::{Gateway, body, names, stream};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use ollamamax_core::Command;
use ollamamax_core::record::{Demand, Lifetime};
use ollamamax_proto::{Millis, limits};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

#[derive(Debug, Deserialize)]
struct Deploy {
    #[serde(default)]
    replicas: Option<u32>,
    /// Forever when absent: who deploys wants it to stay.
    #[serde(default)]
    keep_alive: Option<KeepAlive>,
    #[serde(default)]
    context_length: Option<u32>,
}

/// The handler; `wait` for the load is the client's business (`cluster` shows the phase). Names may hold slashes, so the
/// whole rest of the path is taken and must end in `/deploy`.
pub(crate) async fn deploy(
    State(gateway): State<Arc<Gateway>>,
    Path(rest): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let name = rest.strip_suffix("/deploy").ok_or(Failure::NoPath)?;
    let bytes = body::read(body, gateway.config.body_bytes).await?;
    let empty = bytes.iter().all(u8::is_ascii_whitespace);
    let deploy: Deploy = body::parse(if empty { b"{}" } else { &bytes })?;
    let model = names::resolve(&gateway.control.state(), name)?;
    let replicas = deploy.replicas.unwrap_or(gateway.config.replicas);
    if replicas == 0 || replicas > limits::REPLICAS_COUNT {
        let limit = limits::REPLICAS_COUNT;
        return Err(
            Failure::invalid(format!("`replicas` is {replicas}, expected 1 to {limit}")).into()
        );
    }
    let keep_alive = deploy.keep_alive.unwrap_or(KeepAlive(-1));
    if keep_alive.is_unload() {
        gateway.unload(&model.name).await?;
        return Ok(stream::plain_json(&json!({"model": model.name, "replicas": 0})));
    }
    let lifetime = match u64::try_from(keep_alive.0) {
        Ok(ms) => Lifetime::Until(Millis::now().plus(ms)),
        Err(_) => Lifetime::Forever,
    };
    let demand = Demand {
        model: model.name.clone(),
        replicas,
        lifetime,
        context_length: deploy.context_length.unwrap_or(0),
        keep_alive_ms: keep_alive.0,
    };
    let outcome = gateway.control.propose(Command::DemandModel { demand }).await?;
    let revision = outcome.revision();
    Ok(stream::plain_json(&json!({
        "model": model.name,
        "replicas": replicas,
        "revision": revision,
    })))
}
