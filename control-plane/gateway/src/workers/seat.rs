//! A place where requests for a model can go: a candidate and the numbers this gateway has of it.

use super::Candidate;
use super::load::Load;
use super::meter::Meter;
use ollamamax_core::route::{self, slow_start};
use ollamamax_proto::placement::WorkerStatus;
use ollamamax_proto::{Millis, limits};
use std::sync::Arc;

/// A candidate as it is picked.
#[derive(Debug)]
pub struct Seat {
    /// Who, and what it holds.
    pub candidate: Candidate,
    /// Its measures.
    pub meter: Arc<Meter>,
    pub(super) load: Arc<Load>,
    /// Where its cache stands in the route's index.
    pub(super) place: usize,
}

/// How willingly a seat is picked; lower first.
pub(super) const CLASSES: u8 = 4;

impl Seat {
    /// Ready and trusted; suspect, or left out as an outlier; ready behind an open breaker; the rest.
    pub(super) fn class(&self, now: Millis) -> u8 {
        let ready = self.candidate.worker.status == WorkerStatus::Ready;
        match (self.load.is_permitting(now), ready && !self.meter.is_out(now)) {
            (true, true) => 0,
            (true, false) => 1,
            (false, true) => 2,
            (false, false) => CLASSES - 1,
        }
    }

    /// What a pick sees of it.
    pub(super) fn seen(&self, now: Millis, cached_tokens: u32, usable: bool) -> route::Candidate {
        route::Candidate {
            worker: self.candidate.worker.id,
            outstanding_tokens: self.load.outstanding_tokens(),
            latency_us: self.meter.latency_us(),
            running: self.meter.running(),
            // What it runs and what it lets wait; past that it would refuse.
            capacity: self.candidate.placement.assignment.sequences_max
                + limits::WORKER_WAITING_COUNT as u32,
            // As strong as its machine, until somebody says otherwise.
            weight: self.candidate.worker.device.threads.max(1),
            share: slow_start::share(now.since(self.candidate.placement.since)),
            cached_tokens,
            usable,
        }
    }

    /// Tokens of work this gateway has in flight on its worker.
    pub fn outstanding_tokens(&self) -> u64 {
        self.load.outstanding_tokens()
    }

    /// Remembers how a try ended.
    pub fn record(&self, success: bool, now: Millis) {
        self.load.record(success, now);
        self.meter.answered(success);
    }
}

/// Work in flight on a seat, taken back when dropped.
#[derive(Debug)]
pub struct Outstanding {
    seat: Arc<Seat>,
    tokens: u64,
}

impl Outstanding {
    pub(super) fn new(seat: &Arc<Seat>, tokens: u64, now: Millis) -> Self {
        seat.load.sent(now);
        seat.load.add(tokens);
        seat.meter.begin();
        Self { seat: Arc::clone(seat), tokens }
    }

    /// Tells that `tokens` of the work are done.
    pub fn progress(&mut self, tokens: u64) {
        let done = tokens.min(self.tokens);
        self.tokens -= done;
        self.seat.load.subtract(done);
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.seat.load.subtract(self.tokens);
        self.seat.meter.end();
    }
}
