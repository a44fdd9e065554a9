//! The CPU backend: the plain one, and the oracle for the others.
//!
//! ```text
//! step -> pieces of at most PIECE_TOKENS tokens -> model::forward(ops) -> logits of the wanted tokens
//!                                                      ops: multiply (kernels, pool), attention (cache), ...
//! ```

mod cache;
mod kernels;
mod multiply;
pub(crate) mod ops;
mod pool;
pub(crate) mod rows;

pub use kernels::Tier;
pub use multiply::NumericPath;

use crate::backend::{Backend, BackendError, Logits, SliceLogits, StepBatch};
use crate::model::{self, Activations};
use crate::shape::{ModelShape, ShapeError};
use crate::weights::{Mapping, Weights};
use cache::Cache;
use kernels::Kernels;
use multiply::Multiplier;
use ollamamax_gguf::{Gguf, GgufError};
use ollamamax_proto::limits::{CONTEXT_TOKENS, KV_BLOCK_TOKENS};
use ops::{Ops, Place};
use pool::Pool;
use rows::Rows;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Tokens computed at once: bounds the activations held, whatever a step asks for.
const PIECE_TOKENS: usize = 256;

/// How to compute.
#[derive(Clone, Debug)]
pub struct CpuOptions {
    /// Which numbers are multiplied.
    pub path: NumericPath,
    /// Threads in all, the caller included; 0 for one per processor.
    pub threads: usize,
    /// KV blocks to hold.
    pub kv_blocks: u32,
    /// Instruction set; `None` for the best there is.
    pub tier: Option<Tier>,
}

impl Default for CpuOptions {
    /// The fast path on all processors, with room for one default context.
    fn default() -> Self {
        let kv_blocks = CONTEXT_TOKENS.div_ceil(KV_BLOCK_TOKENS as u32);
        Self { path: NumericPath::Quantised, threads: 0, kv_blocks, tier: None }
    }
}

/// A model that could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be opened.
    #[error("model file `{path}` cannot be opened")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no usable GGUF.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The model cannot be run.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// More KV blocks than memory can address.
    #[error(
        "`{blocks}` kv blocks of {block_tokens} tokens are more than memory can hold; ask for fewer"
    )]
    Cache {
        /// Blocks asked for.
        blocks: u32,
        /// Positions per block.
        block_tokens: usize,
    },
    /// An instruction set this machine lacks.
    #[error("this machine lacks the instructions of tier `{tier:?}`; leave the tier open")]
    Tier {
        /// The tier asked for.
        tier: Tier,
    },
}

/// A model on this machine's processors.
#[derive(Debug)]
pub struct CpuBackend {
    shape: ModelShape,
    weights: Weights,
    cache: Cache,
    multiplier: Multiplier,
    activations: Activations,
}

impl CpuBackend {
    /// Loads a model from a file, which must not be changed while loaded (see [`Mapping::open`]).
    pub fn load(path: &Path, options: &CpuOptions) -> Result<Self, LoadError> {
        let mapping = Mapping::open(path)
            .map_err(|source| LoadError::Open { path: path.to_owned(), source })?;
        Self::from_mapping(Arc::new(mapping), options)
    }

    /// Loads a model from a mapping.
    pub fn from_mapping(mapping: Arc<Mapping>, options: &CpuOptions) -> Result<Self, LoadError> {
        let gguf = Gguf::parse(mapping.bytes())?;
        let shape = ModelShape::from_gguf(&gguf)?;
        let weights = Weights::of(&gguf, &shape, &mapping)?;
        let tier = options.tier.unwrap_or_else(Tier::best);
        let kernels = Kernels::of(tier).ok_or(LoadError::Tier { tier })?;
        let (blocks, block_tokens) = (options.kv_blocks, KV_BLOCK_TOKENS);
        let cache = Cache::new(&shape, blocks, block_tokens)
            .ok_or(LoadError::Cache { blocks, block_tokens })?;
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        };
        let multiplier = Multiplier::new(kernels, options.path, Pool::new(threads));
        let activations = Activations::new(&shape);
        Ok(Self { shape, weights, cache, multiplier, activations })
    }

    /// The model's numbers.
    pub fn shape(&self) -> &ModelShape {
        &self.shape
    }

    /// The instruction set in use.
    pub fn tier(&self) -> Tier {
        self.multiplier.kernels.tier
    }

    /// Threads that compute, the caller included.
    pub fn threads(&self) -> usize {
        self.multiplier.pool.threads()
    }

    fn check(&self, batch: &StepBatch) -> Result<(), BackendError> {
        for slice in &batch.slices {
            let vocabulary = self.shape.vocabulary;
            if let Some(&token) = slice.tokens.iter().find(|&&token| token >= vocabulary) {
                return Err(BackendError::Token { token, vocabulary });
            }
            let clamp = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
            let needed = u64::from(slice.start) + slice.tokens.len() as u64;
            let held = slice.blocks.len() as u64 * self.cache.block_tokens() as u64;
            if needed > held {
                return Err(BackendError::Blocks { needed: clamp(needed), held: clamp(held) });
            }
            let blocks = self.cache.blocks();
            if let Some(block) = slice.blocks.iter().find(|block| block.0 >= blocks) {
                return Err(BackendError::Block { block: block.0, blocks });
            }
        }
        Ok(())
    }
}

impl Backend for CpuBackend {
    fn step(&mut self, batch: &StepBatch) -> Result<Vec<SliceLogits>, BackendError> {
        self.check(batch)?;
        let mut results = vec![SliceLogits::new(); batch.slices.len()];
        let mut places = Vec::new();
        // For each token the slice that wants its logits.
        let mut wanted = Vec::new();
        for (index, slice) in batch.slices.iter().enumerate() {
            for (offset, &token) in slice.tokens.iter().enumerate() {
                let position = slice.start as usize + offset;
                places.push(Place { token, position, blocks: &slice.blocks });
                let wants = match slice.logits {
                    Logits::None => false,
                    Logits::Last => offset + 1 == slice.tokens.len(),
                    Logits::All => true,
                };
                wanted.push(wants.then_some(index));
            }
        }
        let Self { shape, weights, cache, multiplier, activations } = self;
        for (places, wanted) in places.chunks(PIECE_TOKENS).zip(wanted.chunks(PIECE_TOKENS)) {
            let mut ops = Ops::new(shape, weights, cache, multiplier, places);
            model::forward(weights, &mut ops, activations);
            let mut gathered = Rows::new(shape.width as usize);
            gathered.resize(wanted.iter().flatten().count());
            let tokens = (0..wanted.len()).filter(|&token| wanted[token].is_some());
            for (row, token) in gathered.rows_mut().zip(tokens) {
                row.copy_from_slice(activations.x.row(token));
            }
            let logits = model::logits(weights, &mut ops, &gathered, &mut activations.normed);
            for (index, logits) in wanted.iter().flatten().zip(logits) {
                results[*index].push(logits);
            }
        }
        if multiplier.pool.failed() {
            let reason = "a computation panicked, see the panic message";
            return Err(BackendError::Device(reason.to_owned()));
        }
        Ok(results)
    }

    fn blocks_count(&self) -> u32 {
        self.cache.blocks()
    }

    fn block_tokens(&self) -> u32 {
        self.cache.block_tokens() as u32
    }

    fn vocabulary(&self) -> u32 {
        self.shape.vocabulary
    }

    fn resident_bytes(&self) -> u64 {
        self.weights.bytes(self.shape.tied) + self.cache.bytes()
    }
}
