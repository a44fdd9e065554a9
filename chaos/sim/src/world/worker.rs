//! The machines that run models: processes that come, hang, slow down and go; what they hold; and the engines in them.
//!
//! ```text
//! tick -> heartbeat -> a node -> the leader          pull -> fence, diff (as the worker does) -> load -> ready | failed
//! sent -> engine.submit -> compute: engine.step -> emissions -> the gateway
//! ```

use super::World;
use super::desired::{Action, Fence, diff};
use super::event::{Beat, Event, Then};
use super::model::{self, BLOCK_TOKENS, HashBackend};
use super::request::Said;
use crate::coin::Coin;
use ollamamax_core::Command;
use ollamamax_engine::engine::{Engine, SequenceId};
use ollamamax_proto::placement::{Assigned, AssignmentReport, Device, Phase};
use ollamamax_proto::{AssignmentId, Generation, Incarnation, Revision, WorkerId, limits};
use std::collections::BTreeMap;

/// A machine, and the process on it.
#[derive(Debug)]
pub(super) struct Worker {
    pub id: WorkerId,
    memory_bytes: u64,
    /// Whether its process is there.
    pub up: bool,
    /// Its incarnation.
    pub life: u64,
    pub registered: bool,
    /// Until when it stands still.
    pub hung_until_us: u64,
    /// Its steps take so many times as long.
    pub slow: u64,
    pub draining: bool,
    /// Whether its network is cut.
    pub cut: bool,
    /// Loads to come that fail.
    pub bad_loads: u64,
    /// The node it talks to.
    node: usize,
    fence: Fence,
    pub held: BTreeMap<AssignmentId, Held>,
    /// Whether a look at its assignments is due.
    pulled: bool,
}

/// A placement as its worker holds it.
#[derive(Debug)]
pub(super) struct Held {
    pub assigned: Assigned,
    phase: Phase,
    load_us: u64,
    pub engine: Option<Box<Engine>>,
    /// Whose sequences these are: request and attempt.
    pub sequences: BTreeMap<SequenceId, (u64, u32)>,
    pub computing: bool,
    /// Takes so long for a step, in microseconds; 0: none ran.
    pub step_us: u64,
}

impl Worker {
    pub fn new(nth: usize, coin: Coin) -> Self {
        Self {
            id: WorkerId(nth as u128 + 1),
            memory_bytes: 600 + 400 * coin.below(&[5, nth as u64], 5),
            up: false,
            life: 0,
            registered: false,
            hung_until_us: 0,
            slow: 1,
            draining: false,
            cut: false,
            bad_loads: 0,
            node: 0,
            fence: Fence::default(),
            held: BTreeMap::new(),
            pulled: false,
        }
    }

    /// Whether something that is sent to it in this life arrives.
    pub fn is_reached(&self, life: u64) -> bool {
        self.up && self.life == life && !self.cut
    }

    fn is_idle(&self) -> bool {
        self.held.values().all(|held| held.sequences.is_empty())
    }
}

impl Held {
    pub fn generation(&self) -> Generation {
        self.assigned.assignment.generation
    }

    fn report(&self) -> AssignmentReport {
        let (running, waiting) =
            self.engine.as_ref().map_or((0, 0), |engine| (engine.running(), engine.waiting()));
        let is_ready = self.phase == Phase::Ready;
        AssignmentReport {
            id: self.assigned.assignment.id,
            generation: self.generation(),
            phase: self.phase.clone(),
            resident_bytes: 0,
            running: running as u32,
            waiting: waiting as u32,
            load_ns: if is_ready { self.load_us * 1_000 } else { 0 },
            step_ns_per_mib: self.step_us * 17,
        }
    }
}

impl World {
    /// A worker's process starts.
    pub(super) fn start_worker(&mut self, nth: usize) {
        let worker = &mut self.workers[nth];
        if std::mem::replace(&mut worker.up, true) {
            return;
        }
        worker.life += 1;
        (worker.registered, worker.draining, worker.pulled) = (false, false, false);
        (worker.hung_until_us, worker.fence) = (0, Fence::default());
        worker.node = nth % self.log.nodes.len();
        let life = worker.life;
        self.later(1_000, Event::Tick { worker: nth, life });
    }

    /// A worker's process is gone, and what it ran breaks off.
    pub(super) fn kill_worker(&mut self, nth: usize) {
        let worker = &mut self.workers[nth];
        if !std::mem::replace(&mut worker.up, false) {
            return;
        }
        let held = std::mem::take(&mut worker.held);
        let tells = !worker.cut;
        for (request, attempt) in held.into_values().flat_map(|held| held.sequences.into_values()) {
            if tells {
                self.say(request, attempt, Said::Broken);
            }
        }
    }

    /// A message from a worker to a gateway.
    pub(super) fn say(&mut self, request: u64, attempt: u32, said: Said) {
        let key = self.requests.live.get(&request).map_or(0, |request| request.key);
        let delay = self.delay(200..1_500, 20 ^ key << 8);
        self.later(delay, Event::Said { request, attempt, said });
    }

    /// Postpones an event of a worker that stands still.
    pub(super) fn postponed(&mut self, nth: usize, event: impl FnOnce() -> Event) -> bool {
        let until = self.workers[nth].hung_until_us;
        let hangs = until > self.now;
        if hangs {
            self.later(until - self.now, event());
        }
        hangs
    }

    /// A worker registers, or sends a heartbeat.
    pub(super) fn tick(&mut self, nth: usize, life: u64) {
        let worker = &self.workers[nth];
        if !worker.up || worker.life != life {
            return;
        }
        if self.postponed(nth, || Event::Tick { worker: nth, life }) {
            return;
        }
        let worker = &mut self.workers[nth];
        if worker.draining && worker.is_idle() {
            return self.kill_worker(nth);
        }
        if !self.log.nodes[worker.node].up {
            worker.node = (worker.node + 1) % self.log.nodes.len();
        }
        let (node, id) = (worker.node, worker.id);
        if !worker.cut && worker.registered {
            let reports = worker.held.values().map(Held::report).collect();
            let (draining, ns_per_mib) = (worker.draining, 100_000 * worker.slow);
            let beat = Beat { worker: nth, life, node, draining, reports, ns_per_mib };
            let delay = self.delay(400..2_500, 21 + nth as u64 * 64);
            self.later(delay, Event::Beat(Box::new(beat)));
            self.pull_soon(nth, 2_000);
        } else if !worker.cut {
            let command = Command::RegisterWorker {
                id,
                incarnation: Incarnation(life),
                name: format!("worker-{nth}"),
                address: format!("10.0.0.{nth}:9000"),
                device: Device {
                    kind: "cpu".into(),
                    name: "simulated".into(),
                    memory_bytes: worker.memory_bytes,
                    threads: 1 + nth as u32 % 3,
                },
                pid: life as u32,
            };
            self.propose(node, command, Then::Registered { worker: nth, life });
        }
        let pause = if self.workers[nth].registered { limits::WORKER_HEARTBEAT_MS } else { 150 };
        self.later(pause * 1_000, Event::Tick { worker: nth, life });
    }

    /// A registration was answered.
    pub(super) fn registered(
        &mut self,
        nth: usize,
        life: u64,
        node: usize,
        revision: Option<Revision>,
    ) {
        let worker = &mut self.workers[nth];
        if worker.is_reached(life)
            && let Some(revision) = revision
        {
            worker.fence.registered(revision);
            (worker.registered, worker.node) = (true, node);
            self.pull_soon(nth, 1_000);
        }
    }

    /// Tells the workers that watch a node to look.
    pub(super) fn push_assignments(&mut self, node: usize) {
        for nth in 0..self.workers.len() {
            let worker = &self.workers[nth];
            if worker.up && worker.registered && worker.node == node {
                self.pull_soon(nth, 1_500);
            }
        }
    }

    fn pull_soon(&mut self, nth: usize, us: u64) {
        let worker = &mut self.workers[nth];
        if !std::mem::replace(&mut worker.pulled, true) {
            let life = worker.life;
            self.later(us, Event::Pull { worker: nth, life });
        }
    }

    /// A worker looks at what it shall hold, at the node it talks to.
    pub(super) fn pull(&mut self, nth: usize, life: u64) {
        if !self.workers[nth].is_reached(life) {
            self.workers[nth].pulled &= self.workers[nth].life != life;
            return;
        }
        if self.postponed(nth, || Event::Pull { worker: nth, life }) {
            return;
        }
        let worker = &mut self.workers[nth];
        worker.pulled = false;
        let node = &self.log.nodes[worker.node];
        let state = &node.state;
        let known = state.workers.get(&worker.id);
        match known {
            Some(known) if node.up && known.incarnation.0 == life => {}
            // Somebody else has its name now, or nobody has it any more: it registers again as another life.
            Some(known) if node.up && known.incarnation.0 > life => return self.kill_worker(nth),
            None if node.up && worker.registered && node.applied == self.log.last => {
                self.kill_worker(nth);
                return self.start_worker(nth);
            }
            _ => return,
        }
        if !worker.fence.admit(state.revision()) {
            return;
        }
        let mine = state.placements.values().filter(|placement| placement.worker == worker.id);
        let wanted: Vec<Assigned> = mine
            .map(|placement| Assigned {
                assignment: placement.assignment.clone(),
                ring: state.replica_of(placement.assignment.id).map(|replica| replica.ring(state)),
            })
            .collect();
        let held = worker.held.iter().map(|(id, held)| (*id, held.generation())).collect();
        for action in diff(&held, &wanted) {
            match action {
                Action::Unload { id, .. } => self.unload(nth, id),
                Action::Load(assigned) => self.begin_load(nth, *assigned),
            }
        }
    }

    fn unload(&mut self, nth: usize, id: AssignmentId) {
        let Some(held) = self.workers[nth].held.remove(&id) else { return };
        let tells = !self.workers[nth].cut;
        for (request, attempt) in held.sequences.into_values().filter(|_| tells) {
            self.say(request, attempt, Said::Broken);
        }
    }

    fn begin_load(&mut self, nth: usize, assigned: Assigned) {
        let (id, generation) = (assigned.assignment.id, assigned.assignment.generation);
        let load_us = self.delay(30_000..400_000, 22 + nth as u64 * 64) * self.workers[nth].slow;
        let worker = &mut self.workers[nth];
        let held = Held {
            assigned,
            phase: Phase::Loading,
            load_us,
            engine: None,
            sequences: BTreeMap::new(),
            computing: false,
            step_us: 0,
        };
        let before = worker.held.insert(id, held).map(|before| before.generation());
        let (life, newer) = (worker.life, before.is_none_or(|before| before < generation));
        self.demand(newer, "workers_never_go_back", || format!("{id} from {before:?}"));
        self.later(load_us, Event::Loaded { worker: nth, life, id, generation });
    }

    /// A load has ended.
    pub(super) fn loaded(
        &mut self,
        nth: usize,
        life: u64,
        id: AssignmentId,
        generation: Generation,
    ) {
        if self.workers[nth].life != life
            || self.postponed(nth, || Event::Loaded { worker: nth, life, id, generation })
        {
            return;
        }
        let text = self.text.clone();
        let worker = &mut self.workers[nth];
        let Some(held) = worker.held.get_mut(&id).filter(|held| held.generation() == generation)
        else {
            return;
        };
        if worker.bad_loads > 0 {
            worker.bad_loads -= 1;
            held.phase = Phase::Failed { reason: "a bad disk".to_owned() };
            return;
        }
        held.phase = Phase::Ready;
        let assignment = &held.assigned.assignment;
        // Room for fewer contexts than sequences: some have to give way.
        let blocks = (model::CONTEXT_TOKENS / BLOCK_TOKENS) * (1 + assignment.sequences_max / 4);
        let backend = Box::new(HashBackend::new(assignment.blob, blocks));
        let limits = model::limits(assignment.sequences_max);
        held.engine = Some(Box::new(Engine::new(backend, text, limits)));
    }
}
