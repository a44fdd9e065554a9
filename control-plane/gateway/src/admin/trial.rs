//! A command and the plan after it, tried on a copy of the state: what would not lead anywhere is refused before anything
//! changes.

use crate::error::Failure;
use ollamamax_core::command::PlanStep;
use ollamamax_core::deployment::{Deployment, Strategy};
use ollamamax_core::plan::partition::Misfit;
use ollamamax_core::plan::{Note, Observed, Plan, PlanLimits, Why, plan};
use ollamamax_core::record::Demand;
use ollamamax_core::{Command, Entry, State as Snapshot, apply};
use ollamamax_proto::{Millis, ModelName, WorkerId};

/// Shortest context that is offered in place of one that does not fit, in tokens.
const CONTEXT_LEAST: u32 = 256;

/// The plan of now.
pub(super) fn plan_of(state: &Snapshot, observed: &Observed) -> Plan {
    let now = Millis::now().max(state.counters.clock);
    plan(state, observed, &PlanLimits::default(), now)
}

/// The plan after `command`.
pub(super) fn after(state: &Snapshot, command: Command) -> Result<Plan, Failure> {
    let mut trial = state.clone();
    let at = Millis::now().max(state.counters.clock);
    apply(&mut trial, &Entry { index: 0, at, command }).0?;
    Ok(plan_of(&trial, &Observed::default()))
}

/// Refuses a deployment of which no replica could serve, and says what would. The notes on it otherwise.
pub(super) fn deploy(
    state: &Snapshot,
    deployment: &Deployment,
    demand: &Demand,
) -> Result<Vec<Note>, Failure> {
    let attempt = |deployment: &Deployment, demand: &Demand| {
        let deployment = Box::new(deployment.clone());
        after(state, Command::Deploy { deployment, demand: demand.clone() })
    };
    let planned = attempt(deployment, demand)?;
    // During a rollout the old version serves, whatever the new one waits for.
    let rolls = state.rollouts.contains_key(&deployment.model);
    let refused = refusal(&planned, &deployment.model, demand.replicas).filter(|_| !rolls);
    let Some(refusal) = refused else {
        let about = |note: &Note| *note.model() == deployment.model;
        return Ok(planned.report.into_iter().filter(about).collect());
    };
    let works = |deployment: &Deployment, demand: &Demand| {
        attempt(deployment, demand).is_ok_and(|planned| comes(&planned, &demand.model))
    };
    let other = |strategy| Deployment { strategy, stages: 0, shards: 0, ..deployment.clone() };
    let others = [Strategy::Data, Strategy::Layer, Strategy::Tensor];
    let other = others
        .into_iter()
        .filter(|strategy| *strategy != deployment.strategy)
        .find(|strategy| works(&other(*strategy), demand));
    if let Some(strategy) = other {
        return Err(Failure::invalid(format!("{refusal}; `{strategy}` would work")));
    }
    let mut context = if demand.context_length == 0 {
        PlanLimits::default().context_tokens
    } else {
        demand.context_length
    };
    while context / 2 >= CONTEXT_LEAST {
        context /= 2;
        if works(deployment, &Demand { context_length: context, ..demand.clone() }) {
            let hint = format!("{refusal}; a context of {context} tokens would fit");
            return Err(Failure::invalid(hint));
        }
    }
    Err(Failure::invalid(refusal))
}

fn refusal(planned: &Plan, model: &ModelName, replicas: u32) -> Option<String> {
    refusal_of(planned, model, replicas).map(|why| format!("model '{model}': {why}"))
}

/// Whether a replica of the model is placed.
fn comes(planned: &Plan, model: &ModelName) -> bool {
    planned.steps.iter().any(|step| match step {
        PlanStep::Assign { assignment, .. } => assignment.model == *model,
        PlanStep::AddReplica { replica } => replica.model == *model,
        _ => false,
    })
}

/// Why no replica would serve: a lack of workers passes, what cannot be does not.
fn refusal_of<'a>(planned: &'a Plan, model: &ModelName, replicas: u32) -> Option<&'a Why> {
    let comes = comes(planned, model);
    planned.report.iter().find_map(|note| match note {
        Note::Waits { model: waits, replicas: missing, why }
            if waits == model && !comes && *missing >= replicas as usize =>
        {
            let cannot_be = matches!(
                why,
                Why::Memory { .. }
                    | Why::Misfit(
                        Misfit::Memory { .. }
                            | Misfit::Stages { .. }
                            | Misfit::Shards { .. }
                            | Misfit::Torn { .. }
                            | Misfit::Unknown { .. }
                            | Misfit::Label { .. }
                            | Misfit::Workers { .. }
                            | Misfit::Encoder
                    )
            );
            cannot_be.then_some(why)
        }
        _ => None,
    })
}

/// Refuses a move to a worker that has no room.
pub(super) fn migrate(
    state: &Snapshot,
    model: &ModelName,
    from: WorkerId,
    to: WorkerId,
) -> Result<(), Failure> {
    let command = Command::MigrateModel { name: model.clone(), from, to };
    let planned = after(state, command)?;
    let goes = |step: &PlanStep| {
        matches!(step, PlanStep::Assign { worker, assignment }
            if *worker == to && assignment.model == *model)
    };
    if planned.steps.iter().any(goes) {
        return Ok(());
    }
    let name = state.workers.get(&to).map_or("it", |worker| worker.name.as_str());
    Err(Failure::invalid(format!(
        "worker `{name}` cannot take model '{model}': it lacks the room or a label; `placement \
         explain {model}` shows who could"
    )))
}
