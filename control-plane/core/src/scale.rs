//! How many replicas a model gets between the least and the most that its deployment allows: as many as its load needs.
//!
//! ```text
//! outstanding >= SCALE_UP_PERCENT of the places, for SCALE_UP_MS         -> as many as bring it to SCALE_AIM_PERCENT
//! outstanding <= SCALE_DOWN_PERCENT of the places with one replica less,
//!                for SCALE_DOWN_MS                                      -> one less
//! ```
//!
//! Up quickly, down slowly; nothing is decided while a replica is missing or loading, so that a load that the last
//! decision answers already is not answered twice.

use crate::command::Command;
use crate::deployment::Deployment;
use crate::record::ModelRecord;
use crate::serving::serving;
use crate::state::State;
use ollamamax_proto::{AssignmentId, Millis, ModelName, limits};
use std::collections::BTreeMap;

/// Another number of replicas for a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Which model.
    pub model: ModelName,
    /// Replicas it has been wanted with, 1 or more.
    pub from: u32,
    /// Replicas it shall have, 1 or more.
    pub to: u32,
}

impl Scale {
    /// The command that asks for it.
    pub fn command(self) -> Command {
        Command::ScaleModel { name: self.model, from: self.from, to: self.to }
    }
}

/// What is remembered of each model between two looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scaler {
    models: BTreeMap<ModelName, Trend>,
}

/// Since when a model has had too few, or too many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Trend {
    few_since: Option<Millis>,
    many_since: Option<Millis>,
}

/// A model's requests and the room for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Load {
    outstanding: u64,
    places: u64,
    replicas: u32,
}

impl Scaler {
    /// What shall change as of `now`, given the requests running and waiting at each placement.
    pub fn round(
        &mut self,
        state: &State,
        outstanding: &BTreeMap<AssignmentId, u32>,
        now: Millis,
    ) -> Vec<Scale> {
        self.models.retain(|model, _| state.deployments.contains_key(model));
        let mut changes = Vec::new();
        for deployment in state.deployments.values() {
            let demand = state.demands.get(&deployment.model).filter(|demand| demand.is_live(now));
            let record = state.models.get(&deployment.model);
            let (Some(demand), Some(record)) = (demand, record) else { continue };
            let load = Load::of(state, record, deployment.clamp(demand.replicas), outstanding);
            let trend = self.models.entry(deployment.model.clone()).or_default();
            let to = load.and_then(|load| trend.next(deployment, load, now));
            if load.is_none() {
                *trend = Trend::default();
            }
            if let Some(to) = to {
                *trend = Trend::default();
                changes.push(Scale { model: deployment.model.clone(), from: demand.replicas, to });
            }
        }
        changes
    }
}

impl Load {
    /// `None`: not all replicas that are wanted serve.
    fn of(
        state: &State,
        record: &ModelRecord,
        replicas: u32,
        outstanding: &BTreeMap<AssignmentId, u32>,
    ) -> Option<Self> {
        let serving = serving(state, record);
        if serving.len() < replicas as usize {
            return None;
        }
        let ids = || serving.iter().map(|(_, placement)| &placement.assignment);
        let places = ids().map(|assignment| u64::from(assignment.sequences_max)).sum();
        let of = |id| outstanding.get(id).copied().unwrap_or(0);
        let outstanding = ids().map(|assignment| u64::from(of(&assignment.id))).sum();
        Some(Self { outstanding, places, replicas })
    }

    fn is_few(&self) -> bool {
        self.outstanding * 100 >= self.places * limits::SCALE_UP_PERCENT
    }

    fn is_many(&self) -> bool {
        let fewer = self.places - self.places / u64::from(self.replicas.max(1));
        self.outstanding * 100 <= fewer * limits::SCALE_DOWN_PERCENT
    }

    /// Replicas like those there are that bring the load down to what is aimed at.
    fn aim(&self) -> u32 {
        let each = (self.places / u64::from(self.replicas.max(1))).max(1);
        let aim = (self.outstanding * 100).div_ceil(each * limits::SCALE_AIM_PERCENT);
        u32::try_from(aim).unwrap_or(u32::MAX).max(self.replicas + 1)
    }
}

impl Trend {
    fn next(&mut self, deployment: &Deployment, load: Load, now: Millis) -> Option<u32> {
        let few = load.is_few() && load.replicas < deployment.replicas_max;
        let many = !few && load.is_many() && load.replicas > deployment.replicas_min;
        self.few_since = few.then(|| self.few_since.unwrap_or(now));
        self.many_since = many.then(|| self.many_since.unwrap_or(now));
        let over = |since: Option<Millis>, ms| since.is_some_and(|since| now >= since.plus(ms));
        if over(self.few_since, limits::SCALE_UP_MS) {
            // Twice as many at most: what is loading will show whether more is needed.
            return Some(load.aim().min(load.replicas * 2).min(deployment.replicas_max));
        }
        over(self.many_since, limits::SCALE_DOWN_MS).then(|| load.replicas - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Observed, PlanLimits, plan};
    use crate::testing::{World, config, name};
    use proptest::prelude::*;

    /// Four workers, and a model with one to `most` replicas.
    fn world(most: u32) -> World {
        let mut world = World::with(&[3_000; 4], &[400]);
        world.demand("m0", 1);
        world.deploy("m0", |deployment| deployment.replicas_max = most);
        settle(&mut world);
        world
    }

    fn settle(world: &mut World) {
        for _ in 0..3 {
            world.plan();
            world.all_ready();
        }
    }

    /// `load` requests in all, spread over what serves.
    fn spread(world: &World, load: u32) -> BTreeMap<AssignmentId, u32> {
        let ids: Vec<_> = world.state.placements.keys().copied().collect();
        let count = u32::try_from(ids.len()).expect("few").max(1);
        let share = |nth| load / count + u32::from(nth < load % count);
        (0..).zip(ids).map(|(nth, id)| (id, share(nth))).collect()
    }

    /// Looks once a second; the replicas after each second.
    fn run(world: &mut World, scaler: &mut Scaler, seconds: u64, load: u32) -> Vec<u32> {
        let mut seen = Vec::new();
        for _ in 0..seconds {
            world.now = world.now.plus(1_000);
            let spread = spread(world, load);
            for scale in scaler.round(&world.state, &spread, world.now) {
                world.ok(scale.command());
                settle(world);
            }
            seen.push(world.state.demands[&name("m0")].replicas);
        }
        seen
    }

    #[test]
    fn load_brings_replicas_within_seconds_and_they_go_one_by_one_much_later() {
        let mut world = world(4);
        let mut scaler = Scaler::default();
        assert_eq!(run(&mut world, &mut scaler, 600, 3).last(), Some(&1), "a little is no reason");
        let up = run(&mut world, &mut scaler, 20, 40);
        assert_eq!((up[3], up.last()), (1, Some(&4)), "{up:?}");
        let seconds = limits::SCALE_DOWN_MS / 1_000;
        let down = run(&mut world, &mut scaler, 4 * seconds, 0);
        assert!(down.windows(2).all(|pair| pair[1] == pair[0] || pair[1] + 1 == pair[0]));
        assert_eq!(down[usize::try_from(seconds).expect("small") - 2], 4, "not at once");
        assert_eq!(down.last(), Some(&1));
    }

    #[test]
    fn nothing_is_decided_while_a_replica_is_loading() {
        let mut world = world(4);
        let mut scaler = Scaler::default();
        let scale = |world: &mut World, scaler: &mut Scaler| {
            world.now = world.now.plus(limits::SCALE_UP_MS);
            scaler.round(&world.state, &spread(world, 99), world.now)
        };
        assert!(scale(&mut world, &mut scaler).is_empty(), "the first look");
        let asked = scale(&mut world, &mut scaler);
        assert_eq!(asked.len(), 1);
        world.ok(asked[0].clone().command());
        for _ in 0..5 {
            assert!(scale(&mut world, &mut scaler).is_empty(), "the second one is on its way");
        }
        let plan = plan(&world.state, &Observed::default(), &PlanLimits::default(), world.now);
        assert_eq!(plan.steps.len(), 1);
    }

    proptest! {
        #![proptest_config(config(64))]

        /// Between the least and the most, and under a steady load it comes to rest.
        #[test]
        fn a_steady_load_comes_to_rest(load in 0u32..80, most in 1u32..5, before in 0u32..80) {
            let mut world = world(most);
            let mut scaler = Scaler::default();
            run(&mut world, &mut scaler, 30, before);
            let seen = run(&mut world, &mut scaler, 1_500, load);
            prop_assert!(seen.iter().all(|replicas| (1..=most).contains(replicas)));
            let mut turns = seen.clone();
            turns.dedup();
            let (up, down) = (turns.is_sorted(), turns.iter().rev().is_sorted());
            prop_assert!(up || down, "back and forth under a steady load: {turns:?}");
        }
    }
}
