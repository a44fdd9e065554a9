//! How long steps take: the fastest step of few tokens since somebody asked, for the next heartbeat.
//!
//! A step of one or two tokens reads every weight once and computes little, so its time tells how fast the machine reads;
//! the fastest of a second is the one that nothing else on the machine disturbed.

use ollamamax_engine::backend::{
    Backend, BackendError, Shards, SliceLogits, StageBackend, StepBatch,
};
use ollamamax_engine::embed::Pooling;
use ollamamax_proto::limits;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a MiB.
pub const MIB: u64 = 1 << 20;

/// The fastest step since the last [`Pace::take`]; written by the thread that steps.
#[derive(Debug, Default)]
pub struct Pace {
    /// 0: none.
    fastest_ns: AtomicU64,
}

impl Pace {
    /// A step over `tokens` tokens of as many sequences took so long; prompts and full batches tell nothing.
    pub fn learn(&self, sequences: usize, tokens: usize, time: Duration) {
        if tokens != sequences || !(1..=limits::SPEED_SEQUENCES_COUNT).contains(&sequences) {
            return;
        }
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
        let faster = |known: u64| (known == 0 || ns < known).then_some(ns);
        // An error says that the known one is faster.
        let _ = self.fastest_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, faster);
    }

    /// Nanoseconds of the fastest step since this was last asked; 0: there was none.
    pub fn take(&self) -> u64 {
        self.fastest_ns.swap(0, Ordering::Relaxed)
    }
}

/// A backend whose steps are timed.
#[derive(Debug)]
pub struct Paced {
    inner: Box<dyn StageBackend>,
    pace: Arc<Pace>,
}

impl Paced {
    /// Times the steps of `inner`.
    pub fn new(inner: Box<dyn StageBackend>) -> Self {
        Self { inner, pace: Arc::default() }
    }

    /// Where the times go.
    pub fn pace(&self) -> Arc<Pace> {
        Arc::clone(&self.pace)
    }

    fn timed<T>(
        &mut self,
        batch: &StepBatch,
        step: impl FnOnce(&mut dyn StageBackend) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let begun = Instant::now();
        let done = step(&mut *self.inner)?;
        let tokens = batch.slices.iter().map(|slice| slice.tokens.len()).sum();
        self.pace.learn(batch.slices.len(), tokens, begun.elapsed());
        Ok(done)
    }
}

impl Backend for Paced {
    fn step(&mut self, batch: &StepBatch) -> Result<Vec<SliceLogits>, BackendError> {
        self.timed(batch, |inner| inner.step(batch))
    }

    fn start(&mut self, batch: &StepBatch) -> Result<(), BackendError> {
        self.inner.start(batch)
    }

    fn steps_in_flight(&self) -> usize {
        self.inner.steps_in_flight()
    }

    fn blocks_count(&self) -> u32 {
        self.inner.blocks_count()
    }

    fn block_tokens(&self) -> u32 {
        self.inner.block_tokens()
    }

    fn vocabulary(&self) -> u32 {
        self.inner.vocabulary()
    }

    fn resident_bytes(&self) -> u64 {
        self.inner.resident_bytes()
    }

    fn is_encoder(&self) -> bool {
        self.inner.is_encoder()
    }

    fn pooling(&self) -> Pooling {
        self.inner.pooling()
    }
}

impl StageBackend for Paced {
    fn residuals(
        &mut self,
        batch: &StepBatch,
        before: Option<&[f32]>,
    ) -> Result<Vec<f32>, BackendError> {
        self.timed(batch, |inner| inner.residuals(batch, before))
    }

    fn step_from(
        &mut self,
        batch: &StepBatch,
        before: &[f32],
    ) -> Result<Vec<SliceLogits>, BackendError> {
        self.timed(batch, |inner| inner.step_from(batch, before))
    }

    fn join(&mut self, shards: Option<Box<dyn Shards>>) {
        self.inner.join(shards);
    }

    fn width(&self) -> usize {
        self.inner.width()
    }
}

/// Nanoseconds per MiB, where reading `bytes` takes `ns`; 0 where either is unknown.
pub fn per_mib(ns: u64, bytes: u64) -> u64 {
    let per_mib = u128::from(ns) * u128::from(MIB) / u128::from(bytes.max(1));
    if bytes == 0 { 0 } else { u64::try_from(per_mib).unwrap_or(u64::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_small_step_counts_once() {
        let pace = Pace::default();
        for (sequences, tokens, ns) in [(1, 1, 900), (2, 2, 700), (1, 9, 5), (3, 3, 6), (1, 1, 800)]
        {
            pace.learn(sequences, tokens, Duration::from_nanos(ns));
        }
        assert_eq!((pace.take(), pace.take()), (700, 0));
    }

    #[test]
    fn a_mib_is_a_part_of_what_was_read() {
        assert_eq!((per_mib(1_000, 4 * MIB), per_mib(1_000, 0), per_mib(0, MIB)), (250, 0, 0));
        assert_eq!(per_mib(u64::MAX, 1), u64::MAX);
    }
}
