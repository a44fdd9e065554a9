//! A stage that does not drive: a thread that waits for a ring, computes what comes, and hands it on.

use super::door::Door;
use super::frame;
use super::links::Links;
use super::session::{self, Own, Session};
use crate::pace::{Pace, Paced};
use crate::runner::RunnerState;
use ollamamax_engine::backend::{Backend, StageBackend};
use ollamamax_proto::placement::Assignment;
use ollamamax_tls::Blocking;
use std::io::{self, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};

use super::links::Incoming;

/// What is read at once from a connection.
const READ_BYTES: usize = 64 * 1024;

/// Loads a stage; may take minutes.
pub type Load = Box<dyn FnOnce() -> Result<Paced, String> + Send>;

/// A loaded stage at work.
#[derive(Debug)]
pub struct StageRunner {
    door: Arc<Door>,
    state: watch::Receiver<RunnerState>,
    resident_bytes: u64,
    load: Duration,
    pace: Arc<Pace>,
}

impl StageRunner {
    /// Loads the stage on a new thread and answers when rings may include it, or why not.
    pub async fn start(
        load: Load,
        assignment: Arc<Assignment>,
        kv_type: String,
        links: Arc<Links>,
    ) -> Result<Self, String> {
        let begun = Instant::now();
        let (door, queue) = Door::new();
        let (state_tx, state) = watch::channel(RunnerState::Running);
        let (loaded_tx, loaded) = oneshot::channel();
        let name = format!("stage-{}", assignment.id);
        let thread_door = Arc::clone(&door);
        let work = move || {
            let backend = match load() {
                Ok(backend) => backend,
                Err(reason) => {
                    // Nobody may want it any more.
                    let _ = loaded_tx.send(Err(reason));
                    return;
                }
            };
            let (id, generation) = (assignment.id, assignment.generation);
            links.open(id, generation, Arc::clone(&thread_door));
            if loaded_tx.send(Ok((backend.resident_bytes(), backend.pace()))).is_ok() {
                let own = Own { blocks: backend.blocks_count(), kv_type };
                let backend = Box::new(backend);
                let (doors, kept) = ((&*links, &*thread_door), Vec::new());
                let mut work = Work { backend, own, doors, queue, kept };
                let state = catch_unwind(AssertUnwindSafe(|| work.run())).unwrap_or_else(|_| {
                    RunnerState::Failed("the stage panicked, see the panic message".to_owned())
                });
                drop(work);
                links.close(id, generation);
                state_tx.send_replace(state);
            } else {
                links.close(id, generation);
            }
        };
        let spawned = std::thread::Builder::new().name(name).spawn(work);
        spawned.map_err(|error| format!("no thread for the stage: {error}"))?;
        let loaded = loaded.await;
        let (resident_bytes, pace) =
            loaded.map_err(|_| "the stage's thread ended while loading".to_owned())??;
        Ok(Self { door, state, resident_bytes, load: begun.elapsed(), pace })
    }

    /// Leaves its ring and gives its memory back.
    pub fn stop(&self) {
        self.door.close();
    }

    /// Where it stands now.
    pub fn state(&self) -> RunnerState {
        self.state.borrow().clone()
    }

    /// Waits until the thread has given the memory back, and tells how it ended.
    pub async fn ended(&self) -> RunnerState {
        let mut state = self.state.clone();
        match state.wait_for(RunnerState::is_end).await {
            Ok(state) => state.clone(),
            Err(_) => RunnerState::Failed("the stage's thread is gone".to_owned()),
        }
    }

    /// Memory it holds.
    pub fn resident_bytes(&self) -> u64 {
        match self.state().is_end() {
            true => 0,
            false => self.resident_bytes,
        }
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

impl Drop for StageRunner {
    fn drop(&mut self) {
        self.door.close();
    }
}

struct Work<'a> {
    backend: Box<dyn StageBackend>,
    own: Own,
    doors: (&'a Links, &'a Door),
    queue: Receiver<Incoming>,
    /// Connections that came before what they belong to.
    kept: Vec<Incoming>,
}

impl Work<'_> {
    /// Takes part in one ring after another until the door closes.
    fn run(&mut self) -> RunnerState {
        loop {
            let steps = self.kept.iter().position(|incoming| !incoming.greeting.sums);
            let incoming = match steps.map(|at| self.kept.swap_remove(at)) {
                Some(incoming) => incoming,
                None => match self.queue.recv() {
                    Ok(incoming) if incoming.greeting.sums => {
                        self.kept.push(incoming);
                        continue;
                    }
                    Ok(incoming) => incoming,
                    Err(_) => return RunnerState::Stopped,
                },
            };
            let (session, replica) = (incoming.greeting.session, incoming.greeting.ring.replica);
            self.kept.retain(|kept| kept.greeting.session >= session);
            let joined =
                session::join(incoming, &self.own, self.doors, &self.queue, &mut self.kept);
            match joined {
                Ok(session) => {
                    tracing::info!(%replica, "in a ring");
                    let end = self.serve(session);
                    tracing::info!(%replica, %end, "the ring is open again");
                }
                Err(error) => tracing::warn!(%replica, %error, "no ring"),
            }
            self.backend.join(None);
            self.doors.1.unused();
        }
    }

    /// Computes step after step until a connection breaks; tells why.
    fn serve(&mut self, session: Session) -> io::Error {
        let Session { input, mut outputs, mesh, activations } = session;
        if let Some(mesh) = mesh {
            self.backend.join(Some(Box::new(mesh)));
        }
        let mut input = BufReader::with_capacity(READ_BYTES, input);
        let width = self.backend.width();
        let (mut read, mut written) = (Vec::new(), Vec::new());
        let mut step = |outputs: &mut Vec<Blocking>| -> io::Result<()> {
            let frame = frame::read(&mut input, &mut read, width)?;
            let rows = self
                .backend
                .residuals(&frame.batch, frame.residuals.as_deref())
                .map_err(|error| io::Error::other(error.to_string()))?;
            for output in outputs {
                let rows = Some((&rows[..], activations));
                frame::write(output, &mut written, (frame.step, &frame.batch), rows)?;
            }
            Ok(())
        };
        loop {
            if let Err(error) = step(&mut outputs) {
                return error;
            }
        }
    }
}
