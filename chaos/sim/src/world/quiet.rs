//! The end of a run: faults stop, and then everything must come to rest: nodes agree, requests end, what is wanted and fits is
//! served, and whoever asks for that gets an answer.

use super::World;
use ollamamax_core::State;
use ollamamax_core::plan::Observed;
use ollamamax_core::serving::serving;
use ollamamax_proto::placement::{Phase, WorkerStatus};

/// Virtual time in which a world must have come to rest, in microseconds. Workers that failed to load a model are left alone
/// with it for a minute, and breakers stay open for half of one.
const REST_US: u64 = 240_000_000;
/// How often it is looked at meanwhile, in microseconds.
const LOOK_US: u64 = 4_000_000;
/// How long it must then serve, in microseconds.
const SERVE_US: u64 = 40_000_000;

impl World {
    /// Lets all faults stop, and sees that the world heals.
    pub(super) fn come_to_rest(&mut self) {
        self.quiet = true;
        self.log.heal();
        for node in 0..self.log.nodes.len() {
            (self.log.nodes[node].lag_us, self.log.nodes[node].off_ms) = (0, 0);
            self.restart(node);
        }
        for nth in 0..self.workers.len() {
            let worker = &mut self.workers[nth];
            (worker.cut, worker.slow, worker.bad_loads) = (false, 1, 0);
            worker.hung_until_us = 0;
            if !worker.draining {
                self.start_worker(nth);
            }
        }
        self.elect_later();
        let end = self.now + REST_US;
        let mut unrest = None;
        while self.violation.is_none() && self.now < end {
            let look = self.now + LOOK_US;
            while self.violation.is_none() && self.now < look && self.rest() {}
            unrest = self.unrest();
            if unrest.is_none() {
                break;
            }
        }
        if let Some((invariant, detail)) = unrest {
            self.violated(invariant, detail);
        }
        if self.violation.is_none() {
            self.serve_once_more();
        }
    }

    fn rest(&mut self) -> bool {
        self.step() || !self.due.is_empty()
    }

    /// Why the world is not at rest, if it is not: the invariant that then would not hold, and what is in its way.
    fn unrest(&mut self) -> Option<(&'static str, String)> {
        let Some(leader) = self.log.leader else {
            return Some(("a_leader_is_found", "none leads".to_owned()));
        };
        let state = self.log.committed();
        for (node, known) in self.log.nodes.iter().enumerate() {
            if known.applied != self.log.last || known.state != state {
                return Some(("nodes_agree_at_rest", format!("node {node}")));
            }
        }
        if let Some((id, request)) = self.requests.live.first_key_value() {
            return Some(("requests_end", format!("request {id}: {request:?}")));
        }
        let unready = (0..self.workers.len()).find_map(|nth| self.unready(nth, &state));
        if unready.is_some() {
            return unready;
        }
        let now = self.clock(leader).max(state.counters.clock);
        let planned = self.plan_for(&state, &Observed::default(), now);
        if !planned.steps.is_empty() {
            return Some(("the_plan_comes_to_rest", format!("{:?}", planned.steps)));
        }
        let loads = |phase: &Phase| matches!(phase, Phase::Pending | Phase::Loading);
        if let Some(placement) = state.placements.values().find(|held| loads(&held.phase)) {
            return Some(("loads_end", format!("{placement:?}")));
        }
        // What is wanted and not served has its reason in the report of the plan.
        let mut live = state.demands.values().filter(|demand| demand.is_live(now));
        let untold = live.find(|demand| {
            let record = state.models.get(&demand.model);
            let served = record.is_none_or(|record| !serving(&state, record).is_empty());
            !served && planned.report.iter().all(|note| *note.model() != demand.model)
        });
        untold.map(|demand| ("who_waits_is_told_why", demand.model.to_string()))
    }

    /// Why a worker is not as it should be at rest.
    fn unready(&self, nth: usize, state: &State) -> Option<(&'static str, String)> {
        let worker = &self.workers[nth];
        if !worker.up {
            return None;
        }
        let known = state.workers.get(&worker.id).map(|known| known.status);
        let ordered = state.orders.get(&worker.id).is_some_and(|o| o.drained.is_some());
        let fine = known == Some(WorkerStatus::Ready)
            || (ordered && known == Some(WorkerStatus::Draining));
        if !fine {
            return Some(("living_workers_are_ready", format!("worker {nth}: {known:?}")));
        }
        if worker.held.values().any(|held| !held.sequences.is_empty()) {
            return Some(("sequences_end_once", format!("worker {nth} computes for nobody")));
        }
        let mine = state.placements.values().filter(|placement| placement.worker == worker.id);
        let wanted: Vec<_> =
            mine.map(|mine| (mine.assignment.id, mine.assignment.generation)).collect();
        let held: Vec<_> = worker.held.iter().map(|(id, held)| (*id, held.generation())).collect();
        let what = || format!("worker {nth}: {held:?}, expected {wanted:?}");
        (held != wanted).then(|| ("workers_hold_what_is_assigned", what()))
    }

    /// Whoever asks for what is served gets an answer.
    fn serve_once_more(&mut self) {
        let state = self.log.committed();
        let served = |name| state.models.get(name).is_some_and(|m| !serving(&state, m).is_empty());
        let models: Vec<usize> =
            (0..self.names.len()).filter(|&nth| served(&self.names[nth])).collect();
        let before = self.counts.served;
        let asked: Vec<u64> = models
            .iter()
            .map(|&model| self.ask_for_long(model % self.log.nodes.len(), model))
            .collect();
        let end = self.now + SERVE_US;
        while self.violation.is_none()
            && self.now < end
            && !self.requests.live.is_empty()
            && self.rest()
        {}
        let (served, count) = (self.counts.served - before, asked.len() as u64);
        let why = self.requests.unserved.join("; ");
        self.demand(served == count, "what_is_served_answers", || {
            format!("{served} of {count} requests for {models:?} ended well: {why}")
        });
    }
}
