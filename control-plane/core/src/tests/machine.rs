//! Random histories: invariants hold after each command, a replay gives the same state, the stored
//! rows rebuild it.

use crate::codec::{decode_changes, decode_command, encode_changes, encode_command};
use crate::command::{Command, Entry, PlanStep, Transition};
use crate::deployment::{Deployment, Strategy as Spread};
use crate::plan::{Observed, PlanLimits, plan};
use crate::record::{Demand, Lifetime};
use crate::testing::{World, bootstrap, config, cuttable, demand, name, register, version};
use crate::{Change, Outcome, State, apply, decide, invariant, table};
use ollamamax_proto::placement::{Phase, WorkerStatus};
use ollamamax_proto::{AssignmentId, Generation, Incarnation, Millis, NodeId, Revision, WorkerId};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What happens next; `Plan` and `Report` take their details from the state.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Ask(Command),
    Plan,
    Report(usize, Phase, u64),
}

pub(super) fn phase() -> impl Strategy<Value = Phase> {
    prop_oneof![
        1 => Just(Phase::Pending),
        1 => Just(Phase::Loading),
        4 => Just(Phase::Ready),
        1 => Just(Phase::Failed { reason: "out of memory".into() }),
    ]
}

fn status() -> impl Strategy<Value = WorkerStatus> {
    prop_oneof![
        2 => Just(WorkerStatus::Ready),
        1 => Just(WorkerStatus::Suspect),
        1 => Just(WorkerStatus::Down),
        1 => Just(WorkerStatus::Draining),
    ]
}

fn model() -> impl Strategy<Value = String> {
    (0..3u8).prop_map(|nth| format!("m{nth}"))
}

fn nodes() -> impl Strategy<Value = Command> {
    let address = || (0..4u16).prop_map(|port| format!("host:{port}"));
    let node = || (0..6u64).prop_map(NodeId);
    prop_oneof![
        Just(bootstrap()),
        (address(), address(), any::<bool>()).prop_map(|(http, raft, voter)| Command::AdmitNode {
            http,
            raft,
            voter
        }),
        (node(), address(), address(), any::<u32>())
            .prop_map(|(node, http, raft, pid)| Command::AnnounceNode { node, http, raft, pid }),
        node().prop_map(|node| Command::PromoteNode { node }),
        node().prop_map(|node| Command::RemoveNode { node }),
        node().prop_map(|node| Command::ForgetNode { node }),
    ]
}

fn models() -> impl Strategy<Value = Command> {
    let wish = (model(), 0..4u32, -1..2_000i64, 0..100u32);
    prop_oneof![
        3 => (model(), 1..6u64, any::<bool>()).prop_map(|(model, size, heads)| Command::PutModel {
            name: name(&model),
            version: Box::new(if heads { cuttable(size * 100) } else { version(size * 100) }),
        }),
        1 => (model(), model()).prop_map(|(source, destination)| Command::CopyModel {
            source: name(&source),
            destination: name(&destination),
        }),
        3 => (model(), 1..6u64, prop_oneof![Just(100u32), 0..102u32], any::<bool>()).prop_map(
            |(model, size, weight, heads)| Command::RollOut {
                name: name(&model),
                version: Box::new(if heads { cuttable(size * 100) } else { version(size * 100) }),
                weight,
            }
        ),
        1 => (model(), prop::option::of(1..6u64), 0..102u32).prop_map(|(model, size, weight)| {
            let version = size.map(|size| version(size * 100).digest);
            Command::ShiftTraffic { name: name(&model), version, weight }
        }),
        1 => (model(), 0..60u64).prop_map(|(model, began)| Command::RevertRollout {
            name: name(&model),
            began: Revision(began),
            reason: "because".into(),
        }),
        1 => model().prop_map(|model| Command::DeleteModel { name: name(&model) }),
        4 => wish.prop_map(|(model, replicas, keep_alive_ms, context_length)| {
            let lifetime = Lifetime::Until(Millis(0));
            let demand = demand(&model, replicas);
            Command::DemandModel {
                demand: Demand { lifetime, keep_alive_ms, context_length, ..demand },
            }
        }),
        1 => model().prop_map(|model| Command::ReleaseModel { name: name(&model) }),
        1 => Just(Command::ExpireDemands),
    ]
}

fn workers() -> impl Strategy<Value = Command> {
    let id = || 1..5u128;
    let life = || 1..4u64;
    prop_oneof![
        4 => (id(), life(), 1..4u64).prop_map(|(id, life, size)| register(id, life, size * 400)),
        3 => (id(), life(), status()).prop_map(|(id, life, status)| Command::SetWorkerStatus {
            id: WorkerId(id),
            incarnation: Incarnation(life),
            status,
            reason: "because".into(),
        }),
        1 => id().prop_map(|id| Command::RemoveWorker { id: WorkerId(id) }),
    ]
}

fn others() -> impl Strategy<Value = Command> {
    let job = || (0..2u8).prop_map(|nth| format!("job-{nth}"));
    let expected = || prop::option::of((0..30u64).prop_map(Revision));
    prop_oneof![
        (job(), any::<u8>(), expected()).prop_map(|(name, value, expected)| {
            Command::PutCheckpoint { name, value: vec![value], expected }
        }),
        (job(), expected())
            .prop_map(|(name, expected)| Command::DeleteCheckpoint { name, expected }),
        (0..20u64, 0..9u64).prop_map(|(base, id)| Command::ApplyPlan {
            base: Revision(base),
            steps: vec![PlanStep::Unassign { id: AssignmentId(id) }],
        }),
        (1..5u128, 1..4u64, 0..9u64, 0..9u64, phase()).prop_map(
            |(worker, incarnation, id, generation, phase)| Command::ReportPlacements {
                worker: WorkerId(worker),
                incarnation: Incarnation(incarnation),
                transitions: vec![Transition {
                    id: AssignmentId(id),
                    generation: Generation(generation),
                    phase,
                    resident_bytes: 3,
                    load_ns: 4,
                }],
            }
        ),
    ]
}

fn operators() -> impl Strategy<Value = Command> {
    let worker = || (1..5u128).prop_map(WorkerId);
    let labels = prop::option::of(0..2u8).prop_map(|value| {
        BTreeMap::from([("zone".to_owned(), value.map(|value| format!("z{value}")))])
    });
    prop_oneof![
        4 => (model(), 0..5usize, 0..4u32, 0..3u32, (1..3u32, 0..2u32), 0..6u8).prop_map(
            |(model, strategy, stages, shards, (min, more), zone)| {
                let labels = (zone < 2).then(|| ("zone".to_owned(), format!("z{zone}")));
                let deployment = Deployment {
                    strategy: Spread::ALL[strategy],
                    stages,
                    shards,
                    replicas_min: min,
                    replicas_max: min + more,
                    labels: labels.into_iter().collect(),
                    ..Deployment::of(name(&model))
                };
                Command::Deploy { deployment: Box::new(deployment), demand: demand(&model, min) }
            }
        ),
        1 => model().prop_map(|model| Command::ClearDeployment { name: name(&model) }),
        2 => (worker(), labels).prop_map(|(id, labels)| Command::LabelWorker { id, labels }),
        1 => worker().prop_map(|id| Command::DrainWorker { id, reason: "repair".into() }),
        2 => worker().prop_map(|id| Command::ResumeWorker { id }),
        2 => (model(), worker(), worker())
            .prop_map(|(model, from, to)| Command::MigrateModel { name: name(&model), from, to }),
        1 => (model(), 0u32..4, 0u32..4)
            .prop_map(|(model, from, to)| Command::ScaleModel { name: name(&model), from, to }),
    ]
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => operators().prop_map(Op::Ask),
        1 => nodes().prop_map(Op::Ask),
        3 => models().prop_map(Op::Ask),
        3 => workers().prop_map(Op::Ask),
        1 => others().prop_map(Op::Ask),
        3 => Just(Op::Plan),
        3 => (any::<usize>(), phase(), 0..200u64).prop_map(|(nth, phase, ms)| {
            Op::Report(nth, phase, ms)
        }),
    ]
}

/// Histories that begin with something to plan for.
pub(super) fn history() -> impl Strategy<Value = Vec<(Op, u64)>> {
    let begin = (1..4u64, 1..4u64, 1..6u64, 1..4u32).prop_map(|(a, b, size, replicas)| {
        let put = Command::PutModel { name: name("m0"), version: Box::new(version(size * 100)) };
        let wish = Command::DemandModel { demand: demand("m0", replicas) };
        [bootstrap(), register(1, 1, a * 400), register(2, 1, b * 400), put, wish]
            .map(|command| (Op::Ask(command), 0))
            .to_vec()
    });
    let at = prop_oneof![3 => 0..3_000u64, 1 => 0..200_000u64];
    (begin, prop::collection::vec((op(), at), 0..60))
        .prop_map(|(begin, rest)| begin.into_iter().chain(rest).collect())
}

/// The command of `op` in this state, if there is one.
pub(super) fn resolve(world: &World, op: &Op) -> Option<Command> {
    match op {
        Op::Ask(command) => Some(command.clone()),
        Op::Plan => {
            let now = world.now.max(world.state.counters.clock);
            let plan = plan(&world.state, &Observed::default(), &PlanLimits::default(), now);
            Some(Command::ApplyPlan { base: plan.base, steps: plan.steps })
        }
        Op::Report(nth, phase, resident) => {
            let count = world.state.placements.len();
            let id = *world.state.placements.keys().nth(nth.checked_rem(count)?)?;
            let mut report = world.report_of(id, phase.clone());
            if let Command::ReportPlacements { transitions, .. } = &mut report {
                transitions[0].resident_bytes = *resident;
            }
            Some(report)
        }
    }
}

fn check_step(before: &State, after: &State, changes: &[Change], outcome: Option<&Outcome>) {
    let (old, new) = (&before.counters, &after.counters);
    assert!(new.clock >= old.clock, "the clock went back");
    let advanced = changes.iter().filter(|change| matches!(change, Change::Advanced(_))).count();
    if changes.is_empty() {
        assert_eq!(before, after);
    } else {
        assert_eq!(new.revision, old.revision.next());
        assert_eq!(advanced, 1);
        assert_eq!(changes.last(), Some(&Change::Advanced(*new)));
        let moved = changes.iter().any(Change::concerns_placement);
        let expected = if moved { old.placement_revision.next() } else { old.placement_revision };
        assert_eq!(new.placement_revision, expected);
    }
    if let Some(outcome) = outcome {
        assert_eq!(outcome.revision(), new.revision);
        if let Outcome::Done { changed, .. } = outcome {
            assert_eq!(*changed, !changes.is_empty());
        }
    }
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn every_history_keeps_the_promises(history in history()) {
        let mut world = World::default();
        let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut log = Vec::new();
        let mut feed = State::default();
        for (op, at) in &history {
            world.now = Millis(*at);
            let Some(command) = resolve(&world, op) else { continue };
            let bytes = encode_command(&command).expect("it is short");
            prop_assert_eq!(decode_command(&bytes), Ok(command.clone()));
            let before = world.state.clone();
            log.push(Entry { index: world.index + 1, at: world.now, command: command.clone() });
            let (reply, changes) = world.run(command);
            if matches!(op, Op::Plan) {
                let fine = reply.is_ok() || world.state.cluster.is_none();
                prop_assert!(fine, "a fresh plan was refused: {:?}", reply);
            }
            if reply.is_err() {
                prop_assert!(changes.is_empty());
            }
            check_step(&before, &world.state, &changes, reply.as_ref().ok());
            prop_assert_eq!(invariant::check(&world.state), vec![]);
            for change in &changes {
                let row = table::row(change).expect("records are short");
                match row.value {
                    Some(value) => rows.insert(row.key, value),
                    None => rows.remove(&row.key),
                };
            }
            let sent = encode_changes(&changes).expect("they are short");
            for change in decode_changes(&sent).expect("they were just encoded") {
                feed.evolve(&change);
            }
        }
        prop_assert_eq!(&table::load(&rows).expect("the rows are ours"), &world.state);
        let dump = table::rows(&world.state).expect("records are short");
        prop_assert_eq!(&table::load(dump).expect("the rows are ours"), &world.state);
        prop_assert_eq!(&feed, &world.state);
        let mut rebuilt = State::default();
        world.state.to_changes().iter().for_each(|change| rebuilt.evolve(change));
        prop_assert_eq!(&rebuilt, &world.state);
        let mut replayed = State::default();
        for entry in &log {
            let decision = decide(&replayed, entry);
            let (reply, changes) = apply(&mut replayed, entry);
            prop_assert_eq!(decision.map(|d| (d.outcome, d.changes)), reply.map(|r| (r, changes)));
        }
        prop_assert_eq!(&replayed, &world.state);
    }

    #[test]
    fn no_bytes_make_the_decoders_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for format in [None, Some(crate::codec::FORMAT)] {
            if let (Some(format), Some(first)) = (format, bytes.first_mut()) {
                *first = format;
            }
            let _ = decode_command(&bytes);
            let _ = decode_changes(&bytes);
            let _ = crate::codec::decode_batch(&bytes);
            let _ = crate::codec::decode_replies(&bytes);
            let _ = crate::codec::decode_reply(&bytes);
            let (key, value) = bytes.split_at(bytes.len() / 2);
            let _ = table::change(key, value);
        }
    }
}

#[test]
fn rows_under_a_wrong_key_are_refused() {
    let mut world = World::new();
    let changes = world.ok(register(1, 1, 10));
    let row = table::row(&changes[0]).expect("it is short");
    let value = row.value.expect("it is a put");
    let mut key = row.key.clone();
    key[16] ^= 1;
    assert!(matches!(table::change(&key, &value), Err(table::LoadError::Misplaced { .. })));
    assert!(matches!(table::change(&[99], &value), Err(table::LoadError::UnknownTable(_))));
    assert!(matches!(table::change(&row.key, &value[..5]), Err(table::LoadError::Value { .. })));
}
