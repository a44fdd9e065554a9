//! A gateway: the way to each model with what was measured of its seats, breakers of workers, budgets for retries, quotas, and
//! queues. It chooses as the real one does, with the same cores.

use super::World;
use super::event::Event;
use super::request::{Active, End, Identity, Request};
use ollamamax_core::State;
use ollamamax_core::admission::Admission;
use ollamamax_core::breaker::Breaker;
use ollamamax_core::budget::RetryBudget;
use ollamamax_core::ewma::PeakEwma;
use ollamamax_core::quota::Ledger;
use ollamamax_core::record::ModelRecord;
use ollamamax_core::route::outlier::{self, Ejection, Seen};
use ollamamax_core::route::{self, Candidate, Memory, Policy, slow_start};
use ollamamax_core::serving::serving;
use ollamamax_proto::placement::WorkerStatus;
use ollamamax_proto::{
    AssignmentId, Digest, Generation, Incarnation, Millis, ModelName, Revision, WorkerId, limits,
};
use std::collections::{BTreeMap, BTreeSet};

/// Requests that wait for a place at one model.
const QUEUE_COUNT: usize = 6;
/// Each policy is used for so long, in microseconds.
const POLICY_US: u64 = 1_500_000;
/// How long they may, in milliseconds.
const QUEUE_MS: u64 = 3_000;

/// What one node's gateway knows.
#[derive(Debug, Default)]
pub(super) struct Gateway {
    routes: BTreeMap<(usize, Digest), Route>,
    loads: BTreeMap<WorkerId, Load>,
    pub ledger: Ledger,
    queues: BTreeMap<usize, Queue>,
    /// Answers under way, by user.
    pub streams: BTreeMap<u64, u32>,
}

#[derive(Debug)]
struct Queue {
    admission: Admission,
    /// Requests by ticket.
    tickets: BTreeMap<u64, u64>,
}

#[derive(Debug)]
struct Load {
    incarnation: Incarnation,
    breaker: Breaker,
    outstanding_tokens: u64,
}

#[derive(Debug)]
struct Route {
    revision: Revision,
    seats: Vec<Seat>,
    memory: Memory,
    budget: RetryBudget,
    judged_at: Millis,
}

#[derive(Clone, Debug)]
struct Seat {
    worker: WorkerId,
    incarnation: Incarnation,
    id: AssignmentId,
    generation: Generation,
    ready: bool,
    since: Millis,
    capacity: u32,
    weight: u32,
    latency: PeakEwma,
    seen: Seen,
    ejection: Ejection,
    running: u32,
    /// Beginnings that it has computed.
    cached: BTreeSet<u64>,
}

impl Seat {
    fn identity(&self) -> Identity {
        (self.worker, self.incarnation, self.generation.0)
    }
}

impl Gateway {
    pub fn new() -> Self {
        Self::default()
    }

    fn route_mut(&mut self, model: usize, blob: Digest, now: Millis) -> &mut Route {
        self.routes.entry((model, blob)).or_insert_with(|| Route {
            revision: Revision(u64::MAX),
            seats: Vec::new(),
            memory: Memory::default(),
            budget: RetryBudget::new(now),
            judged_at: now,
        })
    }
}

impl Route {
    /// The seats as of `state`, with the numbers of those that were there before.
    fn refresh(&mut self, state: &State, record: &ModelRecord, now: Millis) {
        if self.revision == state.revision() {
            return;
        }
        self.revision = state.revision();
        let found = serving(state, record).into_iter().map(|(worker, placement)| {
            let assignment = &placement.assignment;
            let known = self.seats.iter().find(|seat| {
                seat.id == assignment.id
                    && seat.identity() == (worker.id, worker.incarnation, assignment.generation.0)
            });
            let fresh = || Seat {
                worker: worker.id,
                incarnation: worker.incarnation,
                id: assignment.id,
                generation: assignment.generation,
                ready: false,
                since: placement.since,
                capacity: assignment.sequences_max + 8,
                weight: worker.device.threads.max(1),
                latency: PeakEwma::new(now),
                seen: Seen::default(),
                ejection: Ejection::default(),
                running: 0,
                cached: BTreeSet::new(),
            };
            let seat = known.cloned().unwrap_or_else(fresh);
            Seat { ready: worker.status == WorkerStatus::Ready, ..seat }
        });
        self.seats = found.collect();
    }

    fn judge(&mut self, now: Millis) -> bool {
        if now.since(self.judged_at) < limits::OUTLIER_PERIOD_MS {
            return true;
        }
        self.judged_at = now;
        let seen: Vec<Seen> = self
            .seats
            .iter()
            .map(|seat| Seen { latency_us: seat.latency.read_us(now), ..seat.seen })
            .collect();
        let mut ejections: Vec<Ejection> = self.seats.iter().map(|seat| seat.ejection).collect();
        let before = ejections.iter().filter(|ejection| ejection.is_out(now)).count();
        outlier::judge(now, &seen, &mut ejections);
        let out = ejections.iter().filter(|ejection| ejection.is_out(now)).count();
        for (seat, ejection) in self.seats.iter_mut().zip(ejections) {
            (seat.ejection, seat.seen) = (ejection, Seen::default());
        }
        // Seats may go while others are out; nobody is put out beyond the share.
        out <= before || out * 100 <= self.seats.len() * limits::OUTLIER_SHARE_PERCENT
    }
}

impl World {
    /// The version of a name with these bytes, as a record of its own.
    fn record(state: &State, model: &ModelName, blob: Digest) -> Option<ModelRecord> {
        let record = state.models.get(model)?;
        if record.version.blob == blob {
            return Some(record.clone());
        }
        let version = state.known_version(model, blob)?.clone();
        Some(ModelRecord { version, ..record.clone() })
    }

    /// Whether a version can be answered from.
    pub(super) fn has_seats(&self, state: &State, model: usize, blob: Digest) -> bool {
        Self::record(state, &self.names[model], blob)
            .is_some_and(|record| !serving(state, &record).is_empty())
    }

    /// Takes the best seat for a request, and counts the work on it.
    pub(super) fn pick(&mut self, id: u64) -> Option<(Active, Identity)> {
        let request = self.requests.live.get(&id)?;
        let (node, blob) = (request.node, request.blob?);
        let now = self.clock(node);
        let state = &self.log.nodes[node].state;
        let record = Self::record(state, &self.names[request.model], blob)?;
        let gateway = &mut self.gateways[node];
        gateway.route_mut(request.model, blob, now).refresh(state, &record, now);
        let Gateway { routes, loads, .. } = gateway;
        let route = routes.get_mut(&(request.model, blob))?;
        let within_share = route.judge(now);
        let mut seen = vec![Candidate::NOBODY; route.seats.len()];
        let mut classes = vec![4u8; route.seats.len()];
        let shape = request.shape();
        for (at, seat) in route.seats.iter().enumerate() {
            if request.tried.contains(&seat.identity()) {
                continue;
            }
            let load = loads.entry(seat.worker).or_insert_with(|| Load::new(seat.incarnation));
            if load.incarnation != seat.incarnation {
                *load = Load::new(seat.incarnation);
            }
            let permits = load.breaker.is_permitting(now);
            classes[at] = match (permits, seat.ready && !seat.ejection.is_out(now)) {
                (true, true) => 0,
                (true, false) => 1,
                (false, true) => 2,
                (false, false) => 3,
            };
            let cached = if seat.cached.contains(&request.family) { 8 } else { 0 };
            seen[at] = Candidate {
                worker: seat.worker,
                outstanding_tokens: load.outstanding_tokens,
                latency_us: seat.latency.read_us(now),
                running: seat.running,
                capacity: seat.capacity,
                weight: seat.weight,
                share: slow_start::share(now.since(seat.since)),
                cached_tokens: cached,
                usable: false,
            };
        }
        let policy = Policy::ALL[(self.now / POLICY_US) as usize % Policy::ALL.len()];
        let coin = self.coin.unit(&[9, request.key, u64::from(request.attempt)]);
        let mut picked = None;
        let mut passed_over = false;
        for class in 0..4u8 {
            for (candidate, own) in seen.iter_mut().zip(&classes) {
                candidate.usable = *own == class;
            }
            picked = route::pick(policy, &seen, &shape, &mut route.memory, coin);
            passed_over |= picked.is_none() && seen.iter().any(Candidate::is_open);
            if picked.is_some() {
                break;
            }
        }
        if self.plant == super::Plant::ClosedPick && !seen.is_empty() {
            picked = Some(0);
        }
        let open = picked.is_none_or(|at| seen.get(at).is_some_and(Candidate::is_open));
        let taken = picked.and_then(|at| {
            let (seat, load) = (route.seats.get_mut(at)?, loads.get_mut(&seen[at].worker)?);
            load.breaker.permit(now);
            load.outstanding_tokens += shape.tokens();
            seat.running += 1;
            let active = Active {
                worker: (seat.worker.0 - 1) as usize,
                life: seat.incarnation.0,
                id: seat.id,
                generation: seat.generation,
                tokens: shape.tokens(),
                sent_us: self.now,
            };
            Some((active, seat.identity()))
        });
        self.demand(within_share, "never_more_than_a_share_is_out", || format!("node {node}"));
        self.demand(!passed_over, "an_open_seat_is_picked", || format!("{policy}: {seen:?}"));
        self.demand(open, "only_open_seats_are_picked", || format!("{policy}: {seen:?}"));
        taken
    }

    /// Takes the work of an attempt back; `ok` is what the breaker hears, if anything.
    pub(super) fn release(&mut self, id: u64, active: Active, ok: Option<bool>) {
        let Some(request) = self.requests.live.get(&id) else { return };
        let (node, family) = (request.node, request.family);
        let (model, blob) = (request.model, request.blob);
        let now = self.clock(node);
        let worker = WorkerId(active.worker as u128 + 1);
        let gateway = &mut self.gateways[node];
        let load = gateway.loads.get_mut(&worker);
        if let Some(load) = load.filter(|load| load.incarnation.0 == active.life) {
            load.outstanding_tokens -= active.tokens;
            if let Some(ok) = ok {
                load.breaker.record(now, ok);
            }
        }
        let Some(blob) = blob else { return };
        let route = gateway.route_mut(model, blob, now);
        let seat = route.seats.iter_mut().find(|seat| {
            seat.id == active.id
                && seat.generation == active.generation
                && seat.incarnation.0 == active.life
        });
        if let Some(seat) = seat {
            seat.running = seat.running.saturating_sub(1);
            if let Some(ok) = ok {
                seat.seen.answers += 1;
                seat.seen.failures += u32::from(!ok);
                if ok {
                    seat.cached.insert(family);
                }
            }
        }
        self.serve_queue(node, model);
    }

    /// A first token came after so long.
    pub(super) fn measured(&mut self, id: u64, active: Active, waited_us: u64) {
        let Some(request) = self.requests.live.get(&id) else { return };
        let (node, Some(blob)) = (request.node, request.blob) else { return };
        let now = self.clock(node);
        let route = self.gateways[node].route_mut(request.model, blob, now);
        let seat = route.seats.iter_mut().find(|seat| seat.id == active.id);
        if let Some(seat) = seat {
            seat.latency.observe(now, waited_us);
        }
    }

    pub(super) fn deposit(&mut self, node: usize, model: usize, blob: Digest) {
        let now = self.clock(node);
        self.gateways[node].route_mut(model, blob, now).budget.deposit(now);
    }

    /// Takes what one more attempt costs.
    pub(super) fn take_budget(&mut self, id: u64) -> bool {
        let Some(request) = self.requests.live.get(&id) else { return false };
        let (node, Some(blob)) = (request.node, request.blob) else { return false };
        let now = self.clock(node);
        self.gateways[node].route_mut(request.model, blob, now).budget.take(now)
    }

    /// Lets a request wait for a place, or refuses it.
    pub(super) fn enqueue(&mut self, id: u64) {
        let Some(request) = self.requests.live.get_mut(&id) else { return };
        let (node, tokens) = (request.node, request.shape().tokens());
        let model = request.model;
        let now = self.timer();
        let queue = self.gateways[node].queues.entry(model).or_insert_with(|| Queue {
            admission: Admission::new(QUEUE_COUNT),
            tickets: BTreeMap::new(),
        });
        match queue.admission.offer(now, now.plus(QUEUE_MS), tokens, 0) {
            Ok(ticket) => {
                queue.tickets.insert(ticket.id, id);
                if let Some(request) = self.requests.live.get_mut(&id) {
                    request.ticket = Some(ticket.id);
                    request.tried.clear();
                }
                let life = self.log.nodes[node].life;
                self.later(QUEUE_MS * 1_000 + 1_000, Event::Expire { node, life });
            }
            Err(_) => self.end(id, End::Refused),
        }
    }

    /// A place is free: the first that waits gets it.
    fn serve_queue(&mut self, node: usize, model: usize) {
        let Some(queue) = self.gateways[node].queues.get_mut(&model) else { return };
        let Some(ticket) = queue.admission.next() else { return };
        let Some(id) = queue.tickets.remove(&ticket.id) else { return };
        let Some(request) = self.requests.live.get_mut(&id) else {
            return self.violated("queued_requests_live", format!("request {id}"));
        };
        request.ticket = None;
        let attempt = request.attempt;
        self.later(0, Event::Again { request: id, attempt });
    }

    /// A request that waits no longer.
    pub(super) fn dequeue(&mut self, node: usize, request: &Request) {
        let Some(ticket) = request.ticket else { return };
        let Some(queue) = self.gateways[node].queues.get_mut(&request.model) else { return };
        let known = queue.admission.cancel(ticket) && queue.tickets.remove(&ticket).is_some();
        self.demand(known, "queued_requests_live", || format!("ticket {ticket}"));
    }

    /// Those that waited too long are told so.
    pub(super) fn expire(&mut self, node: usize, life: u64) {
        if self.log.nodes[node].life != life {
            return;
        }
        let now = self.timer();
        let mut late = Vec::new();
        for queue in self.gateways[node].queues.values_mut() {
            let expired = queue.admission.expire(now);
            late.extend(expired.iter().filter_map(|ticket| queue.tickets.remove(&ticket.id)));
        }
        for id in late {
            if let Some(request) = self.requests.live.get_mut(&id) {
                request.ticket = None;
            }
            self.end(id, End::Unserved);
        }
    }
}

impl Load {
    fn new(incarnation: Incarnation) -> Self {
        Self { incarnation, breaker: Breaker::default(), outstanding_tokens: 0 }
    }
}
