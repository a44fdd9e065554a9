//! The workers as this gateway uses them: one channel per worker and address, how much is in flight on each, how they do, and the way to
//! each model.
//!
//! ```text
//! Workers -- routes (ArcSwap) --> Route of a model --> Seat: candidate + Load (a worker's) + Meter (a placement's)
//!         \- loads, channels: locked where a route is built or a connection is made, never by a pick
//! ```

mod caches;
mod listener;
pub mod load;
pub mod meter;
pub mod route;
pub mod seat;

use arc_swap::ArcSwap;
use load::Load;
use ollamamax_core::State;
use ollamamax_core::record::{ModelRecord, Placement, WorkerRecord};
use ollamamax_core::serving::serving;
use ollamamax_proto::wire::inference_client::InferenceClient;
use ollamamax_proto::{Digest, Incarnation, Millis, ModelName, WorkerId, limits};
use ollamamax_tls::{Expect, Tls};
use route::Route;
use std::collections::HashMap;
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

/// A version of a model: versions that differ in a text only have the same way.
type Key = (ModelName, Digest);

/// Channels, loads and routes.
#[derive(Debug, Default)]
pub struct Workers {
    /// Whose connections these are; without it none can be made.
    tls: Option<Tls>,
    channels: Mutex<HashMap<(WorkerId, String), Channel>>,
    loads: Mutex<HashMap<WorkerId, Arc<Load>>>,
    routes: ArcSwap<HashMap<Key, Arc<Route>>>,
    /// Held while a route is built, so that it is built once.
    building: Mutex<()>,
}

/// Why a worker cannot even be dialed.
#[derive(Debug, thiserror::Error)]
pub enum Undialable {
    /// Its address is none.
    #[error(transparent)]
    Address(#[from] tonic::transport::Error),
    /// This gateway has no certificate to show.
    #[error("this gateway has no identity to call workers with")]
    NoIdentity,
}

impl Workers {
    /// Workers that are called with the identity of `tls`.
    pub fn new(tls: Option<Tls>) -> Self {
        Self { tls, ..Self::default() }
    }

    /// A client of that worker and no other; connects when first used, again after a break.
    pub fn client(&self, worker: &WorkerRecord) -> Result<InferenceClient<Channel>, Undialable> {
        let key = (worker.id, worker.address.clone());
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match channels.get(&key) {
            Some(channel) => channel.clone(),
            None => {
                // Addresses come and go with restarts; forgetting all of them only costs reconnects.
                if channels.len() >= 2 * limits::WORKERS_COUNT {
                    channels.clear();
                }
                let tls = self.tls.as_ref().ok_or(Undialable::NoIdentity)?;
                let channel = tls.channel(&endpoint(&worker.address)?, Expect::Worker(worker.id));
                channels.insert(key, channel.clone());
                channel
            }
        };
        Ok(InferenceClient::new(channel)
            .max_decoding_message_size(limits::RPC_MESSAGE_BYTES)
            .max_encoding_message_size(limits::RPC_MESSAGE_BYTES))
    }

    /// The way to a model as of `state`: read where it is known, built where the state has moved on.
    pub fn route(&self, state: &State, model: &ModelRecord) -> Arc<Route> {
        let key = (model.name.clone(), model.version.blob);
        let known = |routes: &HashMap<Key, Arc<Route>>| {
            let route = routes.get(&key)?;
            route.is_current(state).then(|| Arc::clone(route))
        };
        if let Some(route) = known(&self.routes.load()) {
            return route;
        }
        let _building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let routes = self.routes.load();
        if let Some(route) = known(&routes) {
            return route;
        }
        let before = routes.get(&key);
        let route = Arc::new(Route::new(self, state, model, before.map(|r| &**r), Millis::now()));
        // A request that began before the state moved must not put its old view back.
        if before.is_none_or(|before| before.revision <= route.revision) {
            let mut next = HashMap::clone(&routes);
            next.insert(key, Arc::clone(&route));
            if next.len() > 2 * state.models.len() + 16 {
                next.retain(|(name, blob), _| state.wanted_version(name, *blob).is_some());
            }
            self.routes.store(Arc::new(next));
        }
        route
    }

    /// Tokens of work this gateway has in flight on a worker.
    pub fn outstanding_tokens(&self, worker: WorkerId) -> u64 {
        self.loads().get(&worker).map_or(0, |load| load.outstanding_tokens())
    }

    fn loads(&self) -> MutexGuard<'_, HashMap<WorkerId, Arc<Load>>> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load_of(&self, worker: &WorkerRecord) -> Arc<Load> {
        let mut loads = self.loads();
        if loads.len() > 2 * limits::WORKERS_COUNT {
            loads.retain(|_, load| Arc::strong_count(load) > 1);
        }
        let fresh = || Arc::new(Load::new(worker.incarnation));
        let load = loads.entry(worker.id).or_insert_with(fresh);
        if load.incarnation != worker.incarnation {
            *load = fresh();
        }
        Arc::clone(load)
    }
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
