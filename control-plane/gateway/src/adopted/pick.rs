//! Which server gets a request: those that have its model, by the same policies and with the same caution as workers.

use super::server::{InFlight, Server};
use crate::telemetry;
use bytes::Bytes;
use ollamamax_core::State;
use ollamamax_core::budget::RetryBudget;
use ollamamax_core::route::{self, Policy, Shape, outlier};
use ollamamax_proto::{Millis, ModelName, WorkerId, limits};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

/// What a pick sees of a request that nobody reads: a token for each four bytes, and how its text begins.
pub(super) fn shape(bytes: &Bytes) -> Shape {
    /// Bytes behind a request's first text that count as its beginning.
    const BEGINNING: usize = 256;
    let at = |name: &[u8]| bytes.windows(name.len()).position(|window| window == name);
    let begin = at(b"\"messages\"").or_else(|| at(b"\"prompt\"")).unwrap_or(0);
    let mut hasher = DefaultHasher::new();
    bytes[begin..bytes.len().min(begin + BEGINNING)].hash(&mut hasher);
    let prompt_tokens = u32::try_from(bytes.len() / 4).unwrap_or(u32::MAX);
    Shape { prompt_tokens, max_tokens: 256, prefix_hash: hasher.finish() }
}

impl super::Servers {
    /// What extra attempts may cost.
    pub(super) fn budget<T>(&self, change: impl FnOnce(&mut RetryBudget) -> T) -> T {
        change(&mut self.budget.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the best server that has the model and was not tried yet.
    pub(super) fn pick(
        &self,
        state: &State,
        name: &ModelName,
        policy: Policy,
        shape: &Shape,
        tried: &[WorkerId],
    ) -> Option<(Arc<Server>, InFlight)> {
        let now = Millis::now();
        let is_drained = |id: &WorkerId| state.orders.get(id).is_some_and(|o| o.drained.is_some());
        let mut open: Vec<(Arc<Server>, u8)> = Vec::new();
        for server in self.all(state).iter() {
            let id = server.record.id;
            let has = server.seen().models.contains_key(name);
            if let Some(class) = server.class(now).filter(|_| has)
                && !tried.contains(&id)
                && !is_drained(&id)
            {
                open.push((Arc::clone(server), class));
            }
        }
        self.judge(&open, now);
        for class in 0..3 {
            let candidates: Vec<route::Candidate> =
                open.iter().map(|(server, own)| server.candidate(now, *own == class)).collect();
            let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
            let picked = route::pick(policy, &candidates, shape, &mut memory, rand::random());
            if let Some((server, _)) = picked.and_then(|index| open.get(index)) {
                return Some((Arc::clone(server), InFlight::new(server, shape.tokens(), now)));
            }
        }
        None
    }

    /// Looks for outliers among those that have a model, when it was not done for a while.
    fn judge(&self, open: &[(Arc<Server>, u8)], now: Millis) {
        let last = self.judged_at.load(Ordering::Relaxed);
        if now.since(Millis(last)) < limits::OUTLIER_PERIOD_MS {
            return;
        }
        self.judged_at.store(now.0, Ordering::Relaxed);
        let (seen, mut ejections): (Vec<_>, Vec<_>) =
            open.iter().map(|(server, _)| server.meter.seen(now)).unzip();
        outlier::judge(now, &seen, &mut ejections);
        for ((server, _), ejection) in open.iter().zip(ejections) {
            if server.meter.judged(ejection, now) {
                telemetry::ejected();
                let server = &server.record.name;
                tracing::warn!(server, "left out for a while: far off what others do");
            }
        }
    }
}
