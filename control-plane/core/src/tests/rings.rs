//! Replicas of several stages from the wish to the map: planned, added whole, gone whole.

use crate::command::{Command, PlanStep};
use crate::deployment::{Policy, Strategy as Spread};
use crate::plan::{Observed, PlanLimits, plan};
use crate::rejection::Rejection;
use crate::speed::Speeds;
use crate::testing::{World, config, cuttable, demand, name, register, version};
use crate::{Change, invariant};
use ollamamax_proto::placement::{Activations, Phase, WorkerStatus};
use ollamamax_proto::{AssignmentId, Incarnation, ReplicaId, Revision, WorkerId};
use proptest::prelude::*;

/// `worker:first-end shard/shards` of each member of each replica, in ring order.
fn rings(world: &World) -> Vec<String> {
    let member = |p: &crate::record::Placement| {
        let stage = p.assignment.stage;
        let (first, end, shard, of) =
            (stage.first_layer, stage.end_layer, stage.shard, stage.shards);
        format!("{}:{first}-{end} {shard}/{of}", p.worker.0)
    };
    let line = |replica: &crate::replica::ReplicaRecord| {
        replica.placements(&world.state).map(member).collect::<Vec<_>>().join(", ")
    };
    world.state.replicas.values().map(line).collect()
}

/// Plans until nothing changes any more, every placement getting ready; the last report.
pub(super) fn settle(world: &mut World) -> Vec<String> {
    for _ in 0..6 {
        world.plan();
        world.all_ready();
        assert_eq!(invariant::check(&world.state), vec![]);
    }
    let last = plan(&world.state, &Observed::default(), &PlanLimits::default(), world.now);
    assert_eq!(last.steps, vec![], "it does not come to rest");
    last.report.iter().map(ToString::to_string).collect()
}

pub(super) fn with_heads(memories: &[u64], weights: u64) -> World {
    let mut world = World::with(memories, &[]);
    let version = Box::new(cuttable(weights));
    world.ok(Command::PutModel { name: name("m0"), version });
    world.demand("m0", 1);
    world
}

#[test]
fn a_pipeline_is_balanced_by_measured_speed() {
    let mut world = World::with(&[1 << 30, 1 << 30], &[]);
    let mut version = version(8 << 20);
    (version.facts.layers, version.facts.layer_bytes) = (8, vec![1 << 20; 8]);
    world.ok(Command::PutModel { name: name("m0"), version: Box::new(version) });
    world.demand("m0", 1);
    world.deploy("m0", |deployment| {
        (deployment.strategy, deployment.stages) = (Spread::Pipeline, 2);
        deployment.policy = Policy::Throughput;
    });
    let layers = |first_ns: u64, second_ns: u64| -> Vec<(u128, u32)> {
        let mut speeds = Speeds::default();
        speeds.heard(WorkerId(1), first_ns, [], world.now);
        speeds.heard(WorkerId(2), second_ns, [], world.now);
        let observed = Observed { ns_per_mib: speeds.ns_per_mib(), ..Observed::default() };
        let planned = plan(&world.state, &observed, &PlanLimits::default(), world.now);
        let Some(PlanStep::AddReplica { replica }) = planned.steps.first() else { return vec![] };
        let part = |member: &crate::replica::NewMember| {
            let stage = member.assignment.stage;
            (member.worker.0, stage.end_layer - stage.first_layer)
        };
        let mut parts: Vec<_> = replica.members.iter().map(part).collect();
        parts.sort();
        parts
    };
    assert_eq!(layers(200_000, 201_000), [(1, 4), (2, 4)], "almost the same is the same");
    assert_eq!(layers(200_000, 600_000), [(1, 6), (2, 2)]);
    assert_eq!(layers(600_000, 200_000), [(1, 2), (2, 6)]);
}

#[test]
fn a_model_too_big_for_any_worker_is_split_into_layers() {
    let mut world = World::with(&[300, 300, 200], &[400]);
    world.demand("m0", 1);
    let report = world.plan();
    assert_eq!(rings(&world), ["1:0-1 0/1, 2:1-2 0/1"]);
    assert_eq!(
        report,
        ["m0:latest: `layer` of 2 stages on 2 workers, 50 us a token, a step every 25 us, 2 \
          sequences"]
    );
    assert!(settle(&mut world).is_empty());
    assert_eq!(world.replica().strategy, Spread::Layer);
    assert_eq!(world.replica().steps_in_flight, 2);
}

#[test]
fn a_bigger_worker_that_joins_later_moves_nothing() {
    let mut world = World::with_ring();
    world.all_ready();
    world.ok(register(3, 1, 5_000));
    settle(&mut world);
    assert_eq!(rings(&world), ["1:0-1 0/1, 2:1-2 0/1"]);
}

#[test]
fn what_fits_together_no_more_than_alone_is_explained() {
    let mut world = World::with(&[200, 200], &[400]);
    world.demand("m0", 1);
    assert_eq!(
        world.plan(),
        ["m0:latest: 1 more wanted, as `layer` it needs 464 bytes, the 2 workers open to it have \
          360 left: 104 more are needed"]
    );
}

#[test]
fn a_tensor_group_shares_every_layer() {
    let mut world = with_heads(&[900, 900], 400);
    world.deploy("m0", |deployment| {
        deployment.strategy = Spread::Tensor;
        deployment.activations = Activations::Bf16;
    });
    settle(&mut world);
    assert_eq!(rings(&world), ["1:0-2 0/2, 2:0-2 1/2"]);
    let replica = world.replica();
    assert_eq!((replica.heads(), replica.activations), (2, Activations::Bf16));
    let ring = replica.ring(&world.state);
    let heads: Vec<(u32, u32)> = ring.peers.iter().map(|p| (p.first_head, p.end_head)).collect();
    assert_eq!(heads, [(0, 1), (1, 2)]);
    assert_eq!(ring.driver().map(|peer| peer.assignment), Some(AssignmentId(1)));
}

#[test]
fn a_deployment_splits_even_what_would_fit_whole_and_another_replaces_it_when_it_serves() {
    let mut world = World::with(&[900, 900, 900, 900], &[400]);
    world.demand("m0", 1);
    settle(&mut world);
    assert_eq!(world.map(), ["m0@1 ready"]);
    world.deploy("m0", |deployment| deployment.strategy = Spread::Pipeline);
    world.plan();
    assert_eq!(rings(&world), ["2:0-1 0/1, 3:1-2 0/1"]);
    assert_eq!(world.map().len(), 3, "the whole one serves until the pipeline does");
    settle(&mut world);
    assert_eq!(world.map(), ["m0@2 ready", "m0@3 ready"]);
    world.deploy("m0", |deployment| deployment.strategy = Spread::Data);
    world.plan();
    assert_eq!(world.map().len(), 3);
    settle(&mut world);
    assert_eq!(world.map(), ["m0@1 ready"]);
}

#[test]
fn where_there_is_no_room_for_both_the_successor_takes_the_place() {
    let mut world = with_heads(&[1_100, 1_050], 400);
    settle(&mut world);
    assert_eq!(world.map(), ["m0@1 ready"], "it fits alone");
    world.deploy("m0", |deployment| deployment.strategy = Spread::Layer);
    settle(&mut world);
    assert_eq!(rings(&world), ["1:0-1 0/1, 2:1-2 0/1"]);
    world.deploy("m0", |deployment| deployment.strategy = Spread::Tensor);
    settle(&mut world);
    assert_eq!(rings(&world), ["1:0-2 0/2, 2:0-2 1/2"]);
    world.ok(Command::ClearDeployment { name: name("m0") });
    settle(&mut world);
    assert_eq!(rings(&world).len(), 1, "nobody wants it otherwise");
}

#[test]
fn a_lost_member_takes_the_replica_with_it_and_the_rest_is_used_again() {
    let mut world = World::with(&[300, 300, 290], &[400]);
    world.demand("m0", 1);
    settle(&mut world);
    let before = world.replica().id;
    let id = WorkerId(2);
    let incarnation = world.worker(2).incarnation;
    let status = WorkerStatus::Down;
    let changes =
        world.ok(Command::SetWorkerStatus { id, incarnation, status, reason: "gone".into() });
    assert!(changes.contains(&Change::ReplicaRemoved(before)));
    assert!(world.map().is_empty());
    settle(&mut world);
    assert_eq!(rings(&world), ["1:0-1 0/1, 3:1-2 0/1"]);
    assert!(world.replica().id > before);
}

#[test]
fn every_way_to_lose_a_member_removes_the_replica() {
    let lose: [fn(&mut World); 6] = [
        |world| world.status(1, WorkerStatus::Down),
        |world| drop(world.ok(Command::RemoveWorker { id: WorkerId(2) })),
        |world| drop(world.ok(register(2, 1, 299))),
        |world| drop(world.ok(Command::DeleteModel { name: name("m0") })),
        |world| world.put("m0", 401),
        |world| {
            let id = *world.state.placements.keys().next().expect("there are two");
            let base = world.state.counters.placement_revision;
            world.ok(Command::ApplyPlan { base, steps: vec![PlanStep::Unassign { id }] });
        },
    ];
    for (nth, lose) in lose.iter().enumerate() {
        let mut world = World::with_ring();
        lose(&mut world);
        assert!(world.state.replicas.is_empty() && world.state.placements.is_empty(), "{nth}");
        assert_eq!(invariant::check(&world.state), vec![]);
    }
}

#[test]
fn a_member_that_restarts_keeps_its_place_under_a_new_generation() {
    let mut world = World::with_ring();
    world.all_ready();
    let before = world.replica().ring(&world.state);
    world.ok(register(2, 2, 300));
    let after = world.replica().ring(&world.state);
    assert_eq!(before.replica, after.replica);
    assert_eq!(before.peers[0], after.peers[0]);
    assert!(after.peers[1].generation > before.peers[1].generation);
    assert_eq!(world.map(), ["m0@1 ready", "m0@2 pending"]);
    assert!(world.plan().is_empty());
}

#[test]
fn a_draining_member_is_replaced_beside_or_in_place() {
    let mut world = World::with(&[300, 300, 300, 300], &[400]);
    world.demand("m0", 1);
    settle(&mut world);
    world.status(1, WorkerStatus::Draining);
    world.plan();
    assert_eq!(rings(&world), ["1:0-1 0/1, 2:1-2 0/1", "3:0-1 0/1, 4:1-2 0/1"]);
    assert!(world.plan()[0].ends_with("keeps it until its successor serves"));
    settle(&mut world);
    assert_eq!(rings(&world), ["3:0-1 0/1, 4:1-2 0/1"]);
    world.status(2, WorkerStatus::Draining);
    world.ok(register(5, 1, 300));
    world.status(4, WorkerStatus::Draining);
    settle(&mut world);
    assert_eq!(rings(&world), ["3:0-1 0/1, 5:1-2 0/1"], "one of its workers was needed again");
}

#[test]
fn a_failed_member_is_left_alone_for_a_while() {
    let mut world = World::with(&[300, 300], &[400]);
    world.demand("m0", 1);
    world.plan();
    let report = world.report_of(AssignmentId(2), Phase::Failed { reason: "no disk".into() });
    world.ok(report);
    let report = world.plan();
    assert!(report[0].starts_with("m0:latest: 1 more wanted"), "{report:?}");
    assert!(report[1].ends_with("could not load it: no disk"), "{report:?}");
    assert_eq!(rings(&world).len(), 1);
    world.now = world.now.plus(60_000);
    world.plan();
    assert_eq!(world.map(), ["m0@1 pending", "m0@2 pending"]);
}

#[test]
fn replicas_are_refused_that_do_not_cover_the_model() {
    let mut world = World::with(&[300, 300], &[400]);
    world.demand("m0", 1);
    let planned = plan(&world.state, &Observed::default(), &PlanLimits::default(), world.now);
    let [PlanStep::AddReplica { replica }] = &planned.steps[..] else {
        unreachable!("one replica is planned")
    };
    let refused = |world: &mut World, change: &dyn Fn(&mut crate::replica::NewReplica)| {
        let mut replica = replica.clone();
        change(&mut replica);
        let steps = vec![PlanStep::AddReplica { replica }];
        let base = world.state.counters.placement_revision;
        world.err(Command::ApplyPlan { base, steps })
    };
    let invalid: [&dyn Fn(&mut crate::replica::NewReplica); 6] = [
        &|replica| replica.members.truncate(1),
        &|replica| replica.members.reverse(),
        &|replica| replica.members[1].worker = replica.members[0].worker,
        &|replica| replica.members[0].assignment.stage.embedding = false,
        &|replica| replica.strategy = Spread::Auto,
        &|replica| replica.steps_in_flight = 0,
    ];
    for change in invalid {
        assert!(matches!(refused(&mut world, change), Rejection::Invalid { .. }));
    }
    let base = world.state.counters.placement_revision;
    let part = replica.members[0].clone();
    let steps = vec![PlanStep::Assign { worker: part.worker, assignment: part.assignment }];
    assert!(matches!(world.err(Command::ApplyPlan { base, steps }), Rejection::Invalid { .. }));
    let steps = vec![PlanStep::RemoveReplica { id: ReplicaId(9) }];
    let unknown = world.err(Command::ApplyPlan { base: Revision(base.0), steps });
    assert_eq!(unknown, Rejection::UnknownReplica(ReplicaId(9)));
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn a_replica_that_serves_stays_whatever_comes_and_goes_beside_it(
        events in prop::collection::vec((0..7u8, 3..7u128, 1..9u64), 0..40),
    ) {
        let mut world = World::with_ring();
        world.all_ready();
        world.put("m1", 500);
        let ring = world.replica().clone();
        for (life, (kind, worker, size)) in (1..).zip(events) {
            let id = WorkerId(worker);
            let event = match kind {
                0 | 1 => register(worker, life, size * 200),
                2 => Command::SetWorkerStatus {
                    id,
                    incarnation: world.state.workers.get(&id).map_or(Incarnation(0), |w| w.incarnation),
                    status: WorkerStatus::Down,
                    reason: "gone".into(),
                },
                3 => Command::DemandModel { demand: demand("m1", 3) },
                4 => Command::ReleaseModel { name: name("m1") },
                5 => Command::DrainWorker { id, reason: "repair".into() },
                _ => Command::ResumeWorker { id },
            };
            // Of a worker that is not there nothing is accepted.
            let _ = world.run(event);
            world.plan();
            world.all_ready();
            prop_assert_eq!(world.state.replicas.get(&ring.id), Some(&ring));
        }
    }
}
