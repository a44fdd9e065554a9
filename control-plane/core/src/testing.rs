//! Small worlds for tests: few names, few workers, memory that runs out.

use crate::command::{Command, Entry, Transition};
use crate::deployment::Deployment;
use crate::plan::{Observed, PlanLimits, plan};
use crate::record::{ClusterRecord, Demand, Lifetime, WorkerRecord};
use crate::rejection::Rejection;
use crate::state::State;
use crate::{Change, Outcome, apply};
use ollamamax_proto::model::{ModelFacts, ModelVersion};
use ollamamax_proto::placement::{Device, Phase, WorkerStatus};
use ollamamax_proto::{AssignmentId, Digest, Incarnation, Millis, ModelName, Revision, WorkerId};
use proptest::prelude::ProptestConfig;
use std::collections::BTreeMap;

pub(crate) const KV_TOKEN_BYTES: u64 = 1;
pub(crate) const CONTEXT: u32 = 64;

/// Nothing is written beside the sources; a failing seed is printed.
pub(crate) fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

pub(crate) fn name(text: &str) -> ModelName {
    text.parse().expect("the test's names are valid")
}

/// A version of `weights` bytes; a sequence of the default context takes 64 bytes beside them.
pub(crate) fn version(weights: u64) -> ModelVersion {
    ModelVersion {
        digest: Digest::of(&weights.to_le_bytes()),
        blob: Digest::of(&weights.to_be_bytes()),
        blob_bytes: weights,
        facts: ModelFacts {
            layers: 2,
            layer_bytes: vec![weights / 2, weights - weights / 2],
            context_length: CONTEXT,
            kv_bytes_per_token: KV_TOKEN_BYTES,
            ..ModelFacts::default()
        },
        template: None,
        system: None,
        parameters: BTreeMap::new(),
        messages: Vec::new(),
        licenses: Vec::new(),
        parent: None,
    }
}

/// A version whose two layers can be cut between two key-value heads; a sequence takes 512 bytes.
pub(crate) fn cuttable(weights: u64) -> ModelVersion {
    let version = version(weights);
    let facts = ModelFacts {
        architecture: "llama".into(),
        quantization: "F32".into(),
        embedding_length: 4,
        kv_bytes_per_token: 8,
        metadata_json: r#"{"llama.attention.head_count":4,"llama.attention.head_count_kv":2,
            "llama.embedding_length":4,"llama.feed_forward_length":4}"#
            .into(),
        ..version.facts
    };
    ModelVersion { facts, ..version }
}

pub(crate) fn demand(model: &str, replicas: u32) -> Demand {
    Demand {
        model: name(model),
        replicas,
        lifetime: Lifetime::Forever,
        context_length: 0,
        keep_alive_ms: -1,
    }
}

pub(crate) fn device(memory_bytes: u64) -> Device {
    Device { kind: "cpu".into(), name: "test".into(), memory_bytes, threads: 1 }
}

pub(crate) fn register(worker: u128, incarnation: u64, memory_bytes: u64) -> Command {
    Command::RegisterWorker {
        id: WorkerId(worker),
        incarnation: Incarnation(incarnation),
        name: format!("worker-{worker}"),
        address: format!("127.0.0.1:{}", 9_000 + worker),
        device: device(memory_bytes),
        pid: 1,
    }
}

pub(crate) fn bootstrap() -> Command {
    Command::Bootstrap {
        cluster: ClusterRecord { id: "ab".repeat(16), name: "test".into(), created_at: Millis(1) },
        http: "127.0.0.1:8001".into(),
        raft: "127.0.0.1:7001".into(),
    }
}

/// A state and its clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) now: Millis,
    pub(crate) index: u64,
}

impl World {
    /// A bootstrapped cluster.
    pub(crate) fn new() -> Self {
        let mut world = Self { now: Millis(1_000), ..Self::default() };
        world.ok(bootstrap());
        world
    }

    /// With workers 1.. of these memories and models `m0`.. of these weights.
    pub(crate) fn with(memories: &[u64], weights: &[u64]) -> Self {
        let mut world = Self::new();
        for (nth, memory) in memories.iter().enumerate() {
            world.ok(register(nth as u128 + 1, 1, *memory));
        }
        for (nth, weight) in weights.iter().enumerate() {
            world.put(&format!("m{nth}"), *weight);
        }
        world
    }

    /// Two workers each of which has room for one of the two layers of `m0`, which is wanted once and planned.
    pub(crate) fn with_ring() -> Self {
        let mut world = Self::with(&[300, 300], &[400]);
        world.demand("m0", 1);
        world.plan();
        world
    }

    /// Its only replica of several stages.
    pub(crate) fn replica(&self) -> &crate::replica::ReplicaRecord {
        self.state.replicas.values().next().expect("there is one")
    }

    pub(crate) fn run(&mut self, command: Command) -> (Result<Outcome, Rejection>, Vec<Change>) {
        self.index += 1;
        apply(&mut self.state, &Entry { index: self.index, at: self.now, command })
    }

    pub(crate) fn ok(&mut self, command: Command) -> Vec<Change> {
        let (reply, changes) = self.run(command);
        reply.expect("the command is accepted");
        changes
    }

    pub(crate) fn err(&mut self, command: Command) -> Rejection {
        let before = self.state.clone();
        let (reply, changes) = self.run(command);
        assert!(changes.is_empty() && self.state == before, "a rejection changed something");
        reply.expect_err("the command is refused")
    }

    pub(crate) fn put(&mut self, model: &str, weights: u64) {
        let version = Box::new(version(weights));
        self.ok(Command::PutModel { name: name(model), version });
    }

    pub(crate) fn roll(&mut self, model: &str, weights: u64, weight: u32) {
        let version = Box::new(version(weights));
        self.ok(Command::RollOut { name: name(model), version, weight });
    }

    pub(crate) fn demand(&mut self, model: &str, replicas: u32) {
        self.ok(Command::DemandModel { demand: demand(model, replicas) });
    }

    /// Deploys a model that is demanded already, as `change` says.
    pub(crate) fn deploy(&mut self, model: &str, change: impl FnOnce(&mut Deployment)) {
        let mut deployment = Deployment::of(name(model));
        change(&mut deployment);
        let demand = self.state.demands[&name(model)].clone();
        let demand = Demand { replicas: demand.replicas.max(deployment.replicas_min), ..demand };
        self.ok(Command::Deploy { deployment: Box::new(deployment), demand });
    }

    pub(crate) fn status(&mut self, worker: u128, status: WorkerStatus) {
        let incarnation = self.worker(worker).incarnation;
        let id = WorkerId(worker);
        self.ok(Command::SetWorkerStatus { id, incarnation, status, reason: "test".into() });
    }

    pub(crate) fn worker(&self, worker: u128) -> &WorkerRecord {
        &self.state.workers[&WorkerId(worker)]
    }

    /// Plans and applies; the report's lines.
    pub(crate) fn plan(&mut self) -> Vec<String> {
        let plan = plan(&self.state, &Observed::default(), &PlanLimits::default(), self.now);
        self.ok(Command::ApplyPlan { base: plan.base, steps: plan.steps });
        plan.report.iter().map(ToString::to_string).collect()
    }

    /// A valid report of `phase` for an assignment.
    pub(crate) fn report_of(&self, id: AssignmentId, phase: Phase) -> Command {
        let placement = &self.state.placements[&id];
        let generation = placement.assignment.generation;
        Command::ReportPlacements {
            worker: placement.worker,
            incarnation: self.state.workers[&placement.worker].incarnation,
            transitions: vec![Transition { id, generation, phase, resident_bytes: 0, load_ns: 5 }],
        }
    }

    /// Every placement that has not failed becomes ready.
    pub(crate) fn all_ready(&mut self) {
        let ids: Vec<AssignmentId> = self.state.placements.keys().copied().collect();
        for id in ids {
            if !matches!(self.state.placements[&id].phase, Phase::Failed { .. }) {
                let report = self.report_of(id, Phase::Ready);
                self.ok(report);
            }
        }
    }

    /// `model@worker phase` of each placement, in order of worker and model.
    pub(crate) fn map(&self) -> Vec<String> {
        let line = |p: &crate::record::Placement| {
            format!("{}@{} {}", p.assignment.model.model(), p.worker.0, p.phase)
        };
        let mut lines: Vec<String> = self.state.placements.values().map(line).collect();
        lines.sort();
        lines
    }

    pub(crate) fn revision(&self) -> Revision {
        self.state.revision()
    }
}
