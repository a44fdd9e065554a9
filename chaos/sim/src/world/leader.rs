//! The leader's loops: which workers live, what they report, and what should be; as the node does it, with its rests between.

use super::World;
use super::event::{Beat, Event, Then};
use super::log::Proposal;
use ollamamax_core::command::Transition;
use ollamamax_core::liveness::Liveness;
use ollamamax_core::plan::{Observed, Plan, PlanLimits, moves, plan};
use ollamamax_core::record::Lifetime;
use ollamamax_core::rollout::unloadable;
use ollamamax_core::scale::Scaler;
use ollamamax_core::speed::Speeds;
use ollamamax_core::{Command, Outcome, Rejection, State};
use ollamamax_proto::placement::{AssignmentReport, WorkerStatus};
use ollamamax_proto::{Incarnation, Millis, WorkerId, limits};
use std::collections::{BTreeMap, BTreeSet};

/// One of so many plans is planned again to see that it was a fixpoint.
const REPLANNED: u64 = 4;

/// What a leadership knows.
#[derive(Debug)]
pub(super) struct Leader {
    pub node: usize,
    pub term: u64,
    since: Millis,
    since_us: u64,
    liveness: Liveness,
    speeds: Speeds,
    scaler: Scaler,
    heard: BTreeMap<WorkerId, Heard>,
    /// Whether it has met the workers it found.
    met: bool,
    /// Errands on their way, one of a kind per worker, and when they are given up.
    errands: BTreeMap<(usize, u8), u64>,
    /// Whether a look is due soon.
    woken: bool,
}

#[derive(Debug)]
struct Heard {
    incarnation: Incarnation,
    at_us: u64,
    reports: Vec<AssignmentReport>,
    refused: bool,
}

const STATUS: u8 = 0;
const REPORT: u8 = 1;

impl World {
    /// A node begins to lead.
    pub(super) fn lead(&mut self, node: usize) {
        let (term, since) = (self.log.term, self.clock(node));
        self.counts.elections += 1;
        self.leader = Some(Leader {
            node,
            term,
            since,
            since_us: self.now,
            liveness: Liveness::new(since),
            speeds: Speeds::default(),
            scaler: Scaler::default(),
            heard: BTreeMap::new(),
            met: false,
            errands: BTreeMap::new(),
            woken: false,
        });
        self.later(limits::WORKER_CHECK_MS * 1_000, Event::Check { term });
        self.later(limits::RECONCILE_PERIOD_MS * 1_000, Event::Round { term, by_itself: true });
    }

    fn leads(&self, term: u64) -> Option<&Leader> {
        self.leader.as_ref().filter(|leader| leader.term == term && self.log.term == term)
    }

    /// Time that neither jumps nor goes back, as a leadership counts it.
    fn steady(&self, leader: &Leader) -> Millis {
        leader.since.plus((self.now - leader.since_us) / 1_000)
    }

    /// A state was applied at a node: whoever watches it wakes up.
    pub(super) fn applied(&mut self, node: usize, moved: bool) {
        if moved {
            self.push_assignments(node);
        }
        let Some(leader) = &mut self.leader else { return };
        if moved && leader.node == node && !std::mem::replace(&mut leader.woken, true) {
            let term = leader.term;
            self.later(5_000, Event::Round { term, by_itself: false });
        }
    }

    /// A heartbeat came to a node, which passes it on.
    pub(super) fn beat(&mut self, beat: Beat) {
        let Some(leader) = &self.leader else { return };
        if !self.log.reach(beat.node, leader.node) {
            return;
        }
        let (now, at_us) = (self.steady(leader), self.now);
        let id = self.workers[beat.worker].id;
        let Some(leader) = &mut self.leader else { return };
        let incarnation = Incarnation(beat.life);
        let steps = beat.reports.iter().map(|report| (report.id, report.step_ns_per_mib));
        leader.speeds.heard(id, beat.ns_per_mib, steps, now);
        leader.liveness.heard(id, incarnation, beat.draining, now);
        let heard = Heard { incarnation, at_us, reports: beat.reports, refused: false };
        leader.heard.insert(id, heard);
    }

    /// Judges the workers.
    pub(super) fn check(&mut self, term: u64) {
        let Some(leader) = self.leads(term) else { return };
        let (node, now) = (leader.node, self.steady(leader));
        self.later(limits::WORKER_CHECK_MS * 1_000, Event::Check { term });
        for peer in 0..self.log.nodes.len() {
            if self.log.nodes[peer].up && self.log.nodes[peer].applied < self.log.last {
                self.tell(peer, self.log.last);
            }
        }
        if !self.log.has_majority(node) {
            return self.elect_later();
        }
        let state = self.log.nodes[node].state.clone();
        self.meet(&state, now);
        self.probe(&state);
        let at_us = self.now;
        let Some(leader) = &mut self.leader else { return };
        leader.errands.retain(|_, given_up_us| *given_up_us > at_us);
        let mut commands = Vec::new();
        let refused: BTreeSet<WorkerId> =
            leader.heard.iter().filter(|(_, h)| h.refused).map(|(id, _)| *id).collect();
        for verdict in leader.liveness.verdicts(&state, now) {
            if !refused.contains(&verdict.worker) {
                let (id, incarnation) = (verdict.worker, verdict.incarnation);
                let (status, reason) = (verdict.status, verdict.reason);
                let command = Command::SetWorkerStatus { id, incarnation, status, reason };
                commands.push((id, STATUS, command));
            }
        }
        for worker in refused.iter().filter_map(|id| state.workers.get(id)) {
            if worker.status != WorkerStatus::Down {
                let (id, incarnation) = (worker.id, worker.incarnation);
                let (status, reason) = (WorkerStatus::Down, "it refuses".to_owned());
                let command = Command::SetWorkerStatus { id, incarnation, status, reason };
                commands.push((id, STATUS, command));
            }
        }
        for (id, heard) in &leader.heard {
            let known = state.workers.get(id);
            let Some(worker) = known.filter(|w| w.incarnation == heard.incarnation) else {
                continue;
            };
            let transitions = transitions(&state, *id, &heard.reports);
            if !transitions.is_empty() {
                let incarnation = worker.incarnation;
                let command = Command::ReportPlacements { worker: *id, incarnation, transitions };
                commands.push((*id, REPORT, command));
            }
        }
        for (id, what, command) in commands {
            let worker = (id.0 - 1) as usize;
            self.errand(term, worker, what, command);
        }
    }

    /// Lives that appeared under this leadership have just registered, which counts as a word; those it found have the grace.
    fn meet(&mut self, state: &State, now: Millis) {
        let at_us = self.now;
        let Some(leader) = &mut self.leader else { return };
        leader.liveness.forget_unknown(state);
        leader.speeds.forget_unknown(state);
        leader.heard.retain(|id, _| state.workers.contains_key(id));
        let fresh = !std::mem::replace(&mut leader.met, true);
        for worker in state.workers.values() {
            let incarnation = worker.incarnation;
            if leader.heard.get(&worker.id).is_some_and(|heard| heard.incarnation >= incarnation) {
                continue;
            }
            if !fresh {
                leader.liveness.heard(worker.id, incarnation, false, now);
            }
            let heard = Heard { incarnation, at_us, reports: Vec::new(), refused: false };
            leader.heard.insert(worker.id, heard);
        }
    }

    /// Whoever has been quiet for a moment is asked at its port: a process that is gone refuses at once.
    fn probe(&mut self, state: &State) {
        let at_us = self.now;
        let Some(leader) = &mut self.leader else { return };
        for (id, heard) in &mut leader.heard {
            let machine = &self.workers[(id.0 - 1) as usize];
            let quiet = at_us - heard.at_us > limits::WORKER_PROBE_MS * 1_000;
            let current = state.workers.get(id).is_some_and(|w| w.incarnation == heard.incarnation);
            heard.refused |= quiet && current && !machine.up && !machine.cut;
        }
    }

    fn errand(&mut self, term: u64, worker: usize, what: u8, command: Command) {
        let given_up_us = self.now + limits::PROPOSE_TIMEOUT_MS * 1_000;
        let Some(leader) = &mut self.leader else { return };
        let from = leader.node;
        if leader.errands.contains_key(&(worker, what)) {
            return;
        }
        leader.errands.insert((worker, what), given_up_us);
        let then = Then::Errand { worker, what, term };
        self.propose_now(from, term, command, then);
    }

    fn propose_now(&mut self, from: usize, term: u64, command: Command, then: Then) {
        let delay = self.delay(800..4_000, 11);
        let proposal = Proposal { from, term: Some(term), command, then };
        self.later(delay, Event::Commit(Box::new(proposal)));
    }

    /// Makes what is into what should be.
    pub(super) fn round(&mut self, term: u64, by_itself: bool) {
        let Some(leader) = self.leads(term) else { return };
        let node = leader.node;
        let state = self.log.nodes[node].state.clone();
        let now = self.clock(node).max(state.counters.clock);
        let observed = observed(leader);
        if by_itself {
            let again = Event::Round { term, by_itself };
            self.later(limits::RECONCILE_PERIOD_MS * 1_000, again);
        }
        let Some(leader) = &mut self.leader else { return };
        leader.woken = false;
        let scales = leader.scaler.round(&state, &observed.requests, now);
        let overdue = |life| matches!(life, Lifetime::Until(end) if end <= now);
        if state.demands.values().any(|demand| overdue(demand.lifetime)) {
            self.propose_now(node, term, Command::ExpireDemands, Then::Nobody);
        }
        for scale in scales {
            self.propose_now(node, term, scale.command(), Then::Nobody);
        }
        let Plan { base, steps, report } = self.plan_for(&state, &observed, now);
        let planned = Plan { base, steps, report };
        let given_up = unloadable(&state, &planned);
        if !given_up.is_empty() {
            for command in given_up {
                self.propose_now(node, term, command, Then::Nobody);
            }
        } else if !planned.steps.is_empty() {
            let command = Command::ApplyPlan { base, steps: planned.steps };
            self.propose_now(node, term, command, Then::Planned { term });
        } else {
            for step in moves(&state, &observed, &PlanLimits::default(), now) {
                let (name, from, to) = (step.model, step.from, step.to);
                let command = Command::MigrateModel { name, from, to };
                self.propose_now(node, term, command, Then::Nobody);
            }
        }
    }

    /// The plan for a state; now and then the state that it leads to is planned for as well, which must change nothing.
    pub(super) fn plan_for(&mut self, state: &State, observed: &Observed, now: Millis) -> Plan {
        let limits = PlanLimits::default();
        let planned = plan(state, observed, &limits, now);
        let checked = self.coin.below(&[4, self.now], REPLANNED) == 0;
        if checked && !planned.steps.is_empty() {
            let mut after = state.clone();
            let steps = planned.steps.clone();
            let command = Command::ApplyPlan { base: planned.base, steps };
            let entry = ollamamax_core::Entry { index: 0, at: now, command };
            let (reply, _) = ollamamax_core::apply(&mut after, &entry);
            self.demand(reply.is_ok(), "plans_are_accepted", || format!("{reply:?}: {planned:?}"));
            let again = plan(&after, observed, &limits, now);
            self.demand(again.steps.is_empty(), "planning_twice_changes_nothing", || {
                format!("{:?} and then {:?}", planned.steps, again.steps)
            });
        }
        planned
    }

    /// The answer to a command.
    pub(super) fn answer(&mut self, node: usize, then: Then, reply: Result<Outcome, Rejection>) {
        self.counts.commands += 1;
        match then {
            Then::Nobody => {}
            Then::Registered { worker, life } => {
                let revision = reply.as_ref().map(Outcome::revision).ok();
                self.registered(worker, life, node, revision);
            }
            Then::Errand { worker, what, term } => {
                if let Some(leader) = self.leader.as_mut().filter(|leader| leader.term == term) {
                    leader.errands.remove(&(worker, what));
                }
            }
            Then::Planned { term } => {
                self.counts.plans += u64::from(reply.is_ok());
                // A plan is refused when the state moved on; else all of it was possible.
                let stale = matches!(reply, Err(Rejection::StalePlan { .. }));
                self.demand(reply.is_ok() || stale, "plans_are_accepted", || {
                    format!("term {term}: {reply:?}")
                });
            }
        }
    }
}

/// What the planner should know beside the state.
pub(super) fn observed(leader: &Leader) -> Observed {
    let of = |report: &AssignmentReport| report.running + report.waiting;
    let reports = leader.heard.values().flat_map(|heard| &heard.reports);
    let load = |heard: &Heard| heard.reports.iter().map(of).sum();
    Observed {
        busy: leader.heard.iter().map(|(id, heard)| (*id, load(heard))).collect(),
        ns_per_mib: leader.speeds.ns_per_mib(),
        slow: leader.speeds.slow(),
        requests: reports.map(|r| (r.id, of(r))).filter(|(_, count)| *count > 0).collect(),
        health: BTreeMap::new(),
    }
}

/// Where the reports of a worker differ from what is known of its placements.
fn transitions(state: &State, worker: WorkerId, reports: &[AssignmentReport]) -> Vec<Transition> {
    let mut transitions = Vec::new();
    for report in reports {
        let Some(placement) = state.placements.get(&report.id) else { continue };
        let same =
            placement.worker == worker && placement.assignment.generation == report.generation;
        let differs = placement.phase != report.phase
            || placement.load_ns != report.load_ns
            || (placement.resident_bytes == 0 && report.resident_bytes != 0);
        if same && differs {
            transitions.push(Transition {
                id: report.id,
                generation: report.generation,
                phase: report.phase.clone(),
                resident_bytes: report.resident_bytes,
                load_ns: report.load_ns,
            });
        }
    }
    transitions
}
