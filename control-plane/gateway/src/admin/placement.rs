//! `/admin/v1/placement`: who holds what, what the planner would do next, and why.

use super::shape::{self, Best, Deployment, Other, Placement, Replica, Step};
use super::versions::{self, VersionShown};
use super::{models::Move, trial};
use crate::auth::Caller;
use crate::error::Problem;
use crate::request::Path;
use crate::{Gateway, stream};
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::Command;
use ollamamax_core::access::{Action, Object};
use ollamamax_core::plan::{PlanLimits, explain, rebalance};
use ollamamax_proto::{Millis, ModelName, Revision};
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;
use utoipa::ToSchema;

/// Who holds what.
#[derive(Serialize, ToSchema)]
#[schema(as = Placements)]
pub(crate) struct Shown {
    /// Of the state it was read from.
    #[schema(value_type = u64)]
    revision: Revision,
    /// Models of which the leader is about to place or to drop something.
    changing: Vec<String>,
    /// Of models that have several.
    versions: Vec<VersionShown>,
    deployments: Vec<Deployment>,
    /// Those over several workers.
    replicas: Vec<Replica>,
    placements: Vec<Placement>,
    migrations: Vec<Move>,
}

/// Tells who holds what: deployments, replicas of several stages, placements and moves.
#[utoipa::path(get, path = "/admin/v1/placement",
    responses((status = 200, description = "What the caller may see of it.", body = Shown)))]
pub(crate) async fn show(State(gateway): State<Arc<Gateway>>, caller: Caller) -> Response {
    let state = gateway.control.state();
    let deployments: Vec<Deployment> = state
        .deployments
        .values()
        .filter(|d| caller.sees(&d.model))
        .map(shape::deployment)
        .collect();
    let replicas = state.replicas.values().map(|replica| shape::replica(&state, replica));
    let placements = state.placements.values().filter(|held| caller.sees(&held.assignment.model));
    let placements = placements.map(|held| shape::placement(&state, held));
    let moves = state.migrations.values().filter(|migration| caller.sees(&migration.model)).map(
        |migration| Move { model: migration.model.clone(), from: migration.from, to: migration.to },
    );
    let seen = |name: &String| name.parse().is_ok_and(|name| caller.sees(&name));
    let planned = trial::plan_of(&state, &gateway.control.observed());
    let steps = planned.steps.iter().map(|step| shape::step(&state, step).model());
    let mut changing: Vec<String> = steps.flatten().filter(seen).collect();
    changing.sort();
    changing.dedup();
    let named = state.versions.values().map(|kept| &kept.model);
    let named: BTreeSet<_> = named.filter(|model| caller.sees(model)).collect();
    let known = named.into_iter().flat_map(|name| versions::of(&state, name));
    stream::plain_json(&Shown {
        revision: state.revision(),
        changing,
        versions: known.collect(),
        deployments,
        replicas: replicas.collect(),
        placements: placements.collect(),
        migrations: moves.collect(),
    })
}

/// What the leader would propose now.
#[derive(Serialize, ToSchema)]
#[schema(as = Plan)]
pub(crate) struct Planned {
    /// The revision of the placements it is for.
    #[schema(value_type = u64)]
    base: Revision,
    steps: Vec<Step>,
    /// Why, line by line; for who may see every model.
    report: Vec<String>,
}

/// Tells the steps the leader would propose now, and why.
#[utoipa::path(get, path = "/admin/v1/placement/plan", responses((status = 200, description = "The plan.", body = Planned)))]
pub(crate) async fn plan(State(gateway): State<Arc<Gateway>>, caller: Caller) -> Response {
    let state = gateway.control.state();
    let planned = trial::plan_of(&state, &gateway.control.observed());
    let steps = planned.steps.iter().map(|step| shape::step(&state, step));
    let seen = |step: &Step| {
        let model = step.model().and_then(|model| model.parse().ok());
        model.is_none_or(|model| caller.sees(&model))
    };
    // The report is in words, with every model in them.
    let sees_all = caller.may(Action::ReadModels, Object::All);
    let report = if sees_all { shape::notes(&planned.report) } else { Vec::new() };
    stream::plain_json(&Planned { base: planned.base, steps: steps.filter(seen).collect(), report })
}

/// Why a model is where it is.
#[derive(Serialize, ToSchema)]
#[schema(as = PlacementExplained)]
pub(crate) struct Explained {
    #[schema(value_type = String)]
    model: ModelName,
    /// Where somebody has said how it is spread.
    deployment: Option<Deployment>,
    replicas_wanted: Option<u32>,
    /// Tokens of a sequence.
    context_length: u32,
    placements: Vec<Placement>,
    /// What the planner says of it.
    report: Vec<String>,
    best: Best,
    /// Every other way.
    others: Vec<Other>,
}

/// Tells where a model is, what the planner says of it, and every other way.
#[utoipa::path(get, path = "/admin/v1/placement/explain/{model}", params(("model" = String, Path, example = "smollm2:135m")),
    responses((status = 200, description = "Why it is there.", body = Explained)))]
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
            let map = Some(shape::map(&state, &choice.map));
            (Best { map, refused: None }, others.collect())
        }
        Err(misfit) => {
            let refused = Some(misfit.to_string());
            (Best { map: None, refused }, Vec::new())
        }
    };
    let held = state.placements.values().filter(|held| held.assignment.model == model);
    let held = held.map(|held| shape::placement(&state, held));
    Ok(stream::plain_json(&Explained {
        deployment: state.deployments.get(&model).map(shape::deployment),
        replicas_wanted: state.demands.get(&model).map(|demand| demand.replicas),
        context_length: explained.context,
        placements: held.collect(),
        report: shape::notes(&explained.notes),
        best,
        others,
        model,
    }))
}

/// Moves that are on their way.
#[derive(Serialize, ToSchema)]
pub(crate) struct Moves {
    moves: Vec<Move>,
}

/// Sets the few moves on their way that even out what the workers hold.
#[utoipa::path(post, path = "/admin/v1/rebalance", responses((status = 200, description = "The moves.", body = Moves)))]
pub(crate) async fn even_out(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
) -> Result<Response, Problem> {
    let state = gateway.control.linearizable().await?;
    let now = Millis::now().max(state.counters.clock);
    let mut moves = Vec::new();
    for migration in rebalance(&state, &gateway.control.observed(), &PlanLimits::default(), now) {
        let (name, from, to) = (migration.model, migration.from, migration.to);
        moves.push(Move { model: name.clone(), from, to });
        let command = Command::MigrateModel { name: name.clone(), from, to };
        caller.propose(&gateway, "model.migrate", name, command).await?;
    }
    Ok(stream::plain_json(&Moves { moves }))
}
