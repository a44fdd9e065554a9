//! The CPU backend, in two numeric paths over one forward pass.
//!
//! ```text
//! step -> pieces -> model::forward(steps) -> logits or hidden states of the wanted tokens
//!                     plain: floats, to be read and believed
//!                     fast:  integers, tiers per instruction set, threads
//! ```

pub mod ceilings;
mod error;
mod fast;
mod math;
mod pages;
mod plain;
mod pool;
mod rows;
mod step;

use crate::backend::{Backend, BackendError, Shards, SliceLogits, StepBatch};
use crate::embed::Pooling;
use crate::part::Part;
use crate::pieces::{Join, Place, Wanted};
use crate::rope;
use crate::shape::ModelShape;
use crate::weights::{Mapping, Weights};
pub use error::LoadError;
use fast::Fast;
use ollamamax_gguf::Gguf;
use ollamamax_proto::limits::{CONTEXT_TOKENS, KV_BLOCK_TOKENS};
use plain::Plain;
use pool::Pool;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// Which numbers are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumericPath {
    /// Floats, as simply as possible: slow, and the oracle.
    Plain,
    /// Weights as the file has them times activations of sixteen bits, in integers.
    Fast,
}

/// An instruction set for the fast path. Which one it is changes no bit of the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Any machine.
    Portable,
    /// AVX2, FMA, F16C.
    Avx2,
    /// AVX-512 F, BW, VL, DQ and VNNI, and what AVX2 needs.
    Avx512,
    /// AMX with bytes, where the system permits it, and what AVX-512 needs.
    Amx,
}

impl Tier {
    /// The best tier of this machine.
    pub fn best() -> Self {
        [Self::Amx, Self::Avx512, Self::Avx2]
            .into_iter()
            .find(|tier| tier.is_available())
            .unwrap_or(Self::Portable)
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        fast::kernels_of(self).is_some()
    }
}

/// What keys and values are kept as. Streams go on alike only between workers that keep the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// Half-precision floats.
    #[default]
    F16,
    /// Bytes, with a scale for sixteen elements each: nine sixteenths of the memory.
    Q8_0,
}

impl KvType {
    /// Bytes that take `f16_bytes` as f16, for heads of at least sixteen elements.
    pub fn bytes(self, f16_bytes: u64) -> u64 {
        match self {
            Self::F16 => f16_bytes,
            Self::Q8_0 => f16_bytes / 2 + f16_bytes.div_ceil(16),
        }
    }
}

/// A name that is none of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no type of KV cache; expected `f16` or `q8_0`")]
pub struct UnknownKvType(String);

impl FromStr for KvType {
    type Err = UnknownKvType;

    fn from_str(name: &str) -> Result<Self, UnknownKvType> {
        match name {
            // Set but empty is Ollama's way to say nothing.
            "f16" | "" => Ok(Self::F16),
            "q8_0" => Ok(Self::Q8_0),
            other => Err(UnknownKvType(other.chars().take(50).collect())),
        }
    }
}

/// How to compute.
#[derive(Clone, Debug)]
pub struct CpuOptions {
    /// Which numbers are multiplied.
    pub path: NumericPath,
    /// Threads in all, the caller included; 0 for one per processor.
    pub threads: usize,
    /// KV blocks to hold.
    pub kv_blocks: u32,
    /// What the fast path keeps keys and values as; the plain path always has f16.
    pub kv_type: KvType,
    /// Tokens a sequence may grow to: some models turn their heads otherwise for long contexts.
    pub context_tokens: u32,
    /// Instruction set of the fast path; `None` for the best there is.
    pub tier: Option<Tier>,
}

impl Default for CpuOptions {
    /// The fast path on all processors, with room for one default context.
    fn default() -> Self {
        let kv_blocks = CONTEXT_TOKENS.div_ceil(KV_BLOCK_TOKENS as u32);
        let (path, context_tokens) = (NumericPath::Fast, CONTEXT_TOKENS);
        let kv_type = KvType::F16;
        Self { path, threads: 0, kv_blocks, kv_type, context_tokens, tier: None }
    }
}

/// What one token has to read and multiply; attention, which depends on the context, comes on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenWork {
    /// Elements of all layers' matrices, each multiplied once for every token.
    pub layer_elements: u64,
    /// Elements of the head, multiplied where logits are wanted.
    pub head_elements: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

impl TokenWork {
    pub(crate) fn of<M>(weights: &Weights<M>, size: impl Fn(&M) -> (u64, u64)) -> Self {
        let (head_elements, _) = weights.head.as_ref().map(&size).unwrap_or_default();
        let all =
            weights.matrices().map(size).fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
        Self { layer_elements: all.0 - head_elements, head_elements, bytes: all.1 }
    }
}

/// A model on this machine's processors.
#[derive(Debug)]
pub struct CpuBackend {
    shape: ModelShape,
    part: Part,
    /// Whether each layer is split.
    sharded: bool,
    model: Model,
    pool: Pool,
    tier: Tier,
    shards: Option<Box<dyn Shards>>,
}

#[derive(Debug)]
enum Model {
    Plain(Box<Plain>),
    Fast(Box<Fast>),
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
        Self::part_from_mapping(mapping, options, None)
    }

    /// Loads a part of a model from a mapping in which only the bytes of [`Part::ranges`] and the header need be there;
    /// `None` for the whole.
    pub fn part_from_mapping(
        mapping: Arc<Mapping>,
        options: &CpuOptions,
        part: Option<Part>,
    ) -> Result<Self, LoadError> {
        // The header, vocabulary and all, is megabytes: it is gone before the weights are repacked.
        let (shape, part, sharded, weights) = {
            let gguf = Gguf::parse(mapping.bytes())?;
            let whole = ModelShape::from_gguf(&gguf)?;
            let part = part.unwrap_or_else(|| Part::whole(&whole));
            let shape = part.shape(&whole)?;
            let weights = Weights::of(&gguf, &whole, &mapping, options.context_tokens, &part)?;
            (shape, part.clone(), part.is_shard(&whole), weights)
        };
        let tier = options.tier.unwrap_or_else(Tier::best);
        let kernels = fast::kernels_of(tier).ok_or(LoadError::Tier { tier })?;
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        };
        let pool = Pool::new(threads);
        let blocks = options.kv_blocks;
        let model = match options.path {
            NumericPath::Plain => {
                let plain = Plain::new(&shape, weights, blocks).ok_or(LoadError::cache(blocks))?;
                Model::Plain(Box::new(plain))
            }
            NumericPath::Fast => {
                // What an encoder keeps for the length of a step is small; nothing is saved by rounding it.
                let kv_type =
                    if shape.architecture.encoder { KvType::F16 } else { options.kv_type };
                let fast = Fast::new(&shape, weights, (blocks, kv_type), kernels, &pool)?;
                Model::Fast(Box::new(fast))
            }
        };
        if matches!(model, Model::Fast(_)) {
            // Header and vocabulary have been read, too.
            mapping.forget(0, mapping.bytes().len());
        }
        Ok(Self { shape, part, sharded, model, pool, tier, shards: None })
    }

    /// The part of the model that it holds.
    pub fn part(&self) -> &Part {
        &self.part
    }

    /// The numbers of the model, or of the part that it holds.
    pub fn shape(&self) -> &ModelShape {
        &self.shape
    }

    /// The instruction set of the fast path.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Threads that compute, the caller included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// What a token costs in matrices.
    pub fn token_work(&self) -> TokenWork {
        match &self.model {
            Model::Plain(plain) => TokenWork::of(&plain.weights, |matrix| {
                (matrix.rows as u64 * matrix.columns as u64, matrix.bytes() as u64)
            }),
            Model::Fast(fast) => {
                TokenWork::of(&fast.weights, |matrix| (matrix.elements(), matrix.bytes()))
            }
        }
    }
}

impl Backend for CpuBackend {
    fn step(&mut self, batch: &StepBatch) -> Result<Vec<SliceLogits>, BackendError> {
        self.run(batch, None, None)
    }

    fn blocks_count(&self) -> u32 {
        match &self.model {
            Model::Plain(plain) => plain.cache.blocks(),
            Model::Fast(fast) => fast.cache.blocks(),
        }
    }

    fn block_tokens(&self) -> u32 {
        KV_BLOCK_TOKENS as u32
    }

    fn vocabulary(&self) -> u32 {
        self.shape.vocabulary
    }

    fn is_encoder(&self) -> bool {
        self.shape.architecture.encoder
    }

    fn pooling(&self) -> Pooling {
        self.shape.pooling
    }

    fn resident_bytes(&self) -> u64 {
        match &self.model {
            Model::Plain(plain) => {
                let head = if self.shape.tied { 0 } else { plain.weights.embedding.bytes() as u64 };
                let matrices = plain.weights.matrices().map(|matrix| matrix.bytes() as u64);
                matrices.sum::<u64>() + head + plain.cache.bytes()
            }
            // The embedding's rows are only looked up; the few that were stay in the file's pages.
            Model::Fast(fast) => {
                fast.weights.matrices().map(|matrix| matrix.bytes()).sum::<u64>()
                    + fast.cache.bytes()
            }
        }
    }
}
