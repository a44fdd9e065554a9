//! What one placement does: requests in flight, time to the first token, pace, errors, and when it was last heard of.
//!
//! A pick reads only the atomics; the averages behind them change when something was measured.

use ollamamax_core::ewma::PeakEwma;
use ollamamax_core::pace::Pace;
use ollamamax_core::route::outlier::{Ejection, Seen};
use ollamamax_proto::{Millis, limits};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The measures of one placement; aligned like [`super::load::Load`].
#[derive(Debug)]
#[repr(align(128))]
pub struct Meter {
    running: AtomicU32,
    answers: AtomicU32,
    failures: AtomicU32,
    /// As of the last measurement or the last judgement.
    latency_us: AtomicU64,
    /// Until when it is left out, in milliseconds since the Unix epoch.
    out_until: AtomicU64,
    /// When a message of any of its streams came last, in milliseconds since `born`; 0 for never.
    heard_ms: AtomicU64,
    born: Instant,
    averages: Mutex<Averages>,
}

#[derive(Debug)]
struct Averages {
    latency: PeakEwma,
    pace: Pace,
    ejection: Ejection,
}

impl Meter {
    /// Nothing measured yet.
    pub fn new(now: Millis) -> Self {
        let latency = PeakEwma::new(now);
        let averages = Averages { latency, pace: Pace::default(), ejection: Ejection::default() };
        Self {
            running: AtomicU32::new(0),
            answers: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            latency_us: AtomicU64::new(0),
            out_until: AtomicU64::new(0),
            heard_ms: AtomicU64::new(0),
            born: Instant::now(),
            averages: Mutex::new(averages),
        }
    }

    fn averages(&self) -> MutexGuard<'_, Averages> {
        self.averages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests in flight.
    pub fn running(&self) -> u32 {
        self.running.load(Ordering::Relaxed)
    }

    /// One more in flight.
    pub fn begin(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn end(&self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
    }

    /// Smoothed time to the first token, in microseconds; 0 while unknown.
    pub fn latency_us(&self) -> u64 {
        self.latency_us.load(Ordering::Relaxed)
    }

    /// Whether it is left out as an outlier.
    pub fn is_out(&self, now: Millis) -> bool {
        now.0 < self.out_until.load(Ordering::Relaxed)
    }

    /// Notes that a message came.
    pub fn heard(&self) {
        let ms = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard_ms.store(ms.max(1), Ordering::Relaxed);
    }

    /// When a message of any stream came last.
    pub fn last_heard(&self) -> Option<Instant> {
        let ms = Some(self.heard_ms.load(Ordering::Relaxed)).filter(|ms| *ms > 0)?;
        self.born.checked_add(Duration::from_millis(ms))
    }

    /// Notes a first token: so long after the request, so long after its prompt began, for so many tokens that were computed.
    pub fn first_token(&self, waited: Duration, computed: Duration, tokens: u32) {
        let mut averages = self.averages();
        averages.pace.first_token(micros(waited), micros(computed), tokens);
        self.observe(&mut averages, waited);
    }

    /// Notes that a request waited so long for a first token and gave up.
    pub fn waited_in_vain(&self, waited: Duration) {
        self.observe(&mut self.averages(), waited);
    }

    fn observe(&self, averages: &mut Averages, waited: Duration) {
        let now = Millis::now();
        averages.latency.observe(now, micros(waited).max(1));
        self.latency_us.store(averages.latency.read_us(now), Ordering::Relaxed);
    }

    /// Notes more tokens of a stream, so long after the last ones.
    pub fn gap(&self, gap: Duration) {
        self.averages().pace.gap(micros(gap));
    }

    /// Notes how a request ended.
    pub fn answered(&self, success: bool) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        if !success {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What it usually does.
    pub fn pace(&self) -> Pace {
        self.averages().pace
    }

    /// What is to be judged, and what the last judgement was. Measures that are judged begin anew.
    pub fn seen(&self, now: Millis) -> (Seen, Ejection) {
        let averages = self.averages();
        let latency_us = averages.latency.read_us(now);
        self.latency_us.store(latency_us, Ordering::Relaxed);
        let answers = self.answers.load(Ordering::Relaxed);
        let mut failures = self.failures.load(Ordering::Relaxed);
        if answers >= limits::OUTLIER_ANSWERS_COUNT {
            self.answers.fetch_sub(answers, Ordering::Relaxed);
            failures = self.failures.swap(0, Ordering::Relaxed);
        }
        (Seen { answers, failures, latency_us }, averages.ejection)
    }

    /// Takes a judgement in; tells whether it is left out now and was not before.
    pub fn judged(&self, ejection: Ejection, now: Millis) -> bool {
        let mut averages = self.averages();
        let before = std::mem::replace(&mut averages.ejection, ejection);
        let until = if ejection.times > 0 { ejection.until.0 } else { 0 };
        self.out_until.store(until, Ordering::Relaxed);
        ejection.is_out(now) && !before.is_out(now)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
