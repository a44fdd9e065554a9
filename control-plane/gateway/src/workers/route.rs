//! The way to one model: its seats as of one revision of the state, and what outlives revisions.
//!
//! ```text
//! state.revision moved --> candidates(state, model) --> same? the same seats : new seats, old numbers
//! pick: policy over what the seats show now --> seat + outstanding work
//! ```

use super::caches::Caches;
use super::meter::Meter;
use super::seat::{CLASSES, Outstanding, Seat};
use super::{Candidate, Workers};
use ollamamax_core::State;
use ollamamax_core::budget::RetryBudget;
use ollamamax_core::record::ModelRecord;
use ollamamax_core::route::affinity::SEATS_COUNT;
use ollamamax_core::route::chain::Prefix;
use ollamamax_core::route::{self, Memory, Policy, Shape, outlier};
use ollamamax_proto::{Millis, Revision, limits};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// What a request looks like to a pick.
#[derive(Clone, Debug)]
pub struct Ask {
    /// By which rule.
    pub policy: Policy,
    /// Its size.
    pub shape: Shape,
    /// How it begins.
    pub prefix: Arc<Prefix>,
}

/// The seats of one model.
#[derive(Debug)]
pub struct Route {
    /// As of when.
    pub(super) revision: Revision,
    seats: Arc<[Arc<Seat>]>,
    kept: Arc<Kept>,
}

/// What goes from one route of a model to the next.
#[derive(Debug)]
pub(super) struct Kept {
    last: AtomicUsize,
    weights: Mutex<Vec<i64>>,
    caches: RwLock<Caches>,
    budget: Mutex<RetryBudget>,
    judged_at: AtomicU64,
}

impl Route {
    /// The route as of `state`, with the numbers of the one before it.
    pub(super) fn new(
        workers: &Workers,
        state: &State,
        model: &ModelRecord,
        before: Option<&Self>,
        now: Millis,
    ) -> Self {
        let mut candidates = super::candidates(state, model);
        candidates.truncate(SEATS_COUNT);
        let revision = state.revision();
        let kept =
            before.map_or_else(|| Arc::new(Kept::new(now)), |before| Arc::clone(&before.kept));
        if let Some(before) = before.filter(|before| before.holds(&candidates)) {
            return Self { revision, seats: Arc::clone(&before.seats), kept };
        }
        let places = kept.caches.write().unwrap_or_else(PoisonError::into_inner).seat(&candidates);
        let seat = |(candidate, place): (Candidate, usize)| {
            let known = before.and_then(|before| before.known(&candidate));
            let meter = known.map_or_else(|| Arc::new(Meter::new(now)), |s| Arc::clone(&s.meter));
            let load = workers.load_of(&candidate.worker);
            let seat = Seat { candidate, meter, load, place };
            if known.is_none() {
                super::listener::listen(workers, &seat, &kept);
            }
            Arc::new(seat)
        };
        let seats = candidates.into_iter().zip(places).map(seat).collect();
        Self { revision, seats, kept }
    }

    fn holds(&self, candidates: &[Candidate]) -> bool {
        self.seats.iter().map(|seat| &seat.candidate).eq(candidates)
    }

    /// The seat with the same placement of the same life of a worker.
    fn known(&self, candidate: &Candidate) -> Option<&Arc<Seat>> {
        let id = candidate.placement.assignment.id;
        self.seats.iter().find(|seat| {
            seat.candidate.identity() == candidate.identity()
                && seat.candidate.placement.assignment.id == id
        })
    }

    /// Whether it is the way as of this revision.
    pub(super) fn is_current(&self, state: &State) -> bool {
        self.revision == state.revision()
    }

    /// All seats.
    pub fn seats(&self) -> &[Arc<Seat>] {
        &self.seats
    }

    /// Takes the best seat and counts the work on it. `tried` tells which ones already failed this request; they are left out.
    /// `coin` in [0, 1) decides between equals.
    ///
    /// Ready workers come first, suspect and ejected ones next; one behind an open breaker is only tried when it is all there is.
    pub fn pick(
        &self,
        ask: &Ask,
        now: Millis,
        coin: f64,
        tried: impl Fn(&Candidate) -> bool,
    ) -> Option<(Arc<Seat>, Outstanding)> {
        self.judge(now);
        let mut matched = [0; SEATS_COUNT];
        if ask.policy == Policy::Prefix && !ask.prefix.hashes.is_empty() {
            let caches = self.kept.caches.read().unwrap_or_else(PoisonError::into_inner);
            caches.matched(&ask.prefix.hashes, &mut matched);
        }
        let mut seen = [route::Candidate::NOBODY; SEATS_COUNT];
        let mut classes = [CLASSES; SEATS_COUNT];
        for (index, seat) in self.seats.iter().enumerate().take(SEATS_COUNT) {
            if tried(&seat.candidate) {
                continue;
            }
            let blocks = matched.get(seat.place).copied().unwrap_or_default();
            let cached = ask.prefix.tokens(blocks, ask.shape.prompt_tokens);
            (seen[index], classes[index]) = (seat.seen(now, cached, false), seat.class(now));
        }
        let count = self.seats.len().min(SEATS_COUNT);
        for class in 0..CLASSES {
            if !classes.contains(&class) {
                continue;
            }
            for (candidate, own) in seen.iter_mut().zip(classes) {
                candidate.usable = own == class;
            }
            if let Some(index) = self.by_policy(ask, &seen[..count], coin) {
                let seat = self.seats.get(index)?;
                return Some((Arc::clone(seat), Outstanding::new(seat, ask.shape.tokens(), now)));
            }
        }
        None
    }

    fn by_policy(&self, ask: &Ask, seen: &[route::Candidate], coin: f64) -> Option<usize> {
        let mut memory = Memory::default();
        match ask.policy {
            Policy::RoundRobin => {
                // Two that meet here may take the same turn; the next ones go on from there.
                memory.last = self.kept.last.load(Ordering::Relaxed);
                let picked = route::pick(ask.policy, seen, &ask.shape, &mut memory, coin);
                self.kept.last.store(memory.last, Ordering::Relaxed);
                picked
            }
            Policy::Weighted => {
                let mut weights = self.kept.weights.lock().unwrap_or_else(PoisonError::into_inner);
                route::weighted::pick(seen, &mut weights)
            }
            policy => route::pick(policy, seen, &ask.shape, &mut memory, coin),
        }
    }

    /// Looks for outliers, when it was not done for a while.
    fn judge(&self, now: Millis) {
        let last = self.kept.judged_at.load(Ordering::Relaxed);
        if now.since(Millis(last)) < limits::OUTLIER_PERIOD_MS {
            return;
        }
        let (relaxed, judged_at) = (Ordering::Relaxed, &self.kept.judged_at);
        if judged_at.compare_exchange(last, now.0, relaxed, relaxed).is_err() {
            return;
        }
        let (seen, mut ejections): (Vec<_>, Vec<_>) =
            self.seats.iter().map(|seat| seat.meter.seen(now)).unzip();
        outlier::judge(now, &seen, &mut ejections);
        for ((seat, ejection), seen) in self.seats.iter().zip(ejections).zip(seen) {
            if seat.meter.judged(ejection, now) {
                let worker = seat.candidate.worker.id;
                crate::telemetry::ejected();
                tracing::warn!(%worker, ?seen, "left out for a while: far off what others do");
            }
        }
    }

    /// Sequences that all seats run at once.
    pub fn places(&self) -> u32 {
        let places = self.seats.iter().map(|s| s.candidate.placement.assignment.sequences_max);
        places.fold(0, u32::saturating_add)
    }

    /// Prompt tokens per second that all seats together were measured to compute; 0 while unknown.
    pub fn prompt_tokens_per_second(&self) -> u64 {
        self.seats.iter().map(|seat| seat.meter.pace().prompt_tokens_per_second()).sum()
    }

    /// Notes that a worker has computed a beginning, and so has it cached.
    pub fn stored(&self, seat: &Seat, hashes: &[u64]) {
        self.kept.caches(|caches| caches.stored(seat.place, hashes));
    }

    /// What extra attempts may cost.
    pub fn budget<T>(&self, change: impl FnOnce(&mut RetryBudget) -> T) -> T {
        change(&mut self.kept.budget.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Kept {
    /// Changes what is known of caches.
    pub fn caches(&self, change: impl FnOnce(&mut Caches)) {
        change(&mut self.caches.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn new(now: Millis) -> Self {
        Self {
            last: AtomicUsize::new(usize::MAX),
            weights: Mutex::default(),
            caches: RwLock::default(),
            budget: Mutex::new(RetryBudget::new(now)),
            judged_at: AtomicU64::new(now.0),
        }
    }
}
