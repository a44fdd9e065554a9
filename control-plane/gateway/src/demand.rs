//! Getting a model loaded: wanting it in the shared state, then waiting until some worker has it.
//!
//! ```text
//! absent -> propose DemandModel -> planner places it -> worker loads -> placement ready -> the request goes on
//! ```
//!
//! Steady traffic does not write: a wish is only renewed when less than half of its time is left, and then in the background,
//! so that a lost quorum delays no request whose model is loaded.

mod book;
mod progress;

use crate::Gateway;
use crate::error::Failure;
use crate::keep_alive::KeepAlive;
use crate::ports::ControlError;
use crate::request::{Asker, Class};
pub use book::{Demands, Use};
use ollamamax_core::record::{Demand, Lifetime, ModelRecord};
use ollamamax_core::{Command, Rejection, State};
use ollamamax_proto::audit::Note;
use ollamamax_proto::placement::{Phase, WorkerStatus};
use ollamamax_proto::{Millis, ModelName, limits};
use progress::{Progress, no_worker};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::time::{Duration, Instant};

/// What a request asks about its model beside the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// How long it shall stay loaded; `None`: as it is.
    pub keep_alive: Option<KeepAlive>,
    /// Tokens a sequence shall hold; `None`: as it is.
    pub context_tokens: Option<u32>,
    /// On how many workers; `None`: as it is.
    pub replicas: Option<u32>,
}

impl Gateway {
    /// Enters a request into the book; refused when too many of its kind wait already.
    pub(crate) fn enter(
        self: &Arc<Self>,
        model: &ModelName,
        asker: &Asker,
        want: Want,
    ) -> Result<Use, Failure> {
        let mut book = self.demands.book();
        // Batch requests have a queue of their own: they must not take the places of this one.
        let waits = asker.class == Class::Interactive;
        if waits {
            book.join(model, &asker.caller, self.config.requests_queued)?;
        }
        *book.in_use.entry(model.clone()).or_default() += 1;
        match want.keep_alive {
            Some(keep) if keep.is_unload() => {
                book.release_when_idle.insert(model.clone(), unloads(asker, model));
            }
            Some(_) => {
                book.release_when_idle.remove(model);
            }
            None => {}
        }
        let waiting = waits.then(|| (asker.caller.clone(), Instant::now()));
        Ok(Use { gateway: Arc::clone(self), model: model.clone(), waiting })
    }

    /// Returns when some worker can answer for the model, wanting it first where nobody does.
    pub(crate) async fn ensure_loaded(
        self: &Arc<Self>,
        asker: &Asker,
        model: &ModelRecord,
        want: Want,
    ) -> Result<(), Failure> {
        let state = self.control.state();
        let loaded = !self.workers.route(&state, model).seats().is_empty();
        let renewal = match self.renewal(&state, &model.name, want) {
            // Nobody has it and somebody wants it now: others may have to make room for it.
            None if !loaded => state.demands.get(&model.name).filter(|d| is_old(d)).cloned(),
            renewal => renewal,
        };
        if let Some(demand) = renewal {
            let note = pins(&state, asker, &model.name, want);
            if loaded {
                self.renew_in_background(demand, note);
            } else {
                self.propose_demand(demand, note).await?;
            }
        }
        if loaded { Ok(()) } else { self.wait_until_loaded(asker, model, want).await }
    }

    /// Keeps the wish alive while a long request runs.
    pub(crate) fn touch(self: &Arc<Self>, model: &ModelName) {
        if let Some(demand) = self.renewal(&self.control.state(), model, Want::default()) {
            self.renew_in_background(demand, None);
        }
    }

    /// Wants the model no longer: at once when no request of this gateway uses it, else when the last one ends.
    pub(crate) async fn unload(&self, asker: &Asker, model: &ModelName) -> Result<(), Failure> {
        let note = unloads(asker, model);
        {
            let mut book = self.demands.book();
            if book.in_use.contains_key(model) {
                book.release_when_idle.insert(model.clone(), note);
                return Ok(());
            }
        }
        self.release(model, note).await
    }

    async fn release(&self, model: &ModelName, note: Note) -> Result<(), Failure> {
        if !self.control.state().demands.contains_key(model) {
            return Ok(());
        }
        let command = Box::new(Command::ReleaseModel { name: model.clone() });
        match self.control.propose(Command::Noted { note: Box::new(note), command }).await {
            Ok(_) | Err(ControlError::Rejected(Rejection::UnknownModel(_))) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The wish to propose, if one is needed.
    fn renewal(&self, state: &State, model: &ModelName, want: Want) -> Option<Demand> {
        let known = state.demands.get(model);
        // Unloading happens when the request ends; until then the model is wanted as usual.
        let asked = want.keep_alive.filter(|keep| !keep.is_unload()).map(|keep| keep.0.max(-1));
        let usual = known.map_or(self.config.keep_alive_ms, |demand| demand.keep_alive_ms);
        let keep_alive_ms = asked.unwrap_or(usual);
        let context_length = want.context_tokens.unwrap_or(self.config.context_tokens);
        let replicas = want.replicas.unwrap_or(self.config.replicas);
        if let Some(demand) = known {
            let fresh = match demand.lifetime {
                Lifetime::Forever => true,
                Lifetime::Until(end) => {
                    let left_ms = end.since(Millis::now());
                    left_ms > demand.keep_alive_ms.unsigned_abs() / 2
                }
            };
            let same = keep_alive_ms == demand.keep_alive_ms.max(-1)
                && want.replicas.is_none_or(|replicas| replicas <= demand.replicas);
            if fresh && same {
                return None;
            }
        }
        Some(Demand {
            model: model.clone(),
            replicas: known.map_or(replicas, |demand| want.replicas.unwrap_or(demand.replicas)),
            lifetime: if keep_alive_ms < 0 {
                Lifetime::Forever
            } else {
                Lifetime::Until(Millis::now().plus(keep_alive_ms.unsigned_abs()))
            },
            context_length: known.map_or(context_length, |demand| demand.context_length),
            keep_alive_ms,
        })
    }

    /// Proposes a wish; a refusal is the caller's.
    async fn propose_demand(&self, demand: Demand, note: Option<Note>) -> Result<(), Failure> {
        let model = demand.model.clone();
        let mut command = Command::DemandModel { demand };
        if let Some(note) = note {
            command = Command::Noted { note: Box::new(note), command: Box::new(command) };
        }
        match self.control.propose(command).await {
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::debug!(%model, error = %error, "could not demand the model");
                Err(error.into())
            }
        }
    }

    fn renew_in_background(self: &Arc<Self>, demand: Demand, note: Option<Note>) {
        let model = demand.model.clone();
        if !self.demands.book().renewing.insert(model.clone()) {
            return;
        }
        let gateway = Arc::clone(self);
        tokio::spawn(async move {
            // Without a quorum the model stays loaded where it is: nothing to tell the client.
            let failed = gateway.propose_demand(demand, note).await.is_err();
            if failed {
                tokio::time::sleep(Duration::from_millis(limits::RECONCILE_PERIOD_MS)).await;
            }
            gateway.demands.book().renewing.remove(&model);
        });
    }

    async fn wait_until_loaded(
        self: &Arc<Self>,
        asker: &Asker,
        model: &ModelRecord,
        want: Want,
    ) -> Result<(), Failure> {
        let mut revisions = self.control.revisions();
        let started = Instant::now();
        let mut stuck: Option<(Instant, Failure)> = None;
        loop {
            revisions.borrow_and_update();
            let state = self.control.state();
            let patience = match self.progress(&state, model) {
                Progress::Ready => return Ok(()),
                Progress::Hopeless(failure) => return Err(failure),
                Progress::Stuck(failure) => {
                    let since = stuck.map_or_else(Instant::now, |(since, _)| since);
                    stuck = Some((since, failure));
                    since + self.config.no_worker_timeout
                }
                Progress::Waiting => {
                    stuck = None;
                    started + self.config.load_timeout
                }
                Progress::Forgotten => {
                    // Somebody released it between our wish and now; the request still wants it.
                    if let Some(demand) = self.renewal(&state, &model.name, want) {
                        let note = pins(&state, asker, &model.name, want);
                        self.propose_demand(demand, note).await?;
                    }
                    started + self.config.load_timeout
                }
            };
            let patience = patience.min(started + self.config.load_timeout);
            if Instant::now() >= patience {
                let late = || Failure::unavailable(self.lateness(&state, model));
                return Err(stuck.map_or_else(late, |(_, failure)| failure));
            }
            // A lost wake-up must not cost the whole timeout: the state is looked at once a second anyway.
            let wake = patience.min(Instant::now() + Duration::from_secs(1));
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() {
                    return Err(Failure::unavailable("the node is shutting down"));
                },
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    fn progress(&self, state: &State, model: &ModelRecord) -> Progress {
        if !self.workers.route(state, model).seats().is_empty() {
            return Progress::Ready;
        }
        if state.wanted_version(&model.name, model.version.blob).is_none() {
            return Progress::Hopeless(Failure::unknown_model(&model.name.to_string()));
        }
        let name = &model.name;
        let ready: Vec<_> =
            state.workers.values().filter(|w| w.status == WorkerStatus::Ready).collect();
        let placed = || {
            let placements = state.placements.values();
            placements.filter(|placement| placement.assignment.blob == model.version.blob)
        };
        let needed = model.version.facts.weight_bytes();
        match ready.iter().map(|worker| worker.device.memory_bytes).max() {
            None => {
                let reason = no_worker(state);
                return Progress::Stuck(Failure::unavailable(format!(
                    "no worker can serve '{name}': {reason}"
                )));
            }
            // Several may hold it together.
            Some(largest) if largest < needed && placed().next().is_none() => {
                return Progress::Stuck(Failure::unavailable(format!(
                    "no worker can hold '{name}': it needs {needed} bytes, the largest has {largest}"
                )));
            }
            Some(_) => {}
        }
        let (mut live, mut failed, mut why) = (0, BTreeSet::new(), None);
        for placement in placed() {
            // A replica of several stages fails with its first member.
            let own = std::iter::once(placement);
            let members = state.replica_of(placement.assignment.id).into_iter();
            let mut all = own.chain(members.flat_map(|replica| replica.placements(state)));
            let reason = all.find_map(|member| match &member.phase {
                Phase::Failed { reason } => Some(reason),
                _ => None,
            });
            match reason {
                Some(reason) => {
                    failed.insert(placement.worker);
                    why = why.or(Some(reason));
                }
                None => live += 1,
            }
        }
        if live == 0
            && let Some(reason) = why
        {
            let failure = Failure::Internal(format!("loading '{name}' failed: {reason}"));
            let everywhere = ready.iter().all(|worker| failed.contains(&worker.id));
            return if everywhere { Progress::Hopeless(failure) } else { Progress::Stuck(failure) };
        }
        if state.demands.contains_key(name) { Progress::Waiting } else { Progress::Forgotten }
    }

    fn lateness(&self, state: &State, model: &ModelRecord) -> String {
        let seconds = self.config.load_timeout.as_secs();
        let phases: Vec<String> = state
            .placements
            .values()
            .filter(|placement| placement.assignment.blob == model.version.blob)
            .map(|placement| format!("worker {} {}", placement.worker, placement.phase))
            .collect();
        let seen = if phases.is_empty() { "placed nowhere".to_owned() } else { phases.join(", ") };
        format!("'{}' was not loaded within {seconds} s: {seen}", model.name)
    }
}

/// The note of who has a model taken out of memory.
fn unloads(asker: &Asker, model: &ModelName) -> Note {
    asker.note("model.unload", model)
}

/// The note of who has a model stay in memory for ever, or no longer. Being loaded for a while is a matter of course.
fn pins(state: &State, asker: &Asker, model: &ModelName, want: Want) -> Option<Note> {
    let asked = want.keep_alive?;
    let known = state.demands.get(model);
    let is_pinned = known.is_some_and(|demand| demand.lifetime == Lifetime::Forever);
    match (asked.0 < 0, is_pinned) {
        (true, false) => Some(asker.note("model.pin", model)),
        (false, true) if !asked.is_unload() => Some(asker.note("model.unpin", model)),
        _ => None,
    }
}

/// Whether a wish was made so long ago that making it again says something.
fn is_old(demand: &Demand) -> bool {
    match demand.lifetime {
        Lifetime::Forever => false,
        Lifetime::Until(end) => {
            let age_ms = demand.keep_alive_ms.unsigned_abs()
                - end.since(Millis::now()).min(demand.keep_alive_ms.unsigned_abs());
            age_ms >= limits::EVICTION_LOADED_MS
        }
    }
}
