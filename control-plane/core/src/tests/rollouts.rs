//! Changes of versions: scenarios in words, and what holds in every history.

use super::machine::{history, resolve};
use crate::command::Command;
use crate::plan::{Observed, Plan, PlanLimits, plan};
use crate::rejection::Rejection;
use crate::rollout::{Rollout, VersionState, unloadable};
use crate::serving::serving;
use crate::testing::{World, config, name, register, version};
use crate::{State, invariant};
use ollamamax_proto::placement::Phase;
use ollamamax_proto::{AssignmentId, Millis, ModelName, limits};
use proptest::prelude::*;

fn planned(world: &World, observed: &Observed) -> Plan {
    plan(&world.state, observed, &PlanLimits::default(), world.now)
}

fn rollout(world: &World) -> Option<&Rollout> {
    world.state.rollouts.get(&name("m0"))
}

/// `bytes@worker phase` of each placement of `m0`.
fn map(world: &World) -> Vec<String> {
    let of = |weights: u64| version(weights).blob;
    let mut lines: Vec<String> = world
        .state
        .placements
        .values()
        .map(|p| {
            let known = (1..1_000).find(|weights| of(*weights) == p.assignment.blob);
            format!("{}@{} {}", known.expect("a size of the tests"), p.worker.0, p.phase)
        })
        .collect();
    lines.sort();
    lines
}

/// Where `m0` of 100 bytes serves on each of the workers.
fn served(memories: &[u64]) -> World {
    let mut world = World::with(memories, &[100]);
    world.demand("m0", u32::try_from(memories.len()).expect("few"));
    world.deploy("m0", |deployment| {
        deployment.replicas_max = 8;
    });
    world.plan();
    let ids: Vec<AssignmentId> = world.state.placements.keys().copied().collect();
    for id in ids {
        // Little enough for two versions where there is room for them.
        world.state.placements[&id].assignment.sequences_max = 1;
    }
    world.all_ready();
    world
}

#[test]
fn a_new_version_comes_beside_the_old_and_then_the_old_goes() {
    let mut world = served(&[1_000]);
    world.roll("m0", 120, 100);
    assert_eq!(map(&world), ["100@1 ready"]);
    world.plan();
    assert_eq!(map(&world), ["100@1 ready", "120@1 pending"]);
    assert_eq!(planned(&world, &Observed::default()).steps, vec![]);
    world.all_ready();
    world.plan();
    assert_eq!(map(&world), ["100@1 ready", "120@1 ready"], "somebody may just have picked it");
    world.now = world.now.plus(limits::ROLLOUT_DRAIN_MS);
    let busy = Observed { requests: [(AssignmentId(1), 2)].into(), ..Observed::default() };
    assert_eq!(planned(&world, &busy).steps, vec![], "its requests end first");
    world.plan();
    assert_eq!(map(&world), ["120@1 ready"]);
    assert_eq!(rollout(&world), None);
    let kept: Vec<_> = world.state.versions.values().collect();
    assert_eq!((kept.len(), &kept[0].state), (1, &VersionState::Served));
    assert_eq!(invariant::check(&world.state), vec![]);
}

#[test]
fn without_demand_a_name_changes_at_once() {
    let mut world = World::with(&[1_000], &[100]);
    world.roll("m0", 120, 100);
    assert_eq!(rollout(&world), None);
    let command =
        Command::RollOut { name: name("m0"), version: Box::new(version(130)), weight: 10 };
    assert!(matches!(world.err(command), Rejection::Invalid { field, .. } if field == "weight"));
}

#[test]
fn a_held_share_keeps_both_and_weights_must_add_up() {
    let mut world = served(&[1_000]);
    world.roll("m0", 120, 10);
    world.plan();
    world.all_ready();
    world.now = world.now.plus(10 * limits::ROLLOUT_DRAIN_MS);
    assert_eq!(planned(&world, &Observed::default()).steps, vec![]);
    let shift = |version: Option<u64>, weight: u32| Command::ShiftTraffic {
        name: name("m0"),
        version: version.map(|weights| crate::testing::version(weights).digest),
        weight,
    };
    world.ok(shift(None, 50));
    world.ok(shift(Some(100), 80));
    assert_eq!(rollout(&world).map(|rollout| rollout.weight), Some(20));
    assert!(matches!(world.err(shift(None, 101)), Rejection::Invalid { .. }));
    assert!(matches!(world.err(shift(Some(77), 50)), Rejection::UnknownVersion { .. }));
    world.ok(shift(None, 100));
    world.plan();
    assert_eq!(map(&world), ["120@1 ready"]);
    assert_eq!(rollout(&world), None);
    let reason = world.err(shift(None, 40)).to_string();
    assert!(reason.contains("no other one serves the rest"), "{reason}");
    // Back to the version before, by its digest.
    world.ok(shift(Some(100), 100));
    world.plan();
    assert_eq!(map(&world), ["100@1 pending", "120@1 ready"]);
}

#[test]
fn what_cannot_be_loaded_is_rolled_back_with_the_reason() {
    let mut world = served(&[1_000, 1_000]);
    world.roll("m0", 120, 100);
    world.plan();
    let fails = |world: &mut World| {
        let ids: Vec<AssignmentId> = world.state.placements.keys().copied().collect();
        for id in ids {
            if world.state.placements[&id].phase == Phase::Pending {
                let report = world.report_of(id, Phase::Failed { reason: "no such tensor".into() });
                world.ok(report);
            }
        }
    };
    assert_eq!(unloadable(&world.state, &planned(&world, &Observed::default())), vec![]);
    fails(&mut world);
    let plan = planned(&world, &Observed::default());
    let commands = unloadable(&world.state, &plan);
    assert_eq!(commands.len(), 1, "{commands:?}");
    let command = &commands[0];
    world.ok(command.clone());
    assert_eq!(world.state.models[&name("m0")].version, version(100));
    assert_eq!(rollout(&world), None);
    let kept: Vec<_> = world.state.versions.values().map(|kept| kept.state.clone()).collect();
    let reason = "2 workers could not load it: no such tensor".to_owned();
    assert_eq!(kept, [VersionState::Failed { reason }]);
    assert!(matches!(world.err(command.clone()), Rejection::UnknownRollout(_)), "it is over");
    world.plan();
    assert_eq!(map(&world), ["100@1 ready", "100@2 ready"]);
    assert_eq!(planned(&world, &Observed::default()).steps, vec![]);
}

#[test]
fn without_room_for_both_one_goes_at_a_time_and_the_last_one_stays() {
    let mut world = served(&[250, 250]);
    world.roll("m0", 120, 100);
    let report = world.plan();
    assert_eq!(map(&world), ["100@2 ready", "120@1 pending"]);
    assert!(report.iter().any(|line| line.contains("replica by replica")), "{report:?}");
    assert_eq!(planned(&world, &Observed::default()).steps, vec![]);
    world.all_ready();
    world.now = world.now.plus(limits::ROLLOUT_DRAIN_MS);
    world.plan();
    world.plan();
    world.all_ready();
    assert_eq!(map(&world), ["120@1 ready", "120@2 ready"]);

    let mut world = served(&[250]);
    world.roll("m0", 120, 100);
    let report = world.plan();
    assert_eq!(map(&world), ["100@1 ready"]);
    assert!(report.iter().any(|line| line.contains("last replica stays")), "{report:?}");
    // Whoever unloads it gets the new version with the next request.
    world.ok(Command::ReleaseModel { name: name("m0") });
    world.plan();
    assert_eq!((map(&world), rollout(&world)), (vec![], None));
}

#[test]
fn of_two_versions_that_change_their_form_one_goes_on_serving() {
    let mut world = World::with(&[400], &[100]);
    world.demand("m0", 1);
    world.plan();
    world.all_ready();
    world.ok(register(2, 1, 800));
    world.ok(register(3, 1, 400));
    world.roll("m0", 400, 100);
    world.ok(Command::ShiftTraffic { name: name("m0"), version: None, weight: 0 });
    world.plan();
    world.all_ready();
    assert_eq!(map(&world).len(), 2, "both versions serve");
    world.deploy("m0", |deployment| {
        deployment.strategy = crate::deployment::Strategy::Layer;
        deployment.stages = 2;
    });
    world.plan();
    assert!(answers(&world.state, &name("m0")) > 0, "{:?}", map(&world));
}

#[test]
fn few_versions_are_kept_and_all_go_with_their_name() {
    let mut world = World::with(&[1_000], &[100]);
    for size in 101..110 {
        world.now = world.now.plus(1);
        world.roll("m0", size, 100);
    }
    let sizes: Vec<u64> =
        world.state.versions.values().map(|kept| kept.version.blob_bytes).collect();
    assert_eq!(sizes.len(), limits::MODEL_VERSIONS_COUNT);
    assert!(world.state.versions.contains_key(&(name("m0"), version(108).digest)));
    world.ok(Command::DeleteModel { name: name("m0") });
    assert!(world.state.versions.is_empty());
}

/// Replicas of either version that take requests.
fn answers(state: &State, model: &ModelName) -> usize {
    let Some(record) = state.models.get(model) else { return 0 };
    let old = state.old_version(model).cloned();
    let old = old.map(|version| crate::record::ModelRecord { version, ..record.clone() });
    // A copy of the model under another name answers as well, but not for long.
    let own = |record: &crate::record::ModelRecord| {
        let all = serving(state, record).into_iter();
        all.filter(|(_, placement)| placement.assignment.model == *model).count()
    };
    own(record) + old.map_or(0, |old| own(&old))
}

fn live_rollouts(world: &World) -> Vec<ModelName> {
    let live = |name: &&ModelName| {
        world.state.demands.get(*name).is_some_and(|demand| demand.is_live(world.now))
    };
    world.state.rollouts.keys().filter(live).cloned().collect()
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn a_plan_never_takes_the_last_that_serves_during_a_rollout(
        history in history(),
        busy in prop::collection::btree_map(0..40u64, 0..3u32, 0..10),
    ) {
        let requests = busy.iter().map(|(id, count)| (AssignmentId(*id), *count)).collect();
        let observed = Observed { requests, ..Observed::default() };
        let mut world = World::default();
        for (op, at) in &history {
            world.now = Millis(*at).max(world.state.counters.clock);
            if let Some(command) = resolve(&world, op) {
                let _ = world.run(command);
            }
            let names = live_rollouts(&world);
            if names.is_empty() {
                continue;
            }
            let plan = planned(&world, &observed);
            let mut after = world.clone();
            after.ok(Command::ApplyPlan { base: plan.base, steps: plan.steps });
            for name in &names {
                let served = answers(&world.state, name) == 0 || answers(&after.state, name) > 0;
                prop_assert!(served, "{}", name);
            }
            prop_assert_eq!(planned(&after, &observed).steps, vec![]);
        }
    }

    #[test]
    fn a_rollout_ends_in_one_version(
        memories in prop::collection::vec(300..1_500u64, 1..4),
        replicas in 1..4u32,
        sizes in prop::collection::vec(100..300u64, 1..4),
        verdicts in prop::collection::vec(any::<bool>(), 40),
    ) {
        let mut world = World::with(&memories, &[100]);
        world.demand("m0", replicas);
        world.plan();
        world.all_ready();
        for size in &sizes {
            world.roll("m0", *size, 100);
            world.plan();
        }
        let last = version(*sizes.last().expect("at least one"));
        let mut bad = None;
        for verdict in &verdicts {
            world.now = world.now.plus(limits::ROLLOUT_DRAIN_MS);
            let loading: Vec<AssignmentId> = world.state.placements.values()
                .filter(|placement| placement.phase == Phase::Pending)
                .map(|placement| placement.assignment.id)
                .collect();
            for id in loading {
                // All of one version load or none does: that is what a bad version is.
                let blob = world.state.placements[&id].assignment.blob;
                let fails = blob == last.blob && *bad.get_or_insert(*verdict);
                let failed = Phase::Failed { reason: "bad".into() };
                let report = world.report_of(id, if fails { failed } else { Phase::Ready });
                world.ok(report);
            }
            let plan = planned(&world, &Observed::default());
            for command in unloadable(&world.state, &plan) {
                world.ok(command);
            }
            let _ = world.run(Command::ApplyPlan { base: plan.base, steps: plan.steps });
            prop_assert_eq!(invariant::check(&world.state), vec![]);
        }
        let blobs: std::collections::BTreeSet<_> =
            world.state.placements.values().map(|placement| placement.assignment.blob).collect();
        let stuck = world.state.rollouts.contains_key(&name("m0"));
        if stuck {
            // It fits on fewer workers than serve now; or only where the last that serves would have to go first.
            let fits = memories.iter().filter(|memory| *memory * 9 / 10 >= last.blob_bytes + 64);
            let enough = fits.count() >= memories.len().min(replicas as usize);
            prop_assert!(!enough || world.state.placements.len() == 1);
        } else {
            prop_assert_eq!(blobs.len(), 1);
            let current = world.state.models[&name("m0")].version.blob;
            prop_assert!(blobs.contains(&current));
            prop_assert_eq!(current == last.blob, bad != Some(true) || last.blob == version(100).blob);
        }
    }
}
