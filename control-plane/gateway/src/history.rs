//! What becomes of requests: which run, and what became of those that ran lately. Never what was said in them.
//!
//! ```text
//! Trace (with the request) --begin--> Entry: running --(the run ends, however)--> done, the last some thousands
//!        |                               ^
//!        +--> headers of the answer      +-- who may, ends it
//! ```
//!
//! Each gateway remembers its own, in memory. A request with several answers has an entry for each.

use crate::Gateway;
use crate::error::Failure;
use crate::request::Asker;
use crate::workers::seat::Seat;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use ollamamax_core::adopted::AdoptedServer;
use ollamamax_core::record::ModelRecord;
use ollamamax_core::replica::ReplicaRecord;
use ollamamax_core::route::Policy;
use ollamamax_proto::{Millis, ModelName, limits};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};
use utoipa::ToSchema;

/// How a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = RequestOutcome)]
pub enum Outcome {
    /// It runs.
    Running,
    /// It was answered to its end.
    Done,
    /// It was answered with an error, or broke off with one.
    Failed,
    /// Its client went, or somebody ended it.
    Cancelled,
}

/// A worker that computed something of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = RequestWorker)]
pub struct Server {
    /// Its id.
    pub worker: String,
    /// Its name.
    pub name: String,
}

/// What is remembered of a request. Times are in milliseconds.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = RequestRecord)]
pub struct Record {
    /// The request's id, as its answer has it.
    pub request: String,
    /// The endpoint.
    pub route: String,
    /// Who asked: a user, a key, or an address.
    pub caller: String,
    /// Which model.
    pub model: String,
    /// Of which version; of a model of an adopted server what that tells.
    pub version: String,
    /// When, in milliseconds since 1970.
    #[schema(value_type = u64)]
    pub begun_at: Millis,
    /// How it stands.
    pub outcome: Outcome,
    /// Why it ended: `stop`, `length`, or the status of its error.
    pub reason: Option<String>,
    /// Workers that computed it, in the order in which they were asked: of a split model those that took the request.
    pub workers: Vec<Server>,
    /// How a worker was chosen.
    pub balancing: Option<String>,
    /// How the model is split: `whole`, or a strategy and the number of parts; `adopted-` and a kind where an adopted server answered.
    pub strategy: Option<String>,
    /// Until some worker had the model.
    pub load_ms: Option<f64>,
    /// In the queue of the worker.
    pub queue_ms: Option<f64>,
    /// Until the first text.
    pub first_text_ms: Option<f64>,
    /// Until the end.
    pub total_ms: Option<f64>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of these, found in a cache.
    pub cached_tokens: u32,
    /// Tokens generated.
    pub output_tokens: u32,
    /// How often it went on at another worker.
    pub resumes: u32,
}

/// A request that runs, or ran lately.
#[derive(Debug)]
pub struct Entry {
    begun: Instant,
    record: Mutex<Record>,
    ended: Notify,
}

impl Entry {
    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known by now.
    pub fn record(&self) -> Record {
        let mut record = self.lock().clone();
        if record.outcome == Outcome::Running {
            record.total_ms = Some(ms(self.begun.elapsed()));
        }
        record
    }

    /// Whether it has ended, well or not.
    pub fn is_over(&self) -> bool {
        self.lock().outcome != Outcome::Running
    }

    /// Notes something.
    pub fn note(&self, note: impl FnOnce(&mut Record)) {
        note(&mut self.lock());
    }

    /// Notes that the first text is there.
    pub fn first_text(&self) {
        let took = ms(self.begun.elapsed());
        self.lock().first_text_ms.get_or_insert(took);
    }

    /// Returns when somebody ends it.
    pub async fn ended(&self) -> Failure {
        self.ended.notified().await;
        Failure::unavailable("the request was ended by an administrator")
    }
}

/// Milliseconds, to a microsecond.
pub fn ms(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1_000.0
}

/// What a request carries along: its entries.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    request: String,
    route: String,
    entries: Arc<Mutex<Vec<Arc<Entry>>>>,
}

impl Trace {
    /// Of a request that comes in.
    pub fn of(request: &str, route: &str) -> Self {
        Self { request: request.to_owned(), route: route.to_owned(), entries: Arc::default() }
    }

    /// Whether somebody ended the request, or its client went.
    pub(crate) fn was_ended(&self) -> bool {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().any(|entry| entry.lock().outcome == Outcome::Cancelled)
    }

    /// Tells in the headers of an answer who gave it, as far as that is known when it begins.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let records: Vec<Record> = entries.iter().map(|entry| entry.record()).collect();
        let Some(first) = records.first() else { return };
        let names = records.iter().flat_map(|record| &record.workers).map(|w| w.name.as_str());
        let mut workers: Vec<&str> = Vec::new();
        for name in names {
            if !workers.contains(&name) {
                workers.push(name);
            }
        }
        let ended = records.iter().all(|record| record.outcome != Outcome::Running);
        let executed = first.total_ms.filter(|_| ended).map(|total| {
            (total - first.load_ms.unwrap_or(0.0) - first.queue_ms.unwrap_or(0.0)).max(0.0)
        });
        let resumes: u32 = records.iter().map(|record| record.resumes).sum();
        let number = |value: f64| format!("{value:.3}");
        let told = [
            ("x-ollamamax-worker", Some(workers.join(",")).filter(|names| !names.is_empty())),
            ("x-ollamamax-balancing", first.balancing.clone()),
            ("x-ollamamax-strategy", first.strategy.clone()),
            ("x-ollamamax-load-ms", first.load_ms.map(number)),
            ("x-ollamamax-queue-ms", first.queue_ms.map(number)),
            ("x-ollamamax-execution-ms", executed.map(number)),
            ("x-ollamamax-resumes", Some(resumes.to_string())),
        ];
        for (name, value) in told {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
}

/// The requests of a gateway.
#[derive(Debug, Default)]
pub struct History(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    next: u64,
    running: BTreeMap<u64, Arc<Entry>>,
    done: VecDeque<Arc<Entry>>,
}

impl History {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them, the newest first; those that run before the others.
    pub fn all(&self) -> Vec<Arc<Entry>> {
        let book = self.book();
        book.running.values().rev().chain(book.done.iter().rev()).cloned().collect()
    }

    /// Ends all that run under an id of a request. False when none does.
    pub fn end(&self, request: &str) -> bool {
        let book = self.book();
        let own = book.running.values().filter(|entry| entry.lock().request == request);
        let mut any = false;
        own.for_each(|entry| {
            entry.ended.notify_one();
            any = true;
        });
        any
    }
}

/// Keeps an entry among those that run.
pub struct Running {
    gateway: Arc<Gateway>,
    place: u64,
    entry: Arc<Entry>,
}

impl std::ops::Deref for Running {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.entry
    }
}

impl Running {
    /// The entry.
    pub fn entry(&self) -> Arc<Entry> {
        Arc::clone(&self.entry)
    }

    /// Notes which worker takes it now, and how it was chosen.
    pub fn goes_on_at(&self, seat: &Seat, policy: Policy, resumes: u32) {
        let candidate = &seat.candidate;
        let (worker, name) = (candidate.worker.id.to_string(), candidate.worker.name.clone());
        let state = self.gateway.control.state();
        let assignment = candidate.placement.assignment.id;
        let holds = |replica: &&ReplicaRecord| {
            replica.members.iter().any(|member| member.assignment == assignment)
        };
        let split = state.replicas.values().find(holds);
        let strategy = split.map_or("whole".to_owned(), |replica| {
            format!("{}-{}", replica.strategy, replica.members.len())
        });
        let mut record = self.lock();
        let server = Server { worker, name };
        if record.workers.last() != Some(&server) {
            record.workers.push(server);
        }
        (record.balancing, record.strategy) = (Some(policy.to_string()), Some(strategy));
        record.resumes = resumes;
    }

    /// Notes which adopted server takes it now, and how it was chosen.
    pub fn taken_by(&self, server: &AdoptedServer, policy: Policy) {
        let (worker, name) = (server.id.to_string(), server.name.clone());
        let mut record = self.lock();
        record.workers.push(Server { worker, name });
        (record.balancing, record.strategy) =
            (Some(policy.to_string()), Some(format!("adopted-{}", server.kind)));
    }

    /// It was answered to its end.
    pub fn done(&self, reason: &str) {
        self.end(Outcome::Done, Some(reason.to_owned()));
    }

    /// It failed.
    pub fn failed(&self, failure: &Failure) {
        self.end(Outcome::Failed, Some(failure.status_code().to_string()));
    }

    /// Somebody ended it.
    pub fn ended(&self) {
        self.end(Outcome::Cancelled, Some("ended".to_owned()));
    }

    fn end(&self, outcome: Outcome, reason: Option<String>) {
        let took = ms(self.begun.elapsed());
        let mut record = self.lock();
        if record.outcome == Outcome::Running {
            (record.outcome, record.reason, record.total_ms) = (outcome, reason, Some(took));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end(Outcome::Cancelled, None);
        let mut book = self.gateway.history.book();
        book.running.remove(&self.place);
        book.done.push_back(Arc::clone(&self.entry));
        if book.done.len() > limits::REQUESTS_REMEMBERED_COUNT {
            book.done.pop_front();
        }
    }
}

impl Gateway {
    /// Enters a request that is let in.
    pub(crate) fn remember(self: &Arc<Self>, asker: &Asker, model: &ModelRecord) -> Running {
        self.remember_as(asker, &model.name, model.version.digest.hex())
    }

    /// The same where no version of the catalogue is asked.
    pub(crate) fn remember_as(
        self: &Arc<Self>,
        asker: &Asker,
        model: &ModelName,
        version: String,
    ) -> Running {
        let (trace, caller) = (&asker.trace, &asker.caller);
        let record = Record {
            request: trace.request.clone(),
            route: trace.route.clone(),
            caller: caller.clone(),
            model: model.to_string(),
            version,
            begun_at: Millis::now(),
            outcome: Outcome::Running,
            reason: None,
            workers: Vec::new(),
            balancing: None,
            strategy: None,
            load_ms: None,
            queue_ms: None,
            first_text_ms: None,
            total_ms: None,
            prompt_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            resumes: 0,
        };
        let entry = Arc::new(Entry {
            begun: Instant::now(),
            record: Mutex::new(record),
            ended: Notify::new(),
        });
        trace.entries.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&entry));
        let mut book = self.history.book();
        let place = book.next;
        book.next += 1;
        book.running.insert(place, Arc::clone(&entry));
        drop(book);
        Running { gateway: Arc::clone(self), place, entry }
    }
}
