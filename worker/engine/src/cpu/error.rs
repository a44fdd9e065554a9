//! Why a model cannot be loaded.

use super::Tier;
use crate::cuda::device::DeviceError;
use crate::shape::ShapeError;
use ollamamax_gguf::GgufError;
use ollamamax_proto::limits::KV_BLOCK_TOKENS;
use std::path::PathBuf;

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
    /// More bytes than the system gives.
    #[error(
        "the system refuses {bytes} bytes for a matrix; use a smaller model or free some memory"
    )]
    Memory {
        /// Bytes of the matrix.
        bytes: usize,
    },
    /// A head wider than the kernels of a GPU hold, or odd.
    #[error(
        "heads of width {width} cannot be computed on a GPU, only even ones up to {most}; use `--device cpu`"
    )]
    HeadWidth {
        /// The model's.
        width: u32,
        /// The widest there may be.
        most: u32,
    },
    /// The device cannot hold it.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// An instruction set this machine lacks.
    #[error("this machine lacks the instructions of tier `{tier:?}`; leave the tier open")]
    Tier {
        /// The tier asked for.
        tier: Tier,
    },
}

impl LoadError {
    pub(crate) fn cache(blocks: u32) -> Self {
        Self::Cache { blocks, block_tokens: KV_BLOCK_TOKENS }
    }
}
