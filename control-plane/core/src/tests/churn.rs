//! A day with churn: workers join, are lost, turn slow and recover, models are wanted and released. The plan follows with few
//! moves, never to and fro, and comes to rest.

use crate::command::Command;
use crate::invariant;
use crate::plan::{Observed, PlanLimits, moves, plan};
use crate::record::Demand;
use crate::serving::serving;
use crate::speed::Speeds;
use crate::testing::{World, demand, register};
use ollamamax_proto::placement::WorkerStatus;
use ollamamax_proto::{AssignmentId, Millis, ModelName, WorkerId, limits};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const MODELS: usize = 16;
/// Bytes of each worker.
const MEMORY: u64 = 20_000;
const MINUTE_MS: u64 = 60_000;
/// The planner and the movers look this often.
const TICK_MS: u64 = 20_000;

/// Numbers from a seed: xorshift.
struct Coin(u64);

impl Coin {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound.max(1)
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        let at = usize::try_from(self.below(all.len() as u64)).ok()?;
        all.get(at).copied()
    }
}

struct Day {
    world: World,
    coin: Coin,
    speeds: Speeds,
    /// Workers whose steps take five times as long.
    slowed: BTreeSet<u128>,
    next: u128,
    /// Every move: when, what, from where and to where.
    moved: Vec<(Millis, ModelName, WorkerId, WorkerId)>,
    /// Moves of the last hour, by when they began.
    hour: VecDeque<Millis>,
    busiest_hour: usize,
}

impl Day {
    fn new(seed: u64) -> Self {
        let mut day = Self {
            world: World::new(),
            coin: Coin(seed),
            speeds: Speeds::default(),
            slowed: BTreeSet::new(),
            next: 1,
            moved: Vec::new(),
            hour: VecDeque::new(),
            busiest_hour: 0,
        };
        for nth in 0..MODELS {
            day.world.put(&format!("m{nth}"), 1_000 + 450 * nth as u64);
        }
        for _ in 0..12 {
            day.join();
        }
        day
    }

    fn join(&mut self) {
        self.world.ok(register(self.next, 1, MEMORY));
        self.next += 1;
    }

    fn alive(&self) -> Vec<u128> {
        let ready = |status| status == WorkerStatus::Ready;
        let workers = self.world.state.workers.values();
        workers.filter(|worker| ready(worker.status)).map(|worker| worker.id.0).collect()
    }

    /// One thing happens.
    fn event(&mut self) {
        let alive = self.alive();
        let Some(worker) = self.coin.one_of(&alive) else { return self.join() };
        let model = format!("m{}", self.coin.below(MODELS as u64));
        match self.coin.below(10) {
            0 | 1 if alive.len() < 24 => self.join(),
            2 if alive.len() > 6 => {
                self.world.ok(Command::RemoveWorker { id: WorkerId(worker) });
                self.slowed.remove(&worker);
            }
            3 | 4 if self.slowed.len() < alive.len() / 3 => {
                self.slowed.insert(worker);
            }
            5 => {
                if let Some(well) = self.slowed.pop_first() {
                    self.slowed.remove(&well);
                }
            }
            6 | 7 => {
                let replicas = 1 + u32::try_from(self.coin.below(3)).expect("small");
                self.world.ok(Command::DemandModel { demand: demand(&model, replicas) });
            }
            8 => {
                let demands = &self.world.state.demands;
                if demands.len() > MODELS / 2 {
                    let known: Vec<_> = demands.keys().cloned().collect();
                    let at = usize::try_from(self.coin.below(known.len() as u64)).expect("small");
                    self.world.ok(Command::ReleaseModel { name: known[at].clone() });
                }
            }
            _ => {}
        }
    }

    fn observed(&mut self) -> Observed {
        self.speeds.forget_unknown(&self.world.state);
        let mut steps: BTreeMap<WorkerId, Vec<(AssignmentId, u64)>> = BTreeMap::new();
        for placement in self.world.state.placements.values() {
            let slow = if self.slowed.contains(&placement.worker.0) { 5 } else { 1 };
            // Some noise, as every measurement has.
            let ns = (90_000 + self.coin.below(20_000)) * slow;
            let held = steps.entry(placement.worker).or_default();
            // One of a worker's models computes at a time.
            if held.is_empty() {
                held.push((placement.assignment.id, ns));
            }
        }
        for worker in self.world.state.workers.keys() {
            let steps = steps.remove(worker).unwrap_or_default();
            self.speeds.heard(*worker, 100_000, steps, self.world.now);
        }
        let (ns_per_mib, slow) = (self.speeds.ns_per_mib(), self.speeds.slow());
        Observed { ns_per_mib, slow, ..Observed::default() }
    }

    /// Plans, and begins moves where nothing else is to do; how many steps and moves that was.
    fn tick(&mut self) -> usize {
        self.world.now = self.world.now.plus(TICK_MS);
        let (observed, limits) = (self.observed(), PlanLimits::default());
        let serving_before = self.serving();
        let planned = plan(&self.world.state, &observed, &limits, self.world.now);
        let mut done = planned.steps.len();
        if planned.steps.is_empty() {
            let begun = moves(&self.world.state, &observed, &limits, self.world.now);
            done += begun.len();
            for step in begun {
                let (name, from, to) = (step.model, step.from, step.to);
                self.moved.push((self.world.now, name.clone(), from, to));
                self.hour.push_back(self.world.now);
                self.world.ok(Command::MigrateModel { name, from, to });
            }
            let on_their_way = self.world.state.migrations.len();
            assert!(on_their_way <= limits::REBALANCE_MOVES_COUNT, "{on_their_way} at once");
        } else {
            self.world.ok(Command::ApplyPlan { base: planned.base, steps: planned.steps });
            let unserved: Vec<_> = serving_before.difference(&self.serving()).cloned().collect();
            assert!(unserved.is_empty(), "the plan took the last replica of {unserved:?}");
        }
        self.world.all_ready();
        assert_eq!(invariant::check(&self.world.state), vec![]);
        while self.hour.front().is_some_and(|at| at.plus(60 * MINUTE_MS) <= self.world.now) {
            self.hour.pop_front();
        }
        self.busiest_hour = self.busiest_hour.max(self.hour.len());
        done
    }

    /// The demanded models that somebody serves.
    fn serving(&self) -> BTreeSet<ModelName> {
        let state = &self.world.state;
        let serves = |model: &&ModelName| {
            let model: &ModelName = model;
            state.models.get(model).is_some_and(|record| !serving(state, record).is_empty())
        };
        state.demands.keys().filter(serves).cloned().collect()
    }

    fn check_no_model_went_back(&self) {
        for (nth, (at, model, from, to)) in self.moved.iter().enumerate() {
            let back = self.moved[nth + 1..].iter().find(|(later, same, again, home)| {
                same == model
                    && again == to
                    && home == from
                    && later.since(*at) < limits::MOVE_COOLDOWN_MS
            });
            assert!(back.is_none(), "{model} went from {from} to {to} and back: {at:?}, {back:?}");
        }
    }
}

fn a_day(seed: u64) -> Day {
    let mut day = Day::new(seed);
    for nth in 0..MODELS {
        day.world.ok(Command::DemandModel { demand: demand(&format!("m{nth}"), 1) });
    }
    let ticks_per_minute = MINUTE_MS / TICK_MS;
    for minute in 0..24 * 60 {
        if minute % 4 == 0 {
            day.event();
        }
        for _ in 0..ticks_per_minute {
            day.tick();
        }
    }
    day
}

#[test]
fn a_day_with_churn_moves_little_never_to_and_fro_and_comes_to_rest() {
    for seed in [1, 0x5eed, 0xdead_beef] {
        let mut day = a_day(seed);
        eprintln!(
            "seed {seed:#x}: {} moves, {} in the busiest hour",
            day.moved.len(),
            day.busiest_hour
        );
        assert!(!day.moved.is_empty(), "seed {seed:#x}: nothing ever moved");
        // Ninety events of which some thirty concern a worker with a few models each.
        assert!(day.busiest_hour <= 24, "seed {seed:#x}: {} moves in an hour", day.busiest_hour);
        day.check_no_model_went_back();
        // Four quiet hours: the moves that are due are made, then nothing happens any more.
        let ticks = usize::try_from(4 * 60 * MINUTE_MS / TICK_MS).expect("small");
        let last = (0..ticks).filter(|_| day.tick() > 0).count();
        let rest: usize = (0..ticks / 4).map(|_| day.tick()).sum();
        assert_eq!(rest, 0, "seed {seed:#x}: still moving after {last} busy ticks");
        day.check_no_model_went_back();
        let fits = |wanted: &&Demand| {
            let record = &day.world.state.models[&wanted.model];
            record.version.blob_bytes < MEMORY / 2
        };
        let serving = day.serving();
        let wanted: Vec<_> = day.world.state.demands.values().filter(fits).collect();
        for wanted in wanted {
            assert!(serving.contains(&wanted.model), "seed {seed:#x}: {} waits", wanted.model);
        }
    }
}
