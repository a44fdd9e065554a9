//! A model as the partition sees it: for each run of layers its memory and the bytes read per token, as prefix sums.

use super::super::memory::kv_bytes;
use super::heads::Attention;
use super::shards::Run;
use ollamamax_proto::limits;
use ollamamax_proto::model::ModelVersion;
use ollamamax_proto::placement::Stage;

/// What stands before a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Before {
    /// Bytes that the layers before it take.
    pub(super) memory: u64,
    /// Bytes of them that are read for a token.
    pub(super) read: u64,
}

/// The sums, and what does not belong to a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// One entry per layer and one at the end. The embedding counts into the first layer, the head into the last.
    pub(super) before: Vec<Before>,
    /// Held by every shard of the first stage.
    pub(super) embedding_bytes: u64,
    /// Held, and read, by the driver; the embedding's bytes when it is tied.
    pub(super) head_bytes: u64,
    /// What one worker with everything does not hold twice.
    pub(super) tied_bytes: u64,
}

/// No sum of bytes goes beyond: with it, no time does either.
const BYTES_MAX: u64 = limits::BLOB_BYTES;

impl Load {
    /// The load of `version` with `sequences` sequences of `context` tokens each.
    pub fn new(version: &ModelVersion, context: u32, sequences: u32) -> Self {
        let facts = &version.facts;
        let layer = |first_layer: u32| {
            let one = Stage {
                first_layer,
                end_layer: first_layer + 1,
                embedding: false,
                ..Stage::whole(0)
            };
            kv_bytes(version, &one, context).saturating_mul(u64::from(sequences))
        };
        let kv = if facts.layers == 0 { 0 } else { layer(0) };
        let layers = facts.layer_bytes.iter().map(|bytes| (bytes.saturating_add(kv), *bytes));
        let head = match facts.head_bytes {
            0 => facts.embedding_bytes,
            bytes => bytes,
        };
        // Rows of the embedding are only looked up: the few that are stay in the file's pages, which the system takes back.
        // As a head it is read whole, and held.
        Self::from_parts(layers, 0, head, false)
    }

    /// The load of layers of which each is (bytes held, bytes read per token).
    pub fn from_parts(
        layers: impl IntoIterator<Item = (u64, u64)>,
        embedding_bytes: u64,
        head_bytes: u64,
        tied: bool,
    ) -> Self {
        let mut layers: Vec<(u64, u64)> = layers.into_iter().collect();
        if let Some(first) = layers.first_mut() {
            first.0 = first.0.saturating_add(embedding_bytes);
        }
        if let Some(last) = layers.last_mut() {
            last.0 = last.0.saturating_add(head_bytes);
            last.1 = last.1.saturating_add(head_bytes);
        }
        let mut sum = Before::default();
        let mut before = Vec::with_capacity(layers.len() + 1);
        before.push(sum);
        for (memory, read) in layers {
            // Lying numbers stop at a size that fits nowhere.
            sum.memory = sum.memory.saturating_add(memory).min(u64::MAX / 4);
            sum.read = sum.read.saturating_add(read).min(BYTES_MAX);
            before.push(sum);
        }
        let tied_bytes = if tied { head_bytes } else { 0 };
        Self { before, embedding_bytes, head_bytes, tied_bytes }
    }

    /// How many layers there are.
    pub fn layers(&self) -> usize {
        self.before.len() - 1
    }

    /// Bytes that layers `[first, end)` take, with the embedding before the first and the head after the last.
    pub fn memory(&self, first: usize, end: usize) -> u64 {
        let bytes = self.before[end].memory - self.before[first].memory;
        let whole = first == 0 && end == self.layers();
        if whole { bytes.saturating_sub(self.tied_bytes) } else { bytes }
    }

    /// Bytes of them that are read for a token.
    pub fn read(&self, first: usize, end: usize) -> u64 {
        self.before[end].read - self.before[first].read
    }

    /// Bytes that `stage` takes with a share of the key-value heads, as (its, all).
    pub fn part_bytes(&self, stage: &Stage, (heads, of): (u32, u32)) -> u64 {
        let end = (stage.end_layer as usize).min(self.layers());
        let first = (stage.first_layer as usize).min(end);
        let attention = Attention { heads: of.max(1), unit: 1 };
        let run = Run { load: self, first, end, attention };
        run.bytes(stage.shard as usize, heads)
    }

    /// Bytes of layers `[first, end)` alone, without embedding and head, and what of them is read.
    pub(super) fn inner(&self, first: usize, end: usize) -> (u64, u64) {
        let embedding = if first == 0 { self.embedding_bytes } else { 0 };
        let head = if end == self.layers() { self.head_bytes } else { 0 };
        let memory = self.before[end].memory - self.before[first].memory;
        let memory = memory.saturating_sub(embedding).saturating_sub(head);
        (memory, self.read(first, end).saturating_sub(head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedding_and_head_lie_at_the_ends_and_a_tied_one_is_held_once() {
        let layers = || [(10, 8), (20, 16), (30, 24)];
        let load = Load::from_parts(layers(), 5, 7, false);
        assert_eq!((load.memory(0, 1), load.memory(1, 2), load.memory(2, 3)), (15, 20, 37));
        assert_eq!((load.read(0, 1), load.read(2, 3), load.memory(0, 3)), (8, 31, 72));
        let tied = Load::from_parts(layers(), 5, 5, true);
        assert_eq!((tied.memory(0, 3), tied.memory(0, 2), tied.memory(1, 3)), (65, 35, 55));
        assert_eq!(tied.inner(0, 3), (60, 48));
    }
}
