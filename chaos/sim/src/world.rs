//! The world: what is due next happens, and what must hold is checked.
//!
//! ```text
//! ops.rs (outside) --> log.rs (nodes) <--> leader.rs (loops) <--> worker.rs (machines) <--> gateway.rs, request.rs (streams)
//!                             all of them: check.rs; at the end: quiet.rs
//! ```
//!
//! A *step* is one event that was handled: a message that arrived, a timer that fired, a pass of an engine.

mod arrival;
mod check;
/// What a worker does with its assignments: its own file, without the rest of the worker and all that this imports.
#[allow(dead_code, reason = "the worker uses more of it")]
#[path = "../../../worker/src/desired.rs"]
mod desired;
mod engines;
mod event;
mod gateway;
mod leader;
mod log;
mod model;
mod ops;
mod quiet;
mod quotas;
mod request;
mod worker;

pub use check::Violation;

use crate::coin::Coin;
use crate::op::{At, NODES, Op, Script, WORKERS};
use crate::trace::Trace;
use event::{Due, Event};
use gateway::Gateway;
use leader::Leader;
use log::Log;
use ollamamax_engine::engine::TextModel;
use ollamamax_proto::ModelName;
use request::Requests;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::Arc;
use worker::Worker;

/// A bug that a run is given on purpose, to see that it is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plant {
    /// None.
    #[default]
    Nothing,
    /// A node does something else with an entry than the others.
    OtherStory,
    /// A worker takes requests for a generation that it does not hold.
    StaleGeneration,
    /// A token is told twice where a stream goes on elsewhere.
    RepeatedToken,
    /// Who is full or behind an open breaker is picked like any other.
    ClosedPick,
    /// The end of a request that is cut off is told twice.
    SecondEnd,
}

impl Plant {
    /// All bugs.
    pub const ALL: [Self; 5] = [
        Self::OtherStory,
        Self::StaleGeneration,
        Self::RepeatedToken,
        Self::ClosedPick,
        Self::SecondEnd,
    ];

    fn skips_changes(self, node: usize, index: u64) -> bool {
        self == Self::OtherStory && node == 1 && index.is_multiple_of(37)
    }
}

/// What is counted beside steps, to see that a run did something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Commands that were committed.
    pub commands: u64,
    /// Plans that were applied.
    pub plans: u64,
    /// Requests that began.
    pub requests: u64,
    /// Requests that ended well.
    pub served: u64,
    /// Requests that were told to come back, or that nobody could serve.
    pub refused: u64,
    /// Attempts that went on elsewhere behind tokens.
    pub resumed: u64,
    /// Tokens that came to clients.
    pub tokens: u64,
    /// Elections.
    pub elections: u64,
}

/// Everything there is.
#[derive(Debug)]
pub struct World {
    /// Microseconds since the start.
    now: u64,
    steps: u64,
    scheduled: u64,
    due: BinaryHeap<Due>,
    coin: Coin,
    trace: Trace,
    plant: Plant,
    violation: Option<Violation>,
    script: Script,
    /// The operations that happened.
    done: Vec<At>,
    next_op: Option<At>,
    ops: u64,
    /// Faults are over.
    quiet: bool,
    log: Log,
    leader: Option<Leader>,
    workers: Vec<Worker>,
    gateways: Vec<Gateway>,
    requests: Requests,
    text: Arc<TextModel>,
    /// Of the models, by number.
    names: Vec<ModelName>,
    counts: Counts,
}

impl World {
    /// A bootstrapped cluster with workers and models, before anything happens.
    pub fn new(seed: u64, script: Script, plant: Plant) -> Result<Self, String> {
        let coin = Coin::new(seed);
        let nodes = NODES as usize;
        let mut world = Self {
            now: 0,
            steps: 0,
            scheduled: 0,
            due: BinaryHeap::new(),
            coin,
            trace: Trace::default(),
            plant,
            violation: None,
            script,
            done: Vec::new(),
            next_op: None,
            ops: 0,
            quiet: false,
            log: Log::new(nodes),
            leader: None,
            workers: (0..WORKERS as usize).map(|nth| Worker::new(nth, coin)).collect(),
            gateways: (0..nodes).map(|_| Gateway::new()).collect(),
            requests: Requests::default(),
            text: model::text()?,
            names: ops::names()?,
            counts: Counts::default(),
        };
        world.found();
        world.schedule_op();
        Ok(world)
    }

    /// Runs to the end of the script and until the world has come to rest.
    pub fn run(&mut self) {
        while self.violation.is_none() && self.step() {}
        if self.violation.is_none() {
            self.come_to_rest();
        }
    }

    /// What was violated.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// The operations that happened.
    pub fn done(&self) -> &[At] {
        &self.done
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// All that happened as a hash.
    pub fn trace(&self) -> Trace {
        self.trace
    }

    /// What happened, in numbers.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Microseconds since the start.
    pub fn now_us(&self) -> u64 {
        self.now
    }

    /// Handles the next event; `false` when the script is over.
    fn step(&mut self) -> bool {
        let Some(Due { us, event, number }) = self.due.pop() else { return false };
        self.now = us;
        self.steps += 1;
        self.trace.note(us ^ (number << 40));
        match event {
            Event::Script => return self.next_op(),
            Event::Commit(proposal) => self.commit(*proposal),
            Event::Hear { node, life, index } => self.hear(node, life, index),
            Event::Restart { node } => self.restart(node),
            Event::Elect => self.elect(),
            Event::Check { term } => self.check(term),
            Event::Round { term, by_itself } => self.round(term, by_itself),
            Event::Beat(beat) => self.beat(*beat),
            Event::Tick { worker, life } => self.tick(worker, life),
            Event::Pull { worker, life } => self.pull(worker, life),
            Event::Loaded { worker, life, id, generation } => {
                self.loaded(worker, life, id, generation);
            }
            Event::Step { worker, life, id, generation } => {
                self.compute(worker, life, id, generation);
            }
            Event::Asked { request } => self.asked(request),
            Event::Again { request, attempt } => self.again(request, attempt),
            Event::Sent { request, attempt } => self.submit(request, attempt),
            Event::Said { request, attempt, said } => self.said(request, attempt, said),
            Event::Watch { request, attempt } => self.watch(request, attempt),
            Event::Gone { request } => self.gone(request),
            Event::Cancel { worker, life, id, request, attempt } => {
                self.cancelled(worker, life, id, request, attempt);
            }
            Event::Expire { node, life } => self.expire(node, life),
            Event::Gossip { node, life } => self.gossip(node, life),
            Event::Absorb { node, from, news } => self.absorb(node, from, &news),
        }
        true
    }

    /// Schedules an event so many microseconds from now.
    fn later(&mut self, us: u64, event: Event) {
        self.scheduled += 1;
        self.due.push(Due { us: self.now + us, number: self.scheduled, event });
    }

    /// A delay that depends on when and what for.
    fn delay(&self, range: Range<u64>, purpose: u64) -> u64 {
        self.coin.within(&[3, self.now, purpose], range)
    }

    fn schedule_op(&mut self) {
        let next = match &self.script {
            Script::Seed { steps } => (self.steps < *steps).then(|| {
                let (gap, op) = Op::of(self.coin, self.ops);
                let before = self.done.last().map_or(0, |at| at.us);
                At { us: before + gap, op }
            }),
            Script::List(list) => list.get(self.ops as usize).copied(),
        };
        self.ops += 1;
        self.next_op = next;
        let us = next.map_or(0, |at| at.us.saturating_sub(self.now));
        self.later(us, Event::Script);
    }

    fn next_op(&mut self) -> bool {
        let Some(at) = self.next_op.take() else { return false };
        self.done.push(at);
        self.operate(at.op);
        self.schedule_op();
        true
    }
}
