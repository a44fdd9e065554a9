//! The workers as this gateway uses them: one channel per address, how much is in flight on each, and which of them fail.

use ollamamax_core::State;
use ollamamax_core::breaker::Breaker;
use ollamamax_core::record::{ModelRecord, Placement, WorkerRecord};
use ollamamax_core::route::{self, Policy, Shape};
use ollamamax_core::serving::serving;
use ollamamax_proto::placement::WorkerStatus;
use ollamamax_proto::wire::inference_client::InferenceClient;
use ollamamax_proto::{Incarnation, Millis, WorkerId, limits};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// A worker that has the model loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub worker: WorkerRecord,
    /// What it holds.
    pub placement: Placement,
}

impl Candidate {
    /// What makes two tries at it the same try: a restarted worker or a new assignment is a new chance.
    pub fn identity(&self) -> (WorkerId, Incarnation, u64) {
        (self.worker.id, self.worker.incarnation, self.placement.assignment.generation.0)
    }
}

/// Every worker that can answer for a model now: where it is whole, or where its replica of several stages is driven.
pub fn candidates(state: &State, model: &ModelRecord) -> Vec<Candidate> {
    let found = serving(state, model).into_iter();
    found
        .map(|(worker, placement)| Candidate {
            worker: worker.clone(),
            placement: placement.clone(),
        })
        .collect()
}

/// Channels, loads and breakers by worker.
#[derive(Default)]
pub struct Workers {
    channels: Mutex<HashMap<String, Channel>>,
    loads: Mutex<HashMap<WorkerId, Arc<Load>>>,
}

struct Load {
    incarnation: Incarnation,
    outstanding_tokens: AtomicU64,
    running: AtomicU32,
    breaker: Mutex<Breaker>,
}

impl Load {
    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Work in flight on a worker, taken back when dropped.
pub struct Outstanding {
    load: Arc<Load>,
    tokens: u64,
}

impl Outstanding {
    /// Tells that `tokens` of the work are done.
    pub fn progress(&mut self, tokens: u64) {
        let done = tokens.min(self.tokens);
        self.tokens -= done;
        self.load.outstanding_tokens.fetch_sub(done, Ordering::Relaxed);
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.load.outstanding_tokens.fetch_sub(self.tokens, Ordering::Relaxed);
        self.load.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// A client of the worker at `address`; connects when first used, again after a break.
    pub fn client(
        &self,
        address: &str,
    ) -> Result<InferenceClient<Channel>, tonic::transport::Error> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match channels.get(address) {
            Some(channel) => channel.clone(),
            None => {
                // Addresses come and go with restarts; forgetting all of them only costs reconnects.
                if channels.len() >= 2 * limits::WORKERS_COUNT {
                    channels.clear();
                }
                let channel = endpoint(address)?.connect_lazy();
                channels.insert(address.to_owned(), channel.clone());
                channel
            }
        };
        Ok(InferenceClient::new(channel)
            .max_decoding_message_size(limits::RPC_MESSAGE_BYTES)
            .max_encoding_message_size(limits::RPC_MESSAGE_BYTES))
    }

    /// Takes the best of `candidates` and counts `tokens` of work on it. `tried` tells which ones already failed this request;
    /// they are left out. `coin` in [0, 1) decides between equals.
    ///
    /// Ready workers come first, suspect ones next; one behind an open breaker is only tried when it is all there is.
    pub fn pick(
        &self,
        candidates: Vec<Candidate>,
        tokens: u64,
        now: Millis,
        coin: f64,
        tried: impl Fn(&Candidate) -> bool,
    ) -> Option<(Candidate, Outstanding)> {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        let known: Vec<(Candidate, Arc<Load>)> = candidates
            .into_iter()
            .filter(|candidate| !tried(candidate))
            .map(|candidate| {
                let load = load_of(&mut loads, &candidate.worker);
                (candidate, load)
            })
            .collect();
        let ready =
            |candidate: &Candidate, _: &Load| candidate.worker.status == WorkerStatus::Ready;
        let permitted = |load: &Load| load.breaker().is_permitting(now);
        let best = pick_where(&known, coin, |c, load| ready(c, load) && permitted(load))
            .or_else(|| pick_where(&known, coin, |_, load| permitted(load)))
            .or_else(|| pick_where(&known, coin, ready))
            .or_else(|| pick_where(&known, coin, |_, _| true))?;
        let (candidate, load) = known.into_iter().nth(best)?;
        load.breaker().permit(now);
        load.outstanding_tokens.fetch_add(tokens, Ordering::Relaxed);
        load.running.fetch_add(1, Ordering::Relaxed);
        Some((candidate, Outstanding { load, tokens }))
    }

    /// Remembers how a try at a worker went.
    pub fn record(&self, worker: &WorkerRecord, success: bool, now: Millis) {
        let load = load_of(&mut self.loads.lock().unwrap_or_else(PoisonError::into_inner), worker);
        load.breaker().record(now, success);
    }

    /// Tokens of work this gateway has in flight on a worker.
    pub fn outstanding_tokens(&self, worker: WorkerId) -> u64 {
        let loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        loads.get(&worker).map_or(0, |load| load.outstanding_tokens.load(Ordering::Relaxed))
    }
}

/// The index of the least loaded among those `usable`.
fn pick_where(
    known: &[(Candidate, Arc<Load>)],
    coin: f64,
    usable: impl Fn(&Candidate, &Load) -> bool,
) -> Option<usize> {
    let seen: Vec<route::Candidate> = known
        .iter()
        .map(|(candidate, load)| {
            let assignment = &candidate.placement.assignment;
            route::Candidate {
                worker: candidate.worker.id,
                assignment: assignment.id,
                generation: assignment.generation,
                usable: usable(candidate, load),
                outstanding_tokens: load.outstanding_tokens.load(Ordering::Relaxed),
                running: load.running.load(Ordering::Relaxed),
                // What it runs and what it lets wait; past that it would refuse.
                capacity: assignment.sequences_max + limits::WORKER_WAITING_COUNT as u32,
                ewma_latency_us: 0,
                weight: 1,
            }
        })
        .collect();
    route::pick(Policy::LeastOutstanding, &seen, &Shape::default(), coin)
}

fn load_of(loads: &mut HashMap<WorkerId, Arc<Load>>, worker: &WorkerRecord) -> Arc<Load> {
    if loads.len() > 2 * limits::WORKERS_COUNT {
        loads.retain(|_, load| Arc::strong_count(load) > 1);
    }
    let fresh = || {
        Arc::new(Load {
            incarnation: worker.incarnation,
            outstanding_tokens: AtomicU64::new(0),
            running: AtomicU32::new(0),
            breaker: Mutex::default(),
        })
    };
    let load = loads.entry(worker.id).or_insert_with(fresh);
    if load.incarnation != worker.incarnation {
        *load = fresh();
    }
    Arc::clone(load)
}

fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    let ping = Duration::from_millis(limits::WORKER_PING_MS);
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(Duration::from_millis(limits::CONNECT_TIMEOUT_MS))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(ping)
        .keep_alive_timeout(ping)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::STREAMS_WINDOW_BYTES))
}
