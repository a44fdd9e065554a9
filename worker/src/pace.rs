//! How long steps take: the fastest step of few tokens since somebody asked, for the next heartbeat.
//!
//! A step of one or two tokens reads every weight once, and the keys and values of all positions before, and computes
//! little: its time per byte tells how fast the machine reads. The fastest of a second is the one that nothing else on the
//! machine disturbed.

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
    /// In nanoseconds per MiB; 0: none.
    fastest: AtomicU64,
}

/// What steps of a model, or of a part of one, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reads {
    /// Bytes of weights, read once.
    pub weight_bytes: u64,
    /// Bytes of keys and values of one position.
    pub position_bytes: u64,
}

impl Pace {
    /// A step that read `bytes` took so long.
    pub fn learn(&self, bytes: u64, time: Duration) {
        let per_mib = time.as_nanos() * u128::from(MIB) / u128::from(bytes.max(1));
        let per_mib = u64::try_from(per_mib).unwrap_or(u64::MAX).max(1);
        let faster = |known: u64| (known == 0 || per_mib < known).then_some(per_mib);
        // An error says that the known one is faster.
        let _ = self.fastest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, faster);
    }

    /// Nanoseconds per MiB of the fastest step since this was last asked; 0: there was none.
    pub fn take(&self) -> u64 {
        self.fastest.swap(0, Ordering::Relaxed)
    }
}

impl Reads {
    /// Bytes that a step reads; `None`: it computes too much to tell a speed, as prompts and full batches do.
    pub fn of(&self, batch: &StepBatch) -> Option<u64> {
        let slices = &batch.slices;
        let few = (1..=limits::SPEED_SEQUENCES_COUNT).contains(&slices.len());
        if !few || slices.iter().any(|slice| slice.tokens.len() != 1) {
            return None;
        }
        let positions: u64 = slices.iter().map(|slice| u64::from(slice.start) + 1).sum();
        Some(self.weight_bytes.saturating_add(self.position_bytes.saturating_mul(positions)))
    }
}

/// A backend whose steps are timed.
#[derive(Debug)]
pub struct Paced {
    inner: Box<dyn StageBackend>,
    reads: Reads,
    pace: Arc<Pace>,
}

impl Paced {
    /// Times the steps of `inner`.
    pub fn new(inner: Box<dyn StageBackend>, reads: Reads) -> Self {
        Self { inner, reads, pace: Arc::default() }
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
        if let Some(bytes) = self.reads.of(batch) {
            self.pace.learn(bytes, begun.elapsed());
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use ollamamax_engine::backend::{Logits, Slice};

    fn batch(slices: &[(u32, usize)]) -> StepBatch {
        let slice = |&(start, tokens): &(u32, usize)| Slice {
            tokens: vec![7; tokens],
            start,
            blocks: vec![],
            logits: Logits::Last,
        };
        StepBatch { slices: slices.iter().map(slice).collect() }
    }

    #[test]
    fn the_fastest_step_counts_once() {
        let pace = Pace::default();
        for ns in [900, 700, 800] {
            pace.learn(4 * MIB, Duration::from_nanos(4 * ns));
        }
        assert_eq!((pace.take(), pace.take()), (700, 0));
    }

    #[test]
    fn a_step_of_few_tokens_reads_the_weights_and_what_came_before() {
        let reads = Reads { weight_bytes: 1_000, position_bytes: 3 };
        assert_eq!(reads.of(&batch(&[(0, 1)])), Some(1_003));
        assert_eq!(reads.of(&batch(&[(9, 1), (99, 1)])), Some(1_330));
        for much in [&[][..], &[(0, 2)], &[(0, 1), (0, 1), (0, 1)]] {
            assert_eq!(reads.of(&batch(much)), None, "{much:?}");
        }
    }
}
