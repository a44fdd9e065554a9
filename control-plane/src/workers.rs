//! The leader's eyes on the workers: heartbeats in memory, verdicts on silence, and proposals for transitions only.
//!
//! ```text
//! worker -> any node -> leader: heard() -> table        every WORKER_CHECK_MS: verdict -> SetWorkerStatus
//!                                             |                                reports -> ReportPlacements
//!                                             +-- silent for a moment: is its port still open?
//! ```
//!
//! Heartbeats never go through Raft. A new leader knows nothing yet, so it allows every worker a grace period.

use crate::client::Client;
use crate::leader::{Leader, Leadership};
use crate::raft::peers::{Lane, Peers};
use crate::watch::Published;
use ollamamax_core::command::Transition;
use ollamamax_core::liveness::Liveness;
use ollamamax_core::plan::Observed;
use ollamamax_core::record::{Placement, WorkerRecord};
use ollamamax_core::speed::Speeds;
use ollamamax_core::{Command, State};
use ollamamax_proto::placement::{AssignmentReport, DeviceHealth, WorkerStatus};
use ollamamax_proto::wire::control_client::ControlClient;
use ollamamax_proto::wire::{HeartbeatReply, HeartbeatRequest};
use ollamamax_proto::{Incarnation, Millis, WorkerId, limits};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tonic::Status;

/// What the leader last heard of one worker in this leadership.
#[derive(Clone, Debug)]
struct Heard {
    incarnation: Incarnation,
    at: Instant,
    reports: Vec<AssignmentReport>,
    health: Option<DeviceHealth>,
    /// Its port refused a connection after this was heard: the process is gone.
    refused: bool,
}

/// What one leadership knows.
struct Term {
    liveness: Liveness,
    speeds: Speeds,
    heard: HashMap<WorkerId, Heard>,
}

/// The table of one node; it is empty while the node does not lead.
pub struct Workers {
    term: Mutex<Option<Term>>,
    /// Errands on their way: at most one of a kind per worker.
    busy: Mutex<HashSet<(WorkerId, Errand)>>,
    leadership: Leadership,
    peers: Arc<Peers>,
    published: Arc<Published>,
    started: (Instant, Millis),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Errand {
    Probe,
    Status,
    Report,
}

impl Workers {
    /// An empty table.
    pub fn new(leadership: Leadership, peers: Arc<Peers>, published: Arc<Published>) -> Arc<Self> {
        let (term, busy) = Default::default();
        let started = (Instant::now(), Millis::now());
        Arc::new(Self { term, busy, leadership, peers, published, started })
    }

    /// Whether heartbeats end here.
    pub fn leads(&self) -> bool {
        self.leadership.leads()
    }

    /// Passes a heartbeat on to the leader.
    pub async fn forward(&self, request: HeartbeatRequest) -> Result<HeartbeatReply, Status> {
        let Some(Leader::Other { id, address }) = self.leadership.current() else {
            return Err(Status::unavailable("no leader is known"));
        };
        let mut client = ControlClient::new(self.peers.channel(id, &address, Lane::Control)?);
        let request = HeartbeatRequest { forwarded: true, ..request };
        let wait = Duration::from_millis(limits::WORKER_HEARTBEAT_MS);
        match tokio::time::timeout(wait, client.heartbeat(request)).await {
            Ok(reply) => reply.map(tonic::Response::into_inner),
            Err(_) => {
                Err(Status::unavailable(format!("the leader at `{address}` does not answer")))
            }
        }
    }

    /// A worker spoke to this leader.
    pub fn heard(
        &self,
        id: WorkerId,
        incarnation: Incarnation,
        reports: Vec<AssignmentReport>,
        draining: bool,
        ns_per_mib: u64,
        health: Option<DeviceHealth>,
    ) {
        let now = self.now();
        let mut term = lock(&self.term);
        let term = term.get_or_insert_with(|| Term::new(now));
        let steps = reports.iter().map(|report| (report.id, report.step_ns_per_mib));
        term.speeds.heard(id, ns_per_mib, steps, now);
        term.liveness.heard(id, incarnation, draining, now);
        let at = Instant::now();
        let heard = Heard { incarnation, at, reports, health, refused: false };
        term.heard.insert(id, heard);
    }

    /// What the planner should know beside the state.
    pub fn observed(&self) -> Observed {
        let term = lock(&self.term);
        let Some(term) = &*term else { return Observed::default() };
        let of = |report: &AssignmentReport| report.running.saturating_add(report.waiting);
        let load = |heard: &Heard| {
            heard.reports.iter().map(of).fold(0, |sum: u32, n| sum.saturating_add(n))
        };
        let health = term.heard.iter().filter_map(|(id, heard)| Some((*id, heard.health?)));
        let reports = term.heard.values().flat_map(|heard| &heard.reports);
        Observed {
            busy: term.heard.iter().map(|(id, heard)| (*id, load(heard))).collect(),
            ns_per_mib: term.speeds.ns_per_mib(),
            slow: term.speeds.slow(),
            requests: reports
                .map(|report| (report.id, of(report)))
                .filter(|(_, n)| *n > 0)
                .collect(),
            health: health.collect(),
        }
    }

    /// Time that neither jumps nor goes back, on the scale of the wall clock at the start.
    fn now(&self) -> Millis {
        let (started, at) = self.started;
        at.plus(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Judges the workers as long as this node runs; acts only while it leads.
    pub async fn watch(self: Arc<Self>, client: Client) {
        let mut revisions = self.published.revisions();
        let period = Duration::from_millis(limits::WORKER_CHECK_MS);
        loop {
            // A registration or a heartbeat's news should show at once, silence at the next check.
            let _ = tokio::time::timeout(period, revisions.changed()).await;
            if !self.leadership.leads() {
                // What was heard under an earlier leadership says nothing about a later one.
                *lock(&self.term) = None;
                continue;
            }
            self.round(&self.published.state(), &client);
        }
    }

    fn round(self: &Arc<Self>, state: &State, client: &Client) {
        let now = self.now();
        let (verdicts, refused, quiet, reported) = {
            let mut term = lock(&self.term);
            let fresh = term.is_none();
            let term = term.get_or_insert_with(|| Term::new(now));
            term.meet(state, now, fresh);
            let heard = term.heard.iter();
            let mut refused = HashSet::new();
            let mut quiet = Vec::new();
            let mut reported = Vec::new();
            for (id, heard) in heard {
                let Some(worker) = state.workers.get(id) else { continue };
                if worker.incarnation != heard.incarnation {
                    continue;
                }
                if heard.refused {
                    refused.insert(*id);
                } else if heard.at.elapsed() > Duration::from_millis(limits::WORKER_PROBE_MS) {
                    quiet.push(worker);
                }
                reported.push((worker, transitions(state, worker, &heard.reports)));
            }
            (term.liveness.verdicts(state, now), refused, quiet, reported)
        };
        for verdict in verdicts.into_iter().filter(|verdict| !refused.contains(&verdict.worker)) {
            let (id, incarnation) = (verdict.worker, verdict.incarnation);
            let (status, reason) = (verdict.status, verdict.reason);
            self.propose(
                Errand::Status,
                id,
                Command::SetWorkerStatus { id, incarnation, status, reason },
                client,
            );
        }
        for id in refused {
            let Some(worker) = state.workers.get(&id) else { continue };
            if worker.status != WorkerStatus::Down {
                let reason = format!("`{}` refuses connections", worker.address);
                let (incarnation, status) = (worker.incarnation, WorkerStatus::Down);
                self.propose(
                    Errand::Status,
                    id,
                    Command::SetWorkerStatus { id, incarnation, status, reason },
                    client,
                );
            }
        }
        for worker in quiet {
            self.probe(worker);
        }
        for (worker, transitions) in reported {
            if !transitions.is_empty() {
                let (id, incarnation) = (worker.id, worker.incarnation);
                let command = Command::ReportPlacements { worker: id, incarnation, transitions };
                self.propose(Errand::Report, id, command, client);
            }
        }
    }

    /// What is still true after a refusal will be seen again.
    fn propose(self: &Arc<Self>, errand: Errand, id: WorkerId, command: Command, client: &Client) {
        let Some(guard) = Busy::begin(self, id, errand) else { return };
        let client = client.clone();
        tokio::spawn(async move {
            if let Err(error) = client.propose(command).await {
                tracing::warn!(worker = %id, ?errand, %error, "a worker's transition was not accepted");
            }
            drop(guard);
        });
    }

    /// A process that is gone refuses connections at once, long before its silence is proof.
    fn probe(self: &Arc<Self>, worker: &WorkerRecord) {
        if worker.status == WorkerStatus::Down {
            return;
        }
        let Some(guard) = Busy::begin(self, worker.id, Errand::Probe) else { return };
        let (this, id, address) = (Arc::clone(self), worker.id, worker.address.clone());
        let asked = Instant::now();
        tokio::spawn(async move {
            let wait = Duration::from_millis(limits::WORKER_PROBE_TIMEOUT_MS);
            let tried = tokio::time::timeout(wait, ollamamax_tls::tcp(&address)).await;
            let refused = matches!(&tried, Ok(Err(error))
                if error.kind() == std::io::ErrorKind::ConnectionRefused);
            if refused
                && let Some(term) = lock(&this.term).as_mut()
                && let Some(heard) = term.heard.get_mut(&id)
            {
                heard.refused = heard.at < asked;
            }
            drop(guard);
        });
    }
}

impl Term {
    fn new(now: Millis) -> Self {
        Self { liveness: Liveness::new(now), speeds: Speeds::default(), heard: HashMap::new() }
    }

    /// A life that appeared under this leadership has just registered: that counts as a word. The lives found at its
    /// begin have only the grace.
    fn meet(&mut self, state: &State, now: Millis, fresh: bool) {
        self.liveness.forget_unknown(state);
        self.speeds.forget_unknown(state);
        self.heard.retain(|id, _| state.workers.contains_key(id));
        for worker in state.workers.values() {
            let met = self
                .heard
                .get(&worker.id)
                .is_some_and(|heard| heard.incarnation >= worker.incarnation);
            if met {
                continue;
            }
            let incarnation = worker.incarnation;
            if !fresh {
                self.liveness.heard(worker.id, incarnation, false, now);
            }
            let at = Instant::now();
            self.heard.insert(
                worker.id,
                Heard { incarnation, at, reports: Vec::new(), health: None, refused: false },
            );
        }
    }
}

/// Marks an errand as on its way until dropped.
struct Busy {
    workers: Arc<Workers>,
    key: (WorkerId, Errand),
}

impl Busy {
    fn begin(workers: &Arc<Workers>, id: WorkerId, errand: Errand) -> Option<Self> {
        let key = (id, errand);
        let fresh = lock(&workers.busy).insert(key);
        fresh.then(|| Self { workers: Arc::clone(workers), key })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        lock(&self.workers.busy).remove(&self.key);
    }
}

/// Where the reports of a worker differ from what is known of its placements.
fn transitions(
    state: &State,
    worker: &WorkerRecord,
    reports: &[AssignmentReport],
) -> Vec<Transition> {
    let differs = |placement: &Placement, report: &AssignmentReport| {
        placement.phase != report.phase
            || placement.load_ns != report.load_ns
            // Memory in use moves with every request; only its first value is news.
            || (placement.resident_bytes == 0 && report.resident_bytes != 0)
    };
    let mut transitions = Vec::new();
    for report in reports {
        let Some(placement) = state.placements.get(&report.id) else { continue };
        let same =
            placement.worker == worker.id && placement.assignment.generation == report.generation;
        if same && differs(placement, report) {
            transitions.push(Transition {
                id: report.id,
                generation: report.generation,
                phase: report.phase.clone(),
                resident_bytes: report.resident_bytes,
                load_ns: report.load_ns,
            });
        }
    }
    transitions
}

/// A poisoned lock only says that another thread panicked; every value behind these is valid after each statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
