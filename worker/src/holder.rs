//! What this worker holds: one entry per assignment, from the moment it is wanted until its memory is given back.
//!
//! ```text
//! AssignmentSet -> Fence -> diff -> Load:   Loading -- fetch, load --> Ready(runner) | Failed(reason)
//!                                   Unload: out of the table at once; its runner finishes its sequences, then ends
//! ```
//!
//! Entries change only here; everyone else reads reports or looks a runner up.

mod live;
mod lookup;

use self::live::Live;
pub use self::lookup::LookupError;
use crate::desired::{Action, AssignmentSet, Fence, diff};
use crate::fetch::{FetchError, Fetcher};
use crate::machine::Loader;
use crate::runner::{Runner, RunnerState};
use crate::stage::Links;
use ollamamax_proto::placement::{Assigned, Assignment, AssignmentReport, Phase};
use ollamamax_proto::{AssignmentId, Digest, Generation, Revision};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The table of assignments.
#[derive(Debug)]
pub struct Holder {
    fetcher: Fetcher,
    loader: Arc<dyn Loader>,
    memory_bytes: u64,
    sequences_max: u32,
    drain: Duration,
    links: Arc<Links>,
    table: Mutex<Table>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Table {
    fence: Fence,
    held: BTreeMap<AssignmentId, Held>,
    leaving: Vec<(AssignmentId, Live)>,
    closed: bool,
}

#[derive(Debug)]
struct Held {
    assigned: Arc<Assigned>,
    state: State,
    cancel: CancellationToken,
}

#[derive(Debug)]
enum State {
    Loading,
    Ready(Live),
    Failed(String),
}

impl Held {
    fn generation(&self) -> Generation {
        self.assigned.assignment.generation
    }

    /// Takes the ring as it is now, where only that has changed.
    fn rewire(&mut self, wanted: Assigned) {
        if wanted.assignment.generation != self.generation() {
            return;
        }
        if let (State::Ready(Live::Model(runner)), Some(ring)) = (&self.state, &wanted.ring) {
            runner.rewire(ring.clone());
        }
        if self.assigned.ring != wanted.ring {
            let assignment = self.assigned.assignment.clone();
            self.assigned = Arc::new(Assigned { assignment, ring: wanted.ring });
        }
    }
}

impl Holder {
    /// Holds nothing yet. `memory_bytes` bounds what is held at once; `drain` is how long the sequences of an unloaded
    /// assignment may go on.
    pub fn new(
        fetcher: Fetcher,
        loader: Arc<dyn Loader>,
        memory_bytes: u64,
        sequences_max: u32,
        drain: Duration,
        links: Arc<Links>,
    ) -> Self {
        let (table, changes) = (Mutex::default(), watch::Sender::new(0));
        Self { fetcher, loader, memory_bytes, sequences_max, drain, links, table, changes }
    }

    /// Where connections between stages come in.
    pub fn links(&self) -> &Arc<Links> {
        &self.links
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a registration was committed at `revision`.
    pub fn registered(&self, revision: Revision) {
        self.table().fence.registered(revision);
    }

    /// Starts to load and unload until exactly `set` is held; does nothing for a set older than one seen.
    pub fn apply(self: &Arc<Self>, set: AssignmentSet) {
        {
            let mut table = self.table();
            if table.closed || !table.fence.admit(set.revision) {
                return;
            }
            self.links.expect(&set.assignments);
            let held = table.held.iter().map(|(id, held)| (*id, held.generation()));
            for action in diff(&held.collect(), &set.assignments) {
                match action {
                    Action::Unload { id, generation } => {
                        tracing::info!(assignment = %id, %generation, "unloading");
                        if let Some(held) = table.held.remove(&id) {
                            self.let_go(&mut table, id, held, self.drain);
                        }
                    }
                    Action::Load(mut assigned) => {
                        let assignment = &mut assigned.assignment;
                        let (id, generation) = (assignment.id, assignment.generation);
                        tracing::info!(assignment = %id, %generation, model = %assignment.model, "loading");
                        assignment.sequences_max =
                            assignment.sequences_max.clamp(1, self.sequences_max.max(1));
                        let assigned: Arc<Assigned> = Arc::from(assigned);
                        let cancel = CancellationToken::new();
                        let state = State::Loading;
                        let held =
                            Held { assigned: Arc::clone(&assigned), state, cancel: cancel.clone() };
                        table.held.insert(id, held);
                        let holder = Arc::clone(self);
                        tokio::spawn(async move {
                            let load = holder.load(&assigned);
                            cancel.run_until_cancelled(load).await;
                        });
                    }
                }
            }
            for wanted in set.assignments {
                if let Some(held) = table.held.get_mut(&wanted.assignment.id) {
                    held.rewire(wanted);
                }
            }
        }
        self.changed();
    }

    fn let_go(self: &Arc<Self>, table: &mut Table, id: AssignmentId, held: Held, drain: Duration) {
        held.cancel.cancel();
        let State::Ready(live) = held.state else { return };
        live.stop(Instant::now() + drain);
        table.leaving.push((id, live.clone()));
        let holder = Arc::clone(self);
        tokio::spawn(async move {
            live.ended().await;
            holder.table().leaving.retain(|(_, leaving)| !leaving.is(&live));
            holder.changed();
        });
    }

    async fn load(self: &Arc<Self>, assigned: &Arc<Assigned>) {
        let assignment = &assigned.assignment;
        let outcome = self.fetch_and_start(assigned).await;
        let live = {
            let mut table = self.table();
            let Some(held) = table.held.get_mut(&assignment.id) else { return };
            if held.generation() != assignment.generation {
                return;
            }
            match outcome {
                Ok(live) => {
                    tracing::info!(assignment = %assignment.id, model = %assignment.model, "loaded");
                    held.state = State::Ready(live.clone());
                    // The ring may have changed while it was loading.
                    held.rewire((*held.assigned).clone());
                    Some(live)
                }
                Err(reason) => {
                    tracing::error!(assignment = %assignment.id, model = %assignment.model, reason, "not loaded");
                    held.state = State::Failed(reason);
                    None
                }
            }
        };
        self.changed();
        self.prune().await;
        if let Some(live) = live {
            // Its end must be reported at once, and whether its stages are connected; the token of this task ends the wait
            // when it is let go.
            live.watch(|| self.changed()).await;
            self.changed();
        }
    }

    async fn fetch_and_start(&self, assigned: &Arc<Assigned>) -> Result<Live, String> {
        let assignment = &assigned.assignment;
        let path = match &assigned.ring {
            None => self.fetcher.fetch(assignment.blob, assignment.blob_bytes).await,
            Some(_) => self.fetch_part(assigned).await,
        };
        let path = path.map_err(|error| error.to_string())?;
        self.wait_for_memory(assigned).await;
        Live::start(&self.loader, path, assigned, &self.links).await
    }

    /// Only what a stage needs, where the loader can tell and the whole is not here already.
    async fn fetch_part(&self, assigned: &Arc<Assigned>) -> Result<PathBuf, FetchError> {
        let Assignment { blob, blob_bytes, .. } = assigned.assignment;
        let (loader, assigned) = (Arc::clone(&self.loader), Arc::clone(assigned));
        let ranges = move |header: &Path| loader.ranges(header, &assigned).ok().flatten();
        self.fetcher.fetch_part(blob, blob_bytes, ranges).await
    }

    /// What is being given up counts until it is gone: loading must not push the machine over its memory meanwhile.
    async fn wait_for_memory(&self, assigned: &Assigned) {
        let (id, bytes) = (assigned.assignment.id, live::bytes(assigned));
        let mut changes = self.changes.subscribe();
        loop {
            {
                let table = self.table();
                let ready = table.held.values().filter_map(|held| match &held.state {
                    State::Ready(runner) => Some(runner.resident_bytes()),
                    _ => None,
                });
                let leaving = table.leaving.iter().map(|(_, runner)| runner.resident_bytes());
                let taken = ready.chain(leaving).fold(0, u64::saturating_add);
                let fits = taken.saturating_add(bytes) <= self.memory_bytes;
                let replaces = table.leaving.iter().any(|(leaving, _)| *leaving == id);
                if table.leaving.is_empty() || (fits && !replaces) {
                    return;
                }
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn prune(self: &Arc<Self>) {
        let holder = Arc::clone(self);
        let pruned = tokio::task::spawn_blocking(move || {
            let needed: BTreeSet<Digest> =
                holder.table().held.values().map(|held| held.assigned.assignment.blob).collect();
            holder.fetcher.prune(&needed)
        });
        if let Ok(Err(error)) = pruned.await {
            tracing::warn!(%error, "old blobs could not be deleted");
        }
    }

    /// The runner of a request routed by this assignment, generation and blob.
    pub fn lookup(
        &self,
        id: AssignmentId,
        asked: Generation,
        blob: Digest,
    ) -> Result<Arc<Runner>, LookupError> {
        let table = self.table();
        let entry = table.held.get(&id).ok_or(LookupError::Unknown(id))?;
        let held = entry.generation();
        if held != asked {
            return Err(LookupError::Generation { id, held, asked });
        }
        let held = entry.assigned.assignment.blob;
        if held != blob {
            return Err(LookupError::Blob { id, held, asked: blob });
        }
        match &entry.state {
            State::Ready(Live::Model(runner)) => Ok(Arc::clone(runner)),
            State::Ready(Live::Stage(_)) => Err(LookupError::Stage(id)),
            State::Loading => {
                Err(LookupError::NotReady { id, reason: "it is still loading".to_owned() })
            }
            State::Failed(reason) => Err(LookupError::NotReady { id, reason: reason.clone() }),
        }
    }

    /// Some ready runner of `blob`.
    pub fn by_blob(&self, blob: Digest) -> Option<Arc<Runner>> {
        self.table().held.values().find_map(|held| match &held.state {
            State::Ready(Live::Model(runner)) if held.assigned.assignment.blob == blob => {
                Some(Arc::clone(runner))
            }
            _ => None,
        })
    }

    /// What to tell the control plane now: the pace of steps counts from one report to the next.
    pub fn reports(&self) -> Vec<AssignmentReport> {
        self.table().held.values().map(report).collect()
    }

    /// Requests taken and not yet answered in full, those of assignments being given up included.
    pub fn outstanding(&self) -> usize {
        let table = self.table();
        let ready = table.held.values().filter_map(|held| match &held.state {
            State::Ready(runner) => Some(runner),
            _ => None,
        });
        let leaving = table.leaving.iter().map(|(_, runner)| runner);
        ready.chain(leaving).map(|runner| runner.outstanding()).sum()
    }

    /// Counts up whenever a report may say something new.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Gives everything up, takes no further set, and waits until the memory is back.
    pub async fn close(self: &Arc<Self>) {
        let leaving: Vec<Live> = {
            let mut table = self.table();
            table.closed = true;
            for (id, held) in std::mem::take(&mut table.held) {
                self.let_go(&mut table, id, held, Duration::ZERO);
            }
            table.leaving.iter().map(|(_, live)| live.clone()).collect()
        };
        for live in leaving {
            live.stop(Instant::now());
            live.ended().await;
        }
    }
}

fn report(held: &Held) -> AssignmentReport {
    let assignment = &held.assigned.assignment;
    let mut report = AssignmentReport {
        id: assignment.id,
        generation: assignment.generation,
        phase: Phase::Loading,
        resident_bytes: 0,
        running: 0,
        waiting: 0,
        load_ns: 0,
        step_ns_per_mib: 0,
    };
    match &held.state {
        State::Loading => {}
        State::Failed(reason) => report.phase = Phase::Failed { reason: reason.clone() },
        State::Ready(runner) => {
            report.phase = match runner.state() {
                RunnerState::Running => Phase::Ready,
                RunnerState::Apart(_) => Phase::Loading,
                RunnerState::Failed(reason) => Phase::Failed { reason },
                RunnerState::Stopped => Phase::Failed { reason: "the engine stopped".to_owned() },
            };
            (report.running, report.waiting) = runner.requests();
            report.resident_bytes = runner.resident_bytes();
            report.step_ns_per_mib = runner.pace().take();
            report.load_ns = u64::try_from(runner.load_time().as_nanos()).unwrap_or(u64::MAX);
        }
    }
    report
}
