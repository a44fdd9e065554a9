//! The paged KV cache: f16, in blocks of positions, each block contiguous per layer and head.
//!
//! ```text
//! layer -> keys:   [block][kv head][position in block][head width, padded to 16]
//!       -> values: the same
//! ```

use crate::backend::BlockId;
use crate::shape::ModelShape;

/// Bytes of one entry.
const ENTRY_BYTES: u64 = size_of::<u16>() as u64;
// The planner's arithmetic and this cache must agree.
const _: () = assert!(ENTRY_BYTES == ollamamax_gguf::KV_ELEMENT_BYTES);

/// Keys and values of all sequences.
#[derive(Debug)]
pub(crate) struct Cache {
    layers: Vec<(Vec<u16>, Vec<u16>)>,
    kv_heads: usize,
    stride: usize,
    block_tokens: usize,
    blocks: u32,
}

impl Cache {
    /// A cache of `blocks` blocks; `None` when that many bytes cannot even be addressed.
    pub fn new(shape: &ModelShape, blocks: u32, block_tokens: usize) -> Option<Self> {
        let (kv_heads, stride) = (shape.kv_heads as usize, head_stride(shape));
        let entries =
            (blocks as usize).checked_mul(kv_heads.checked_mul(block_tokens * stride)?)?;
        let bytes =
            entries.checked_mul(2 * size_of::<u16>())?.checked_mul(shape.layers as usize)?;
        if bytes > isize::MAX as usize {
            return None;
        }
        // Zeroed memory from the system costs nothing until it is written.
        let layers = (0..shape.layers).map(|_| (vec![0; entries], vec![0; entries])).collect();
        Some(Self { layers, kv_heads, stride, block_tokens, blocks })
    }

    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    pub fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    pub fn bytes(&self) -> u64 {
        let entries = |(keys, values): &(Vec<u16>, Vec<u16>)| (keys.len() + values.len()) as u64;
        self.layers.iter().map(entries).sum::<u64>() * ENTRY_BYTES
    }

    /// Padded width of a head.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Where a position's key and value of a head are stored.
    pub fn entry_mut(
        &mut self,
        layer: usize,
        block: BlockId,
        head: usize,
        position: usize,
    ) -> (&mut [u16], &mut [u16]) {
        let at = self.run(block, head) + position % self.block_tokens * self.stride;
        let (keys, values) = &mut self.layers[layer];
        (&mut keys[at..at + self.stride], &mut values[at..at + self.stride])
    }

    /// The keys of the first `positions` positions of a block.
    pub fn keys(&self, layer: usize, block: BlockId, head: usize, positions: usize) -> &[u16] {
        &self.layers[layer].0[self.run(block, head)..][..positions * self.stride]
    }

    /// The values of the first `positions` positions of a block.
    pub fn values(&self, layer: usize, block: BlockId, head: usize, positions: usize) -> &[u16] {
        &self.layers[layer].1[self.run(block, head)..][..positions * self.stride]
    }

    fn run(&self, block: BlockId, head: usize) -> usize {
        (block.0 as usize * self.kv_heads + head) * self.block_tokens * self.stride
    }
}

/// Width of a head, padded so that kernels have no remainder.
pub(crate) fn head_stride(shape: &ModelShape) -> usize {
    (shape.head_width as usize).next_multiple_of(16)
}
