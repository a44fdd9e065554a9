//! Servers of others that were adopted: Ollama, vLLM, llama-server and their like answer whole requests as workers do, and this
//! gateway talks to them itself.
//!
//! ```text
//! request -> door: in the catalogue? --yes--> the handler, as ever --503--+
//!                   | no                                                  v
//!                   +---------------------------------------------> tries: pick -> ask -> first byte
//!                                                                     ^  failed before it  |
//!                                                                     +--------------------+
//! client <- pass (as it comes, counted) or hear (told in the client's words) <- flow <-----+
//!
//! state.adopted --> Servers --> Server: what it has and whether it answers (probe), load, meter, breaker
//! ```
//!
//! What a server is asked, it is asked once: nobody can go on where another server stopped. So before the first byte another
//! one is tried, and after it a failure is told as what it is.

pub(crate) mod ask;
mod call;
pub(crate) mod door;
mod flow;
mod hear;
mod lines;
mod pass;
mod pick;
pub(crate) mod place;
pub(crate) mod probe;
pub(crate) mod server;
mod show;
mod tally;
mod tries;

use crate::Gateway;
use crate::secrets::SealingKey;
use arc_swap::ArcSwap;
use door::Passed;
use ollamamax_core::State;
use ollamamax_core::adopted::AdoptedServer;
use ollamamax_core::budget::RetryBudget;
use ollamamax_core::route::Memory;
use ollamamax_proto::{Millis, ModelName, Revision, WorkerId, limits};
use server::{Offered, Server};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// For what the keys of adopted servers are sealed.
pub(crate) const KEY_PURPOSE: &str = "key of an adopted server";

/// How patient a gateway is with adopted servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopting {
    /// How often each is looked at.
    pub every: Duration,
    /// How long a look may take.
    pub look: Duration,
    /// How long the first byte of an answer may take: loading a model and all of a prompt are in it.
    pub first: Duration,
    /// How long an answer may be silent once it has begun.
    pub silence: Duration,
}

impl Default for Adopting {
    fn default() -> Self {
        Self {
            every: Duration::from_millis(limits::ADOPTED_PROBE_MS),
            look: Duration::from_millis(limits::ADOPTED_PROBE_TIMEOUT_MS),
            first: Duration::from_millis(limits::ADOPTED_FIRST_BYTE_MS),
            silence: Duration::from_millis(limits::ADOPTED_SILENCE_MS),
        }
    }
}

/// All adopted servers, as this gateway knows them.
pub(crate) struct Servers {
    pub(crate) http: reqwest::Client,
    pub(crate) pace: Adopting,
    sealing: SealingKey,
    known: ArcSwap<Known>,
    /// Held while they are put together, so that it is done once.
    building: Mutex<()>,
    budget: Mutex<RetryBudget>,
    memory: Mutex<Memory>,
    judged_at: AtomicU64,
}

/// The servers as of a revision of the state.
#[derive(Default)]
struct Known {
    revision: Revision,
    servers: Arc<Vec<Arc<Server>>>,
}

impl Servers {
    pub(crate) fn new(pace: Adopting, sealing: SealingKey) -> Self {
        Self {
            http: place::client(),
            pace,
            sealing,
            known: ArcSwap::default(),
            building: Mutex::default(),
            budget: Mutex::new(RetryBudget::new(Millis::now())),
            memory: Mutex::new(Memory { last: usize::MAX, ..Memory::default() }),
            judged_at: AtomicU64::new(0),
        }
    }

    /// The servers as of `state`: what is known of those that stay is kept, new ones are looked at from now on.
    pub(crate) fn all(&self, state: &State) -> Arc<Vec<Arc<Server>>> {
        let known = self.known.load();
        if known.revision >= state.revision() {
            return Arc::clone(&known.servers);
        }
        let _building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.known.load_full();
        if known.revision >= state.revision() {
            return Arc::clone(&known.servers);
        }
        let records = || state.adopted.values();
        let is_same = known.servers.len() == state.adopted.len()
            && known.servers.iter().map(|server| &server.record).eq(records());
        let servers = match is_same {
            true => Arc::clone(&known.servers),
            false => {
                let old: BTreeMap<WorkerId, &Arc<Server>> =
                    known.servers.iter().map(|server| (server.record.id, server)).collect();
                let server = |record: &AdoptedServer| match old.get(&record.id) {
                    Some(server) if server.record == *record => Arc::clone(server),
                    _ => self.take_on(record),
                };
                Arc::new(records().map(server).collect())
            }
        };
        self.known
            .store(Arc::new(Known { revision: state.revision(), servers: Arc::clone(&servers) }));
        servers
    }

    fn take_on(&self, record: &AdoptedServer) -> Arc<Server> {
        let key = record.key.as_ref().map(|key| self.sealing.unseal(KEY_PURPOSE, &key.0));
        let server = Arc::new(match key {
            None => Server::new(record, None),
            Some(Some(key)) => Server::new(record, Some(&key)),
            Some(None) => Server::locked(record),
        });
        tokio::spawn(probe::keep_looking(Arc::downgrade(&server), self.http.clone(), self.pace));
        server
    }
}

impl Gateway {
    /// The adopted servers as of now.
    pub(crate) fn adopted_servers(&self) -> Arc<Vec<Arc<Server>>> {
        self.adopted.all(&self.control.state())
    }

    /// What adopted servers offer, by name; of several that have the same one, the first by name.
    pub(crate) fn offered(&self) -> Offers {
        let mut servers: Vec<Arc<Server>> = self.adopted_servers().iter().cloned().collect();
        servers.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        let mut all = Offers::new();
        for server in servers {
            for (name, offered) in &server.seen().models {
                let own = || (Arc::clone(&server), Arc::clone(offered));
                all.entry(name.clone()).or_insert_with(own);
            }
        }
        all
    }

    /// The same for whoever asks: another gateway is told of no model but this cluster's.
    pub(crate) fn offered_to(&self, passed: Passed) -> Offers {
        if passed.0 { Offers::new() } else { self.offered() }
    }
}

/// Models of adopted servers by name, each with who has it.
pub(crate) type Offers = BTreeMap<ModelName, (Arc<Server>, Arc<Offered>)>;

/// Has servers that come be looked at without a request for them, for as long as there is a gateway.
pub(crate) async fn run(gateway: Weak<Gateway>) {
    let Some(mut revisions) = gateway.upgrade().map(|gateway| gateway.control.revisions()) else {
        return;
    };
    loop {
        match gateway.upgrade() {
            Some(gateway) => drop(gateway.adopted_servers()),
            None => return,
        }
        // The gateway may go without the state ever moving again.
        let moved = tokio::time::timeout(Duration::from_secs(5), revisions.changed()).await;
        if let Ok(Err(_)) = moved {
            return;
        }
    }
}
