//! What computes: a backend owns the weights and the KV cache and runs one *step* over a ragged batch.
//!
//! A step is the only call: prompt chunks and single decode tokens are the same thing, a run of tokens of one sequence that
//! continues at a position. Scheduler, block tables and sampling live above and are the same for every backend, so the
//! plain CPU backend is the oracle for the others.
//!
//! ```text
//! batch.plan() -> StepBatch -> Backend::step -> logits per slice -> sampler -> batch.complete()
//! ```

use crate::embed::Pooling;
use std::fmt;

/// A KV block: [`Backend::block_tokens`] positions over all layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

/// What of a slice the caller wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// None: a prompt chunk that is not the last.
    None,
    /// Those after the slice's last token.
    Last,
    /// Those after every token: for scoring a text.
    All,
    /// No logits but the last hidden states of every token: for embedding a text.
    Hidden,
}

/// A run of tokens of one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Position of the first token in its sequence, from 0.
    pub start: u32,
    /// The tokens; not empty.
    pub tokens: Vec<u32>,
    /// The sequence's blocks in order, covering at least `start + tokens.len()` positions.
    pub blocks: Vec<BlockId>,
    /// What to compute.
    pub logits: Logits,
}

/// Everything one step computes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepBatch {
    /// One per sequence, in no particular order; the result of a slice does not depend on its neighbours.
    pub slices: Vec<Slice>,
}

/// Logits of one slice: one row of vocabulary size per wanted token, or of hidden states, as wide as the model.
pub type SliceLogits = Vec<Vec<f32>>;

/// A step that could not be computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// A token id outside the vocabulary.
    #[error("token `{token}` is outside the vocabulary of {vocabulary}")]
    Token {
        /// The id.
        token: u32,
        /// The vocabulary's size.
        vocabulary: u32,
    },
    /// A slice needs positions its blocks do not cover.
    #[error("a slice needs {needed} positions, its blocks hold {held}")]
    Blocks {
        /// Positions needed.
        needed: u32,
        /// Positions held.
        held: u32,
    },
    /// A slice names a block that does not exist.
    #[error("block `{block}` does not exist, there are {blocks}")]
    Block {
        /// The block.
        block: u32,
        /// Blocks there are.
        blocks: u32,
    },
    /// An encoder is asked for logits, or for a part of a text.
    #[error("the model is an encoder: it has no logits, and computes whole texts only")]
    Encoder,
    /// A text has more tokens than there are positions.
    #[error("a text has {tokens} tokens, the model holds {context_tokens}")]
    TooLong {
        /// Of the text.
        tokens: usize,
        /// Positions there are.
        context_tokens: u32,
    },
    /// A part of a model was asked for what it cannot give.
    #[error("this part of the model cannot compute the step: {0}")]
    Part(String),
    /// The other shards of the layers are gone; they have to be connected anew.
    #[error("the shards of the model are not together: {0}")]
    Shards(String),
    /// The device failed; the engine cannot be trusted any more.
    #[error("the device failed: {0}; the worker has to restart its engine")]
    Device(String),
}

/// The shards of the same layers, seen from one of them.
pub trait Shards: Send + fmt::Debug {
    /// Brings products of all shards together: `products` becomes their sum, added up in the order of the shards, so that
    /// every shard gets the same bits. An error, in words, when another shard is gone.
    fn sum(&mut self, products: &mut [f32]) -> Result<(), String>;
}

/// What computes a step. Implementations: [`crate::cpu`].
pub trait Backend: Send + fmt::Debug {
    /// Computes one step: writes the slices' keys and values into their blocks and returns the wanted logits, one
    /// entry per slice in order.
    fn step(&mut self, batch: &StepBatch) -> Result<Vec<SliceLogits>, BackendError>;

    /// Starts a step whose results a later [`Backend::step`] with the same batch will ask for; steps are asked for in the
    /// order in which they were started, each at most once. A backend that computes alone does nothing here.
    fn start(&mut self, _batch: &StepBatch) -> Result<(), BackendError> {
        Ok(())
    }

    /// Steps that are worth starting before the first of them is asked for; at least 1.
    fn steps_in_flight(&self) -> usize {
        1
    }

    /// KV blocks there are.
    fn blocks_count(&self) -> u32;

    /// Positions per block.
    fn block_tokens(&self) -> u32;

    /// Tokens in the vocabulary: the length of a row of logits.
    fn vocabulary(&self) -> u32;

    /// Bytes held: weights and KV cache.
    fn resident_bytes(&self) -> u64;

    /// Whether the model is an encoder: then slices are whole texts and want [`Logits::Hidden`].
    fn is_encoder(&self) -> bool {
        false
    }

    /// How hidden states of a text become one vector.
    fn pooling(&self) -> Pooling {
        Pooling::Mean
    }
}

/// What computes a part of a model: one stage of several, or a shard of one.
pub trait StageBackend: Backend {
    /// The first part, or one between others: from the tokens, or from the residuals that the part before gave, to its own
    /// residuals, `[token][width]`, tokens in the order of the slices.
    fn residuals(
        &mut self,
        batch: &StepBatch,
        before: Option<&[f32]>,
    ) -> Result<Vec<f32>, BackendError>;

    /// The last part: from the residuals that the part before gave to what is wanted.
    fn step_from(
        &mut self,
        batch: &StepBatch,
        before: &[f32],
    ) -> Result<Vec<SliceLogits>, BackendError>;

    /// Connects the shards of its layers, where these are split. Until then a step of a shard fails.
    fn join(&mut self, shards: Option<Box<dyn Shards>>);

    /// Width of a residual.
    fn width(&self) -> usize;
}
