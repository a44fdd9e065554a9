//! One adopted server as this gateway sees it: what it offers, whether it answers, and what is in flight there.

use super::place::Place;
use crate::ollama::model::Details;
use crate::workers::load::Load;
use crate::workers::meter::Meter;
use arc_swap::ArcSwap;
use ollamamax_core::adopted::AdoptedServer;
use ollamamax_core::route::{Candidate, slow_start};
use ollamamax_proto::placement::WorkerStatus;
use ollamamax_proto::{Incarnation, Millis, ModelName};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Notify, watch};

/// A server.
pub(crate) struct Server {
    pub record: AdoptedServer,
    pub place: Place,
    seen: ArcSwap<Seen>,
    /// Whether it is down: who waits for it is told.
    down: watch::Sender<bool>,
    /// Somebody has reason to look at once.
    pub look: Notify,
    load: Load,
    pub meter: Meter,
}

/// What the last looks showed.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// `suspect` before the first good look and after one that failed, `down` after two.
    pub status: WorkerStatus,
    /// Why it is not ready.
    pub reason: String,
    /// Since when it is what it is.
    pub since: Millis,
    /// Whether it has ever been seen: what it offers is known from then on.
    pub ever: bool,
    pub look: Arc<Look>,
}

impl std::ops::Deref for Seen {
    type Target = Look;

    fn deref(&self) -> &Look {
        &self.look
    }
}

/// What a server tells of itself.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Look {
    /// Its version, where it tells one.
    pub version: String,
    /// What it has, by the name it has here.
    pub models: BTreeMap<ModelName, Arc<Offered>>,
    /// How many more it has that cannot have a name here.
    pub unnamed: usize,
}

/// A model of a server.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Offered {
    /// What the server calls it.
    pub id: String,
    pub digest: String,
    pub size: u64,
    pub modified_at: Millis,
    pub details: Details,
    pub capabilities: Vec<String>,
    /// Where it is in memory, if that is known.
    pub loaded: Option<Loaded>,
}

/// A model in the memory of a server.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Loaded {
    pub size: u64,
    pub size_vram: u64,
    pub context_length: u32,
    /// As the server tells it; `None`: for ever.
    pub expires_at: Option<String>,
}

impl Server {
    pub fn new(record: &AdoptedServer, key: Option<&[u8]>) -> Self {
        let now = Millis::now();
        let seen = Seen {
            status: WorkerStatus::Suspect,
            reason: "it was not looked at yet".to_owned(),
            since: now,
            ever: false,
            look: Arc::default(),
        };
        Self {
            record: record.clone(),
            place: Place::new(&record.url, key),
            seen: ArcSwap::from_pointee(seen),
            down: watch::channel(false).0,
            look: Notify::new(),
            load: Load::new(Incarnation(0)),
            meter: Meter::new(now),
        }
    }

    /// One whose key this node cannot read: it is not asked without.
    pub fn locked(record: &AdoptedServer) -> Self {
        let server = Self::new(record, None);
        let reason = "this node's sealing key does not open its API key; adopt it again".to_owned();
        server.turn(Seen { status: WorkerStatus::Down, reason, ..(*server.seen()).clone() });
        server.down.send_replace(true);
        server
    }

    /// What the last looks showed.
    pub fn seen(&self) -> Arc<Seen> {
        self.seen.load_full()
    }

    fn turn(&self, seen: Seen) {
        self.seen.store(Arc::new(seen));
    }

    /// Notes what a look showed.
    pub fn saw(&self, looked: Result<Look, String>, now: Millis) {
        let before = self.seen();
        let (status, reason, look) = match looked {
            Ok(look) => (WorkerStatus::Ready, String::new(), Some(Arc::new(look))),
            Err(reason) if before.status == WorkerStatus::Ready => {
                (WorkerStatus::Suspect, reason, None)
            }
            Err(reason) => (WorkerStatus::Down, reason, None),
        };
        let is_down = status == WorkerStatus::Down;
        if before.status != status {
            let (name, status) = (&self.record.name, status.to_string());
            tracing::info!(server = name, status, reason, "an adopted server is seen otherwise");
        }
        let since = if before.status == status { before.since } else { now };
        let ever = before.ever || look.is_some();
        let look = look.unwrap_or_else(|| Arc::clone(&before.look));
        self.turn(Seen { status, reason, since, ever, look });
        self.down.send_if_modified(|down| std::mem::replace(down, is_down) != is_down);
    }

    /// Returns when it is down.
    pub async fn gone(&self) {
        let mut down = self.down.subscribe();
        if down.wait_for(|down| *down).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// What a pick sees of it.
    pub fn candidate(&self, now: Millis, usable: bool) -> Candidate {
        Candidate {
            worker: self.record.id,
            outstanding_tokens: self.load.outstanding_tokens(),
            latency_us: self.meter.latency_us(),
            running: self.meter.running(),
            capacity: self.record.places,
            weight: self.record.places,
            share: slow_start::share(now.since(self.seen.load().since)),
            cached_tokens: 0,
            usable,
        }
    }

    /// How willingly it is picked, lower first; nothing where it is not at all.
    pub fn class(&self, now: Millis) -> Option<u8> {
        let trusted = !self.meter.is_out(now);
        match (self.seen.load().status, self.load.is_permitting(now)) {
            (WorkerStatus::Ready, true) if trusted => Some(0),
            (WorkerStatus::Ready | WorkerStatus::Suspect, true) => Some(1),
            (WorkerStatus::Ready | WorkerStatus::Suspect, false) => Some(2),
            _ => None,
        }
    }

    /// Tokens of work in flight.
    pub fn outstanding_tokens(&self) -> u64 {
        self.load.outstanding_tokens()
    }

    /// Remembers how a try ended; one that failed is reason to look.
    pub fn tried(&self, success: bool, now: Millis) {
        self.load.record(success, now);
        self.meter.answered(success);
        if !success {
            self.look.notify_one();
        }
    }
}

/// Work in flight on a server, taken back when dropped.
pub(crate) struct InFlight {
    server: Arc<Server>,
    tokens: u64,
}

impl InFlight {
    pub fn new(server: &Arc<Server>, tokens: u64, now: Millis) -> Self {
        server.load.sent(now);
        server.load.add(tokens);
        server.meter.begin();
        Self { server: Arc::clone(server), tokens }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.server.load.subtract(self.tokens);
        self.server.meter.end();
    }
}
