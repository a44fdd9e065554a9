//! `/admin/v1/models/{name}/...`: a model deployed so, on so many workers, for so long; and moved.

use super::shape::{self, Deployment as Spread};
use super::versions::{Shift, Shifted};
use super::{trial, workers};
use crate::auth::Caller;
use crate::error::{Failure, Problem};
use crate::keep_alive::KeepAlive;
use crate::openapi::shapes;
use crate::request::{Asker, Path};
use crate::{Gateway, body, stream};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::Command;
use ollamamax_core::access::Action;
use ollamamax_core::deployment::{Deployment, Policy, Strategy};
use ollamamax_core::record::{Demand, Lifetime, ModelRecord};
use ollamamax_core::route;
use ollamamax_proto::placement::Activations;
use ollamamax_proto::{Millis, ModelName, Revision, WorkerId, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::ToSchema;

/// How a model shall serve: either on how many workers and how it is spread, or which version.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DeployRequest, examples(json!({"replicas": 2, "strategy": "pipeline", "stages": 2})))]
pub(crate) struct Deploy {
    #[serde(default)]
    replicas: Option<u32>,
    /// As many there may be when it is busy.
    #[serde(default)]
    replicas_max: Option<u32>,
    /// Forever when absent: who deploys wants it to stay.
    #[serde(default)]
    #[schema(schema_with = shapes::keep_alive)]
    keep_alive: Option<KeepAlive>,
    /// Tokens of a sequence.
    #[serde(default)]
    context_length: Option<u32>,
    /// `auto`, `data`, `layer`, `pipeline` or `tensor`.
    #[serde(default)]
    #[schema(examples("auto"))]
    strategy: Option<String>,
    /// Parts of its layers.
    #[serde(default)]
    stages: Option<u32>,
    /// Parts of each layer.
    #[serde(default)]
    shards: Option<u32>,
    /// `f32`, or `bf16` for slow networks.
    #[serde(default)]
    #[schema(value_type = Option<String>, examples("bf16"))]
    activations: Option<Activations>,
    /// Steps of several sequences under way in a pipeline.
    #[serde(default)]
    steps_in_flight: Option<u32>,
    /// `round-robin`, `weighted`, `least-tokens`, `latency` or `prefix`.
    #[serde(default)]
    #[schema(examples("prefix"))]
    balancing: Option<String>,
    /// What its workers must have.
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    /// What it shall be best at: `latency` or `throughput`.
    #[serde(default)]
    #[schema(value_type = Option<String>, examples("latency"))]
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

/// A model as it is deployed.
#[derive(Serialize, ToSchema)]
pub(crate) struct Deployed {
    #[schema(value_type = String)]
    model: ModelName,
    replicas: u32,
    /// Of the state it is in; none where it was unloaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    revision: Option<Revision>,
    /// Where it was said how it is spread.
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment: Option<Spread>,
    /// What the planner says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<Vec<String>>,
}

/// What is answered to who deploys.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it stands in the description for one of its variants")]
pub(crate) enum DeployAnswer {
    /// How it is deployed.
    Deployed(Box<Deployed>),
    /// Which version serves.
    Shifted(Shifted),
}

/// What was changed, and when.
#[derive(Serialize, ToSchema)]
#[schema(as = ModelChanged)]
pub(crate) struct Changed {
    #[schema(value_type = String)]
    model: ModelName,
    /// Of the state it is in.
    #[schema(value_type = u64)]
    revision: Revision,
}

/// A model on its way from worker to worker.
#[derive(Serialize, ToSchema)]
#[schema(as = Migration)]
pub(crate) struct Move {
    #[schema(value_type = String)]
    pub model: ModelName,
    #[schema(value_type = String)]
    pub from: WorkerId,
    #[schema(value_type = String)]
    pub to: WorkerId,
}

/// The same, begun.
#[derive(Serialize, ToSchema)]
#[schema(as = MigrationBegun)]
pub(crate) struct Moved {
    #[serde(flatten)]
    r#move: Move,
    /// Of the state it is in.
    #[schema(value_type = u64)]
    revision: Revision,
}

/// Names may hold slashes, so the whole rest of the path is taken.
pub(crate) async fn post(
    gateway: State<Arc<Gateway>>,
    caller: Caller,
    Path(rest): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    if let Some(name) = rest.strip_suffix("/deploy") {
        return deploy(gateway, caller, Path(name.to_owned()), body).await;
    }
    let name = rest.strip_suffix("/migrate").ok_or(Failure::NoPath)?;
    migrate(gateway, caller, Path(name.to_owned()), body).await
}

/// Forgets how a model shall be spread; it stays loaded.
#[utoipa::path(delete, path = "/admin/v1/models/{name}/deploy", params(("name" = String, Path, example = "smollm2:135m")),
    responses((status = 200, description = "It is forgotten.", body = Changed)))]
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
    Ok(stream::plain_json(&Changed { model: name, revision }))
}

/// Says on how many workers a model shall be and how it is spread, or which of its versions serves.
///
/// Whoever waits until it is loaded asks for its placement. What could not serve is refused with the reason, and then nothing
/// has changed.
#[utoipa::path(post, path = "/admin/v1/models/{name}/deploy", params(("name" = String, Path, example = "smollm2:135m")),
    request_body = Option<Deploy>, responses((status = 200, description = "How it is deployed.", body = DeployAnswer)))]
pub(crate) async fn deploy(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(name): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let bytes = body::read(body, gateway.config.body_bytes).await?;
    let empty = bytes.iter().all(u8::is_ascii_whitespace);
    let deploy: Deploy = body::parse(if empty { b"{}" } else { &bytes })?;
    let state = gateway.control.state();
    let model = caller.model(&state, &name, Action::ManageModels)?;
    let shift = deploy.shift();
    if shift.asks() {
        if deploy.spreads() || deploy.demands() {
            let reason = "`version`, `weight` and `rollback` change which version serves, the other fields how; \
                          ask for one after the other";
            return Err(Failure::invalid(reason).into());
        }
        return shift.propose(&gateway, &caller, &model).await;
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
        return Ok(stream::plain_json(&Deployed::of(&model, 0)));
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
        let outcome = caller.propose(&gateway, "model.deploy", &model.name, command).await?;
        let revision = Some(outcome.revision());
        let deployed = Deployed { revision, ..Deployed::of(&model, replicas) };
        return Ok(stream::plain_json(&deployed));
    }
    let deployment = deploy.deployment(&model, replicas)?;
    let notes = trial::deploy(&state, &deployment, &demand)?;
    let shown = shape::deployment(&deployment);
    let command = Command::Deploy { deployment: Box::new(deployment), demand };
    let proposed = caller.propose(&gateway, "model.deploy", &model.name, command);
    let revision = Some(proposed.await?.revision());
    let (deployment, report) = (Some(shown), Some(shape::notes(&notes)));
    let deployed = Deployed { revision, deployment, report, ..Deployed::of(&model, replicas) };
    Ok(stream::plain_json(&deployed))
}

impl Deployed {
    fn of(model: &ModelRecord, replicas: u32) -> Self {
        let model = model.name.clone();
        Self { model, replicas, revision: None, deployment: None, report: None }
    }
}

/// From where to where: names of workers, their ids, or the beginning of one.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MigrateRequest, examples(json!({"from": "worker-1", "to": "worker-2"})))]
pub(crate) struct Migrate {
    from: String,
    to: String,
}

/// Moves a model from a worker to another.
#[utoipa::path(post, path = "/admin/v1/models/{name}/migrate", params(("name" = String, Path, example = "smollm2:135m")),
    request_body = Migrate, responses((status = 200, description = "It is on its way.", body = Moved)))]
pub(crate) async fn migrate(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(name): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let Migrate { from, to } = body::json(body, gateway.config.body_bytes).await?;
    let state = gateway.control.state();
    let name = caller.model(&state, &name, Action::ManageModels)?.name;
    let (from, to) = (workers::find(&state, &from)?, workers::find(&state, &to)?);
    trial::migrate(&state, &name, from, to)?;
    let command = Command::MigrateModel { name: name.clone(), from, to };
    let proposed = caller.propose(&gateway, "model.migrate", &name, command);
    let revision = proposed.await?.revision();
    let r#move = Move { model: name, from, to };
    Ok(stream::plain_json(&Moved { r#move, revision }))
}
