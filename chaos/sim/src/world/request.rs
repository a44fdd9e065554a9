//! A request from its client's side and its gateway's: it looks for a worker, goes on elsewhere when that one fails, and ends
//! exactly once. The client knows what the model would say alone, and compares every token.
//!
//! ```text
//! asked -> quota -> version -> pick -> sent ~> worker ~> said: token, token, ..., finished
//!            |                  ^                          |
//!            v                  +---- busy, stale, broken, silent (tokens so far go along)
//!          refused              +---- nobody yet: again, until the time is over
//! ```

use super::event::Event;
use super::model::{self, Prefix};
use super::{Plant, World};
use ollamamax_core::route::Shape;
use ollamamax_engine::engine::Prepared;
use ollamamax_proto::inference::FinishReason;
use ollamamax_proto::{AssignmentId, Digest, Generation, Incarnation, WorkerId, limits};
use std::collections::BTreeMap;

/// Silence after which an attempt is given up, in microseconds.
const SILENCE_US: u64 = 2_500_000;

/// What a worker says of an attempt.
#[derive(Clone, Copy, Debug)]
pub(super) enum Said {
    /// A token, and whether it was the last.
    Token { index: u32, token: Option<u32>, end: Option<End> },
    /// It has no room.
    Busy,
    /// It does not hold that, or not any more.
    Stale,
    /// It cannot go on.
    Broken,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The model was done.
    Finished(FinishReason),
    /// It was told to come back later, or that there is no such model.
    Refused,
    /// Nobody served it in time.
    Unserved,
    /// Its client hung up.
    Gone,
    /// Its gateway is gone.
    NoGateway,
}

/// What makes two tries at a worker the same try.
pub(super) type Identity = (WorkerId, Incarnation, u64);

#[derive(Debug)]
pub(super) struct Request {
    /// What its coins are thrown for, whatever its number.
    pub key: u64,
    pub node: usize,
    /// By number.
    pub model: usize,
    /// Whose bytes answer, once that is decided.
    pub blob: Option<Digest>,
    pub user: u64,
    /// How its prompt begins: those of one family share that.
    pub family: u64,
    pub prompt: Vec<u32>,
    pub predict: u32,
    /// What the client has heard, and what should come next.
    pub got: Vec<u32>,
    pub expects: Prefix,
    pub attempt: u32,
    pub tried: Vec<Identity>,
    pub active: Option<Active>,
    pub only_busy: bool,
    pub heard_us: u64,
    pub deadline_us: u64,
    pub admitted: bool,
    /// Its client does not hang up.
    pub stays: bool,
    /// Its number in the queue of its model.
    pub ticket: Option<u64>,
}

/// An attempt under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Active {
    pub worker: usize,
    pub life: u64,
    pub id: AssignmentId,
    pub generation: Generation,
    pub tokens: u64,
    pub sent_us: u64,
}

/// All requests that have not ended.
#[derive(Debug, Default)]
pub(super) struct Requests {
    pub last: u64,
    pub live: BTreeMap<u64, Request>,
    /// Of those whose clients stay: what did not end well.
    pub unserved: Vec<String>,
}

/// An attempt as it comes to a worker.
pub(super) struct Sent {
    pub worker: usize,
    pub life: u64,
    pub id: AssignmentId,
    pub generation: Generation,
    pub blob: Digest,
    pub prepared: Prepared,
    pub resume: Vec<u32>,
}

impl Requests {
    /// The attempt, if its gateway still waits for it.
    pub fn sent(&self, request: u64, attempt: u32) -> Option<Sent> {
        let known = self.live.get(&request).filter(|known| known.attempt == attempt)?;
        let Active { worker, life, id, generation, .. } = known.active?;
        let caller = ["a", "b", "c", "d"][known.user as usize % 4];
        let prepared = model::prepared(&known.prompt, caller, known.predict);
        let (blob, resume) = (known.blob?, known.got.clone());
        Some(Sent { worker, life, id, generation, blob, prepared, resume })
    }
}

impl Request {
    pub fn shape(&self) -> Shape {
        Shape {
            prompt_tokens: self.prompt.len() as u32,
            max_tokens: self.predict - self.got.len() as u32,
            prefix_hash: self.family,
        }
    }
}

impl World {
    /// Looks for a worker again, those that failed before included.
    pub(super) fn again(&mut self, id: u64, attempt: u32) {
        let waits = |request: &&Request| request.attempt == attempt && request.active.is_none();
        if let Some(request) = self.requests.live.get(&id).filter(waits) {
            let (node, model) = (request.node, request.model);
            self.renew(node, model);
            self.next_worker(id, true);
        }
    }

    /// Sends a request to a worker, or lets it wait, or ends it.
    pub(super) fn next_worker(&mut self, id: u64, again: bool) {
        let Some(request) = self.requests.live.get_mut(&id) else { return };
        let spent = request.attempt >= limits::ATTEMPTS_COUNT;
        // One attempt is kept for a worker that was not tried yet.
        if again && request.attempt + 1 < limits::ATTEMPTS_COUNT {
            request.tried.clear();
        }
        if spent {
            return self.end(id, End::Unserved);
        }
        if let Some((active, identity)) = self.pick(id) {
            let now = self.now;
            let Some(request) = self.requests.live.get_mut(&id) else { return };
            request.attempt += 1;
            request.tried.push(identity);
            (request.active, request.heard_us) = (Some(active), now);
            let attempt = request.attempt;
            self.counts.resumed += u64::from(!request.got.is_empty());
            let key = request.key;
            let delay = self.delay(200..1_500, 30 ^ key << 8);
            self.later(delay, Event::Sent { request: id, attempt });
            return self.later(SILENCE_US, Event::Watch { request: id, attempt });
        }
        let Some(request) = self.requests.live.get_mut(&id) else { return };
        let overloaded = request.only_busy && !request.tried.is_empty() && request.got.is_empty();
        if self.now >= request.deadline_us {
            return self.end(id, End::Unserved);
        }
        if overloaded && request.ticket.is_none() {
            return self.enqueue(id);
        }
        let attempt = request.attempt;
        let delay = self.delay(200_000..600_000, 31);
        self.later(delay, Event::Again { request: id, attempt });
    }

    /// A worker said something of an attempt; of an attempt that was given up nobody hears it.
    pub(super) fn said(&mut self, id: u64, attempt: u32, said: Said) {
        let now = self.now;
        let Some(request) = self.requests.live.get_mut(&id) else { return };
        let Some(active) = request.active.filter(|_| request.attempt == attempt) else { return };
        let waited_us = now - request.heard_us;
        request.heard_us = now;
        match said {
            Said::Token { index, token, end } => {
                let first = attempt > 1 && request.tried.len() > 1 && index > 0;
                let repeats = self.plant == Plant::RepeatedToken && first && waited_us > 20_000;
                let expected = request.got.len() as u32;
                self.demand(index == expected, "streams_have_no_gap", || {
                    format!("request {id} has {expected} tokens, index {index} came")
                });
                if index == 0 {
                    self.measured(id, active, now - active.sent_us);
                }
                if let Some(token) = token {
                    self.deliver(id, token);
                    if repeats {
                        self.deliver(id, token);
                    }
                }
                if let Some(end) = end {
                    self.finished(id, end);
                }
            }
            Said::Busy => self.failed(id, active, None),
            Said::Stale => {
                request.only_busy = false;
                self.failed(id, active, None);
            }
            Said::Broken => {
                request.only_busy = false;
                self.failed(id, active, Some(false));
            }
        }
    }

    /// A client hears a token: the one that the model says alone.
    fn deliver(&mut self, id: u64, token: u32) {
        let Some(request) = self.requests.live.get_mut(&id) else { return };
        let expected = request.expects.next();
        request.expects = request.expects.and(token);
        request.got.push(token);
        let count = request.got.len();
        self.counts.tokens += 1;
        self.trace.note(id << 8 | u64::from(token));
        self.demand(token == expected, "streams_are_the_undisturbed_ones", || {
            format!("token {count} of request {id} is {token}, expected {expected}")
        });
    }

    /// A model was done.
    fn finished(&mut self, id: u64, end: End) {
        let Some(request) = self.requests.live.get(&id) else { return };
        let said = request.got.last().copied().is_some_and(model::is_end);
        let full = request.got.len() as u32 == request.predict;
        let holds = match end {
            End::Finished(FinishReason::Stop) => said,
            End::Finished(FinishReason::Length) => full,
            _ => false,
        };
        let active = request.active;
        self.demand(holds, "answers_are_whole", || format!("request {id}: {end:?}"));
        if let Some(active) = active {
            self.release(id, active, Some(true));
        }
        self.end(id, end);
    }

    /// An attempt failed; `ok` is what its worker's breaker hears, if anything.
    fn failed(&mut self, id: u64, active: Active, ok: Option<bool>) {
        self.release(id, active, ok);
        let now = self.now;
        let Some(request) = self.requests.live.get_mut(&id) else { return };
        request.active = None;
        if !request.got.is_empty() {
            request.deadline_us = now + limits::RESUME_TIMEOUT_MS * 1_000;
        }
        let pays = ok == Some(false);
        if pays && !self.take_budget(id) {
            return self.end(id, End::Unserved);
        }
        self.next_worker(id, false);
    }

    /// An attempt that has been silent for too long is given up.
    pub(super) fn watch(&mut self, id: u64, attempt: u32) {
        let now = self.now;
        let Some(request) = self.requests.live.get_mut(&id) else { return };
        let Some(active) = request.active.filter(|_| request.attempt == attempt) else { return };
        let due = request.heard_us + SILENCE_US;
        if due > now {
            return self.later(due - now, Event::Watch { request: id, attempt });
        }
        request.only_busy = false;
        self.cancel(id, attempt, active);
        self.failed(id, active, Some(false));
    }

    /// A client hangs up.
    pub(super) fn gone(&mut self, id: u64) {
        if self.requests.live.get(&id).is_some_and(|request| !request.stays) {
            self.end(id, End::Gone);
            if self.plant == Plant::SecondEnd {
                self.end(id, End::Gone);
            }
        }
    }

    fn cancel(&mut self, request: u64, attempt: u32, active: Active) {
        let Active { worker, life, id, .. } = active;
        let delay = self.delay(200..1_500, 32);
        self.later(delay, Event::Cancel { worker, life, id, request, attempt });
    }

    /// A request ends; nobody hears of it again.
    pub(super) fn end(&mut self, id: u64, end: End) {
        let Some(mut request) = self.requests.live.remove(&id) else {
            return self.violated("requests_end_once", format!("request {id} again: {end:?}"));
        };
        let finished = matches!(end, End::Finished(_));
        if request.stays && !finished {
            self.requests.unserved.push(format!("{end:?}: {request:?}"));
        }
        self.trace.note(id << 8 | 0xff);
        self.counts.served += u64::from(finished);
        self.counts.refused += u64::from(matches!(end, End::Refused | End::Unserved));
        let (node, attempt) = (request.node, request.attempt);
        if let Some(active) = request.active.take().filter(|_| !finished) {
            if end != End::NoGateway {
                self.requests.live.insert(id, request);
                self.release(id, active, None);
                let Some(back) = self.requests.live.remove(&id) else { return };
                request = back;
            }
            self.cancel(id, attempt, active);
        }
        if end != End::NoGateway {
            self.settle(node, &request, request.prompt.len() as i64, request.got.len() as i64);
            self.dequeue(node, &request);
        }
    }
}
