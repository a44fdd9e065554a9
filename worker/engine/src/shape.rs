//! What a model looks like: the numbers of its architecture, read from the header and held against its tensors.
//!
//! After [`ModelShape::from_gguf`] has accepted a file, every tensor that the forward pass touches is there, has the
//! right dimensions and a type that can be computed with; nothing later has to doubt it.

use crate::quant;
use ollamamax_gguf::{GgmlType, Gguf, GgufError};
use std::collections::BTreeMap;

/// The one architecture there is so far.
const LLAMA: &str = "llama";

/// The numbers of a llama model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelShape {
    /// Transformer layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub width: u32,
    /// Width of the feed-forward part.
    pub feed_forward: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; divides `heads`.
    pub kv_heads: u32,
    /// Width of one head.
    pub head_width: u32,
    /// Elements of a head that are rotated by position; even.
    pub rope_width: u32,
    /// Base of the rotation's frequencies.
    pub rope_base: f32,
    /// Positions are multiplied by this before rotating: 1, or less with linear scaling.
    pub rope_scale: f32,
    /// Added to the mean square before its root.
    pub norm_epsilon: f32,
    /// Tokens in the vocabulary.
    pub vocabulary: u32,
    /// Tokens the model was trained to hold.
    pub context_tokens: u32,
    /// Whether the output head is the token embedding.
    pub tied: bool,
    /// Whether per-frequency rope factors are given.
    pub rope_factors: bool,
}

/// A model that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ShapeError {
    /// The header itself is wrong or lacks something.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Another architecture.
    #[error("architecture `{found}` is not supported, expected `llama`; use a llama-type model")]
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
        key: &'static str,
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
    /// A tensor the architecture does not have: computing without it would be wrong.
    #[error("tensor `{tensor}` is not part of a llama model; expected only the tensors of one")]
    Unexpected {
        /// The tensor.
        tensor: String,
    },
}

impl ModelShape {
    /// Reads and checks the shape.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, ShapeError> {
        let found = gguf.get_str("general.architecture")?;
        if found != LLAMA {
            return Err(ShapeError::Architecture { found: found.to_owned() });
        }
        let shape = Self::read(gguf)?;
        shape.check_numbers(gguf)?;
        shape.check_tensors(gguf)?;
        Ok(shape)
    }

    fn read(gguf: &Gguf) -> Result<Self, ShapeError> {
        let number = |key| gguf.get_u32(key);
        let heads = number("llama.attention.head_count")?;
        let width = number("llama.embedding_length")?;
        let optional = |key| gguf.optional(key, Gguf::get_u32);
        let by_heads = width.checked_div(heads).unwrap_or_default();
        let head_width = optional("llama.attention.key_length")?.unwrap_or(by_heads);
        let embedding = gguf.tensor("token_embd.weight")?;
        Ok(Self {
            layers: number("llama.block_count")?,
            width,
            feed_forward: number("llama.feed_forward_length")?,
            heads,
            kv_heads: optional("llama.attention.head_count_kv")?.unwrap_or(heads),
            head_width,
            rope_width: optional("llama.rope.dimension_count")?.unwrap_or(head_width),
            rope_base: gguf.optional("llama.rope.freq_base", Gguf::get_f32)?.unwrap_or(10_000.0),
            rope_scale: rope_scale(gguf)?,
            norm_epsilon: gguf.get_f32("llama.attention.layer_norm_rms_epsilon")?,
            vocabulary: u32::try_from(embedding.dims.get(1).copied().unwrap_or_default())
                .unwrap_or_default(),
            context_tokens: number("llama.context_length")?,
            tied: gguf.find_tensor("output.weight").is_none(),
            rope_factors: gguf.find_tensor("rope_freqs.weight").is_some(),
        })
    }

    fn check_numbers(&self, gguf: &Gguf) -> Result<(), ShapeError> {
        let positive = [
            ("llama.block_count", self.layers),
            ("llama.embedding_length", self.width),
            ("llama.feed_forward_length", self.feed_forward),
            ("llama.attention.head_count", self.heads),
            ("llama.attention.head_count_kv", self.kv_heads),
            ("llama.attention.key_length", self.head_width),
            ("llama.context_length", self.context_tokens),
        ];
        let fail = |key, found: u64, reason| Err(ShapeError::Number { key, found, reason });
        for (key, found) in positive {
            if found == 0 {
                return fail(key, 0, "it must be positive");
            }
        }
        if u64::from(self.layers) > gguf.tensors().len() as u64 {
            let reason = "the file has fewer tensors than layers";
            return fail("llama.block_count", self.layers.into(), reason);
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let reason = "it must divide the number of query heads";
            return fail("llama.attention.head_count_kv", self.kv_heads.into(), reason);
        }
        if self.rope_width > self.head_width || !self.rope_width.is_multiple_of(2) {
            let reason = "it must be even and no wider than a head";
            return fail("llama.rope.dimension_count", self.rope_width.into(), reason);
        }
        if !(self.rope_base.is_finite() && self.rope_base > 0.0) {
            return unsupported("llama.rope.freq_base", self.rope_base, "a positive number");
        }
        if !(self.norm_epsilon.is_finite() && self.norm_epsilon >= 0.0) {
            let key = "llama.attention.layer_norm_rms_epsilon";
            return unsupported(key, self.norm_epsilon, "a small positive number");
        }
        let expected = [
            ("llama.attention.value_length", self.head_width, "the same as key_length"),
            ("llama.expert_count", 0, "0: no mixture of experts"),
            ("llama.attention.sliding_window", 0, "0: no sliding window"),
        ];
        for (key, value, expected) in expected {
            match gguf.optional(key, Gguf::get_u32)? {
                Some(found) if found != value => return unsupported(key, found, expected),
                _ => {}
            }
        }
        Ok(())
    }

    /// Every tensor of the model with its dimensions, fastest first.
    fn tensors(&self) -> Vec<(String, Vec<u64>)> {
        let [width, feed_forward] = [self.width, self.feed_forward].map(u64::from);
        let head_width = u64::from(self.head_width);
        let [q, kv] = [self.heads, self.kv_heads].map(|heads| u64::from(heads) * head_width);
        let vocabulary = u64::from(self.vocabulary);
        let mut all = vec![
            ("token_embd.weight".to_owned(), vec![width, vocabulary]),
            ("output_norm.weight".to_owned(), vec![width]),
        ];
        if !self.tied {
            all.push(("output.weight".to_owned(), vec![width, vocabulary]));
        }
        if self.rope_factors {
            all.push(("rope_freqs.weight".to_owned(), vec![u64::from(self.rope_width / 2)]));
        }
        for layer in 0..self.layers {
            let parts: [(&str, Vec<u64>); 9] = [
                ("attn_norm", vec![width]),
                ("attn_q", vec![width, q]),
                ("attn_k", vec![width, kv]),
                ("attn_v", vec![width, kv]),
                ("attn_output", vec![q, width]),
                ("ffn_norm", vec![width]),
                ("ffn_gate", vec![width, feed_forward]),
                ("ffn_up", vec![width, feed_forward]),
                ("ffn_down", vec![feed_forward, width]),
            ];
            let name = |part| format!("blk.{layer}.{part}.weight");
            all.extend(parts.into_iter().map(|(part, dims)| (name(part), dims)));
        }
        all
    }

    fn check_tensors(&self, gguf: &Gguf) -> Result<(), ShapeError> {
        let expected: BTreeMap<_, _> = self.tensors().into_iter().collect();
        for (name, dims) in &expected {
            let tensor = gguf.tensor(name)?;
            if tensor.dims != *dims {
                let (expected, actual) = (dims.clone(), tensor.dims.clone());
                return Err(ShapeError::Dimensions { tensor: name.clone(), expected, actual });
            }
            if !quant::is_supported(tensor.kind) {
                return Err(ShapeError::Kind { tensor: name.clone(), actual: tensor.kind });
            }
        }
        match gguf.tensors().iter().find(|tensor| !expected.contains_key(&tensor.name)) {
            Some(tensor) => Err(ShapeError::Unexpected { tensor: tensor.name.clone() }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
impl ModelShape {
    /// Something small, for tests of what depends on heads only.
    pub(crate) fn for_tests(kv_heads: u32, head_width: u32) -> Self {
        Self {
            layers: 2,
            width: 64,
            feed_forward: 64,
            heads: 2 * kv_heads,
            kv_heads,
            head_width,
            rope_width: head_width,
            rope_base: 10_000.0,
            rope_scale: 1.0,
            norm_epsilon: 1e-5,
            vocabulary: 96,
            context_tokens: 2048,
            tied: true,
            rope_factors: false,
        }
    }
}

fn unsupported<T>(
    key: &str,
    found: impl ToString,
    expected: &'static str,
) -> Result<T, ShapeError> {
    Err(ShapeError::Feature { key: key.to_owned(), found: found.to_string(), expected })
}

fn rope_scale(gguf: &Gguf) -> Result<f32, ShapeError> {
    let key = "llama.rope.scaling.type";
    match gguf.optional(key, Gguf::get_str)? {
        None | Some("none") => Ok(1.0),
        Some("linear") => {
            let key = "llama.rope.scaling.factor";
            let factor = gguf.get_f32(key)?;
            if !(factor.is_finite() && factor > 0.0) {
                return unsupported(key, factor, "a positive number");
            }
            Ok(1.0 / factor)
        }
        Some(found) => unsupported(key, found, "`none` or `linear`"),
    }
}
