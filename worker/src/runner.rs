//! One assignment at work: a thread of its own that owns the machine, loads it, and steps it while there is something to
//! do. Idle, it waits for a command without turning.
//!
//! ```text
//! Runner::submit --(place, bounded)--> commands --> [ drain commands | cancel the gone | step | deliver ] --> outboxes
//! ```
//!
//! The machine has no clock: the times in `Started` and `Done` are measured here.

mod embeds;

use self::embeds::{Embeds, Texts};
use crate::machine::{BadRequest, Loaded, Loader, Machine, Text};
use crate::outbox::{self, Inbox, Outbox};
use crate::telemetry;
use ollamamax_engine::engine::{Emission, Finished, Prepared, SequenceId};
use ollamamax_proto::inference::{Done, Started, TokenChunk};
use ollamamax_proto::limits;
use ollamamax_proto::placement::Assignment;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tonic::Status;

/// How a runner stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunnerState {
    /// It takes requests, or finishes its last ones.
    Running,
    /// It ended because it was told to.
    Stopped,
    /// It ended because the machine failed, and why.
    Failed(String),
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Every place, running and waiting, is taken.
    #[error("the queue of this worker is full ({places} requests); try again later")]
    Full {
        /// How many places there are.
        places: usize,
    },
    /// It is about to end, or has ended.
    #[error("the assignment is being unloaded")]
    Stopped,
}

/// A loaded assignment; the thread behind it ends when it is told to [`Runner::stop`].
#[derive(Debug)]
pub struct Runner {
    text: Arc<dyn Text>,
    commands: SyncSender<Command>,
    places: Arc<Semaphore>,
    places_count: usize,
    gauges: Arc<Gauges>,
    state: watch::Receiver<RunnerState>,
    load: Duration,
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
    outbox: Outbox,
    submitted: Instant,
    place: OwnedSemaphorePermit,
}

impl Runner {
    /// Loads `assignment` from the GGUF at `path` on a new thread and answers when it can take requests, or why not.
    pub async fn start(
        loader: Arc<dyn Loader>,
        path: PathBuf,
        assignment: Arc<Assignment>,
    ) -> Result<Self, String> {
        let begun = Instant::now();
        let places_count = limits::WORKER_WAITING_COUNT + assignment.sequences_max as usize;
        // Every submission holds a place, so the channel has room for all of them and for the stops.
        let (commands, inbound) = sync_channel(places_count + 4);
        let (state_tx, state) = watch::channel(RunnerState::Running);
        let (loaded_tx, loaded) = oneshot::channel();
        let gauges = Arc::new(Gauges::default());
        let thread_gauges = Arc::clone(&gauges);
        let spawned = std::thread::Builder::new().name(format!("runner-{}", assignment.id)).spawn(
            move || {
                let state = match load(&*loader, &path, &assignment) {
                    Ok(Loaded { text, machine }) => {
                        let resident = machine.resident_bytes();
                        thread_gauges.resident_bytes.store(resident, Ordering::Relaxed);
                        if loaded_tx.send(Ok(text)).is_err() {
                            return; // nobody wants it any more
                        }
                        guarded(|| Work::new(machine, &thread_gauges).run(&inbound))
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
        let text =
            loaded.await.map_err(|_| "the engine's thread ended while loading".to_owned())??;
        let places = Arc::new(Semaphore::new(places_count));
        let load = begun.elapsed();
        Ok(Self { text, commands, places, places_count, gauges, state, load })
    }

    /// The text half of the model.
    pub fn text(&self) -> &Arc<dyn Text> {
        &self.text
    }

    /// Queues a request that [`Runner::text`] prepared; dropping the inbox cancels it.
    /// `resume` are tokens generated elsewhere, they do not come again.
    pub fn submit(&self, prepared: Prepared, resume: Vec<u32>) -> Result<Inbox, SubmitError> {
        if self.gauges.closed.load(Ordering::Acquire) {
            return Err(SubmitError::Stopped);
        }
        let full = || SubmitError::Full { places: self.places_count };
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| full())?;
        let (outbox, inbox) = outbox::channel();
        let submission = Submission { prepared, resume, outbox, submitted: Instant::now(), place };
        self.commands
            .try_send(Command::Submit(Box::new(submission)))
            .map_err(|_| SubmitError::Stopped)?;
        Ok(inbox)
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

    /// Waits until the thread has given the machine back, and tells how it ended.
    pub async fn ended(&self) -> RunnerState {
        let mut state = self.state.clone();
        match state.wait_for(|state| *state != RunnerState::Running).await {
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
        self.places_count - self.places.available_permits()
    }

    /// Memory the machine holds.
    pub fn resident_bytes(&self) -> u64 {
        self.gauges.resident_bytes.load(Ordering::Relaxed)
    }

    /// How long loading took.
    pub fn load_time(&self) -> Duration {
        self.load
    }
}

fn load(loader: &dyn Loader, path: &std::path::Path, of: &Assignment) -> Result<Loaded, String> {
    match catch_unwind(AssertUnwindSafe(|| loader.load(path, of))) {
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

/// A sequence from submission to its end.
#[derive(Debug)]
struct Live {
    outbox: Outbox,
    submitted: Instant,
    admitted: Option<Instant>,
    first: Option<Instant>,
    last: Instant,
    _place: OwnedSemaphorePermit,
}

impl Live {
    fn done(&self, finished: Finished, now: Instant) -> Done {
        let first = self.first.unwrap_or(now);
        let admitted = self.admitted.unwrap_or(first);
        Done {
            reason: finished.reason,
            prompt_tokens: finished.prompt_tokens,
            output_tokens: finished.output_tokens,
            prompt_ns: nanos(first.saturating_duration_since(admitted)),
            output_ns: nanos(self.last.saturating_duration_since(first)),
            context: finished.context,
        }
    }
}

/// The thread's own state.
struct Work<'a> {
    machine: Box<dyn Machine>,
    gauges: &'a Gauges,
    live: BTreeMap<SequenceId, Live>,
    embeds: Embeds,
    deadline: Option<Instant>,
}

impl<'a> Work<'a> {
    fn new(machine: Box<dyn Machine>, gauges: &'a Gauges) -> Self {
        let embeds = Embeds::default();
        Self { machine, gauges, live: BTreeMap::new(), embeds, deadline: None }
    }

    fn is_idle(&self) -> bool {
        self.live.is_empty() && self.embeds.is_empty()
    }

    fn run(mut self, inbound: &Receiver<Command>) -> RunnerState {
        loop {
            if self.is_idle() && self.deadline.is_none() {
                match inbound.recv() {
                    Ok(command) => self.take(command),
                    Err(_) => return RunnerState::Stopped,
                }
            }
            loop {
                match inbound.try_recv() {
                    Ok(command) => self.take(command),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return RunnerState::Stopped,
                }
            }
            self.cancel_the_gone();
            if self.deadline.is_some_and(|at| self.is_idle() || Instant::now() >= at) {
                return RunnerState::Stopped;
            }
            if self.is_idle() {
                continue;
            }
            if let Err(reason) = self.step() {
                return RunnerState::Failed(reason);
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Stop { deadline } => self.deadline = Some(deadline),
            Command::Embed(texts) => self.embeds.take(&mut *self.machine, *texts),
            Command::Submit(submission) => {
                let Submission { prepared, resume, outbox, submitted, place } = *submission;
                match self.machine.submit(prepared, &resume) {
                    Ok(id) => {
                        let live = Live {
                            outbox,
                            submitted,
                            admitted: None,
                            first: None,
                            last: submitted,
                            _place: place,
                        };
                        self.live.insert(id, live);
                    }
                    Err(BadRequest(reason)) => {
                        outbox.end(Err(Status::invalid_argument(reason)));
                        telemetry::sequence_ended("refused");
                    }
                }
            }
        }
    }

    fn cancel_the_gone(&mut self) {
        let machine = &mut self.machine;
        self.live.retain(|id, live| {
            let gone = live.outbox.is_gone();
            if gone {
                machine.cancel(*id);
                telemetry::sequence_ended("cancelled");
            }
            !gone
        });
        self.embeds.cancel_the_gone(&mut **machine);
        self.gauges.running.store(self.machine.running(), Ordering::Relaxed);
    }

    fn step(&mut self) -> Result<(), String> {
        if self.machine.is_idle() {
            return Err("the engine lost a sequence it had accepted".to_owned());
        }
        let begun = Instant::now();
        for emission in self.machine.admit() {
            self.deliver(emission, begun);
        }
        let emissions = self.machine.step().map_err(|failure| failure.0)?;
        let now = Instant::now();
        let running = self.machine.running();
        self.gauges.running.store(running, Ordering::Relaxed);
        telemetry::step(running, emissions.iter().map(|emission| emission.tokens.len()).sum());
        for emission in emissions {
            self.deliver(emission, now);
        }
        self.embeds.deliver(self.machine.embedded());
        Ok(())
    }

    fn deliver(&mut self, emission: Emission, now: Instant) {
        let Some(live) = self.live.get_mut(&emission.sequence) else { return };
        let mut chunk = TokenChunk {
            index: emission.index,
            tokens: emission.tokens,
            text: emission.text,
            logprobs: emission.logprobs,
            mu: emission.mu,
            ..TokenChunk::default()
        };
        if let Some(admitted) = emission.started {
            live.admitted = Some(now);
            chunk.started = Some(Started {
                prompt_tokens: admitted.prompt_tokens,
                cached_tokens: admitted.cached_tokens,
                queue_ns: nanos(now - live.submitted),
            });
        }
        if !chunk.tokens.is_empty() {
            live.first.get_or_insert(now);
            live.last = now;
        }
        let reason = emission.finished.as_ref().map(|finished| finished.reason);
        chunk.done = emission.finished.map(|finished| live.done(finished, now));
        live.outbox.push(chunk);
        if let Some(reason) = reason {
            self.end(emission.sequence, Ok(()), reason.as_str());
        }
    }

    fn end(&mut self, sequence: SequenceId, end: Result<(), Status>, how: &'static str) {
        if let Some(live) = self.live.remove(&sequence) {
            live.outbox.end(end);
            telemetry::sequence_ended(how);
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
