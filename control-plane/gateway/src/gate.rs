//! Priority classes: batch requests take the places that interactive ones leave.
//!
//! ```text
//! interactive ---------------------------------> in flight
//! batch --> queue (bounded, in order) --(a place is free: in flight < places of all workers)--> in flight
//! ```
//!
//! Interactive requests go straight to a worker, where callers share its places; so batch requests wait while any of them does.
//! Each gateway counts its own requests.

use crate::Gateway;
use crate::dispatch::Job;
use crate::error::Failure;
use crate::request::Class;
use crate::telemetry;
use ollamamax_core::admission::Admission;
use ollamamax_core::route::Shape;
use ollamamax_proto::{Millis, ModelName, limits};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;
use tokio::time::Duration;

/// The lines of all models.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    lines: Mutex<HashMap<ModelName, Line>>,
}

#[derive(Debug, Default)]
struct Line {
    in_flight: u32,
    places: u32,
    queue: Admission,
    waiting: HashMap<u64, oneshot::Sender<Place>>,
}

/// A request in flight; the next one may go when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    gate: Arc<Gate>,
    model: ModelName,
    /// Whether it counts as in flight.
    counted: bool,
}

impl Place {
    fn new(gate: &Arc<Gate>, model: &ModelName) -> Self {
        Self { gate: Arc::clone(gate), model: model.clone(), counted: true }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.counted {
            return;
        }
        let mut lines = self.gate.lines();
        if let Some(line) = lines.get_mut(&self.model) {
            line.in_flight = line.in_flight.saturating_sub(1);
            line.let_in(&self.gate, &self.model);
            if line.in_flight == 0 && line.queue.is_empty() {
                lines.remove(&self.model);
            }
        }
    }
}

/// A place in the queue, given up when dropped.
struct Queued<'a> {
    gate: &'a Gate,
    model: &'a ModelName,
    id: u64,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if let Some(line) = self.gate.lines().get_mut(self.model) {
            line.queue.cancel(self.id);
            line.waiting.remove(&self.id);
        }
    }
}

impl Line {
    /// Lets those in for whom there is a place.
    fn let_in(&mut self, gate: &Arc<Gate>, model: &ModelName) {
        while self.in_flight < self.places {
            let Some(ticket) = self.queue.next() else { return };
            let Some(waiting) = self.waiting.remove(&ticket.id) else { continue };
            match waiting.send(Place::new(gate, model)) {
                Ok(()) => self.in_flight += 1,
                // Nobody waits any more; to give it back would lock the gate again.
                Err(mut place) => place.counted = false,
            }
        }
    }
}

impl Gate {
    fn lines(&self) -> MutexGuard<'_, HashMap<ModelName, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gateway {
    /// Returns when a request may go to a worker.
    pub(crate) async fn admit(&self, job: &Job, shape: &Shape) -> Result<Place, Failure> {
        let (gate, model) = (&self.gate, &job.model.name);
        let route = self.workers.route(&self.control.state(), &job.model);
        let most = Duration::from_millis(limits::BATCH_WAIT_MS);
        let (id, waiting) = {
            let mut lines = gate.lines();
            let line = lines.entry(model.clone()).or_default();
            line.places = route.places().max(1);
            line.let_in(gate, model);
            let free = line.queue.is_empty() && line.in_flight < line.places;
            if job.asker.class == Class::Interactive || free {
                line.in_flight += 1;
                return Ok(Place::new(gate, model));
            }
            let (now, rate) = (Millis::now(), route.prompt_tokens_per_second());
            if line.queue.len() >= self.config.requests_queued {
                return Err(too_many(line.queue.len(), line.queue.retry_after_s(rate)));
            }
            let deadline = now.plus(limits::BATCH_WAIT_MS);
            let tokens = u64::from(shape.prompt_tokens);
            let ticket = line.queue.offer(now, deadline, tokens, rate);
            let ticket = ticket.map_err(|full| too_many(full.queued, full.retry_after_s))?;
            let (sender, waiting) = oneshot::channel();
            line.waiting.insert(ticket.id, sender);
            (ticket.id, waiting)
        };
        telemetry::batch_waited();
        let _queued = Queued { gate, model, id };
        match tokio::time::timeout(most, waiting).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => {
                let rate = route.prompt_tokens_per_second();
                let lines = gate.lines();
                let line = lines.get(model);
                let (queued, after) =
                    line.map_or((0, 1), |l| (l.queue.len(), l.queue.retry_after_s(rate)));
                drop(lines);
                Err(too_many(queued, after))
            }
        }
    }
}

fn too_many(queued: usize, retry_after_s: u64) -> Failure {
    let reason = format!(
        "{queued} batch requests wait for this model; try again in {retry_after_s} s, or send it as `interactive`"
    );
    Failure::TooMany { reason, retry_after_s: u32::try_from(retry_after_s).unwrap_or(60) }
}
