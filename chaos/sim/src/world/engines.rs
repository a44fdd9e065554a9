//! The engines on the machines: sequences come, are computed step by step, and end or break off.

use super::World;
use super::event::Event;
use super::request::{End, Said};
use ollamamax_engine::engine::Emission;
use ollamamax_proto::{AssignmentId, Generation};
use std::collections::BTreeSet;

/// How long an ordinary step takes, in microseconds.
const STEP_US: u64 = 6_000;

impl World {
    /// An attempt comes to a worker: it begins, or hears why not.
    pub(super) fn submit(&mut self, request: u64, attempt: u32) {
        let Some(asked) = self.requests.sent(request, attempt) else { return };
        let nth = asked.worker;
        let worker = &self.workers[nth];
        if worker.cut {
            return;
        }
        if !worker.is_reached(asked.life) {
            return self.say(request, attempt, Said::Broken);
        }
        if self.postponed(nth, || Event::Sent { request, attempt }) {
            return;
        }
        let lenient = self.plant == super::Plant::StaleGeneration;
        let all = &mut self.workers[nth].held;
        let other = all.iter().find(|(_, held)| held.engine.is_some()).map(|(id, _)| *id);
        let id = if lenient && !all.contains_key(&asked.id) { other } else { Some(asked.id) };
        let Some((id, held)) = id.and_then(|id| Some((id, all.get_mut(&id)?))) else {
            return self.say(request, attempt, Said::Stale);
        };
        let current = held.generation() == asked.generation || lenient;
        let Some(engine) = held.engine.as_mut().filter(|_| current) else {
            return self.say(request, attempt, Said::Stale);
        };
        match engine.submit(asked.prepared, &asked.resume) {
            Ok(sequence) => {
                held.sequences.insert(sequence, (request, attempt));
                let generation = held.generation();
                let blob = held.assigned.assignment.blob;
                let meant = blob == asked.blob && generation == asked.generation;
                self.demand(meant, "requests_meet_their_generation", || {
                    format!("request {request} for {:?} at {generation:?}", asked.generation)
                });
                self.compute_soon(nth, id, 0);
            }
            Err(_) => self.say(request, attempt, Said::Busy),
        }
    }

    fn compute_soon(&mut self, nth: usize, id: AssignmentId, us: u64) {
        let worker = &mut self.workers[nth];
        let Some(held) = worker.held.get_mut(&id) else { return };
        if !std::mem::replace(&mut held.computing, true) {
            let (life, generation) = (worker.life, held.generation());
            self.later(us, Event::Step { worker: nth, life, id, generation });
        }
    }

    /// One pass of a placement's engine.
    pub(super) fn compute(
        &mut self,
        nth: usize,
        life: u64,
        id: AssignmentId,
        generation: Generation,
    ) {
        if self.workers[nth].life != life
            || self.postponed(nth, || Event::Step { worker: nth, life, id, generation })
        {
            return;
        }
        let whole = self.ring_is_whole(nth, id);
        let worker = &mut self.workers[nth];
        let Some(held) = worker.held.get_mut(&id).filter(|held| held.generation() == generation)
        else {
            return;
        };
        held.computing = false;
        if !whole {
            return self.break_off(nth, id);
        }
        let Some(engine) = &mut held.engine else { return };
        let stepped = engine.step();
        let (usage, idle) = (engine.kv_usage(), engine.is_idle());
        let tells = !worker.cut;
        let us = STEP_US * worker.slow;
        held.step_us = us;
        let blocks = usage.used + usage.cached + usage.free;
        let leaks = idle && usage.used > 0;
        self.demand(!leaks, "blocks_are_conserved", || format!("{usage:?} of {blocks} at rest"));
        match stepped {
            Ok(emissions) => {
                for emission in emissions {
                    self.emit(nth, id, emission, tells);
                }
            }
            Err(error) => self.violated("blocks_hold_one_chain", error),
        }
        if !idle {
            let jitter = self.delay(0..STEP_US / 4, 23);
            self.compute_soon(nth, id, us + jitter);
        }
    }

    fn emit(&mut self, nth: usize, id: AssignmentId, emission: Emission, tells: bool) {
        let Some(held) = self.workers[nth].held.get_mut(&id) else { return };
        let Some(&(request, attempt)) = held.sequences.get(&emission.sequence) else {
            let what = format!("{:?} of worker {nth}", emission.sequence);
            return self.violated("sequences_end_once", what);
        };
        if emission.finished.is_some() {
            held.sequences.remove(&emission.sequence);
        }
        if emission.tokens.is_empty() && emission.finished.is_none() {
            return;
        }
        let (index, sequence) = (emission.index, emission.sequence);
        // A step brings one token here: nothing speculates.
        let token = emission.tokens.first().copied();
        let end = emission.finished.map(|finished| End::Finished(finished.reason));
        if tells {
            return self.say(request, attempt, Said::Token { index, token, end });
        }
        // A stream has no gaps: what is lost on the way breaks it.
        let Some(held) = self.workers[nth].held.get_mut(&id) else { return };
        if held.sequences.remove(&sequence).is_some()
            && let Some(engine) = &mut held.engine
        {
            engine.cancel(sequence);
        }
    }

    /// Whether all that a replica of several stages needs is there and answers.
    fn ring_is_whole(&self, nth: usize, id: AssignmentId) -> bool {
        let Some(ring) = self.workers[nth].held.get(&id).and_then(|h| h.assigned.ring.as_ref())
        else {
            return true;
        };
        ring.peers.iter().all(|peer| {
            let machine = &self.workers[(peer.worker.0 - 1) as usize];
            let held = machine.held.get(&peer.assignment);
            machine.up
                && !machine.cut
                && machine.hung_until_us <= self.now
                && held.is_some_and(|held| held.engine.is_some())
        })
    }

    /// A placement that cannot go on says so to all it serves.
    fn break_off(&mut self, nth: usize, id: AssignmentId) {
        let worker = &mut self.workers[nth];
        let (tells, Some(held)) = (!worker.cut, worker.held.get_mut(&id)) else { return };
        let lost: BTreeSet<(u64, u32)> = held.sequences.values().copied().collect();
        if let Some(engine) = &mut held.engine {
            for sequence in std::mem::take(&mut held.sequences).into_keys() {
                engine.cancel(sequence);
            }
        }
        for (request, attempt) in lost.into_iter().filter(|_| tells) {
            self.say(request, attempt, Said::Broken);
        }
    }

    /// Nobody waits for a sequence any more.
    pub(super) fn cancelled(
        &mut self,
        nth: usize,
        life: u64,
        id: AssignmentId,
        request: u64,
        attempt: u32,
    ) {
        let worker = &mut self.workers[nth];
        if !worker.is_reached(life) {
            return;
        }
        let Some(held) = worker.held.get_mut(&id) else { return };
        let mut sequences = held.sequences.iter();
        let Some((&sequence, _)) = sequences.find(|(_, of)| **of == (request, attempt)) else {
            return;
        };
        held.sequences.remove(&sequence);
        let known = held.engine.as_mut().is_some_and(|engine| engine.cancel(sequence));
        self.demand(known, "sequences_end_once", || format!("request {request} was cancelled"));
    }
}
