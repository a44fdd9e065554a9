//! Models that make room for others: scenarios in words, and what holds of every plan.

use crate::command::{Command, PlanStep};
use crate::plan::{Observed, Plan, PlanLimits, plan};
use crate::record::{Demand, Lifetime};
use crate::testing::{World, config, demand, name};
use crate::{State, invariant};
use ollamamax_proto::{AssignmentId, Millis, ModelName, limits};
use proptest::prelude::*;

fn planned(world: &World, observed: &Observed) -> Plan {
    plan(&world.state, observed, &PlanLimits::default(), world.now)
}

fn wanted(world: &mut World, model: &str, keep_alive_ms: i64) {
    let lifetime = Lifetime::Until(Millis(0));
    let demand = Demand { lifetime, keep_alive_ms, ..demand(model, 1) };
    world.ok(Command::DemandModel { demand });
}

#[test]
fn the_model_used_least_lately_makes_room() {
    let mut world = World::with(&[900], &[300, 300, 300]);
    for model in ["m0", "m1"] {
        wanted(&mut world, model, 60_000);
        world.now = world.now.plus(1_000);
    }
    world.plan();
    world.all_ready();
    world.now = world.now.plus(limits::EVICTION_LOADED_MS);
    wanted(&mut world, "m2", 60_000);
    let busy = Observed { requests: [(AssignmentId(1), 1)].into(), ..Observed::default() };
    let second =
        |step: &PlanStep| matches!(step, PlanStep::Release { model } if *model == name("m1"));
    assert!(planned(&world, &busy).steps.iter().any(second), "what runs a request stays");
    let report = world.plan();
    assert_eq!(world.map(), ["m1@1 ready", "m2@1 pending"]);
    assert_eq!(report.len(), 1, "{report:?}");
    assert!(!world.state.demands.contains_key(&name("m0")));
    assert_eq!(planned(&world, &Observed::default()).steps, vec![], "it does not go on");
}

#[test]
fn what_is_wanted_for_ever_makes_no_room() {
    let mut world = World::with(&[500], &[300, 300]);
    world.demand("m0", 1);
    world.plan();
    world.all_ready();
    world.now = world.now.plus(limits::EVICTION_LOADED_MS);
    wanted(&mut world, "m1", 60_000);
    world.plan();
    assert_eq!(world.map(), ["m0@1 ready"]);
}

/// When a model was last wanted; `None`: for ever.
fn used_at(state: &State, model: &ModelName) -> Option<Millis> {
    let demand = &state.demands[model];
    match demand.lifetime {
        Lifetime::Forever => None,
        Lifetime::Until(end) => Some(Millis(end.0 - demand.keep_alive_ms.unsigned_abs())),
    }
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn what_goes_is_idle_older_and_not_wanted_for_ever(
        memories in prop::collection::vec(200..1_200u64, 1..4),
        models in prop::collection::vec((50..500u64, prop::option::of(1..90_000i64), 1..3u32), 2..6),
        turns in prop::collection::vec((0..6usize, 0..4_000u64), 1..12),
        busy in prop::collection::btree_set(0..12u64, 0..4),
    ) {
        let weights: Vec<u64> = models.iter().map(|(weights, ..)| *weights).collect();
        let mut world = World::with(&memories, &weights);
        let requests = busy.iter().map(|id| (AssignmentId(*id), 1)).collect();
        let observed = Observed { requests, ..Observed::default() };
        for (turn, passes_ms) in turns {
            let nth = turn % models.len();
            let (_, keep_alive, replicas) = models[nth];
            let keep_alive_ms = keep_alive.unwrap_or(-1);
            let lifetime = Lifetime::Until(Millis(0));
            let wish = demand(&format!("m{nth}"), replicas);
            let demand = Demand { lifetime, keep_alive_ms, ..wish };
            world.ok(Command::DemandModel { demand });
            let plan = planned(&world, &observed);
            let gone = plan.steps.iter().filter_map(|step| match step {
                PlanStep::Release { model } => Some(model.clone()),
                _ => None,
            });
            let gone: Vec<ModelName> = gone.collect();
            let comes = plan.steps.iter().filter_map(|step| match step {
                PlanStep::Assign { assignment, .. } => Some(used_at(&world.state, &assignment.model)),
                _ => None,
            });
            let newest = comes.max_by_key(|used| used.unwrap_or(Millis(u64::MAX)));
            for model in gone {
                let used = used_at(&world.state, &model);
                prop_assert!(used.is_some(), "{} is wanted for ever", model);
                let newest = newest.expect("something comes for it");
                prop_assert!(newest.is_none() || used < newest, "{} was used later", model);
                for held in world.state.placements.values() {
                    let runs = held.assignment.model == model && busy.contains(&held.assignment.id.0);
                    prop_assert!(!runs, "{} runs a request", model);
                }
            }
            world.ok(Command::ApplyPlan { base: plan.base, steps: plan.steps });
            prop_assert_eq!(planned(&world, &observed).steps, vec![], "not a fixpoint");
            prop_assert_eq!(invariant::check(&world.state), vec![]);
            world.all_ready();
            world.now = world.now.plus(passes_ms);
        }
    }
}
