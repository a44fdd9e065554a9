//! Who runs what: plans change it, reports confirm it.

use super::check;
use super::draft::Draft;
use super::{models, orders, replicas, workers};
use crate::change::Change;
use crate::command::{PlanStep, Transition};
use crate::record::Placement;
use crate::rejection::Rejection;
use ollamamax_proto::placement::{Assignment, Phase, Stage, WorkerStatus};
use ollamamax_proto::{AssignmentId, Incarnation, Revision, WorkerId, limits};

/// All steps or none. Memory is the planner's business, not checked here: its formula may change
/// between versions of the program, and nodes of two versions must decide alike.
pub(super) fn apply_plan(
    draft: &mut Draft,
    base: Revision,
    steps: &[PlanStep],
) -> Result<(), Rejection> {
    let current = draft.state().counters.placement_revision;
    if base != current {
        return Err(Rejection::StalePlan { base, current });
    }
    if steps.len() > limits::PLAN_STEPS_COUNT {
        return Err(check::over("steps of a plan", limits::PLAN_STEPS_COUNT));
    }
    let mut gave = false;
    for step in steps {
        if !step.takes() && !std::mem::replace(&mut gave, true) {
            // A model that has left a worker may come back to it in the same plan.
            orders::settle(draft);
        }
        match step {
            PlanStep::Assign { worker, assignment } => {
                let version = draft.state().wanted_version(&assignment.model, assignment.blob);
                let layers = version.map_or(0, |version| version.facts.layers);
                if layers > 0 && !assignment.stage.is_whole(layers) {
                    let reason = "a part of a model outside of a replica";
                    return Err(check::invalid("stage", reason));
                }
                assign(draft, *worker, assignment)?;
            }
            PlanStep::Unassign { id } => {
                if !draft.state().placements.contains_key(id) {
                    return Err(Rejection::UnknownAssignment(*id));
                }
                draft.drop_placements(|placement| placement.assignment.id == *id);
            }
            PlanStep::AddReplica { replica } => replicas::add(draft, replica)?,
            PlanStep::RemoveReplica { id } => replicas::remove(draft, *id)?,
            PlanStep::Release { model } => models::release(draft, model)?,
        }
    }
    Ok(())
}

/// Reports of what is no longer assigned, or in an older generation, are late, not wrong: they are
/// passed over.
pub(super) fn report(
    draft: &mut Draft,
    worker: WorkerId,
    incarnation: Incarnation,
    transitions: &[Transition],
) -> Result<(), Rejection> {
    let known = workers::find(draft, worker)?;
    if known.incarnation != incarnation {
        return Err(workers::stale(&known, incarnation));
    }
    for transition in transitions {
        let Some(placement) = draft.state().placements.get(&transition.id) else { continue };
        let mine = placement.worker == worker;
        if !mine || placement.assignment.generation != transition.generation {
            continue;
        }
        let phase = match &transition.phase {
            Phase::Failed { reason } => Phase::Failed { reason: check::cut_reason(reason) },
            phase => phase.clone(),
        };
        let since = if phase == placement.phase { placement.since } else { draft.now() };
        let placement = Placement {
            assignment: placement.assignment.clone(),
            worker,
            phase,
            since,
            resident_bytes: transition.resident_bytes,
            load_ns: transition.load_ns,
        };
        draft.push(Change::PlacementPut(placement));
    }
    Ok(())
}

/// Gives `worker` what is wanted, under a fresh id, which it returns.
pub(super) fn assign(
    draft: &mut Draft,
    worker: WorkerId,
    wanted: &Assignment,
) -> Result<AssignmentId, Rejection> {
    let record = workers::find(draft, worker)?;
    if record.status != WorkerStatus::Ready {
        let reason = format!("worker `{worker}` is {}, expected ready", record.status);
        return Err(check::invalid("worker", reason));
    }
    let current = &models::find(draft, &wanted.model)?.version;
    let version = draft.state().wanted_version(&wanted.model, wanted.blob).unwrap_or(current);
    if version.blob != wanted.blob || version.blob_bytes != wanted.blob_bytes {
        let reason = format!(
            "model '{}' is {} now, expected by the plan {}",
            wanted.model, version.blob, wanted.blob
        );
        return Err(check::invalid("blob", reason));
    }
    check_stage(&wanted.stage, version.facts.layers)?;
    if wanted.context_length == 0 {
        return Err(check::invalid("context_length", "expected at least 1"));
    }
    if wanted.sequences_max == 0 || wanted.sequences_max > limits::SEQUENCES_COUNT {
        let reason = format!("expected 1 to {}", limits::SEQUENCES_COUNT);
        return Err(check::invalid("sequences_max", reason));
    }
    let held = draft.state().placements.values().any(|held| {
        held.worker == worker
            && held.assignment.model == wanted.model
            && held.assignment.blob == wanted.blob
            && held.assignment.stage == wanted.stage
    });
    if held {
        let reason = format!("worker `{worker}` holds this stage of '{}' already", wanted.model);
        return Err(check::invalid("stage", reason));
    }
    if draft.state().placements.len() >= limits::PLACEMENTS_COUNT {
        return Err(check::over("placements", limits::PLACEMENTS_COUNT));
    }
    let id = draft.next_assignment();
    let generation = draft.next_generation();
    draft.push(Change::PlacementPut(Placement {
        assignment: Assignment { id, generation, ..wanted.clone() },
        worker,
        phase: Phase::Pending,
        since: draft.now(),
        resident_bytes: 0,
        load_ns: 0,
    }));
    Ok(id)
}

fn check_stage(stage: &Stage, layers: u32) -> Result<(), Rejection> {
    if stage.first_layer > stage.end_layer || stage.end_layer > layers {
        let (first, end) = (stage.first_layer, stage.end_layer);
        let reason = format!("layers {first} to {end} of a model of {layers}");
        return Err(check::invalid("stage", reason));
    }
    if stage.shard >= stage.shards {
        let reason = format!("shard {} of {}", stage.shard, stage.shards);
        return Err(check::invalid("stage", reason));
    }
    Ok(())
}
