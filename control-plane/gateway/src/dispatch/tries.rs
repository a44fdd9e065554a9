//! Which workers a request has tried, and which is next.

use super::attempt::End;
use crate::Gateway;
use crate::error::Failure;
use crate::telemetry;
use crate::workers::{Candidate, Outstanding, candidates};
use ollamamax_core::record::ModelRecord;
use ollamamax_proto::placement::WorkerStatus;
use ollamamax_proto::{Incarnation, Millis, WorkerId, backoff};
use std::collections::HashSet;
use std::pin::pin;
use tokio::time::{Duration, Instant};

/// How much longer a worker that is called down may stay silent: the call was made by heartbeats, its stream may still live.
const DOWN_PATIENCE: Duration = Duration::from_secs(1);

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

    /// The worker to try next, for so many tokens of work. Untried ones come first; when there is none, one that failed before
    /// gets a second chance after a while, and the planner gets time to place the model somewhere else. A request that has
    /// `begun` waits for a worker with room, too.
    pub async fn next(
        &mut self,
        gateway: &Gateway,
        model: &ModelRecord,
        work_tokens: u64,
        begun: bool,
    ) -> Option<(Candidate, Outstanding)> {
        let mut revisions = gateway.control.revisions();
        let deadline = Instant::now() + gateway.config.resume_timeout;
        let wait_ms = backoff::delay_ms(self.attempts, 250, 4_000, rand::random());
        let second_chance = Instant::now() + Duration::from_millis(wait_ms);
        loop {
            revisions.borrow_and_update();
            let state = gateway.control.state();
            let all = candidates(&state, model);
            let now = Instant::now();
            // One attempt is kept for a worker that was not tried yet.
            let again = now >= second_chance && self.attempts + 1 < gateway.config.attempts;
            let tried =
                |candidate: &Candidate| !again && self.tried.contains(&candidate.identity());
            let picked =
                gateway.workers.pick(all, work_tokens, Millis::now(), rand::random(), tried);
            if let Some((candidate, work)) = picked {
                self.tried.insert(candidate.identity());
                return Some((candidate, work));
            }
            // Waiting inside a full system only makes it fuller; the client is told when to come back.
            let overloaded = self.only_busy && !self.tried.is_empty() && !begun;
            let known = state.models.get(&model.name);
            let gone = known.is_none_or(|now| now.version.blob != model.version.blob);
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

    /// The number of the try that begins now, from 0.
    pub fn begin(&mut self) -> u32 {
        self.attempts += 1;
        self.attempts - 1
    }

    /// Notes a try that failed. The failure to tell when no other worker does it, or at once where none would or all tries are
    /// spent.
    pub fn failed(
        &mut self,
        gateway: &Gateway,
        candidate: &Candidate,
        end: End,
    ) -> Result<Failure, Failure> {
        telemetry::attempt(end.name());
        self.only_busy &= matches!(end, End::Busy(_));
        let failure = match end {
            End::Refused(failure) => return Err(failure),
            End::Busy(why) | End::Stale(why) => Failure::unavailable(why),
            End::Broken(why) => {
                let (id, attempt) = (candidate.worker.id, self.attempts - 1);
                gateway.workers.record(&candidate.worker, false, Millis::now());
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

/// Waits for a worker, but not forever: `patience`, and less once its heartbeats have stopped.
pub(super) async fn within<T>(
    gateway: &Gateway,
    candidate: &Candidate,
    patience: Duration,
    work: impl Future<Output = T>,
) -> Result<T, End> {
    let mut work = pin!(work);
    let mut revisions = gateway.control.revisions();
    let mut deadline = Instant::now() + patience;
    let mut down = false;
    let mut watching = true;
    loop {
        revisions.borrow_and_update();
        if !down && is_down(gateway, candidate) {
            down = true;
            deadline = deadline.min(Instant::now() + DOWN_PATIENCE);
        }
        tokio::select! {
            biased;
            result = &mut work => return Ok(result),
            () = tokio::time::sleep_until(deadline) => {
                let why = if down { "it is down" } else { "it fell silent" };
                return Err(End::Broken(why.to_owned()));
            }
            changed = revisions.changed(), if watching && !down => watching = changed.is_ok(),
        }
    }
}

fn is_down(gateway: &Gateway, candidate: &Candidate) -> bool {
    let state = gateway.control.state();
    let known = &candidate.worker;
    state.workers.get(&known.id).is_none_or(|worker| {
        worker.incarnation != known.incarnation || worker.status == WorkerStatus::Down
    })
}
