//! Golden bytes: what is in a log or a store today must be read by every later version. A difference here means that stored
//! data would be misread; a new variant adds a line, an old line never changes.
//!
//! `UPDATE_GOLDEN=1 cargo test -p ollamamax-core --test golden` appends the lines of new variants.

#![allow(clippy::disallowed_methods, reason = "the test reads and records files")]

use ollamamax_core::change::{Change, Counters};
use ollamamax_core::codec::{
    self, Batch, decode_batch, decode_changes, decode_command, decode_replies,
};
use ollamamax_core::command::{Command, Outcome, PlanStep, Transition};
use ollamamax_core::record::{
    Checkpoint, ClusterRecord, Demand, Lifetime, ModelRecord, NodeRecord, Placement, WorkerRecord,
};
use ollamamax_core::{Rejection, table};
use ollamamax_proto::model::{ModelFacts, ModelVersion, SeedMessage};
use ollamamax_proto::placement::{Assignment, Device, Phase, Stage, WorkerStatus};
use ollamamax_proto::{
    AssignmentId, Digest, Generation, Incarnation, Millis, ModelName, NodeId, Revision, WorkerId,
};
use std::collections::BTreeMap;
use std::path::PathBuf;

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
const LIFE: Incarnation = Incarnation(1_700_000_000_000);
const STATUSES: [WorkerStatus; 4] =
    [WorkerStatus::Ready, WorkerStatus::Suspect, WorkerStatus::Down, WorkerStatus::Draining];

fn phases() -> [Phase; 4] {
    [Phase::Pending, Phase::Loading, Phase::Ready, Phase::Failed { reason: "why".into() }]
}

fn commands() -> Vec<Command> {
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
    all.extend(STATUSES.map(|status| C::SetWorkerStatus {
        id: WORKER,
        incarnation: LIFE,
        status,
        reason: "r".into(),
    }));
    all
}

fn changes() -> Vec<Change> {
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
    all
}

fn replies() -> Vec<codec::Reply> {
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
    ];
    let mut all = vec![
        Ok(Outcome::Done { changed: true, revision }),
        Ok(Outcome::Admitted { node: NodeId(3), cluster: text(), revision }),
    ];
    all.extend(refused.map(Err));
    all
}

/// How many variants each list must show. Without wildcards, so that a new variant does not compile until it is here; then
/// raise the count below and add it to the list above.
fn ordinal_of_command(command: &Command) -> u8 {
    use Command as C;
    match command {
        C::Bootstrap { .. } => 0,
        C::AdmitNode { .. } => 1,
        C::AnnounceNode { .. } => 2,
        C::PromoteNode { .. } => 3,
        C::RemoveNode { .. } => 4,
        C::ForgetNode { .. } => 5,
        C::PutModel { .. } => 6,
        C::CopyModel { .. } => 7,
        C::DeleteModel { .. } => 8,
        C::DemandModel { .. } => 9,
        C::ReleaseModel { .. } => 10,
        C::ExpireDemands => 11,
        C::RegisterWorker { .. } => 12,
        C::SetWorkerStatus { .. } => 13,
        C::RemoveWorker { .. } => 14,
        C::ApplyPlan { .. } => 15,
        C::ReportPlacements { .. } => 16,
        C::PutCheckpoint { .. } => 17,
        C::DeleteCheckpoint { .. } => 18,
    }
}

fn ordinal_of_change(change: &Change) -> u8 {
    use Change as C;
    match change {
        C::ClusterPut(_) => 0,
        C::NodePut(_) => 1,
        C::NodeRemoved(_) => 2,
        C::ModelPut(_) => 3,
        C::ModelRemoved(_) => 4,
        C::DemandPut(_) => 5,
        C::DemandRemoved(_) => 6,
        C::WorkerPut(_) => 7,
        C::WorkerRemoved(_) => 8,
        C::PlacementPut(_) => 9,
        C::PlacementRemoved(_) => 10,
        C::CheckpointPut(_) => 11,
        C::CheckpointRemoved(_) => 12,
        C::Advanced(_) => 13,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().map(|c| c.to_digit(16).expect("hex")).collect();
    let byte = |pair: &[u32]| u8::try_from(pair[0] * 16 + pair[1]).expect("two digits");
    digits.chunks(2).map(byte).collect()
}

/// A name for each item: its variant, and a number where there are several.
fn named<T: std::fmt::Debug>(items: &[T], encode: impl Fn(&T) -> Vec<u8>) -> Vec<(String, String)> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let line = |item: &T| {
        let text = format!("{item:?}");
        let variant: String = text
            .split(|c: char| !c.is_alphanumeric())
            .find(|word| !matches!(*word, "Ok" | "Err"))
            .unwrap_or_default()
            .to_owned();
        let nth = seen.entry(variant.clone()).or_insert(0);
        *nth += 1;
        (format!("{variant}.{nth}"), hex(&encode(item)))
    };
    items.iter().map(line).collect()
}

fn compare(file: &str, actual: &[(String, String)]) -> Vec<Vec<u8>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    let recorded = std::fs::read_to_string(&path).unwrap_or_default();
    let mut lines: BTreeMap<&str, &str> =
        recorded.lines().filter_map(|line| line.split_once(' ')).collect();
    let mut difference = String::new();
    let mut new = String::new();
    for (name, bytes) in actual {
        match lines.remove(name.as_str()) {
            Some(known) if known == bytes => {}
            Some(known) => difference += &format!("  {name}\n   -{known}\n   +{bytes}\n"),
            None => new += &format!("{name} {bytes}\n"),
        }
    }
    for gone in lines.keys() {
        difference += &format!("  {gone} is recorded but not encoded any more\n");
    }
    assert!(difference.is_empty(), "{file}: stored bytes would be misread:\n{difference}");
    if !new.is_empty() && std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, recorded.clone() + &new).expect("the golden file can be written");
    } else {
        assert!(new.is_empty(), "{file}: not recorded yet:\n{new}");
    }
    let recorded = recorded.lines().filter_map(|line| line.split_once(' '));
    recorded.map(|(_, bytes)| unhex(bytes)).collect()
}

#[test]
fn commands_keep_their_bytes() {
    let all = commands();
    for ordinal in 0..19 {
        assert!(
            all.iter().any(|c| ordinal_of_command(c) == ordinal),
            "command {ordinal} is absent"
        );
    }
    let encode = |command: &Command| codec::encode_command(command).expect("it is short");
    for bytes in compare("commands.hex", &named(&all, encode)) {
        let command = decode_command(&bytes).expect("recorded bytes are read");
        assert!(all.contains(&command));
        assert_eq!(bytes[1], ordinal_of_command(&command), "the variant's number is its place");
    }
}

#[test]
fn changes_and_rows_keep_their_bytes() {
    let all = changes();
    for ordinal in 0..14 {
        assert!(all.iter().any(|c| ordinal_of_change(c) == ordinal), "change {ordinal} is absent");
    }
    let encode =
        |change: &Change| codec::encode_changes(std::slice::from_ref(change)).expect("it is short");
    for bytes in compare("changes.hex", &named(&all, encode)) {
        let decoded = decode_changes(&bytes).expect("recorded bytes are read");
        assert!(decoded.iter().all(|change| all.contains(change)));
    }
    let row = |change: &Change| {
        let row = table::row(change).expect("it is short");
        [row.key, vec![0xff], row.value.unwrap_or_default()].concat()
    };
    compare("rows.hex", &named(&all, row));
}

#[test]
fn replies_keep_their_bytes() {
    let all = replies();
    let encode = |reply: &codec::Reply| codec::encode_reply(reply).expect("it is short");
    compare("replies.hex", &named(&all, encode));
    let bytes = codec::encode_replies(&all).expect("they are few");
    assert_eq!(decode_replies(&bytes), Ok(all));
}

#[test]
fn a_batch_is_bounded() {
    let batch = Batch { at: Millis(1), commands: commands() };
    let bytes = codec::encode_batch(&batch).expect("it is short");
    assert_eq!(decode_batch(&bytes), Ok(batch));
    let many = Batch { at: Millis(1), commands: vec![Command::ExpireDemands; 513] };
    assert!(matches!(codec::encode_batch(&many), Err(codec::CodecError::TooMany { .. })));
    let value = vec![0; ollamamax_proto::limits::COMMAND_BYTES];
    let long = Command::PutCheckpoint { name: "x".into(), value, expected: None };
    assert!(matches!(codec::encode_command(&long), Err(codec::CodecError::TooLong { .. })));
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(decode_batch(&longer), Err(codec::CodecError::Malformed { .. })));
    let mut newer = bytes;
    newer[0] = 2;
    assert!(matches!(decode_batch(&newer), Err(codec::CodecError::UnknownFormat { got: 2, .. })));
    assert!(decode_batch(&[]).is_err());
}
