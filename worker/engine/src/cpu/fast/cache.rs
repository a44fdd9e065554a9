//! The paged KV cache of the fast path: f16, keys turned so that sixteen positions lie side by side.
//!
//! ```text
//! layer -> keys:   [block][kv head][element of the head][position in block]    a vector is one element of 16 positions
//!       -> values: [block][kv head][position in block][element of the head]    a vector is 16 elements of one position
//! ```
//!
//! Heads are padded to sixteen elements with zeros.

use crate::backend::BlockId;
use crate::shape::ModelShape;

/// Positions of a block: lanes of a vector.
pub(crate) const POSITIONS: usize = 16;
const _: () = assert!(POSITIONS == ollamamax_proto::limits::KV_BLOCK_TOKENS);
/// Bytes of one entry; the planner's arithmetic and this cache must agree.
const ENTRY_BYTES: u64 = size_of::<u16>() as u64;
const _: () = assert!(ENTRY_BYTES == ollamamax_gguf::KV_ELEMENT_BYTES);

/// Keys and values of all sequences.
#[derive(Debug)]
pub(crate) struct Cache {
    layers: Vec<(Vec<u16>, Vec<u16>)>,
    kv_heads: usize,
    stride: usize,
    blocks: u32,
    /// One head's keys, before they are turned.
    halves: Vec<u16>,
}

impl Cache {
    /// A cache of `blocks` blocks; `None` when that many bytes cannot even be addressed.
    pub fn new(shape: &ModelShape, blocks: u32) -> Option<Self> {
        let (kv_heads, stride) = (shape.kv_heads as usize, head_stride(shape));
        let entries = (blocks as usize).checked_mul(kv_heads.checked_mul(POSITIONS * stride)?)?;
        let bytes = entries
            .checked_mul(2 * size_of::<u16>())?
            .checked_mul(shape.cached_layers() as usize)?;
        if bytes > isize::MAX as usize {
            return None;
        }
        // Zeroed memory from the system costs nothing until it is written.
        let layers =
            (0..shape.cached_layers()).map(|_| (vec![0; entries], vec![0; entries])).collect();
        Some(Self { layers, kv_heads, stride, blocks, halves: Vec::new() })
    }

    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    pub fn bytes(&self) -> u64 {
        let entries = |(keys, values): &(Vec<u16>, Vec<u16>)| (keys.len() + values.len()) as u64;
        self.layers.iter().map(entries).sum::<u64>() * ENTRY_BYTES
    }

    /// Padded width of a head.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Stores the keys and values of all heads at a position.
    pub fn store(
        &mut self,
        layer: usize,
        blocks: &[BlockId],
        position: usize,
        keys: &[f32],
        values: &[f32],
        to_half: fn(&[f32], &mut [u16]),
    ) {
        let lane = position % POSITIONS;
        let width = keys.len() / self.kv_heads;
        self.halves.resize(width, 0);
        for head in 0..self.kv_heads {
            let run = self.run(blocks[position / POSITIONS], head);
            let (all_keys, all_values) = &mut self.layers[layer];
            to_half(&keys[head * width..][..width], &mut self.halves);
            let lanes = all_keys[run..run + POSITIONS * self.stride].chunks_exact_mut(POSITIONS);
            for (lanes, half) in lanes.zip(&self.halves) {
                lanes[lane] = *half;
            }
            let to = &mut all_values[run + lane * self.stride..][..width];
            to_half(&values[head * width..][..width], to);
        }
    }

    /// The keys of a block, turned.
    pub fn keys(&self, layer: usize, block: BlockId, head: usize) -> &[u16] {
        &self.layers[layer].0[self.run(block, head)..][..POSITIONS * self.stride]
    }

    /// The values of the first `positions` positions of a block.
    pub fn values(&self, layer: usize, block: BlockId, head: usize, positions: usize) -> &[u16] {
        &self.layers[layer].1[self.run(block, head)..][..positions * self.stride]
    }

    fn run(&self, block: BlockId, head: usize) -> usize {
        (block.0 as usize * self.kv_heads + head) * POSITIONS * self.stride
    }
}

/// Width of a head, padded so that no loop has a remainder.
pub(crate) fn head_stride(shape: &ModelShape) -> usize {
    (shape.head_width as usize).next_multiple_of(16)
}
