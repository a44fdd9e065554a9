//! `/admin/v1/placement`: who holds what, what the planner would do next, and why.

use super::{shape, trial, versions};
use crate::auth::Caller;
use crate::error::Problem;
use crate::{Gateway, stream};
use axum::extract::{Path, State};
use axum::response::Response;
use ollamamax_core::Command;
use ollamamax_core::access::{Action, Object};
use ollamamax_core::plan::{PlanLimits, explain, rebalance};
use ollamamax_proto::Millis;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// `GET /admin/v1/placement`: deployments, replicas of several stages, placements and moves; `changing` are the models of which
/// the leader is about to place or to drop something.
pub(crate) async fn show(State(gateway): State<Arc<Gateway>>, caller: Caller) -> Response {
    let state = gateway.control.state();
    let deployments: Vec<Value> = state
        .deployments
        .values()
        .filter(|d| caller.sees(&d.model))
        .map(shape::deployment)
        .collect();
    let replicas = state.replicas.values().map(|replica| shape::replica(&state, replica));
    let placements = state.placements.values().filter(|held| caller.sees(&held.assignment.model));
    let placements = placements.map(|held| shape::placement(&state, held));
    let moves = state.migrations.values().filter(|migration| caller.sees(&migration.model)).map(
        |migration| json!({"model": migration.model, "from": migration.from, "to": migration.to}),
    );
    let seen = |name: &String| name.parse().is_ok_and(|name| caller.sees(&name));
    let planned = trial::plan_of(&state, &gateway.control.observed());
    let steps = planned.steps.iter().map(|step| shape::step(&state, step)["model"].clone());
    let mut changing: Vec<String> =
        steps.filter_map(|model| Some(model.as_str()?.to_owned())).filter(|m| seen(m)).collect();
    changing.sort();
    changing.dedup();
    let named = state.versions.values().map(|kept| &kept.model);
    let named: BTreeSet<_> = named.filter(|model| caller.sees(model)).collect();
    let known = named.into_iter().flat_map(|name| versions::of(&state, name));
    stream::plain_json(&json!({
        "revision": state.revision(),
        "changing": changing,
        "versions": known.collect::<Vec<_>>(),
        "deployments": deployments,
        "replicas": replicas.collect::<Vec<_>>(),
        "placements": placements.collect::<Vec<_>>(),
        "migrations": moves.collect::<Vec<_>>(),
    }))
}

/// `GET /admin/v1/placement/plan`: the steps the leader would propose now, and the report.
pub(crate) async fn plan(State(gateway): State<Arc<Gateway>>, caller: Caller) -> Response {
    let state = gateway.control.state();
    let planned = trial::plan_of(&state, &gateway.control.observed());
    let steps = planned.steps.iter().map(|step| shape::step(&state, step));
    let seen = |step: &Value| {
        let model = step["model"].as_str().and_then(|model| model.parse().ok());
        model.is_none_or(|model| caller.sees(&model))
    };
    // The report is in words, with every model in them.
    let sees_all = caller.may(Action::ReadModels, Object::All);
    let report = if sees_all { shape::notes(&planned.report) } else { Vec::new() };
    stream::plain_json(&json!({
        "base": planned.base,
        "steps": steps.filter(seen).collect::<Vec<_>>(),
        "report": report,
    }))
}

/// `GET /admin/v1/placement/explain/{model}`: where the model is, what the planner says of it, and every other way.
pub(crate) async fn explanation(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let state = gateway.control.state();
    let model = caller.model(&state, &name, Action::ReadModels)?.name;
    let now = Millis::now().max(state.counters.clock);
    let (observed, limits) = (gateway.control.observed(), PlanLimits::default());
    let explained = explain(&state, &observed, &limits, now, &model)
        .ok_or_else(|| crate::error::Failure::unknown_model(&name))?;
    let (best, others) = match &explained.choice {
        Ok(choice) => {
            let others = choice.others.iter().map(|other| shape::other(&state, other));
            (json!({"map": shape::map(&state, &choice.map)}), others.collect())
        }
        Err(misfit) => (json!({"refused": misfit.to_string()}), Vec::new()),
    };
    let held = state.placements.values().filter(|held| held.assignment.model == model);
    let held = held.map(|held| shape::placement(&state, held));
    Ok(stream::plain_json(&json!({
        "model": model,
        "deployment": state.deployments.get(&model).map(shape::deployment),
        "replicas_wanted": state.demands.get(&model).map(|demand| demand.replicas),
        "context_length": explained.context,
        "placements": held.collect::<Vec<_>>(),
        "report": shape::notes(&explained.notes),
        "best": best,
        "others": others,
    })))
}

/// `POST /admin/v1/rebalance`: sets the few moves on their way that even out what the workers hold.
pub(crate) async fn even_out(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
) -> Result<Response, Problem> {
    let state = gateway.control.linearizable().await?;
    let now = Millis::now().max(state.counters.clock);
    let mut moves = Vec::new();
    for migration in rebalance(&state, &gateway.control.observed(), &PlanLimits::default(), now) {
        let (name, from, to) = (migration.model, migration.from, migration.to);
        moves.push(json!({"model": name, "from": from, "to": to}));
        let command = Command::MigrateModel { name: name.clone(), from, to };
        caller.propose(&gateway, "model.migrate", name, command).await?;
    }
    Ok(stream::plain_json(&json!({"moves": moves})))
}
