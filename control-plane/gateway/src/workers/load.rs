//! What one life of a worker has to do for this gateway, and whether it is trusted.

use ollamamax_core::breaker::Breaker;
use ollamamax_proto::{Incarnation, Millis};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The load of one worker, over all its placements. Aligned so that no two share a cache line, nor the pair of lines that a
/// processor fetches together.
#[derive(Debug)]
#[repr(align(128))]
pub struct Load {
    /// Which life of the worker.
    pub incarnation: Incarnation,
    outstanding_tokens: AtomicU64,
    /// When the breaker permits again, in milliseconds since the Unix epoch: what a pick reads of it.
    permits_from: AtomicU64,
    breaker: Mutex<Breaker>,
}

impl Load {
    /// Nothing to do, and trusted.
    pub fn new(incarnation: Incarnation) -> Self {
        let (outstanding_tokens, permits_from) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { incarnation, outstanding_tokens, permits_from, breaker: Mutex::default() }
    }

    /// Tokens of work in flight.
    pub fn outstanding_tokens(&self) -> u64 {
        self.outstanding_tokens.load(Ordering::Relaxed)
    }

    /// More work.
    pub fn add(&self, tokens: u64) {
        self.outstanding_tokens.fetch_add(tokens, Ordering::Relaxed);
    }

    /// Less of it; only what was added.
    pub fn subtract(&self, tokens: u64) {
        self.outstanding_tokens.fetch_sub(tokens, Ordering::Relaxed);
    }

    /// Whether its breaker would permit a request.
    pub fn is_permitting(&self, now: Millis) -> bool {
        now.0 >= self.permits_from.load(Ordering::Relaxed)
    }

    /// Notes that a request is sent; behind a breaker that was open it is the probe.
    pub fn sent(&self, now: Millis) {
        if self.permits_from.load(Ordering::Relaxed) > 0 {
            self.change(|breaker| {
                breaker.permit(now);
            });
        }
    }

    /// Notes how a request ended.
    pub fn record(&self, success: bool, now: Millis) {
        self.change(|breaker| breaker.record(now, success));
    }

    fn change(&self, change: impl FnOnce(&mut Breaker)) {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut breaker);
        self.permits_from.store(breaker.permits_from().0, Ordering::Relaxed);
    }
}
