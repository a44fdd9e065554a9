//! What each command does, and when it is refused.

#![allow(clippy::panic, reason = "in a test it is a failure")]

use crate::Change;
use crate::command::{Command, Outcome, PlanStep};
use crate::record::{Demand, Lifetime};
use crate::rejection::Rejection;
use crate::testing::{World, bootstrap, demand, name, register, version};
use ollamamax_proto::placement::{Phase, WorkerStatus};
use ollamamax_proto::{AssignmentId, Generation, Incarnation, Millis, NodeId, Revision, WorkerId};

fn admit(raft: &str) -> Command {
    Command::AdmitNode { http: "h:1".into(), raft: raft.into(), voter: true }
}

fn admitted(world: &mut World, raft: &str) -> NodeId {
    match world.run(admit(raft)).0 {
        Ok(Outcome::Admitted { node, cluster, revision }) => {
            assert_eq!(cluster, "ab".repeat(16));
            assert_eq!(revision, world.revision());
            node
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_happens_before_the_bootstrap_and_it_happens_once() {
    let mut world = World::default();
    assert_eq!(world.err(Command::ExpireDemands), Rejection::NotBootstrapped);
    world.ok(bootstrap());
    assert_eq!(world.state.nodes[&NodeId(1)].raft, "127.0.0.1:7001");
    assert_eq!(world.err(bootstrap()), Rejection::AlreadyBootstrapped("ab".repeat(16)));
}

#[test]
fn node_ids_count_up_and_are_never_reused() {
    let mut world = World::new();
    assert_eq!(admitted(&mut world, "n:2"), NodeId(2));
    assert_eq!(admitted(&mut world, "n:2"), NodeId(2), "a retry gets the same id");
    assert_eq!(admitted(&mut world, "n:3"), NodeId(3));
    let early = world.err(Command::ForgetNode { node: NodeId(3) });
    assert!(matches!(early, Rejection::Invalid { .. }));
    world.ok(Command::RemoveNode { node: NodeId(3) });
    assert_eq!(admitted(&mut world, "n:3"), NodeId(4), "the old one is leaving");
    world.ok(Command::ForgetNode { node: NodeId(3) });
    assert_eq!(admitted(&mut world, "n:5"), NodeId(5));
    assert_eq!(
        world.err(Command::PromoteNode { node: NodeId(3) }),
        Rejection::UnknownNode(NodeId(3))
    );
}

#[test]
fn the_last_voter_stays() {
    let mut world = World::new();
    let learner = Command::AdmitNode { http: "h:1".into(), raft: "n:2".into(), voter: false };
    world.ok(learner);
    let remove = |node| Command::RemoveNode { node: NodeId(node) };
    assert_eq!(world.err(remove(1)), Rejection::LastVoter(NodeId(1)));
    world.ok(Command::PromoteNode { node: NodeId(2) });
    world.ok(remove(1));
    assert_eq!(world.err(remove(2)), Rejection::LastVoter(NodeId(2)));
}

#[test]
fn a_new_life_of_a_worker_starts_over_and_fences_the_old_one() {
    let mut world = World::with(&[1_000], &[100]);
    world.demand("m0", 1);
    world.plan();
    world.all_ready();
    let before = world.state.placements[&AssignmentId(1)].assignment.generation;
    let late = world.report_of(AssignmentId(1), Phase::Ready);

    assert!(world.ok(register(1, 1, 1_000)).is_empty(), "an identical registration is nothing new");
    world.ok(register(1, 2, 1_000));
    let placement = &world.state.placements[&AssignmentId(1)];
    assert_eq!(placement.phase, Phase::Pending);
    assert!(placement.assignment.generation > before);
    let stale = |got| Rejection::StaleIncarnation {
        id: WorkerId(1),
        known: Incarnation(2),
        got: Incarnation(got),
    };
    assert_eq!(world.err(late), stale(1));
    assert_eq!(world.err(register(1, 1, 1_000)), stale(1));
}

#[test]
fn a_worker_that_is_down_loses_its_placements_in_the_same_command() {
    let mut world = World::with(&[1_000], &[100]);
    world.demand("m0", 1);
    world.plan();
    world.status(1, WorkerStatus::Suspect);
    assert_eq!(world.map(), ["m0@1 pending"]);
    world.status(1, WorkerStatus::Down);
    assert!(world.map().is_empty());
    world.ok(register(1, 1, 1_000));
    assert_eq!(world.worker(1).status, WorkerStatus::Ready);
}

#[test]
fn a_draining_worker_that_registers_again_is_still_draining() {
    let mut world = World::with(&[1_000], &[]);
    world.status(1, WorkerStatus::Draining);
    assert!(world.ok(register(1, 1, 1_000)).is_empty());
    world.ok(register(1, 2, 1_000));
    assert_eq!(world.worker(1).status, WorkerStatus::Ready);
}

#[test]
fn the_last_wish_decides_how_long_and_replicas_never_shrink() {
    let mut world = World::with(&[], &[100]);
    let wish = |replicas, keep_alive_ms| Command::DemandModel {
        demand: Demand {
            lifetime: Lifetime::Until(Millis(0)),
            keep_alive_ms,
            ..demand("m0", replicas)
        },
    };
    let kept = |world: &World| {
        let demand = &world.state.demands[&name("m0")];
        (demand.replicas, demand.lifetime)
    };
    world.ok(wish(3, -1));
    assert_eq!(kept(&world), (3, Lifetime::Forever));
    world.ok(wish(1, 500));
    assert_eq!(kept(&world), (3, Lifetime::Until(world.now.plus(500))));
    assert!(world.ok(wish(1, 500)).is_empty());
    assert!(world.ok(Command::ExpireDemands).is_empty());
    world.now = world.now.plus(500);
    world.ok(Command::ExpireDemands);
    assert!(world.state.demands.is_empty());
    assert!(world.ok(Command::ReleaseModel { name: name("m0") }).is_empty());
    assert!(matches!(world.err(wish(65, 0)), Rejection::OverLimit { limit: 64, .. }));
    assert!(matches!(world.err(wish(0, 0)), Rejection::Invalid { .. }));
}

#[test]
fn another_version_takes_the_placements_of_the_old_one() {
    let mut world = World::with(&[1_000], &[100]);
    world.demand("m0", 1);
    world.plan();
    let mut same_bytes = version(100);
    same_bytes.system = Some("be brief".into());
    world.ok(Command::PutModel { name: name("m0"), version: Box::new(same_bytes) });
    assert_eq!(world.map(), ["m0@1 pending"], "the same bytes stay loaded");
    world.put("m0", 200);
    assert!(world.map().is_empty());
    world.plan();
    assert_eq!(world.map(), ["m0@1 pending"]);
    world.ok(Command::CopyModel { source: name("m0"), destination: name("copy") });
    world.ok(Command::DeleteModel { name: name("m0") });
    assert!(world.map().is_empty() && world.state.demands.is_empty());
    assert_eq!(world.state.models[&name("copy")].version, version(200));
    let unknown = Rejection::UnknownModel(name("m0"));
    for command in [
        Command::DeleteModel { name: name("m0") },
        Command::ReleaseModel { name: name("m0") },
        Command::DemandModel { demand: demand("m0", 1) },
        Command::CopyModel { source: name("m0"), destination: name("x") },
    ] {
        assert_eq!(world.err(command), unknown);
    }
    assert_eq!(unknown.to_string(), "model 'm0:latest' not found");
}

#[test]
fn lying_facts_are_refused() {
    let mut world = World::new();
    let mut lies = vec![version(10); 3];
    lies[0].facts.layer_bytes = vec![u64::MAX, u64::MAX];
    lies[1].facts.layers = 9;
    lies[2].template = Some("x".repeat(ollamamax_proto::limits::MODEL_TEXT_BYTES + 1));
    for lie in lies {
        world.err(Command::PutModel { name: name("m"), version: Box::new(lie) });
    }
}

#[test]
fn a_plan_is_applied_whole_or_not_at_all() {
    let mut world = World::with(&[1_000, 1_000], &[100]);
    world.demand("m0", 2);
    let plan = crate::plan::plan(
        &world.state,
        &crate::plan::Observed::default(),
        &crate::plan::PlanLimits::default(),
        world.now,
    );
    let apply = |base, steps: &[PlanStep]| Command::ApplyPlan { base, steps: steps.to_vec() };
    let [first, second] = &plan.steps[..] else { panic!("{:?}", plan.steps) };
    let twice = world.err(apply(plan.base, &[first.clone(), first.clone()]));
    assert!(matches!(twice, Rejection::Invalid { field, .. } if field == "stage"));
    let unknown = [first.clone(), PlanStep::Unassign { id: AssignmentId(9) }];
    assert_eq!(
        world.err(apply(plan.base, &unknown)),
        Rejection::UnknownAssignment(AssignmentId(9))
    );
    let mut bad_blob = second.clone();
    let mut bad_stage = second.clone();
    if let PlanStep::Assign { assignment, .. } = &mut bad_blob {
        assignment.blob = version(7).blob;
    }
    if let PlanStep::Assign { assignment, .. } = &mut bad_stage {
        assignment.stage.end_layer = 3;
    }
    for (bad, wrong) in [(bad_blob, "blob"), (bad_stage, "stage")] {
        let rejection = world.err(apply(plan.base, &[first.clone(), bad]));
        assert!(matches!(rejection, Rejection::Invalid { field, .. } if field == wrong));
    }
    world.ok(apply(plan.base, &plan.steps));
    let current = world.state.counters.placement_revision;
    let stale = Rejection::StalePlan { base: plan.base, current };
    assert_eq!(world.err(apply(plan.base, &plan.steps)), stale);
    assert_eq!(world.map(), ["m0@1 pending", "m0@2 pending"]);
}

#[test]
fn late_reports_are_passed_over() {
    let mut world = World::with(&[1_000], &[100]);
    world.demand("m0", 1);
    world.plan();
    let mut report = world.report_of(AssignmentId(1), Phase::Ready);
    if let Command::ReportPlacements { transitions, .. } = &mut report {
        transitions[0].generation = Generation(0);
        let mut gone = transitions[0].clone();
        gone.id = AssignmentId(77);
        transitions.push(gone);
    }
    assert!(world.ok(report).is_empty());
    let report = world.report_of(AssignmentId(1), Phase::Ready);
    assert_eq!(world.ok(report.clone()).len(), 2);
    assert!(world.ok(report).is_empty(), "the same phase again is nothing new");
}

#[test]
fn checkpoints_compare_and_set() {
    let mut world = World::new();
    let put = |value: u8, expected: Option<u64>| Command::PutCheckpoint {
        name: "job".into(),
        value: vec![value],
        expected: expected.map(Revision),
    };
    let delete = |expected: Option<u64>| Command::DeleteCheckpoint {
        name: "job".into(),
        expected: expected.map(Revision),
    };
    let moved = |expected, current| Rejection::CheckpointMoved {
        name: "job".into(),
        expected: Revision(expected),
        current: Revision(current),
    };
    assert_eq!(world.err(delete(None)), Rejection::UnknownCheckpoint("job".into()));
    assert_eq!(world.err(put(1, Some(4))), moved(4, 0));
    world.ok(put(1, Some(0)));
    let first = world.revision().0;
    assert_eq!(world.err(put(2, Some(0))), moved(0, first));
    world.ok(put(1, Some(first)));
    assert_eq!(world.state.checkpoints["job"].revision, world.revision(), "a put always counts");
    assert_eq!(world.err(delete(Some(first))), moved(first, first + 1));
    world.ok(put(3, None));
    world.ok(delete(None));
    assert!(world.state.checkpoints.is_empty());
    let long = "x".repeat(ollamamax_proto::limits::CHECKPOINT_NAME_CHARS + 1);
    for bad in [String::new(), "a\nb".into(), long] {
        world.err(Command::PutCheckpoint { name: bad, value: vec![], expected: None });
    }
}

#[test]
fn time_never_goes_back() {
    let mut world = World::new();
    world.now = Millis(10);
    world.ok(register(1, 1, 10));
    assert_eq!(world.worker(1).since, Millis(1_000));
    assert_eq!(world.state.counters.clock, Millis(1_000));
}

#[test]
fn texts_have_limits_and_reasons_are_cut() {
    let mut world = World::with(&[10], &[]);
    for address in ["", "nope", "a b:1", "host:99999", &format!("{}:1", "x".repeat(300))] {
        let Command::RegisterWorker { id, incarnation, name, device, pid, .. } = register(2, 1, 1)
        else {
            unreachable!("it registers");
        };
        let address = address.to_owned();
        world.err(Command::RegisterWorker { id, incarnation, name, address, device, pid });
    }
    let reason = "é".repeat(5_000);
    let status = WorkerStatus::Suspect;
    let (id, incarnation) = (WorkerId(1), Incarnation(1));
    world.ok(Command::SetWorkerStatus { id, incarnation, status, reason });
    assert_eq!(world.worker(1).reason.chars().count(), ollamamax_proto::limits::REASON_CHARS);
}

#[test]
fn only_what_the_planner_sees_moves_the_placement_revision() {
    let mut world = World::new();
    let before = world.state.counters.placement_revision;
    world.ok(admit("n:2"));
    assert_eq!(world.state.counters.placement_revision, before);
    let changes = world.ok(register(1, 1, 10));
    assert_eq!(world.state.counters.placement_revision, before.next());
    assert!(matches!(changes[..], [Change::WorkerPut(_), Change::Advanced(_)]));
}
