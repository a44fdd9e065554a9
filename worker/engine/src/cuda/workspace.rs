//! Where a pass keeps what it computes, and what is kept of all passes: keys and values.

use super::device::{Address, Device, DeviceError};
use crate::shape::ModelShape;
use ollamamax_proto::limits::KV_BLOCK_TOKENS;

/// Positions of a chunk of attention: `CHUNK` of attention.cu.
pub(super) const CHUNK: usize = 256;

/// Where a pass keeps what it computes; enough for so many tokens.
#[derive(Debug)]
pub(super) struct Workspace {
    tokens: usize,
    pub x: Address,
    pub input: Address,
    pub queries: Address,
    pub keys: Address,
    pub values: Address,
    pub attended: Address,
    pub gate: Address,
    pub up: Address,
    pub delta: Address,
    pub levels: Address,
    pub level_scales: Address,
    pub halves: Address,
    pub halves_scales: Address,
    pub rows: Address,
    pub picked: Address,
    pub logits: Address,
    pub parts: Address,
    /// Tokens whose chunks there is room for.
    pub parts_tokens: usize,
    pub chunks: usize,
    pub places: Address,
    pub table: Address,
    /// Blocks of a sequence at most.
    pub sequence_blocks: usize,
    pub turns: Address,
    pub local_turns: Address,
    bytes: u64,
}

impl Workspace {
    pub fn new(
        device: &mut dyn Device,
        shape: &ModelShape,
        tokens: usize,
        context_tokens: usize,
    ) -> Result<Self, DeviceError> {
        let mut bytes = 0;
        let mut floats = |count: usize| {
            bytes += count as u64 * 4;
            device.allocate(count as u64 * 4)
        };
        let (width, inner) = (shape.width as usize, shape.feed_forward as usize);
        let heads = |heads: u32| heads as usize * shape.head_width as usize;
        let (queries, keys) = (heads(shape.heads), heads(shape.kv_heads));
        let widest = width.max(inner).max(queries).next_multiple_of(64);
        let blocks = context_tokens.div_ceil(KV_BLOCK_TOKENS);
        let chunks = context_tokens.div_ceil(CHUNK);
        // Few tokens leave a device idle when a block computes all chunks of a token.
        let parts_tokens = tokens.min(64);
        let part = shape.heads as usize * chunks * (shape.head_width as usize + 2);
        let pairs = shape.rope_width as usize / 2;
        let logits = if shape.architecture.encoder { 0 } else { shape.vocabulary as usize };
        Ok(Self {
            tokens,
            x: floats(tokens * width)?,
            input: floats(tokens * width)?,
            queries: floats(tokens * queries)?,
            keys: floats(tokens * keys)?,
            values: floats(tokens * keys)?,
            attended: floats(tokens * queries)?,
            gate: floats(tokens * inner)?,
            up: floats(tokens * inner)?,
            delta: floats(tokens * width)?,
            levels: floats(tokens * widest / 2)?,
            level_scales: floats(tokens * widest / 16)?,
            halves: floats(tokens * widest / 2)?,
            halves_scales: floats(tokens)?,
            rows: floats(tokens)?,
            picked: floats(tokens * width)?,
            logits: floats(tokens * logits)?,
            parts: floats(parts_tokens * part)?,
            parts_tokens,
            chunks,
            places: floats(tokens * 3)?,
            table: floats(tokens * blocks)?,
            sequence_blocks: blocks,
            turns: floats(tokens * pairs.max(1) * 2)?,
            local_turns: floats(tokens * pairs.max(1) * 2)?,
            bytes,
        })
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Tokens of a pass at most.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

/// Keys and values on the device: `[layer][block][kv head][position in block][element]`, f16.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cache {
    pub keys: Address,
    pub values: Address,
    /// Bytes of a layer's keys; its values have as many.
    pub layer_bytes: u64,
    pub blocks: u32,
}
