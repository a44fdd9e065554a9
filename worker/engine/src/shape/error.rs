//! Why a model cannot be run.

use crate::architecture::NAMES;
use crate::part::Part;
use ollamamax_gguf::{GgmlType, GgufError};

/// A model that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ShapeError {
    /// The header itself is wrong or lacks something.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Another architecture.
    #[error(
        "architecture `{found}` is not supported, expected {NAMES}; use a model of one of these"
    )]
    Architecture {
        /// What the file says.
        found: String,
    },
    /// A feature of the architecture that is not there.
    #[error("`{key}` is {found}, which is not supported; expected {expected}")]
    Feature {
        /// The metadata key.
        key: String,
        /// Its value.
        found: String,
        /// What would be accepted.
        expected: &'static str,
    },
    /// A number that makes no sense together with another.
    #[error("`{key}` is {found}: {reason}")]
    Number {
        /// The metadata key.
        key: String,
        /// Its value.
        found: u64,
        /// What it breaks.
        reason: &'static str,
    },
    /// A tensor of other dimensions.
    #[error("tensor `{tensor}` has the dimensions {actual:?}, expected {expected:?}")]
    Dimensions {
        /// The tensor.
        tensor: String,
        /// What the header's numbers ask for, fastest first.
        expected: Vec<u64>,
        /// What the file has.
        actual: Vec<u64>,
    },
    /// A tensor of a type without kernels.
    #[error(
        "tensor `{tensor}` has the type {actual}, which is not supported; convert the model to a supported one, e.g. Q8_0 or Q4_K"
    )]
    Kind {
        /// The tensor.
        tensor: String,
        /// Its type.
        actual: GgmlType,
    },
    /// No part of the model.
    #[error(
        "{part:?} is no part of a model of {layers} layers and {kv_heads} key-value heads; an encoder has only itself"
    )]
    Part {
        /// What was asked for.
        part: Part,
        /// Layers there are.
        layers: u32,
        /// Key-value heads there are.
        kv_heads: u32,
    },
    /// A cut through the middle of what cannot be cut.
    #[error(
        "heads {at:?} cut the {columns} columns of {what} where they cannot be cut: expected multiples of {unit}; use other shards"
    )]
    Cut {
        /// The tensor, or what it is a part of.
        what: &'static str,
        /// Its columns.
        columns: u64,
        /// The key-value heads of the shard.
        at: std::ops::Range<u32>,
        /// What a cut must be a multiple of.
        unit: u64,
    },
    /// A tensor the architecture does not have: computing without it would be wrong.
    #[error(
        "tensor `{tensor}` is not part of a `{architecture}` model; expected only the tensors of one"
    )]
    Unexpected {
        /// The architecture.
        architecture: &'static str,
        /// The tensor.
        tensor: String,
    },
}
