//! `/admin/v1/models/{name}/...`: a model deployed so, on so many workers, for so long; and moved.

use super::versions::Shift;
use super::{shape, trial, workers};
use crate::auth::Caller;
use crate::error::{Failure, Problem};
use crate::keep_alive::KeepAlive;
use crate::request::Asker;
use crate::{Gateway, body, stream};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use ollamamax_core::Command;
use ollamamax_core::access::Action;
use ollamamax_core::deployment::{Deployment, Policy, Strategy};
use ollamamax_core::record::{Demand, Lifetime, ModelRecord};
use ollamamax_core::route;
use ollamamax_proto::placement::Activations;
use ollamamax_proto::{Millis, limits};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Deploy {
    #[serde(default)]
    replicas: Option<u32>,
    #[serde(default)]
    replicas_max: Option<u32>,
    /// Forever when absent: who deploys wants it to stay.
    #[serde(default)]
    keep_alive: Option<KeepAlive>,
    #[serde(default)]
    context_length: Option<u32>,
    #[serde(default)]
    strategy: Option<String>,
    #[serde(default)]
    stages: Option<u32>,
    #[serde(default)]
    shards: Option<u32>,
    #[serde(default)]
    activations: Option<Activations>,
    #[serde(default)]
    steps_in_flight: Option<u32>,
    #[serde(default)]
    balancing: Option<String>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    policy: Option<Policy>,
    /// Digest of one of its versions, or the beginning of one; the current one when absent.
    #[serde(default)]
    version: Option<String>,
    /// Percent of the requests for that version.
    #[serde(default)]
    weight: Option<u32>,
    /// Back to the version before.
    #[serde(default)]
    rollback: bool,
}

impl Deploy {
    /// Whether it says how the model is spread, and not only on how many workers.
    fn spreads(&self) -> bool {
        self.strategy.is_some()
            || self.replicas_max.is_some()
            || self.stages.is_some()
            || self.shards.is_some()
            || self.activations.is_some()
            || self.steps_in_flight.is_some()
            || self.balancing.is_some()
            || self.labels.is_some()
            || self.policy.is_some()
    }

    /// What is asked about versions.
    fn shift(&self) -> Shift {
        Shift { version: self.version.clone(), weight: self.weight, rollback: self.rollback }
    }

    /// Whether it says anything of replicas and how long.
    fn demands(&self) -> bool {
        self.replicas.is_some() || self.keep_alive.is_some() || self.context_length.is_some()
    }

    fn deployment(&self, model: &ModelRecord, replicas: u32) -> Result<Deployment, Failure> {
        let strategy = self.strategy.as_deref().map(str::parse).transpose();
        let strategy = strategy.map_err(|text: String| Failure::invalid(text))?;
        let balancing = self.balancing.clone().unwrap_or_default();
        if !balancing.is_empty() {
            let known = balancing.parse::<route::Policy>();
            known.map_err(|error| Failure::invalid(error.to_string()))?;
        }
        let shape = match (self.stages, self.shards) {
            (_, Some(_)) => Strategy::Tensor,
            (Some(_), None) => Strategy::Pipeline,
            (None, None) => Strategy::Auto,
        };
        Ok(Deployment {
            strategy: strategy.unwrap_or(shape),
            stages: self.stages.unwrap_or(0),
            shards: self.shards.unwrap_or(0),
            replicas_min: replicas,
            replicas_max: self.replicas_max.unwrap_or(replicas),
            activations: self.activations.unwrap_or_default(),
            steps_in_flight: self.steps_in_flight.unwrap_or(0),
            balancing,
            labels: self.labels.clone().unwrap_or_default(),
            policy: self.policy.unwrap_or_default(),
            ..Deployment::of(model.name.clone())
        })
    }
}

/// `POST /admin/v1/models/{name}/deploy` and `.../migrate`. Names may hold slashes, so the whole rest of the path is taken.
pub(crate) async fn post(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(rest): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    if let Some(name) = rest.strip_suffix("/deploy") {
        return deploy(&gateway, &caller, name, body).await;
    }
    let name = rest.strip_suffix("/migrate").ok_or(Failure::NoPath)?;
    migrate(&gateway, &caller, name, body).await
}

/// `DELETE /admin/v1/models/{name}/deploy`: nobody says any more how it is spread; it stays loaded.
pub(crate) async fn clear(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(rest): Path<String>,
) -> Result<Response, Problem> {
    let name = rest.strip_suffix("/deploy").ok_or(Failure::NoPath)?;
    let name = caller.model(&gateway.control.state(), name, Action::ManageModels)?.name;
    let command = Command::ClearDeployment { name: name.clone() };
    let proposed = caller.propose(&gateway, "model.deploy.clear", &name, command);
    let revision = proposed.await?.revision();
    Ok(stream::plain_json(&json!({"model": name, "revision": revision})))
}

/// `wait` for the load is the client's business (`cluster` shows the phase). What could not serve is refused with the
/// reason, and then nothing has changed.
async fn deploy(
    gateway: &Gateway,
    caller: &Caller,
    name: &str,
    body: Body,
) -> Result<Response, Problem> {
    let bytes = body::read(body, gateway.config.body_bytes).await?;
    let empty = bytes.iter().all(u8::is_ascii_whitespace);
    let deploy: Deploy = body::parse(if empty { b"{}" } else { &bytes })?;
    let state = gateway.control.state();
    let model = caller.model(&state, name, Action::ManageModels)?;
    let shift = deploy.shift();
    if shift.asks() {
        if deploy.spreads() || deploy.demands() {
            let reason = "`version`, `weight` and `rollback` change which version serves, the other fields how; \
                          ask for one after the other";
            return Err(Failure::invalid(reason).into());
        }
        return shift.propose(gateway, caller, &model).await;
    }
    let usual = if deploy.spreads() { 1 } else { gateway.config.replicas };
    let replicas = deploy.replicas.unwrap_or(usual);
    if replicas == 0 || replicas > limits::REPLICAS_COUNT {
        let limit = limits::REPLICAS_COUNT;
        return Err(
            Failure::invalid(format!("`replicas` is {replicas}, expected 1 to {limit}")).into()
        );
    }
    let keep_alive = deploy.keep_alive.unwrap_or(KeepAlive(-1));
    if keep_alive.is_unload() {
        let asker = Asker { by: caller.note("", ""), ..Asker::default() };
        gateway.unload(&asker, &model.name).await?;
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
        context_length: deploy.context_length.unwrap_or(gateway.config.context_tokens),
        keep_alive_ms: keep_alive.0,
    };
    if !deploy.spreads() {
        let command = Command::DemandModel { demand };
        let outcome = caller.propose(gateway, "model.deploy", &model.name, command).await?;
        return Ok(stream::plain_json(&json!({
            "model": model.name,
            "replicas": replicas,
            "revision": outcome.revision(),
        })));
    }
    let deployment = deploy.deployment(&model, replicas)?;
    let notes = trial::deploy(&state, &deployment, &demand)?;
    let shown = shape::deployment(&deployment);
    let command = Command::Deploy { deployment: Box::new(deployment), demand };
    let proposed = caller.propose(gateway, "model.deploy", &model.name, command);
    let revision = proposed.await?.revision();
    Ok(stream::plain_json(&json!({
        "model": model.name,
        "replicas": replicas,
        "revision": revision,
        "deployment": shown,
        "report": shape::notes(&notes),
    })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Migrate {
    from: String,
    to: String,
}

async fn migrate(
    gateway: &Gateway,
    caller: &Caller,
    name: &str,
    body: Body,
) -> Result<Response, Problem> {
    let Migrate { from, to } = body::json(body, gateway.config.body_bytes).await?;
    let state = gateway.control.state();
    let name = caller.model(&state, name, Action::ManageModels)?.name;
    let (from, to) = (workers::find(&state, &from)?.id, workers::find(&state, &to)?.id);
    trial::migrate(&state, &name, from, to)?;
    let command = Command::MigrateModel { name: name.clone(), from, to };
    let proposed = caller.propose(gateway, "model.migrate", &name, command);
    let revision = proposed.await?.revision();
    Ok(stream::plain_json(&json!({"model": name, "from": from, "to": to, "revision": revision})))
}
