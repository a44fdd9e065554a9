//! One assignment at work: a thread of its own that owns the machine, loads it, and steps it while there is something to
//! do. Idle, it waits for a command without turning.
//!
//! ```text
//! Runner::submit --(place, bounded)--> commands --> [ drain commands | cancel the gone | step | deliver ] --> outboxes
//! ```
//!
//! The machine has no clock: the times in `Started` and `Done` are measured here.

mod embeds;
mod live;

use self::embeds::{Embeds, Texts};
use self::live::{Call, Live};
use crate::machine::{BadRequest, Loaded, Loader, Machine, Text};
use crate::outbox::{self, Inbox};
use crate::places::{NoPlace, Places};
use crate::telemetry;
use ollamamax_engine::engine::{Emission, Prepared, SequenceId};
use ollamamax_proto::inference::{Started, TokenChunk};
use ollamamax_proto::placement::Assignment;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
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
    /// There is no place for it.
    #[error(transparent)]
    NoPlace(#[from] NoPlace),
    /// It is about to end, or has ended.
    #[error("the assignment is being unloaded")]
    Stopped,
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
    /// Loads `assignment` from the GGUF at `path` on a new thread and answers when it can take requests, or why not.
    pub async fn start(
        loader: Arc<dyn Loader>,
        path: PathBuf,
        assignment: Arc<Assignment>,
    ) -> Result<Self, String> {
        let begun = Instant::now();
        let places = Places::new(assignment.sequences_max as usize);
        // Every submission holds a place, so the channel has room for all of them and for the stops.
        let (commands, inbound) = sync_channel(places.count() + 4);
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
        let load = begun.elapsed();
        Ok(Self { text, commands, places, gauges, state, load })
    }

    /// The text half of the model.
    pub fn text(&self) -> &Arc<dyn Text> {
        &self.text
    }

    /// Queues a request that [`Runner::text`] prepared; dropping the inbox cancels it.
    /// `resume` are tokens generated elsewhere, they do not come again. What is not complete at the deadline ends there.
    pub fn submit(
        &self,
        prepared: Prepared,
        resume: Vec<u32>,
        deadline: Option<Instant>,
    ) -> Result<Inbox, SubmitError> {
        if self.gauges.closed.load(Ordering::Acquire) {
            return Err(SubmitError::Stopped);
        }
        let _place = self.places.take(&prepared.caller)?;
        let (outbox, inbox) = outbox::channel();
        let call = Call { outbox, submitted: Instant::now(), deadline, _place };
        let submission = Submission { prepared, resume, call };
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
        self.places.taken()
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
            self.end_the_late();
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
                let Submission { prepared, resume, call } = *submission;
                match self.machine.submit(prepared, &resume) {
                    Ok(id) => {
                        let last = call.submitted;
                        self.live.insert(id, Live { call, admitted: None, first: None, last });
                    }
                    Err(BadRequest(reason)) => {
                        call.outbox.end(Err(Status::invalid_argument(reason)));
                        telemetry::sequence_ended("refused");
                    }
                }
            }
        }
    }

    fn cancel_the_gone(&mut self) {
        let machine = &mut self.machine;
        self.live.retain(|id, live| {
            let gone = live.call.outbox.is_gone();
            if gone {
                machine.cancel(*id);
                telemetry::sequence_ended("cancelled");
            }
            !gone
        });
        self.embeds.cancel_the_gone(&mut **machine);
        self.gauges.running.store(self.machine.running(), Ordering::Relaxed);
    }

    fn end_the_late(&mut self) {
        let now = Instant::now();
        let late = |(id, live): (&SequenceId, &Live)| {
            live.call.deadline.filter(|at| *at <= now).map(|_| (*id, now - live.call.submitted))
        };
        let late: Vec<_> = self.live.iter().filter_map(late).collect();
        for (id, after) in late {
            self.machine.cancel(id);
            self.end(id, Err(late_status(after)), "late");
        }
        self.embeds.end_the_late(&mut *self.machine, now);
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
                queue_ns: nanos(now - live.call.submitted),
            });
        }
        if !chunk.tokens.is_empty() {
            live.first.get_or_insert(now);
            live.last = now;
        }
        let reason = emission.finished.as_ref().map(|finished| finished.reason);
        chunk.done = emission.finished.map(|finished| live.done(finished, now));
        live.call.outbox.push(chunk);
        if let Some(reason) = reason {
            self.end(emission.sequence, Ok(()), reason.as_str());
        } else if let Some(why) = emission.failed {
            // The request's own fault, so that no other worker is tried.
            self.end(emission.sequence, Err(Status::invalid_argument(why)), "failed");
        }
    }

    fn end(&mut self, sequence: SequenceId, end: Result<(), Status>, how: &'static str) {
        if let Some(live) = self.live.remove(&sequence) {
            live.call.outbox.end(end);
            telemetry::sequence_ended(how);
        }
    }
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
