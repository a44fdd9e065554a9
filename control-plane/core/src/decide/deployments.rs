//! How models shall be deployed, set together with the wish to have them loaded: both or nothing.

use super::check;
use super::draft::Draft;
use super::{models, orders};
use crate::change::Change;
use crate::deployment::{Deployment, Strategy};
use crate::record::Demand;
use crate::rejection::Rejection;
use ollamamax_proto::{ModelName, limits};

/// Unlike a renewal it may also want fewer replicas or a shorter context than before: who deploys says what shall be.
pub(super) fn deploy(
    draft: &mut Draft,
    deployment: &Deployment,
    demand: &Demand,
) -> Result<(), Rejection> {
    check_deployment(deployment)?;
    if demand.model != deployment.model {
        let reason = format!("'{}' in the deployment of '{}'", demand.model, deployment.model);
        return Err(check::invalid("demand.model", reason));
    }
    models::demand_exactly(draft, demand)?;
    draft.push(Change::DeploymentPut(Box::new(deployment.clone())));
    Ok(())
}

/// The model goes on being loaded, as if nobody had said how.
pub(super) fn clear(draft: &mut Draft, name: &ModelName) -> Result<(), Rejection> {
    models::find(draft, name)?;
    draft.push(Change::DeploymentRemoved(name.clone()));
    Ok(())
}

/// Somebody may have said another number meanwhile: that counts.
pub(super) fn scale(
    draft: &mut Draft,
    name: &ModelName,
    from: u32,
    to: u32,
) -> Result<(), Rejection> {
    models::find(draft, name)?;
    let Some(deployment) = draft.state().deployments.get(name) else {
        return Err(check::invalid("name", format!("'{name}' is not deployed")));
    };
    if deployment.clamp(to) != to {
        let Deployment { replicas_min, replicas_max, .. } = deployment;
        let reason = format!("{to}, expected {replicas_min} to {replicas_max} as it is deployed");
        return Err(check::invalid("to", reason));
    }
    let demand = draft.state().demands.get(name).filter(|demand| demand.replicas == from);
    if let Some(demand) = demand.cloned() {
        draft.push(Change::DemandPut(Demand { replicas: to, ..demand }));
    }
    Ok(())
}

fn check_deployment(deployment: &Deployment) -> Result<(), Rejection> {
    let Deployment { stages, shards, replicas_min, replicas_max, .. } = *deployment;
    let parts = u64::from(stages.max(1)) * u64::from(shards.max(1));
    if parts > limits::REPLICA_STAGES_COUNT as u64 {
        return Err(check::over("stages of a replica", limits::REPLICA_STAGES_COUNT));
    }
    let whole = deployment.strategy == Strategy::Data;
    if whole && (stages > 1 || shards > 1) {
        return Err(check::invalid(
            "stages",
            "`data` has one; `layer` and `pipeline` have several",
        ));
    }
    if deployment.strategy == Strategy::Auto && (stages > 0 || shards > 0) {
        let reason = "`auto` chooses stages and shards itself; leave them out or name a strategy";
        return Err(check::invalid("stages", reason));
    }
    let split = matches!(deployment.strategy, Strategy::Layer | Strategy::Pipeline);
    if split && stages == 1 {
        let reason = format!("one stage is no `{}`; `data` has one", deployment.strategy);
        return Err(check::invalid("stages", reason));
    }
    if deployment.strategy == Strategy::Tensor && shards == 1 {
        return Err(check::invalid("shards", "one shard is no `tensor`; `layer` cuts no layer"));
    }
    if shards > 1 && deployment.strategy != Strategy::Tensor {
        let reason = format!("`{}` cuts no layer; `tensor` does", deployment.strategy);
        return Err(check::invalid("shards", reason));
    }
    if replicas_min == 0 || replicas_min > replicas_max {
        let reason = format!("{replicas_min} to {replicas_max}, expected 1 or more, ascending");
        return Err(check::invalid("replicas", reason));
    }
    if replicas_max > limits::REPLICAS_COUNT {
        return Err(check::over("replicas", limits::REPLICAS_COUNT as usize));
    }
    if deployment.steps_in_flight as usize > limits::REPLICA_STAGES_COUNT {
        return Err(check::over("steps in flight", limits::REPLICA_STAGES_COUNT));
    }
    check::bytes("balancing", &deployment.balancing, limits::LABEL_CHARS)?;
    if deployment.labels.len() > limits::WORKER_LABELS_COUNT {
        return Err(check::over("labels", limits::WORKER_LABELS_COUNT));
    }
    for (key, value) in &deployment.labels {
        orders::label_part("labels", key)?;
        orders::label_part("labels", value)?;
    }
    Ok(())
}
