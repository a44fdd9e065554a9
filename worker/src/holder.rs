//! What this worker holds: one entry per assignment, from the moment it is wanted until its memory is given back.
//!
//! ```text
//! AssignmentSet -> Fence -> diff -> Load:   Loading -- fetch, load --> Ready(runner) | Failed(reason)
//!                                   Unload: out of the table at once; its runner finishes its sequences, then ends
//! ```
//!
//! Entries change only here; everyone else reads reports or looks a runner up.

use crate::desired::{Action, AssignmentSet, Fence, diff};
use crate::fetch::Fetcher;
use crate::machine::Loader;
use crate::runner::{Runner, RunnerState};
use ollamamax_proto::placement::{Assignment, AssignmentReport, Phase};
use ollamamax_proto::{AssignmentId, Digest, Generation, Revision};
use std::collections::{BTreeMap, BTreeSet};
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
    table: Mutex<Table>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Table {
    fence: Fence,
    held: BTreeMap<AssignmentId, Held>,
    leaving: Vec<(AssignmentId, Arc<Runner>)>,
    closed: bool,
}

#[derive(Debug)]
struct Held {
    assignment: Arc<Assignment>,
    state: State,
    cancel: CancellationToken,
}

#[derive(Debug)]
enum State {
    Loading,
    Ready(Arc<Runner>),
    Failed(String),
}

/// Why there is no runner for a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// Never heard of, or given up.
    #[error("assignment `{0}` is not held here")]
    Unknown(AssignmentId),
    /// The request was routed by another generation.
    #[error("assignment `{id}` is held in generation `{held}`, the request names `{asked}`")]
    Generation {
        /// Which one.
        id: AssignmentId,
        /// What is held.
        held: Generation,
        /// What was asked for.
        asked: Generation,
    },
    /// The request was made for other bytes.
    #[error("assignment `{id}` runs blob `{held}`, the request names `{asked}`")]
    Blob {
        /// Which one.
        id: AssignmentId,
        /// What is held.
        held: Digest,
        /// What was asked for.
        asked: Digest,
    },
    /// It is not ready, and why.
    #[error("assignment `{id}` is not ready: {reason}")]
    NotReady {
        /// Which one.
        id: AssignmentId,
        /// In words.
        reason: String,
    },
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
    ) -> Self {
        let (table, changes) = (Mutex::default(), watch::Sender::new(0));
        Self { fetcher, loader, memory_bytes, sequences_max, drain, table, changes }
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
            let held = table.held.iter().map(|(id, held)| (*id, held.assignment.generation));
            for action in diff(&held.collect(), &set.assignments) {
                match action {
                    Action::Unload { id, generation } => {
                        tracing::info!(assignment = %id, %generation, "unloading");
                        if let Some(held) = table.held.remove(&id) {
                            self.let_go(&mut table, id, held, self.drain);
                        }
                    }
                    Action::Load(mut assignment) => {
                        let (id, generation) = (assignment.id, assignment.generation);
                        tracing::info!(assignment = %id, %generation, model = %assignment.model, "loading");
                        assignment.sequences_max =
                            assignment.sequences_max.clamp(1, self.sequences_max.max(1));
                        let assignment = Arc::new(assignment);
                        let cancel = CancellationToken::new();
                        let state = State::Loading;
                        let held = Held {
                            assignment: Arc::clone(&assignment),
                            state,
                            cancel: cancel.clone(),
                        };
                        table.held.insert(id, held);
                        let holder = Arc::clone(self);
                        tokio::spawn(async move {
                            let load = holder.load(&assignment);
                            cancel.run_until_cancelled(load).await;
                        });
                    }
                }
            }
        }
        self.changed();
    }

    fn let_go(self: &Arc<Self>, table: &mut Table, id: AssignmentId, held: Held, drain: Duration) {
        held.cancel.cancel();
        let State::Ready(runner) = held.state else { return };
        runner.stop(Instant::now() + drain);
        table.leaving.push((id, Arc::clone(&runner)));
        let holder = Arc::clone(self);
        tokio::spawn(async move {
            runner.ended().await;
            holder.table().leaving.retain(|(_, leaving)| !Arc::ptr_eq(leaving, &runner));
            holder.changed();
        });
    }

    async fn load(self: &Arc<Self>, assignment: &Arc<Assignment>) {
        let outcome = self.fetch_and_start(assignment).await;
        let runner = {
            let mut table = self.table();
            let Some(held) = table.held.get_mut(&assignment.id) else { return };
            if held.assignment.generation != assignment.generation {
                return;
            }
            match outcome {
                Ok(runner) => {
                    tracing::info!(assignment = %assignment.id, model = %assignment.model, "ready");
                    let runner = Arc::new(runner);
                    held.state = State::Ready(Arc::clone(&runner));
                    Some(runner)
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
        if let Some(runner) = runner {
            // Its end must be reported at once; the token of this task ends the wait when it is let go.
            runner.ended().await;
            self.changed();
        }
    }

    async fn fetch_and_start(&self, assignment: &Arc<Assignment>) -> Result<Runner, String> {
        let path = self.fetcher.fetch(assignment.blob, assignment.blob_bytes).await;
        let path = path.map_err(|error| error.to_string())?;
        self.wait_for_memory(assignment).await;
        Runner::start(Arc::clone(&self.loader), path, Arc::clone(assignment)).await
    }

    /// What is being given up counts until it is gone: loading must not push the machine over its memory meanwhile.
    async fn wait_for_memory(&self, assignment: &Assignment) {
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
                let fits = taken.saturating_add(assignment.blob_bytes) <= self.memory_bytes;
                let replaces = table.leaving.iter().any(|(id, _)| *id == assignment.id);
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
                holder.table().held.values().map(|held| held.assignment.blob).collect();
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
        let held = entry.assignment.generation;
        if held != asked {
            return Err(LookupError::Generation { id, held, asked });
        }
        if entry.assignment.blob != blob {
            return Err(LookupError::Blob { id, held: entry.assignment.blob, asked: blob });
        }
        match &entry.state {
            State::Ready(runner) => Ok(Arc::clone(runner)),
            State::Loading => {
                Err(LookupError::NotReady { id, reason: "it is still loading".to_owned() })
            }
            State::Failed(reason) => Err(LookupError::NotReady { id, reason: reason.clone() }),
        }
    }

    /// Some ready runner of `blob`.
    pub fn by_blob(&self, blob: Digest) -> Option<Arc<Runner>> {
        self.table().held.values().find_map(|held| match &held.state {
            State::Ready(runner) if held.assignment.blob == blob => Some(Arc::clone(runner)),
            _ => None,
        })
    }

    /// What to tell the control plane.
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
        let runners: Vec<Arc<Runner>> = {
            let mut table = self.table();
            table.closed = true;
            for (id, held) in std::mem::take(&mut table.held) {
                self.let_go(&mut table, id, held, Duration::ZERO);
            }
            table.leaving.iter().map(|(_, runner)| Arc::clone(runner)).collect()
        };
        for runner in runners {
            runner.stop(Instant::now());
            runner.ended().await;
        }
    }
}

fn report(held: &Held) -> AssignmentReport {
    let assignment = &held.assignment;
    let mut report = AssignmentReport {
        id: assignment.id,
        generation: assignment.generation,
        phase: Phase::Loading,
        resident_bytes: 0,
        running: 0,
        waiting: 0,
        load_ns: 0,
    };
    match &held.state {
        State::Loading => {}
        State::Failed(reason) => report.phase = Phase::Failed { reason: reason.clone() },
        State::Ready(runner) => {
            report.phase = match runner.state() {
                RunnerState::Running => Phase::Ready,
                RunnerState::Failed(reason) => Phase::Failed { reason },
                RunnerState::Stopped => Phase::Failed { reason: "the engine stopped".to_owned() },
            };
            let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            let running = runner.running();
            report.running = count(running);
            report.waiting = count(runner.outstanding().saturating_sub(running));
            report.resident_bytes = runner.resident_bytes();
            report.load_ns = u64::try_from(runner.load_time().as_nanos()).unwrap_or(u64::MAX);
        }
    }
    report
}
