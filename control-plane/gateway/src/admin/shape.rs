//! What the planner says, as JSON.

use ollamamax_core::State as Snapshot;
use ollamamax_core::command::PlanStep;
use ollamamax_core::deployment::Deployment;
use ollamamax_core::plan::partition::{Map, Other, Part};
use ollamamax_core::plan::{Note, predicted_bytes};
use ollamamax_core::record::Placement;
use ollamamax_core::replica::ReplicaRecord;
use ollamamax_proto::WorkerId;
use ollamamax_proto::placement::{Phase, Stage};
use serde_json::{Value, json};

/// A partition and what it promises.
pub(super) fn map(state: &Snapshot, map: &Map) -> Value {
    let part = |part: &Part| {
        json!({
            "worker": part.worker,
            "name": worker_name(state, part.worker),
            "stage": stage(&part.stage),
            "heads": [part.first_head, part.end_head],
            "bytes": part.bytes,
        })
    };
    json!({
        "text": map.to_string(),
        "strategy": map.form.strategy,
        "stages": map.form.stages,
        "shards": map.form.shards,
        "latency_us": map.latency_ns / 1_000,
        "pace_us": map.pace_ns / 1_000,
        "parts": map.parts.iter().map(part).collect::<Vec<_>>(),
    })
}

/// A partition that was not taken, or cannot be.
pub(super) fn other(state: &Snapshot, other: &Other) -> Value {
    match &other.map {
        Ok(found) => json!({"form": other.form.to_string(), "map": map(state, found)}),
        Err(misfit) => json!({"form": other.form.to_string(), "refused": misfit.to_string()}),
    }
}

/// Lines of a report.
pub(super) fn notes<'a>(notes: impl IntoIterator<Item = &'a Note>) -> Vec<String> {
    notes.into_iter().map(ToString::to_string).collect()
}

/// One step of a plan.
pub(super) fn step(state: &Snapshot, step: &PlanStep) -> Value {
    match step {
        PlanStep::Assign { worker, assignment } => json!({
            "step": "assign",
            "model": assignment.model,
            "worker": worker,
            "name": worker_name(state, *worker),
            "sequences": assignment.sequences_max,
        }),
        PlanStep::Unassign { id } => json!({
            "step": "unassign",
            "id": id,
            "model": state.placements.get(id).map(|placement| placement.assignment.model.to_string()),
            "worker": state.placements.get(id).map(|placement| placement.worker),
        }),
        PlanStep::AddReplica { replica } => {
            let members = replica.members.iter().map(|member| {
                json!({
                    "worker": member.worker,
                    "name": worker_name(state, member.worker),
                    "stage": stage(&member.assignment.stage),
                    "heads": [member.first_head, member.end_head],
                })
            });
            json!({
                "step": "add replica",
                "model": replica.model,
                "strategy": replica.strategy,
                "members": members.collect::<Vec<_>>(),
            })
        }
        PlanStep::Release { model } => json!({"step": "release", "model": model}),
        PlanStep::RemoveReplica { id } => json!({
            "step": "remove replica",
            "id": id,
            "model": state.replicas.get(id).map(|replica| replica.model.to_string()),
        }),
    }
}

/// A placement, with the head range of a shard.
pub(super) fn placement(state: &Snapshot, placement: &Placement) -> Value {
    json!({
        "id": placement.assignment.id,
        "model": placement.assignment.model,
        "worker": placement.worker,
        "name": worker_name(state, placement.worker),
        "stage": stage(&placement.assignment.stage),
        "phase": placement.phase.to_string(),
        "version": state
            .known_version(&placement.assignment.model, placement.assignment.blob)
            .map(|version| version.digest.hex()),
        "reason": match &placement.phase {
            Phase::Failed { reason } => Some(reason),
            _ => None,
        },
        "context_length": placement.assignment.context_length,
        "sequences": placement.assignment.sequences_max,
        "predicted_bytes": predicted_bytes(state, placement),
        "resident_bytes": placement.resident_bytes,
    })
}

/// A replica of several stages, members in ring order.
pub(super) fn replica(state: &Snapshot, replica: &ReplicaRecord) -> Value {
    let members = replica.placements(state).map(|member| placement(state, member));
    json!({
        "id": replica.id,
        "model": replica.model,
        "strategy": replica.strategy,
        "activations": replica.activations.as_str(),
        "steps_in_flight": replica.steps_in_flight,
        "members": members.collect::<Vec<_>>(),
    })
}

/// How a model shall be deployed.
pub(super) fn deployment(deployment: &Deployment) -> Value {
    json!({
        "model": deployment.model,
        "strategy": deployment.strategy,
        "stages": deployment.stages,
        "shards": deployment.shards,
        "replicas": [deployment.replicas_min, deployment.replicas_max],
        "activations": deployment.activations.as_str(),
        "steps_in_flight": deployment.steps_in_flight,
        "balancing": deployment.balancing,
        "labels": deployment.labels,
        "policy": deployment.policy.as_str(),
    })
}

fn stage(stage: &Stage) -> Value {
    json!({
        "layers": [stage.first_layer, stage.end_layer],
        "shard": stage.shard,
        "shards": stage.shards,
    })
}

fn worker_name(state: &Snapshot, worker: WorkerId) -> Option<&str> {
    state.workers.get(&worker).map(|worker| worker.name.as_str())
}
