//! What the planner says, as it is told.

use ollamamax_core::State as Snapshot;
use ollamamax_core::command::PlanStep;
use ollamamax_core::deployment;
use ollamamax_core::plan::partition;
use ollamamax_core::plan::{Note, predicted_bytes};
use ollamamax_core::record;
use ollamamax_core::replica::ReplicaRecord;
use ollamamax_proto::placement::{self, Phase};
use ollamamax_proto::{AssignmentId, ModelName, WorkerId};
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A part of a model: layers from the first to before the last, and which shard of how many.
#[derive(Serialize, ToSchema)]
pub(crate) struct Stage {
    layers: [u32; 2],
    shard: u32,
    shards: u32,
}

impl From<&placement::Stage> for Stage {
    fn from(stage: &placement::Stage) -> Self {
        let layers = [stage.first_layer, stage.end_layer];
        Self { layers, shard: stage.shard, shards: stage.shards }
    }
}

/// A part of a partition, and who gets it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Part {
    #[schema(value_type = String)]
    worker: WorkerId,
    name: Option<String>,
    stage: Stage,
    /// Key-value heads from the first to before the last.
    heads: [u32; 2],
    /// What it takes of memory.
    bytes: u64,
}

/// A partition and what it promises.
#[derive(Serialize, ToSchema)]
#[schema(as = PartitionMap)]
pub(crate) struct Map {
    /// In words.
    text: String,
    #[schema(value_type = String, examples("pipeline"))]
    strategy: deployment::Strategy,
    stages: u32,
    shards: u32,
    /// Of one token, in microseconds.
    latency_us: u64,
    /// Between tokens of several sequences.
    pace_us: u64,
    parts: Vec<Part>,
}

/// A partition and what it promises.
pub(super) fn map(state: &Snapshot, map: &partition::Map) -> Map {
    let part = |part: &partition::Part| Part {
        worker: part.worker,
        name: worker_name(state, part.worker),
        stage: (&part.stage).into(),
        heads: [part.first_head, part.end_head],
        bytes: part.bytes,
    };
    Map {
        text: map.to_string(),
        strategy: map.form.strategy,
        stages: map.form.stages,
        shards: map.form.shards,
        latency_us: map.latency_ns / 1_000,
        pace_us: map.pace_ns / 1_000,
        parts: map.parts.iter().map(part).collect(),
    }
}

/// The best partition, or why there is none.
#[derive(Serialize, ToSchema)]
#[schema(as = BestPartition)]
pub(crate) struct Best {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map: Option<Map>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// A partition that was not taken, or why it cannot be.
#[derive(Serialize, ToSchema)]
#[schema(as = OtherPartition)]
pub(crate) struct Other {
    /// In words.
    form: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    map: Option<Map>,
    /// Why it cannot be.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

/// A partition that was not taken, or cannot be.
pub(super) fn other(state: &Snapshot, other: &partition::Other) -> Other {
    let form = other.form.to_string();
    match &other.map {
        Ok(found) => Other { form, map: Some(map(state, found)), refused: None },
        Err(misfit) => Other { form, map: None, refused: Some(misfit.to_string()) },
    }
}

/// Lines of a report.
pub(super) fn notes<'a>(notes: impl IntoIterator<Item = &'a Note>) -> Vec<String> {
    notes.into_iter().map(ToString::to_string).collect()
}

/// A member of a replica over several workers.
#[derive(Serialize, ToSchema)]
#[schema(as = NewMember)]
pub(crate) struct Member {
    #[schema(value_type = String)]
    worker: WorkerId,
    name: Option<String>,
    stage: Stage,
    /// Key-value heads from the first to before the last.
    heads: [u32; 2],
}

/// One step of a plan.
#[derive(Serialize, ToSchema)]
#[schema(as = PlanStep)]
#[serde(tag = "step")]
pub(crate) enum Step {
    /// A worker gets a model.
    #[serde(rename = "assign")]
    Assign {
        #[schema(value_type = String)]
        model: ModelName,
        #[schema(value_type = String)]
        worker: WorkerId,
        name: Option<String>,
        /// Sequences it may run at once.
        sequences: u32,
    },
    /// A worker drops a model.
    #[serde(rename = "unassign")]
    Unassign {
        #[schema(value_type = u64)]
        id: AssignmentId,
        model: Option<String>,
        #[schema(value_type = Option<String>)]
        worker: Option<WorkerId>,
    },
    /// Several workers get a model together.
    #[serde(rename = "add replica")]
    AddReplica {
        #[schema(value_type = String)]
        model: ModelName,
        #[schema(value_type = String)]
        strategy: deployment::Strategy,
        members: Vec<Member>,
    },
    /// Nobody asks for a model any more.
    #[serde(rename = "release")]
    Release {
        #[schema(value_type = String)]
        model: ModelName,
    },
    /// Several workers drop a model together.
    #[serde(rename = "remove replica")]
    RemoveReplica { id: u64, model: Option<String> },
}

impl Step {
    /// What it is about.
    pub fn model(&self) -> Option<String> {
        match self {
            Self::Assign { model, .. }
            | Self::AddReplica { model, .. }
            | Self::Release { model } => Some(model.to_string()),
            Self::Unassign { model, .. } | Self::RemoveReplica { model, .. } => model.clone(),
        }
    }
}

/// One step of a plan.
pub(super) fn step(state: &Snapshot, step: &PlanStep) -> Step {
    match step {
        PlanStep::Assign { worker, assignment } => Step::Assign {
            model: assignment.model.clone(),
            worker: *worker,
            name: worker_name(state, *worker),
            sequences: assignment.sequences_max,
        },
        PlanStep::Unassign { id } => {
            let held = state.placements.get(id);
            let model = held.map(|held| held.assignment.model.to_string());
            Step::Unassign { id: *id, model, worker: held.map(|held| held.worker) }
        }
        PlanStep::AddReplica { replica } => {
            let members = replica.members.iter().map(|member| Member {
                worker: member.worker,
                name: worker_name(state, member.worker),
                stage: (&member.assignment.stage).into(),
                heads: [member.first_head, member.end_head],
            });
            let (model, strategy) = (replica.model.clone(), replica.strategy);
            Step::AddReplica { model, strategy, members: members.collect() }
        }
        PlanStep::Release { model } => Step::Release { model: model.clone() },
        PlanStep::RemoveReplica { id } => {
            let model = state.replicas.get(id).map(|replica| replica.model.to_string());
            Step::RemoveReplica { id: id.0, model }
        }
    }
}

/// What a worker holds of a model.
#[derive(Serialize, ToSchema)]
pub(crate) struct Placement {
    #[schema(value_type = u64)]
    id: AssignmentId,
    #[schema(value_type = String)]
    model: ModelName,
    #[schema(value_type = String)]
    worker: WorkerId,
    name: Option<String>,
    stage: Stage,
    /// `assigned`, `fetching`, `loading`, `ready`, `failed` and the like.
    phase: String,
    /// The digest of its version, where that is known.
    version: Option<String>,
    /// Why it has failed.
    reason: Option<String>,
    /// Tokens of a sequence.
    context_length: u32,
    /// Sequences at once.
    sequences: u32,
    /// What it should take of memory.
    predicted_bytes: u64,
    /// What it takes.
    resident_bytes: u64,
}

/// A placement, with the head range of a shard.
pub(super) fn placement(state: &Snapshot, placement: &record::Placement) -> Placement {
    let assignment = &placement.assignment;
    Placement {
        id: assignment.id,
        model: assignment.model.clone(),
        worker: placement.worker,
        name: worker_name(state, placement.worker),
        stage: (&assignment.stage).into(),
        phase: placement.phase.to_string(),
        version: state
            .known_version(&assignment.model, assignment.blob)
            .map(|version| version.digest.hex()),
        reason: reason(&placement.phase),
        context_length: assignment.context_length,
        sequences: assignment.sequences_max,
        predicted_bytes: predicted_bytes(state, placement),
        resident_bytes: placement.resident_bytes,
    }
}

/// Why a placement has failed.
pub(super) fn reason(phase: &Phase) -> Option<String> {
    match phase {
        Phase::Failed { reason } => Some(reason.clone()),
        _ => None,
    }
}

/// A replica over several workers, members in ring order.
#[derive(Serialize, ToSchema)]
pub(crate) struct Replica {
    id: u64,
    #[schema(value_type = String)]
    model: ModelName,
    #[schema(value_type = String, examples("pipeline"))]
    strategy: deployment::Strategy,
    /// `f32` or `bf16`.
    activations: &'static str,
    steps_in_flight: u32,
    members: Vec<Placement>,
}

/// A replica of several stages, members in ring order.
pub(super) fn replica(state: &Snapshot, replica: &ReplicaRecord) -> Replica {
    Replica {
        id: replica.id.0,
        model: replica.model.clone(),
        strategy: replica.strategy,
        activations: replica.activations.as_str(),
        steps_in_flight: replica.steps_in_flight,
        members: replica.placements(state).map(|member| placement(state, member)).collect(),
    }
}

/// How a model shall be deployed.
#[derive(Serialize, ToSchema)]
pub(crate) struct Deployment {
    #[schema(value_type = String)]
    model: ModelName,
    /// `auto`, `data`, `layer`, `pipeline` or `tensor`.
    #[schema(value_type = String, examples("auto"))]
    strategy: deployment::Strategy,
    /// 0: as many as are best.
    stages: u32,
    /// 0: as many as are best.
    shards: u32,
    /// At least and at most.
    replicas: [u32; 2],
    /// `f32` or `bf16`.
    activations: &'static str,
    /// 0: as many as there are stages.
    steps_in_flight: u32,
    /// Nothing: as all models.
    balancing: String,
    /// What its workers must have.
    labels: BTreeMap<String, String>,
    /// `latency` or `throughput`.
    policy: &'static str,
}

/// How a model shall be deployed.
pub(super) fn deployment(deployment: &deployment::Deployment) -> Deployment {
    Deployment {
        model: deployment.model.clone(),
        strategy: deployment.strategy,
        stages: deployment.stages,
        shards: deployment.shards,
        replicas: [deployment.replicas_min, deployment.replicas_max],
        activations: deployment.activations.as_str(),
        steps_in_flight: deployment.steps_in_flight,
        balancing: deployment.balancing.clone(),
        labels: deployment.labels.clone(),
        policy: deployment.policy.as_str(),
    }
}

fn worker_name(state: &Snapshot, worker: WorkerId) -> Option<String> {
    state.workers.get(&worker).map(|worker| worker.name.clone())
}
