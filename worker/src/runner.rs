//! One assignment at work: a thread of its own that owns the machine, loads it, and steps it while there is something to
//! do. Idle, it waits for a command without turning.
//!
//! ```text
//! Runner::submit --(place, bounded)--> commands --> [ drain commands | cancel the gone | step | deliver ] --> outboxes
//! ```
//!
//! The machine has no clock: the times in `Started` and `Done` are measured here.

mod apart;
mod embeds;
mod live;
mod work;

use self::embeds::Texts;
use self::live::Call;
use self::work::Work;
use crate::machine::{Loaded, Loader, Text};
use crate::outbox::{self, Inbox};
use crate::pace::Pace;
use crate::places::{NoPlace, Places};
use crate::stage::Links;
use ollamamax_engine::engine::Prepared;
use ollamamax_proto::placement::{Assigned, Ring};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use tonic::Status;

/// How a runner stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunnerState {
    /// It takes requests, or finishes its last ones.
    Running,
    /// The stages it drives are not connected, and why; it tries on.
    Apart(String),
    /// It ended because it was told to.
    Stopped,
    /// It ended because the machine failed, and why.
    Failed(String),
}

impl RunnerState {
    /// Whether nothing comes after it.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Stopped | Self::Failed(_))
    }
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// There is no place for it.
    #[error(transparent)]
    NoPlace(#[from] NoPlace),
    /// It is about to end, or has ended.
    #[error("the assignment is being unloaded")]
    Stopped,
    /// The stages are not connected.
    #[error("the stages of this replica are not connected now; try again later")]
    Apart,
}

/// A loaded assignment; the thread behind it ends when it is told to [`Runner::stop`].
#[derive(Debug)]
pub struct Runner {
    text: Arc<dyn Text>,
    commands: SyncSender<Command>,
    places: Arc<Places>,
    gauges: Arc<Gauges>,
    state: watch::Receiver<RunnerState>,
    load: Duration,
    ring: Option<Arc<Mutex<Ring>>>,
    pace: Arc<Pace>,
}

#[derive(Debug, Default)]
struct Gauges {
    running: AtomicUsize,
    resident_bytes: AtomicU64,
    closed: AtomicBool,
}

#[derive(Debug)]
enum Command {
    Submit(Box<Submission>),
    Embed(Box<Texts>),
    Stop { deadline: Instant },
}

#[derive(Debug)]
struct Submission {
    prepared: Prepared,
    resume: Vec<u32>,
    call: Call,
}

impl Runner {
    /// Loads what is `assigned` from the GGUF at `path` on a new thread and answers when it is loaded, or why not.
    pub async fn start(
        loader: Arc<dyn Loader>,
        path: PathBuf,
        assigned: Assigned,
        links: Arc<Links>,
    ) -> Result<Self, String> {
        let begun = Instant::now();
        let assignment = assigned.assignment.clone();
        let places = Places::new(assignment.sequences_max as usize);
        // Every submission holds a place, so the channel has room for all of them and for the stops.
        let (commands, inbound) = sync_channel(places.count() + 4);
        let (state_tx, state) = watch::channel(RunnerState::Running);
        let (loaded_tx, loaded) = oneshot::channel();
        let gauges = Arc::new(Gauges::default());
        let thread_gauges = Arc::clone(&gauges);
        let spawned = std::thread::Builder::new().name(format!("runner-{}", assignment.id)).spawn(
            move || {
                let state = match load(&*loader, &path, &assigned, &links) {
                    Ok(Loaded { text, machine, ring, pace }) => {
                        let resident = machine.resident_bytes();
                        thread_gauges.resident_bytes.store(resident, Ordering::Relaxed);
                        if !machine.is_together() {
                            state_tx.send_replace(RunnerState::Apart("connecting".to_owned()));
                        }
                        if loaded_tx.send(Ok((text, ring, pace))).is_err() {
                            return; // nobody wants it any more
                        }
                        guarded(|| Work::new(machine, &thread_gauges, &state_tx).run(&inbound))
                    }
                    Err(reason) => {
                        let _ = loaded_tx.send(Err(reason));
                        return;
                    }
                };
                if let RunnerState::Failed(reason) = &state {
                    let (id, model) = (assignment.id, &assignment.model);
                    tracing::error!(assignment = %id, %model, reason, "the engine failed");
                }
                thread_gauges.closed.store(true, Ordering::Release);
                thread_gauges.running.store(0, Ordering::Relaxed);
                thread_gauges.resident_bytes.store(0, Ordering::Relaxed);
                drop(inbound);
                state_tx.send_replace(state);
            },
        );
        spawned.map_err(|error| format!("no thread for the engine: {error}"))?;
        let (text, ring, pace) =
            loaded.await.map_err(|_| "the engine's thread ended while loading".to_owned())??;
        let load = begun.elapsed();
        Ok(Self { text, commands, places, gauges, state, load, ring, pace })
    }

    /// The text half of the model.
    pub fn text(&self) -> &Arc<dyn Text> {
        &self.text
    }

    fn check_open(&self) -> Result<(), SubmitError> {
        if self.gauges.closed.load(Ordering::Acquire) {
            return Err(SubmitError::Stopped);
        }
        match &*self.state.borrow() {
            RunnerState::Apart(_) => Err(SubmitError::Apart),
            _ => Ok(()),
        }
    }

    /// Queues a request that [`Runner::text`] prepared; dropping the inbox cancels it.
    /// `resume` are tokens generated elsewhere, they do not come again. What is not complete at the deadline ends there.
    pub fn submit(
        &self,
        prepared: Prepared,
        resume: Vec<u32>,
        deadline: Option<Instant>,
    ) -> Result<Inbox, SubmitError> {
        self.check_open()?;
        let _place = self.places.take(&prepared.caller)?;
        let (outbox, inbox) = outbox::channel();
        let call = Call { outbox, submitted: Instant::now(), deadline, _place };
        let submission = Submission { prepared, resume, call };
        self.commands
            .try_send(Command::Submit(Box::new(submission)))
            .map_err(|_| SubmitError::Stopped)?;
        Ok(inbox)
    }

    /// From now on the ring is this one, when it has to be closed anew; nothing happens to a runner without a ring.
    pub fn rewire(&self, ring: Ring) {
        if let Some(mine) = &self.ring {
            *mine.lock().unwrap_or_else(PoisonError::into_inner) = ring;
        }
    }

    /// Takes no more requests; the running ones may go on until `deadline`. [`Runner::ended`] tells when it is over.
    pub fn stop(&self, deadline: Instant) {
        self.gauges.closed.store(true, Ordering::Release);
        let _ = self.commands.try_send(Command::Stop { deadline });
    }

    /// Where it stands now.
    pub fn state(&self) -> RunnerState {
        self.state.borrow().clone()
    }

    /// Follows where it stands.
    pub fn follow(&self) -> watch::Receiver<RunnerState> {
        self.state.clone()
    }

    /// Waits until the thread has given the machine back, and tells how it ended.
    pub async fn ended(&self) -> RunnerState {
        let mut state = self.state.clone();
        match state.wait_for(RunnerState::is_end).await {
            Ok(state) => state.clone(),
            Err(_) => RunnerState::Failed("the engine's thread is gone".to_owned()),
        }
    }

    /// Sequences that have a place in the machine.
    pub fn running(&self) -> usize {
        self.gauges.running.load(Ordering::Relaxed)
    }

    /// Requests taken and not yet answered in full.
    pub fn outstanding(&self) -> usize {
        self.places.taken()
    }

    /// Memory the machine holds.
    pub fn resident_bytes(&self) -> u64 {
        self.gauges.resident_bytes.load(Ordering::Relaxed)
    }

    /// How long its own steps take.
    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    /// How long loading took.
    pub fn load_time(&self) -> Duration {
        self.load
    }
}

fn load(
    loader: &dyn Loader,
    path: &std::path::Path,
    of: &Assigned,
    links: &Arc<Links>,
) -> Result<Loaded, String> {
    match catch_unwind(AssertUnwindSafe(|| loader.load(path, of, links))) {
        Ok(loaded) => loaded.map_err(|error| error.0),
        Err(panic) => Err(format!("the engine panicked while loading: {}", words(&*panic))),
    }
}

fn guarded(work: impl FnOnce() -> RunnerState) -> RunnerState {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        RunnerState::Failed(format!("the engine panicked: {}", words(&*panic)))
    })
}

fn words(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

fn late_status(after: Duration) -> Status {
    Status::deadline_exceeded(format!(
        "the request was not complete when its time was over, after {} ms here; allow more time or ask for less",
        after.as_millis()
    ))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
