//! Which workers a request has tried, and which is next.

use super::attempt::End;
use crate::Gateway;
use crate::error::Failure;
use crate::telemetry;
use crate::workers::Candidate;
use crate::workers::route::{Ask, Route};
use crate::workers::seat::{Outstanding, Seat};
use ollamamax_core::record::ModelRecord;
use ollamamax_proto::{Incarnation, Millis, WorkerId, backoff};
use std::collections::HashSet;
use std::sync::Arc;
use tokio::time::{Duration, Instant};

/// Which part of the time that a stream may take to go on elsewhere is waited for a worker that was not tried yet.
const LAST_CHANCE_PART: u32 = 4;

/// The tries of one request so far.
#[derive(Debug)]
pub(super) struct Tries {
    attempts: u32,
    tried: HashSet<(WorkerId, Incarnation, u64)>,
    /// Whether every try so far was refused for lack of room.
    only_busy: bool,
}

impl Tries {
    pub fn new() -> Self {
        Self { attempts: 0, tried: HashSet::new(), only_busy: true }
    }

    /// The worker to try next. Untried ones come first; when there is none, one that failed before
    /// gets a second chance after a while, and the planner gets time to place the model somewhere else. A request that has
    /// `begun` waits for a worker with room, too.
    pub async fn next(
        &mut self,
        gateway: &Gateway,
        model: &ModelRecord,
        ask: &Ask,
        begun: bool,
    ) -> Option<(Arc<Seat>, Outstanding)> {
        let mut revisions = gateway.control.revisions();
        let deadline = Instant::now() + gateway.config.resume_timeout;
        let wait_ms = backoff::delay_ms(self.attempts, 250, 4_000, rand::random());
        let second_chance = Instant::now() + Duration::from_millis(wait_ms);
        // The last attempt is kept for a worker that was not tried yet, as long as there may come one.
        let is_last = self.attempts + 1 >= gateway.config.attempts;
        let patience = gateway.config.resume_timeout / LAST_CHANCE_PART;
        let second_chance =
            if is_last { second_chance.max(Instant::now() + patience) } else { second_chance };
        loop {
            revisions.borrow_and_update();
            let state = gateway.control.state();
            let route = gateway.workers.route(&state, model);
            let now = Instant::now();
            let again = now >= second_chance;
            let tried =
                |candidate: &Candidate| !again && self.tried.contains(&candidate.identity());
            let picked = route.pick(ask, Millis::now(), rand::random(), tried);
            if let Some((seat, work)) = picked {
                self.tried.insert(seat.candidate.identity());
                return Some((seat, work));
            }
            // Waiting inside a full system only makes it fuller; the client is told when to come back.
            let overloaded = self.only_busy && !self.tried.is_empty() && !begun;
            let wanted = state.wanted_version(&model.name, model.version.blob).is_some();
            let gone = !wanted && route.seats().is_empty();
            if now >= deadline || overloaded || gone {
                return None;
            }
            let wake = if again { deadline } else { second_chance.max(now).min(deadline) };
            let wake = wake.min(now + Duration::from_secs(1)).max(now + Duration::from_millis(1));
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() {
                    return None;
                },
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// A worker that was not tried yet, without waiting for one.
    pub fn untried(&mut self, route: &Route, ask: &Ask) -> Option<(Arc<Seat>, Outstanding)> {
        let tried = |candidate: &Candidate| self.tried.contains(&candidate.identity());
        let picked = route.pick(ask, Millis::now(), rand::random(), tried)?;
        self.tried.insert(picked.0.candidate.identity());
        Some(picked)
    }

    /// How many tries have begun.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The number of the try that begins now, from 0.
    pub fn begin(&mut self) -> u32 {
        self.attempts += 1;
        self.attempts - 1
    }

    /// Notes a try that failed. The failure to tell when no other worker does it, or at once where none would or all tries are
    /// spent.
    pub fn failed(&mut self, gateway: &Gateway, seat: &Seat, end: End) -> Result<Failure, Failure> {
        telemetry::attempt(end.name());
        self.only_busy &= matches!(end, End::Busy(_));
        let failure = match end {
            End::Refused(failure) => return Err(failure),
            End::Busy(why) | End::Stale(why) => Failure::unavailable(why),
            End::Broken(why) => {
                let (id, attempt) = (seat.candidate.worker.id, self.attempts.saturating_sub(1));
                seat.record(false, Millis::now());
                gateway.note_attempt(&seat.candidate.placement.assignment, false);
                tracing::warn!(worker = %id, attempt, why, "worker failed");
                Failure::unavailable(format!("worker {id} failed: {why}"))
            }
            End::Done | End::ClientGone => Failure::unavailable("the request has ended"),
        };
        if self.attempts >= gateway.config.attempts { Err(failure) } else { Ok(failure) }
    }
}

/// What is told when there is no worker left to try.
pub(super) fn nobody() -> Failure {
    Failure::unavailable("no worker that has the model took the request in time")
}
