//! The planner: scenarios in words, fixpoint and bounds on random states, and brute force on small
//! ones.

use super::machine::{history, resolve};
use crate::command::{Command, PlanStep};
use crate::deployment::Strategy as Strategy_;
use crate::plan::{Note, Observed, Plan, PlanLimits, plan};
use crate::record::Demand;
use crate::testing::{World, config, demand, register};
use crate::{State, invariant};
use ollamamax_proto::placement::{Phase, WorkerStatus};
use ollamamax_proto::{AssignmentId, Millis, WorkerId, limits};
use proptest::prelude::*;

fn plan_of(state: &State, now: Millis) -> Plan {
    plan(state, &Observed::default(), &PlanLimits::default(), now)
}

fn failed() -> Phase {
    Phase::Failed { reason: "no such file".into() }
}

#[test]
fn replicas_spread_over_the_emptiest_workers() {
    let mut world = World::with(&[2_000, 4_000, 3_000], &[100, 100]);
    world.demand("m0", 2);
    assert!(world.plan().is_empty());
    assert_eq!(world.map(), ["m0@2 pending", "m0@3 pending"]);
    world.demand("m1", 1);
    world.plan();
    assert_eq!(world.map(), ["m0@2 pending", "m0@3 pending", "m1@1 pending"]);
}

#[test]
fn a_busy_worker_comes_after_its_equal() {
    let mut world = World::with(&[1_000, 1_000], &[100]);
    world.demand("m0", 1);
    let observed = Observed { busy: [(WorkerId(1), 3)].into(), ..Observed::default() };
    let plan = plan(&world.state, &observed, &PlanLimits::default(), world.now);
    assert!(matches!(plan.steps[..], [PlanStep::Assign { worker: WorkerId(2), .. }]));
}

#[test]
fn as_many_sequences_as_memory_allows() {
    // 90 % of the memory, less the weights, in sequences of 64 bytes
    for (memory, sequences) in [(183, 1), (255, 2), (1_000, 12), (9_000, limits::SEQUENCES_COUNT)] {
        let mut world = World::with(&[memory], &[100]);
        world.demand("m0", 1);
        world.plan();
        let assignment = &world.state.placements[&AssignmentId(1)].assignment;
        assert_eq!(assignment.sequences_max, sequences, "memory {memory}");
        assert_eq!(assignment.context_length, 64);
    }
}

#[test]
fn the_report_says_what_a_replica_waits_for() {
    let mut world = World::with(&[182], &[100]);
    world.demand("m0", 2);
    assert_eq!(
        world.plan(),
        ["m0:latest: 2 more wanted, it needs 164 bytes with one sequence, the emptiest worker \
          has 163 left: needs 1 more"]
    );
    let mut world = World::with(&[1_000], &[100]);
    world.demand("m0", 3);
    assert_eq!(
        world.plan(),
        ["m0:latest: 2 more wanted, each of the 1 ready workers holds it already"]
    );
    world.status(1, WorkerStatus::Down);
    assert_eq!(world.plan(), ["m0:latest: 3 more wanted, no worker is ready"]);
}

#[test]
fn a_lost_worker_is_replaced() {
    let mut world = World::with(&[1_000, 900], &[100]);
    world.demand("m0", 1);
    world.plan();
    world.all_ready();
    world.status(1, WorkerStatus::Suspect);
    world.plan();
    assert_eq!(world.map(), ["m0@1 ready"], "a suspect may come back");
    world.status(1, WorkerStatus::Down);
    world.plan();
    assert_eq!(world.map(), ["m0@2 pending"]);
}

#[test]
fn a_failure_is_tried_elsewhere_and_there_again_only_later() {
    let mut world = World::with(&[1_000, 900], &[100]);
    world.demand("m0", 1);
    world.plan();
    let report = world.report_of(AssignmentId(1), failed());
    world.ok(report);
    world.plan();
    assert_eq!(world.map(), ["m0@1 failed", "m0@2 pending"]);
    world.now = world.now.plus(10_000);
    let report = world.report_of(AssignmentId(2), failed());
    world.ok(report);
    assert_eq!(
        world.plan(),
        [
            "m0:latest: 1 more wanted, every worker left has just failed to load it",
            "m0:latest: worker `00000000000000000000000000000001` could not load it: no such file",
            "m0:latest: worker `00000000000000000000000000000002` could not load it: no such file",
        ]
    );
    assert_eq!(world.map(), ["m0@1 failed", "m0@2 failed"]);
    world.now = world.now.plus(50_000);
    world.plan();
    assert_eq!(world.map(), ["m0@1 pending", "m0@2 failed"]);
}

#[test]
fn a_draining_worker_keeps_a_model_until_its_successor_serves() {
    let mut world = World::with(&[1_000, 900], &[100]);
    world.demand("m0", 1);
    world.plan();
    world.all_ready();
    world.status(1, WorkerStatus::Draining);
    world.plan();
    assert_eq!(world.map(), ["m0@1 ready", "m0@2 pending"]);
    assert_eq!(
        world.plan(),
        ["m0:latest: draining worker `00000000000000000000000000000001` keeps it until its \
          successor serves"]
    );
    world.all_ready();
    assert!(world.plan().is_empty());
    assert_eq!(world.map(), ["m0@2 ready"]);
    world.status(2, WorkerStatus::Draining);
    world.plan();
    assert!(world.map().is_empty(), "no successor can be had");
}

#[test]
fn what_nobody_wants_goes() {
    let mut world = World::with(&[1_000], &[100, 100]);
    world.demand("m0", 1);
    let keep_alive_ms = 500;
    let lifetime = crate::record::Lifetime::Until(Millis(0));
    let wish = Demand { keep_alive_ms, lifetime, ..demand("m1", 1) };
    world.ok(Command::DemandModel { demand: wish });
    world.plan();
    assert_eq!(world.map().len(), 2);
    world.now = world.now.plus(500);
    world.plan();
    assert_eq!(world.map(), ["m0@1 pending"]);
    world.ok(Command::ReleaseModel { name: crate::testing::name("m0") });
    world.plan();
    assert!(world.map().is_empty());
}

#[test]
fn fewer_replicas_after_a_release_keep_the_ready_ones() {
    let mut world = World::with(&[1_000, 1_000], &[100]);
    world.demand("m0", 2);
    world.plan();
    let report = world.report_of(AssignmentId(2), Phase::Ready);
    world.ok(report);
    world.ok(Command::ReleaseModel { name: crate::testing::name("m0") });
    world.demand("m0", 1);
    world.plan();
    assert_eq!(world.map(), ["m0@2 ready"]);
}

#[test]
fn a_longer_context_is_loaded_beside_the_short_one_or_in_its_place() {
    let longer = |world: &mut World, tokens| {
        let context_length = tokens;
        world.ok(Command::DemandModel { demand: Demand { context_length, ..demand("m0", 1) } });
    };
    let contexts = |world: &World| -> Vec<u32> {
        world.state.placements.values().map(|p| p.assignment.context_length).collect()
    };
    for memories in [&[1_000, 900][..], &[1_000]] {
        let mut world = World::with(memories, &[100]);
        longer(&mut world, 16);
        world.plan();
        world.all_ready();
        longer(&mut world, 32);
        world.plan();
        assert_eq!(contexts(&world), if memories.len() == 2 { vec![16, 32] } else { vec![32] });
        world.all_ready();
        world.plan();
        assert_eq!(contexts(&world), [32]);
        longer(&mut world, 16);
        assert!(plan_of(&world.state, world.now).steps.is_empty(), "a shorter wish is content");
    }
}

#[test]
fn a_tight_packing_is_found_where_spreading_fails() {
    // Usable 500 and 400, wanted 400, 300 and 200: the first on the emptiest worker leaves no place
    // for the last.
    let mut world = World::with(&[556, 445], &[336, 236, 136]);
    for model in ["m0", "m1", "m2"] {
        world.demand(model, 1);
    }
    assert!(world.plan().is_empty());
    assert_eq!(world.map(), ["m0@2 pending", "m1@1 pending", "m2@1 pending"]);
}

/// The most models served at all, then the most replicas, over all ways to place them.
fn brute_force(free: &mut [u64], wants: &[(u64, u32)]) -> (usize, usize) {
    let Some((&(need, replicas), rest)) = wants.split_first() else { return (0, 0) };
    let mut best = (0, 0);
    for set in 0..1u32 << free.len() {
        let mut left = free.to_vec();
        let count = set.count_ones();
        let fits = (0..left.len()).all(|worker| {
            if set & (1 << worker) == 0 {
                return true;
            }
            left[worker].checked_sub(need).map(|after| left[worker] = after).is_some()
        });
        if count <= replicas && fits {
            let (models, total) = brute_force(&mut left, rest);
            best = best.max((models + usize::from(count > 0), total + count as usize));
        }
    }
    best
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn no_small_case_has_a_better_plan(
        memories in prop::collection::vec(100..1_500u64, 1..4),
        wants in prop::collection::vec((50..700u64, 1..4u32), 1..4),
    ) {
        let weights: Vec<u64> = wants.iter().map(|want| want.0).collect();
        let mut world = World::with(&memories, &weights);
        for (nth, (_, replicas)) in wants.iter().enumerate() {
            world.demand(&format!("m{nth}"), *replicas);
            world.deploy(&format!("m{nth}"), |deployment| {
                deployment.strategy = Strategy_::Data;
                deployment.replicas_max = *replicas;
            });
        }
        world.plan();
        let placements = &world.state.placements;
        let served = (0..wants.len()).filter(|nth| {
            placements.values().any(|p| p.assignment.model.model() == format!("m{nth}"))
        });
        let got = (served.count(), placements.len());
        let mut free: Vec<u64> = memories.iter().map(|memory| memory * 9 / 10).collect();
        let needs: Vec<(u64, u32)> =
            wants.iter().map(|(weights, replicas)| (weights + 64, *replicas)).collect();
        prop_assert_eq!(got, brute_force(&mut free, &needs));
        prop_assert_eq!(invariant::check(&world.state), vec![]);
    }

    #[test]
    fn planning_twice_changes_nothing(history in history()) {
        let mut world = World::default();
        for (op, at) in &history {
            world.now = Millis(*at);
            if let Some(command) = resolve(&world, op) {
                let _ = world.run(command);
            }
        }
        world.now = world.now.max(world.state.counters.clock);
        let first = plan_of(&world.state, world.now);
        check_plan(&world.state, &first, world.now);
        world.ok(Command::ApplyPlan { base: first.base, steps: first.steps });
        let second = plan_of(&world.state, world.now);
        prop_assert_eq!(second.steps, vec![]);
        prop_assert_eq!(invariant::check(&world.state), vec![]);
    }

    #[test]
    fn it_settles_with_every_replica_placed_or_explained(history in history()) {
        let mut world = World::default();
        for (op, at) in &history {
            world.now = Millis(*at);
            if let Some(command) = resolve(&world, op) {
                let _ = world.run(command);
            }
        }
        world.now = world.now.max(world.state.counters.clock);
        for _ in 0..10 {
            world.plan();
            world.all_ready();
        }
        let plan = plan_of(&world.state, world.now);
        prop_assert_eq!(&plan.steps, &vec![]);
        let plain = |demand: &&Demand| {
            demand.is_live(world.now)
                && !world.state.deployments.contains_key(&demand.model)
                && !world.state.rollouts.contains_key(&demand.model)
        };
        for demand in world.state.demands.values().filter(plain) {
            let rings = world.state.replicas.values().filter(|replica| {
                replica.model == demand.model
                    && replica.placements(&world.state).all(|placement| {
                        let status = world.state.workers[&placement.worker].status;
                        placement.phase == Phase::Ready
                            && matches!(status, WorkerStatus::Ready | WorkerStatus::Suspect)
                            && placement.assignment.context_length
                                >= demand.context_length.min(64)
                    })
            });
            let held = world.state.placements.values().filter(|placement| {
                let counts = matches!(
                    world.state.workers[&placement.worker].status,
                    WorkerStatus::Ready | WorkerStatus::Suspect
                );
                world.state.replica_of(placement.assignment.id).is_none()
                    && placement.assignment.model == demand.model
                    && placement.phase == Phase::Ready
                    && placement.assignment.context_length >= demand.context_length.min(64)
                    && counts
            });
            let waits: usize = plan.report.iter().filter_map(|note| match note {
                Note::Waits { model, replicas, .. } if *model == demand.model => Some(*replicas),
                _ => None,
            }).sum();
            prop_assert_eq!(held.count() + rings.count() + waits, demand.replicas as usize);
        }
    }
}

fn check_plan(state: &State, plan: &Plan, now: Millis) {
    let mut assigned = false;
    for step in &plan.steps {
        match step {
            PlanStep::RemoveReplica { id } => {
                assert!(!assigned && state.replicas.contains_key(id));
            }
            PlanStep::AddReplica { replica } => {
                assigned = true;
                assert!(state.demands[&replica.model].is_live(now));
            }
            PlanStep::Unassign { id } => {
                assert!(!assigned, "something is taken away after something was given");
                assert!(state.placements.contains_key(id));
            }
            PlanStep::Release { model } => {
                assert!(!assigned && state.demands.contains_key(model));
            }
            PlanStep::Assign { worker, assignment } => {
                assigned = true;
                assert_eq!(state.workers[worker].status, WorkerStatus::Ready);
                assert!(state.demands[&assignment.model].is_live(now));
            }
        }
    }
}

#[test]
fn a_thousand_workers_are_planned_for() {
    let mut world = World::new();
    for worker in 1..=1_000 {
        world.ok(register(worker, 1, 1_000));
    }
    for nth in 0..40 {
        world.put(&format!("m{nth}"), 100);
        world.demand(&format!("m{nth}"), 20);
    }
    assert!(world.plan().is_empty());
    assert_eq!(world.state.placements.len(), 800);
    assert_eq!(invariant::check(&world.state), vec![]);
}
