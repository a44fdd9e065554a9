//! The model of the simulated workers: its next token is a hash of its bytes and of all tokens before, read through the KV
//! blocks. A wrong block table, a block that two sequences write to, a stale prefix, a token that is lost or repeated on the
//! way to another worker: each changes what comes out, and a client that knows the hash notices at the next token.

use crate::coin::mix;
use ollamamax_engine::backend::{
    Backend, BackendError, BlockId, Logits, Slice, SliceLogits, StepBatch,
};
use ollamamax_engine::engine::{EngineLimits, Prepared, TextModel};
use ollamamax_engine::vocabulary::{TokenKind, Vocabulary};
use ollamamax_proto::Digest;
use ollamamax_proto::inference::{Options, Predict};
use std::sync::Arc;

/// Positions per block.
pub const BLOCK_TOKENS: u32 = 4;
/// Tokens a sequence may hold.
pub const CONTEXT_TOKENS: u32 = 64;
/// Tokens there are; the last one ends a generation.
pub const VOCABULARY: u32 = 16;
const END: u32 = VOCABULARY - 1;
/// A token ends its text with one chance in so many.
const END_CHANCE: u64 = 24;

/// What stands in the cache for a prefix, and alone decides what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix(u64);

impl Prefix {
    /// Before the first token of a model of these bytes.
    pub fn of(blob: Digest) -> Self {
        let bytes = blob.0.first_chunk::<8>().copied().unwrap_or_default();
        Self(mix(u64::from_le_bytes(bytes)))
    }

    /// One token later.
    pub fn and(self, token: u32) -> Self {
        Self(mix(self.0 ^ u64::from(token)))
    }

    /// The token that follows.
    pub fn next(self) -> u32 {
        let hash = mix(self.0 ^ 0x70_6561_6365);
        if hash.is_multiple_of(END_CHANCE) { END } else { (hash >> 32) as u32 % END }
    }
}

/// Whether a token ends a generation.
pub fn is_end(token: u32) -> bool {
    token == END
}

/// The texts of all simulated models.
///
/// # Errors
/// In words, if the vocabulary written here were not one.
pub fn text() -> Result<Arc<TextModel>, String> {
    let spelling = |id: u32| char::from(b'a' + id as u8).to_string();
    let mut kinds = vec![TokenKind::Normal; VOCABULARY as usize];
    kinds[END as usize] = TokenKind::Control;
    let vocabulary = Vocabulary {
        model: "gpt2".into(),
        pre: "gpt-2".into(),
        tokens: (0..END).map(spelling).chain(["<|im_end|>".to_owned()]).collect(),
        kinds,
        eos: Some(END),
        ..Vocabulary::default()
    };
    TextModel::new(vocabulary, None).map(Arc::new).map_err(|error| error.to_string())
}

/// A request as an engine takes it.
pub fn prepared(prompt: &[u32], caller: &str, predict: u32) -> Prepared {
    let mut options =
        Options { predict: Predict::AtMost(predict), shift: false, ..Options::default() };
    options.sampling.temperature = 0.0;
    let (constraint, marks, salt, output) = Default::default();
    let (tokens, caller) = (prompt.to_vec(), caller.to_owned());
    let context_tokens = CONTEXT_TOKENS;
    Prepared { tokens, options, context_tokens, caller, constraint, marks, salt, output }
}

/// What bounds an engine that runs so many sequences.
pub fn limits(sequences_max: u32) -> EngineLimits {
    EngineLimits {
        context_tokens: CONTEXT_TOKENS,
        sequences_max,
        step_tokens: 32,
        waiting_max: 8,
        speculating_max: 0,
    }
}

/// What a position of a block holds.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    before: u64,
    here: u64,
}

/// Computes hashes; holds a cache as real as any.
#[derive(Debug)]
pub struct HashBackend {
    root: Prefix,
    slots: Vec<Slot>,
}

impl HashBackend {
    /// For a model of these bytes, with so many blocks.
    pub fn new(blob: Digest, blocks: u32) -> Self {
        let slots = vec![Slot::default(); (blocks * BLOCK_TOKENS) as usize];
        Self { root: Prefix::of(blob), slots }
    }

    fn slot(blocks: &[BlockId], position: usize) -> usize {
        let block = blocks[position / BLOCK_TOKENS as usize].0;
        block as usize * BLOCK_TOKENS as usize + position % BLOCK_TOKENS as usize
    }

    /// The prefix up to a position of a slice, exclusive.
    fn before(&self, slice: &Slice, position: usize) -> Prefix {
        let last = position.checked_sub(1).map(|last| Self::slot(&slice.blocks, last));
        last.map_or(self.root, |last| Prefix(self.slots[last].here))
    }

    /// Whether the blocks of a slice hold one chain up to where it begins.
    fn is_chain(&self, slice: &Slice) -> bool {
        let mut before = self.root.0;
        (0..slice.start as usize).all(|position| {
            let slot = self.slots[Self::slot(&slice.blocks, position)];
            std::mem::replace(&mut before, slot.here) == slot.before
        })
    }
}

impl Backend for HashBackend {
    fn step(&mut self, batch: &StepBatch) -> Result<Vec<SliceLogits>, BackendError> {
        let mut all = Vec::with_capacity(batch.slices.len());
        for slice in &batch.slices {
            if !self.is_chain(slice) {
                return Err(BackendError::Device("blocks hold no chain".to_owned()));
            }
            let mut rows = SliceLogits::new();
            for (offset, &token) in slice.tokens.iter().enumerate() {
                let position = slice.start as usize + offset;
                let before = self.before(slice, position);
                let here = before.and(token);
                self.slots[Self::slot(&slice.blocks, position)] =
                    Slot { before: before.0, here: here.0 };
                let wanted = match slice.logits {
                    Logits::None => false,
                    Logits::Last => offset + 1 == slice.tokens.len(),
                    Logits::All | Logits::Hidden => true,
                };
                if wanted {
                    let mut row = vec![0.0; VOCABULARY as usize];
                    row[here.next() as usize] = 9.0;
                    rows.push(row);
                }
            }
            all.push(rows);
        }
        Ok(all)
    }

    fn blocks_count(&self) -> u32 {
        self.slots.len() as u32 / BLOCK_TOKENS
    }

    fn block_tokens(&self) -> u32 {
        BLOCK_TOKENS
    }

    fn vocabulary(&self) -> u32 {
        VOCABULARY
    }

    fn resident_bytes(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollamamax_engine::engine::Engine;

    #[test]
    fn an_engine_says_what_the_prefix_says_wherever_it_goes_on() {
        let blob = Digest::of(b"m");
        for resumed in [0, 3] {
            let prompt = [1, 2, 3, 4, 5];
            let mut prefix = prompt.iter().fold(Prefix::of(blob), |prefix, &t| prefix.and(t));
            let resume: Vec<u32> = (0..resumed)
                .map(|_| {
                    let token = prefix.next();
                    prefix = prefix.and(token);
                    token
                })
                .collect();
            let backend = Box::new(HashBackend::new(blob, 20));
            let mut engine = Engine::new(backend, text().expect("a vocabulary"), limits(2));
            engine.submit(prepared(&prompt, "u", 20), &resume).expect("taken");
            let mut count = 0;
            while !engine.is_idle() {
                for token in engine.step().expect("sound").into_iter().flat_map(|e| e.tokens) {
                    assert_eq!(token, prefix.next());
                    prefix = prefix.and(token);
                    count += 1;
                }
            }
            assert!(count > 2, "it said nothing");
        }
    }
}
