//! The paged KV cache of the plain path: f16, in blocks of positions, each block contiguous per layer and head.
//!
//! ```text
//! layer -> keys:   [block][kv head][position in block][head width]
//!       -> values: the same
//! ```

use crate::backend::BlockId;
use crate::shape::ModelShape;
use half::f16;

/// Keys and values of all sequences.
#[derive(Debug)]
pub(crate) struct Cache {
    layers: Vec<(Vec<u16>, Vec<u16>)>,
    kv_heads: usize,
    width: usize,
    block_tokens: usize,
    blocks: u32,
}

impl Cache {
    /// A cache of `blocks` blocks; `None` when that many bytes cannot even be addressed.
    pub fn new(shape: &ModelShape, blocks: u32, block_tokens: usize) -> Option<Self> {
        let (kv_heads, width) = (shape.kv_heads as usize, shape.head_width as usize);
        let entries = (blocks as usize).checked_mul(kv_heads.checked_mul(block_tokens * width)?)?;
        let bytes = entries
            .checked_mul(2 * size_of::<u16>())?
            .checked_mul(shape.cached_layers() as usize)?;
        if bytes > isize::MAX as usize {
            return None;
        }
        // Zeroed memory from the system costs nothing until it is written.
        let layers =
            (0..shape.cached_layers()).map(|_| (vec![0; entries], vec![0; entries])).collect();
        Some(Self { layers, kv_heads, width, block_tokens, blocks })
    }

    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    pub fn bytes(&self) -> u64 {
        let entries = |(keys, values): &(Vec<u16>, Vec<u16>)| (keys.len() + values.len()) as u64;
        self.layers.iter().map(entries).sum::<u64>() * size_of::<u16>() as u64
    }

    /// Stores the keys and values of all heads at a position.
    pub fn store(
        &mut self,
        layer: usize,
        blocks: &[BlockId],
        position: usize,
        keys: &[f32],
        values: &[f32],
    ) {
        for head in 0..self.kv_heads {
            let at = self.at(blocks, head, position);
            let (all_keys, all_values) = &mut self.layers[layer];
            for (all, from) in [(all_keys, keys), (all_values, values)] {
                let from = &from[head * self.width..][..self.width];
                for (to, value) in all[at..].iter_mut().zip(from) {
                    *to = f16::from_f32(*value).to_bits();
                }
            }
        }
    }

    /// The key and value of one head at a position.
    pub fn entry(
        &self,
        layer: usize,
        blocks: &[BlockId],
        head: usize,
        position: usize,
    ) -> (&[u16], &[u16]) {
        let at = self.at(blocks, head, position);
        let (keys, values) = &self.layers[layer];
        (&keys[at..at + self.width], &values[at..at + self.width])
    }

    fn at(&self, blocks: &[BlockId], head: usize, position: usize) -> usize {
        let block = blocks[position / self.block_tokens].0 as usize;
        let run = (block * self.kv_heads + head) * self.block_tokens;
        (run + position % self.block_tokens) * self.width
    }
}
