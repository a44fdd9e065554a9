//! The driver's side of a ring: closing it, and steps through it as if they were computed here.

use super::depth::Depth;
use super::door::Door;
use super::frame;
use super::links::{self, Greeting, Incoming, LinkError, Links};
use super::mesh::Mesh;
use super::patience::Patience;
use super::session::{self, Own, shards};
use ollamamax_engine::backend::{Backend, BackendError, SliceLogits, StageBackend, StepBatch};
use ollamamax_engine::embed::Pooling;
use ollamamax_proto::placement::{Peer, Ring};
use ollamamax_proto::{AssignmentId, Generation, Millis, limits};
use ollamamax_tls::Blocking;
use std::collections::VecDeque;
use std::io::{self, BufReader};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is read at once from a connection.
const READ_BYTES: usize = 64 * 1024;
/// How often the driver looks whether the first stage has answered, while it waits for the last.
const LOOK_MS: u64 = 10;

/// The driver's own stage, shared by the rings it is in one after another.
pub type Local = Arc<Mutex<Box<dyn StageBackend>>>;

/// Closes rings.
#[derive(Debug)]
pub struct Driver {
    id: AssignmentId,
    generation: Generation,
    ring: Arc<Mutex<Ring>>,
    local: Local,
    own: Own,
    links: Arc<Links>,
    door: Arc<Door>,
    queue: Receiver<Incoming>,
    kept: Vec<Incoming>,
    session: u64,
}

impl Driver {
    /// A driver of `ring`, which may be changed from outside, for the assignment `id`.
    pub fn new(
        (id, generation): (AssignmentId, Generation),
        ring: Arc<Mutex<Ring>>,
        backend: Box<dyn StageBackend>,
        kv_type: String,
        links: Arc<Links>,
    ) -> Self {
        let (door, queue) = Door::new();
        links.open(id, generation, Arc::clone(&door));
        let own = Own { blocks: backend.blocks_count(), kv_type };
        let local = Arc::new(Mutex::new(backend));
        Self { id, generation, ring, local, own, links, door, queue, kept: Vec::new(), session: 0 }
    }

    /// The driver's own stage.
    pub fn local(&self) -> MutexGuard<'_, Box<dyn StageBackend>> {
        lock(&self.local)
    }

    /// Connects all stages; what the ring computes then goes through all of them.
    pub fn close(&mut self) -> Result<RingBackend, LinkError> {
        self.door.unused();
        self.local().join(None);
        let ring = lock(&self.ring).clone();
        let Some(me) = ring.peers.iter().position(|peer| peer.assignment == self.id) else {
            let words =
                format!("the ring of replica `{}` has no place for this driver", ring.replica);
            return Err(LinkError::Malformed(words));
        };
        self.session = (self.session + 1).max(Millis::now().0);
        self.kept.retain(|kept| kept.greeting.session >= self.session);
        let deadline = Instant::now() + Duration::from_millis(limits::STAGE_JOIN_MS);
        let greeting = Greeting {
            session: self.session,
            from: me,
            to: me,
            sums: false,
            blocks: self.own.blocks,
            kv_type: self.own.kv_type.clone(),
            ring,
        };
        let ring = &greeting.ring;
        let alone = ring.peers[me].stage.embedding;
        let first: Vec<usize> = match alone {
            // One stage: its other shards get the tokens, this one has them.
            true => shards(ring, me).into_iter().filter(|peer| *peer != me).collect(),
            false => first_stage(&ring.peers),
        };
        let mut outputs = Vec::new();
        for to in first {
            let greeting = Greeting { to, ..greeting.clone() };
            outputs.push((to, self.links.greet(&greeting, deadline)?));
        }
        let mesh =
            session::sums(&self.links, &greeting, me, &self.queue, &mut self.kept, deadline)?;
        let input = match alone {
            true => None,
            false => Some(self.greeted(&greeting, &mut outputs, deadline)?),
        };
        let mut blocks = self.own.blocks;
        let used = outputs.iter().map(|(_, out)| out).chain(mesh.iter().flatten()).chain(&input);
        self.door.using(self.session, used.map(Blocking::tcp));
        for (to, output) in &mut outputs {
            let address = &ring.peers[*to].address;
            blocks = blocks.min(links::welcomed(output, address, deadline)?);
            let failed = |source| LinkError::Io { address: address.clone(), source };
            links::patiently(output).map_err(failed)?;
        }
        let patience_ms = Arc::new(AtomicU64::new(limits::STAGE_PATIENCE_FIRST_MS));
        if mesh.len() > 1 {
            let mesh = Mesh::new(0, mesh, Arc::clone(&patience_ms));
            self.local().join(Some(Box::new(mesh)));
        }
        let (pooling, resident_bytes) = {
            let local = self.local();
            (local.pooling(), local.resident_bytes())
        };
        Ok(RingBackend {
            local: Arc::clone(&self.local),
            outputs: outputs.into_iter().map(|(_, output)| output).collect(),
            input: input.map(|input| BufReader::with_capacity(READ_BYTES, input)),
            blocks,
            pooling,
            resident_bytes,
            depth: Depth::new(match alone {
                true => 1,
                false => ring.steps_in_flight as usize,
            }),
            last: Instant::now(),
            patience: Patience::default(),
            patience_ms,
            sent: VecDeque::new(),
            steps: 0,
            buffer: Vec::new(),
        })
    }

    /// Waits for the last of the other stages, and answers it. An error of an earlier one comes back over the first.
    fn greeted(
        &mut self,
        greeting: &Greeting,
        outputs: &mut [(usize, Blocking)],
        deadline: Instant,
    ) -> Result<Blocking, LinkError> {
        let fits = |incoming: &Incoming| {
            incoming.greeting.session == greeting.session && !incoming.greeting.sums
        };
        let look = Duration::from_millis(LOOK_MS);
        let mut incoming = loop {
            if let Some(at) = self.kept.iter().position(fits) {
                break self.kept.swap_remove(at);
            }
            match self.queue.recv_timeout(look) {
                Ok(incoming) => self.kept.push(incoming),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {
                    for (to, output) in &mut *outputs {
                        let address = &greeting.ring.peers[*to].address;
                        early_answer(output, address, deadline)?;
                    }
                }
                Err(_) => {
                    let (what, ms) = ("the last stage", limits::STAGE_JOIN_MS);
                    return Err(LinkError::Late { what, ms });
                }
            }
        };
        let address = &greeting.ring.peers[incoming.greeting.from].address;
        let failed = |source| LinkError::Io { address: address.clone(), source };
        links::welcome(&mut incoming.stream, Ok(self.own.blocks)).map_err(failed)?;
        Ok(incoming.stream)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.door.close();
        self.links.close(self.id, self.generation);
    }
}

fn first_stage(peers: &[Peer]) -> Vec<usize> {
    (0..peers.len()).filter(|&at| peers[at].stage.embedding).collect()
}

/// An answer of the first stage before the ring is closed can only be a refusal.
fn early_answer(output: &mut Blocking, address: &str, deadline: Instant) -> Result<(), LinkError> {
    let failed = |source| LinkError::Io { address: address.to_owned(), source };
    let tcp = output.tcp();
    tcp.set_nonblocking(true).map_err(failed)?;
    let peeked = tcp.peek(&mut [0]);
    tcp.set_nonblocking(false).map_err(failed)?;
    let answered = match peeked {
        _ if output.has_unread().map_err(failed)? => true,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
        Err(error) => return Err(failed(error)),
        Ok(0) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
        Ok(_) => true,
    };
    if answered {
        links::welcomed(output, address, deadline)?;
        let words = format!("`{address}` answered before the ring was closed");
        return Err(LinkError::Malformed(words));
    }
    Ok(())
}

/// A closed ring, as what computes steps.
#[derive(Debug)]
pub struct RingBackend {
    local: Local,
    /// The shards of the first stage; where there is only one stage, its other shards.
    outputs: Vec<Blocking>,
    /// From the stage before the driver's; `None` where the driver's is the only one.
    input: Option<BufReader<Blocking>>,
    blocks: u32,
    pooling: Pooling,
    resident_bytes: u64,
    depth: Depth,
    /// When the last step ended, or the first after an idle time began.
    last: Instant,
    patience: Patience,
    /// The same for the shards of the driver's stage, in milliseconds.
    patience_ms: Arc<AtomicU64>,
    /// Steps that were started, with their numbers.
    sent: VecDeque<(u32, Instant)>,
    steps: u32,
    buffer: Vec<u8>,
}

impl RingBackend {
    fn compute(&mut self, batch: &StepBatch) -> Result<Vec<SliceLogits>, String> {
        let Some((step, begun)) = self.sent.pop_front() else {
            return Err("a step was asked for that was never started".to_owned());
        };
        let tokens = batch.slices.iter().map(|slice| slice.tokens.len()).sum();
        // Those before it in the ring come first.
        let patience = self.patience.of(tokens) * (1 + self.sent.len() as u32);
        let mut local = lock(&self.local);
        let words = |error: BackendError| error.to_string();
        let Some(input) = &mut self.input else {
            let ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
            self.patience_ms.store(ms, Ordering::Relaxed);
            let logits = local.step(batch).map_err(words)?;
            self.patience.learn(tokens, begun.elapsed());
            return Ok(logits);
        };
        let set = input.get_ref().tcp().set_read_timeout(Some(patience));
        let width = local.width();
        let frame = set.and_then(|()| frame::read(input, &mut self.buffer, width));
        let frame = frame.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("a stage gave nothing for {} ms", patience.as_millis())
            }
            _ => format!("a stage is gone: {error}"),
        })?;
        let Some(residuals) = frame.residuals.filter(|_| frame.step == step) else {
            return Err(format!("step {} came, expected {step} with residuals", frame.step));
        };
        let ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        self.patience_ms.store(ms, Ordering::Relaxed);
        let logits = local.step_from(batch, &residuals).map_err(words)?;
        self.patience.learn(tokens, begun.elapsed());
        // Prompts give no measure: their chunks differ.
        let several = batch.slices.len() > 1 || !self.sent.is_empty();
        if several && batch.slices.iter().all(|slice| slice.tokens.len() == 1) {
            self.depth.learn(tokens, self.last.elapsed());
        }
        self.last = Instant::now();
        Ok(logits)
    }
}

impl Backend for RingBackend {
    fn start(&mut self, batch: &StepBatch) -> Result<(), BackendError> {
        let step = self.steps;
        self.steps = self.steps.wrapping_add(1);
        if self.sent.is_empty() {
            self.last = Instant::now();
        }
        self.sent.push_back((step, Instant::now()));
        for output in &mut self.outputs {
            frame::write(output, &mut self.buffer, (step, batch), None).map_err(|error| {
                BackendError::Shards(format!("the first stage is gone: {error}"))
            })?;
        }
        Ok(())
    }

    fn step(&mut self, batch: &StepBatch) -> Result<Vec<SliceLogits>, BackendError> {
        self.compute(batch).map_err(BackendError::Shards)
    }

    fn steps_in_flight(&self) -> usize {
        self.depth.now()
    }

    fn blocks_count(&self) -> u32 {
        self.blocks
    }

    fn block_tokens(&self) -> u32 {
        lock(&self.local).block_tokens()
    }

    fn vocabulary(&self) -> u32 {
        lock(&self.local).vocabulary()
    }

    fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    fn pooling(&self) -> Pooling {
        self.pooling
    }
}

/// A panic inside is noticed by the backend itself; what it holds stays sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
