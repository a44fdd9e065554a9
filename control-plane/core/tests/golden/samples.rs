//! One of each command, change and reply, with every field set to something that shows.

use super::samples_access;
use ollamamax_core::Rejection;
use ollamamax_core::access::Hidden;
use ollamamax_core::adopted::{AdoptedServer, ServerKind};
use ollamamax_core::change::{Change, Counters};
use ollamamax_core::codec;
use ollamamax_core::command::{Command, Outcome, PlanStep, Transition};
use ollamamax_core::deployment::{Deployment, Policy, Strategy};
use ollamamax_core::orders::{Migration, WorkerOrders};
use ollamamax_core::record::{
    Checkpoint, ClusterRecord, Demand, Lifetime, ModelRecord, NodeRecord, Placement, WorkerRecord,
};
use ollamamax_core::replica::{Member, NewMember, NewReplica, ReplicaRecord};
use ollamamax_core::rollout::{Rollout, VersionRecord, VersionState};
use ollamamax_proto::model::{ModelFacts, ModelVersion, SeedMessage};
use ollamamax_proto::placement::{Activations, Assignment, Device, Phase, Stage, WorkerStatus};
use ollamamax_proto::{
    AssignmentId, Digest, Generation, Incarnation, Millis, ModelName, NodeId, ReplicaId, Revision,
    WorkerId,
};
use std::collections::BTreeMap;

fn name() -> ModelName {
    "host.example/me/llama:8b".parse().expect("it is a name")
}

fn version() -> ModelVersion {
    ModelVersion {
        digest: Digest([1; 32]),
        blob: Digest([2; 32]),
        blob_bytes: 300,
        facts: ModelFacts {
            architecture: "llama".into(),
            parameter_count: 1_000_000,
            quantization: "Q4_1".into(),
            context_length: 2_048,
            embedding_length: 64,
            layers: 2,
            vocabulary: 100,
            kv_bytes_per_token: 512,
            layer_bytes: vec![10, 20],
            embedding_bytes: 30,
            head_bytes: 40,
            has_chat_template: true,
            metadata_json: "{}".into(),
        },
        template: Some("t".into()),
        system: None,
        parameters: BTreeMap::from([("stop".to_owned(), vec!["a".to_owned(), "b".to_owned()])]),
        messages: vec![SeedMessage { role: "user".into(), content: "hi".into() }],
        licenses: vec!["free".into()],
        parent: Some("base".into()),
    }
}

fn cluster() -> ClusterRecord {
    ClusterRecord { id: "0f".repeat(16), name: "home".into(), created_at: Millis(1_000) }
}

fn demand(lifetime: Lifetime) -> Demand {
    Demand { model: name(), replicas: 2, lifetime, context_length: 4_096, keep_alive_ms: -1 }
}

fn assignment() -> Assignment {
    Assignment {
        id: AssignmentId(7),
        generation: Generation(8),
        model: name(),
        blob: Digest([2; 32]),
        blob_bytes: 300,
        stage: Stage {
            first_layer: 1,
            end_layer: 2,
            embedding: false,
            head: true,
            shard: 0,
            shards: 1,
        },
        context_length: 4_096,
        sequences_max: 16,
    }
}

fn device() -> Device {
    Device { kind: "cpu".into(), name: "a cpu".into(), memory_bytes: 1 << 34, threads: 8 }
}

const WORKER: WorkerId = WorkerId(0xabcd);
fn deployment(strategy: Strategy, policy: Policy) -> Deployment {
    Deployment {
        model: name(),
        strategy,
        stages: 2,
        shards: 4,
        replicas_min: 1,
        replicas_max: 3,
        activations: Activations::Bf16,
        steps_in_flight: 5,
        balancing: "latency".into(),
        labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        policy,
    }
}

const LIFE: Incarnation = Incarnation(1_700_000_000_000);
const STATUSES: [WorkerStatus; 4] =
    [WorkerStatus::Ready, WorkerStatus::Suspect, WorkerStatus::Down, WorkerStatus::Draining];

fn phases() -> [Phase; 4] {
    [Phase::Pending, Phase::Loading, Phase::Ready, Phase::Failed { reason: "why".into() }]
}

pub(super) fn commands() -> Vec<Command> {
    use Command as C;
    let (http, raft) = ("h:1".to_owned(), "h:2".to_owned());
    let transitions = phases().map(|phase| Transition {
        id: AssignmentId(7),
        generation: Generation(8),
        phase,
        resident_bytes: 9,
        load_ns: 10,
    });
    let mut all = vec![
        C::Bootstrap { cluster: cluster(), http: http.clone(), raft: raft.clone() },
        C::AdmitNode { http: http.clone(), raft: raft.clone(), voter: true },
        C::AnnounceNode { node: NodeId(3), http, raft, pid: 4 },
        C::PromoteNode { node: NodeId(3) },
        C::RemoveNode { node: NodeId(3) },
        C::ForgetNode { node: NodeId(300) },
        C::PutModel { name: name(), version: Box::new(version()) },
        C::CopyModel { source: name(), destination: "b".parse().expect("it is a name") },
        C::DeleteModel { name: name() },
        C::DemandModel { demand: demand(Lifetime::Forever) },
        C::DemandModel { demand: demand(Lifetime::Until(Millis(5))) },
        C::ReleaseModel { name: name() },
        C::ExpireDemands,
        C::RegisterWorker {
            id: WORKER,
            incarnation: LIFE,
            name: "w".into(),
            address: "h:3".into(),
            device: device(),
            pid: 5,
        },
        C::RemoveWorker { id: WORKER },
        C::ApplyPlan {
            base: Revision(6),
            steps: vec![
                PlanStep::Assign { worker: WORKER, assignment: assignment() },
                PlanStep::Unassign { id: AssignmentId(7) },
            ],
        },
        C::ReportPlacements { worker: WORKER, incarnation: LIFE, transitions: transitions.into() },
        C::PutCheckpoint { name: "job".into(), value: vec![1, 2], expected: Some(Revision(3)) },
        C::DeleteCheckpoint { name: "job".into(), expected: None },
    ];
    all.extend(Strategy::ALL.map(|strategy| C::Deploy {
        deployment: Box::new(deployment(strategy, Policy::Throughput)),
        demand: demand(Lifetime::Forever),
    }));
    all.extend([
        C::ClearDeployment { name: name() },
        C::LabelWorker {
            id: WORKER,
            labels: BTreeMap::from([
                ("zone".to_owned(), Some("a".to_owned())),
                ("rack".to_owned(), None),
            ]),
        },
        C::DrainWorker { id: WORKER, reason: "r".into() },
        C::ResumeWorker { id: WORKER },
        C::MigrateModel { name: name(), from: WORKER, to: WorkerId(1) },
        C::ScaleModel { name: name(), from: 2, to: 3 },
        C::ApplyPlan {
            base: Revision(6),
            steps: vec![
                PlanStep::RemoveReplica { id: ReplicaId(9) },
                PlanStep::AddReplica {
                    replica: Box::new(NewReplica {
                        model: name(),
                        strategy: Strategy::Tensor,
                        activations: Activations::F32,
                        steps_in_flight: 2,
                        members: vec![NewMember {
                            worker: WORKER,
                            assignment: assignment(),
                            first_head: 1,
                            end_head: 3,
                        }],
                    }),
                },
            ],
        },
    ]);
    all.extend([
        C::RollOut { name: name(), version: Box::new(version()), weight: 10 },
        C::ShiftTraffic { name: name(), version: None, weight: 50 },
        C::ShiftTraffic { name: name(), version: Some(Digest([1; 32])), weight: 100 },
        C::RevertRollout { name: name(), began: Revision(300), reason: "r".into() },
        C::ApplyPlan { base: Revision(6), steps: vec![PlanStep::Release { model: name() }] },
    ]);
    all.extend(STATUSES.map(|status| C::SetWorkerStatus {
        id: WORKER,
        incarnation: LIFE,
        status,
        reason: "r".into(),
    }));
    all.extend(samples_access::commands().into_iter().map(|c| C::Access(Box::new(c))));
    let command = Box::new(C::DeleteModel { name: name() });
    all.push(C::Noted { note: Box::new(samples_access::note()), command });
    all.extend(servers().map(|server| C::AdoptServer { server: Box::new(server) }));
    all.push(C::ReleaseServer { id: WorkerId(11) });
    all
}

fn servers() -> [AdoptedServer; 2] {
    let server = |id, kind, key: Option<Vec<u8>>| AdoptedServer {
        id: WorkerId(id),
        name: "old".into(),
        url: "http://h:4".into(),
        kind,
        key: key.map(Hidden),
        places: 300,
        adopted_at: Millis(19),
    };
    [server(11, ServerKind::Ollama, None), server(12, ServerKind::OpenAi, Some(vec![5, 6]))]
}

pub(super) fn changes() -> Vec<Change> {
    use Change as C;
    let mut all = vec![
        C::ClusterPut(cluster()),
        C::NodePut(NodeRecord {
            id: NodeId(3),
            http: "h:1".into(),
            raft: "h:2".into(),
            pid: 4,
            admitted_at: Millis(5),
            voter: true,
            leaving: false,
        }),
        C::NodeRemoved(NodeId(3)),
        C::ModelPut(Box::new(ModelRecord {
            name: name(),
            version: version(),
            modified_at: Millis(6),
            revision: Revision(7),
        })),
        C::ModelRemoved(name()),
        C::DemandPut(demand(Lifetime::Until(Millis(8)))),
        C::DemandRemoved(name()),
        C::WorkerPut(WorkerRecord {
            id: WORKER,
            incarnation: LIFE,
            name: "w".into(),
            address: "h:3".into(),
            device: device(),
            pid: 5,
            status: WorkerStatus::Draining,
            reason: "r".into(),
            since: Millis(9),
        }),
        C::WorkerRemoved(WORKER),
        C::PlacementRemoved(AssignmentId(7)),
        C::CheckpointPut(Checkpoint {
            name: "job".into(),
            value: vec![1, 2],
            revision: Revision(10),
            modified_at: Millis(11),
        }),
        C::CheckpointRemoved("job".into()),
        C::Advanced(Counters {
            revision: Revision(12),
            placement_revision: Revision(11),
            clock: Millis(13),
            last_node: NodeId(3),
            last_assignment: AssignmentId(7),
            last_generation: 8,
        }),
    ];
    all.extend([
        C::DeploymentPut(Box::new(deployment(Strategy::Pipeline, Policy::Latency))),
        C::DeploymentRemoved(name()),
        C::OrdersPut(WorkerOrders {
            worker: WORKER,
            labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
            drained: Some("r".into()),
        }),
        C::OrdersRemoved(WORKER),
        C::ReplicaPut(Box::new(ReplicaRecord {
            id: ReplicaId(9),
            model: name(),
            strategy: Strategy::Layer,
            activations: Activations::Bf16,
            steps_in_flight: 2,
            members: vec![Member { assignment: AssignmentId(7), first_head: 0, end_head: 8 }],
        })),
        C::ReplicaRemoved(ReplicaId(9)),
        C::MigrationPut(Migration { model: name(), from: WORKER, to: WorkerId(1) }),
        C::MigrationRemoved(name()),
    ]);
    all.extend([
        C::RolloutPut(Rollout {
            model: name(),
            old: Digest([3; 32]),
            weight: 10,
            began_at: Millis(17),
            began: Revision(300),
        }),
        C::RolloutRemoved(name()),
        C::VersionRemoved(name(), Digest([3; 32])),
    ]);
    all.extend([VersionState::Served, VersionState::Failed { reason: "r".into() }].map(|state| {
        let since = Millis(18);
        C::VersionPut(Box::new(VersionRecord { model: name(), version: version(), state, since }))
    }));
    all.extend(phases().map(|phase| {
        C::PlacementPut(Placement {
            assignment: assignment(),
            worker: WORKER,
            phase,
            since: Millis(14),
            resident_bytes: 15,
            load_ns: 16,
        })
    }));
    all.extend(samples_access::changes().into_iter().map(C::Access));
    all.extend(servers().map(Box::new).map(C::AdoptedPut));
    all.push(C::AdoptedRemoved(WorkerId(11)));
    all
}

pub(super) fn replies() -> Vec<codec::Reply> {
    use Rejection as R;
    let revision = Revision(9);
    let text = || "x".to_owned();
    let refused = [
        R::NotBootstrapped,
        R::AlreadyBootstrapped(text()),
        R::UnknownModel(name()),
        R::UnknownWorker(WORKER),
        R::UnknownNode(NodeId(3)),
        R::LastVoter(NodeId(3)),
        R::StaleIncarnation { id: WORKER, known: LIFE, got: Incarnation(1) },
        R::StalePlan { base: Revision(1), current: Revision(2) },
        R::UnknownAssignment(AssignmentId(7)),
        R::UnknownCheckpoint(text()),
        R::CheckpointMoved { name: text(), expected: Revision(1), current: Revision(2) },
        R::OverLimit { what: text(), limit: 3 },
        R::Invalid { field: text(), reason: text() },
        R::UnknownReplica(ReplicaId(9)),
        R::UnknownVersion { model: name(), version: Box::new(Digest([3; 32])) },
        R::UnknownRollout(name()),
        R::Unknown { kind: text(), name: text() },
        R::Exists { kind: text(), name: text() },
        R::NotLetIn,
        R::LastAdmin(text()),
    ];
    let mut all = vec![
        Ok(Outcome::Done { changed: true, revision }),
        Ok(Outcome::Admitted { node: NodeId(3), cluster: text(), revision }),
        Ok(Outcome::Reused { revision }),
    ];
    all.extend(refused.map(Err));
    all
}
