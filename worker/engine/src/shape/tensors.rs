//! The tensors a shape asks for, held against those of the file.

use super::{ModelShape, RopeFactors, ShapeError};
use crate::architecture::{Activation, Architecture, Fused};
use crate::quant;
use ollamamax_gguf::Gguf;
use std::collections::BTreeMap;

/// The numbers that dimensions are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Widths {
    /// Of the residual stream.
    pub width: u64,
    /// Of the feed-forward part.
    pub feed_forward: u64,
    /// Of all query heads.
    pub queries: u64,
    /// Of all key heads.
    pub keys: u64,
    /// Of one head.
    pub head: u64,
}

/// The tensors of a layer with their dimensions, matrices first.
pub(crate) fn layer_tensors(
    family: &Architecture,
    widths: &Widths,
) -> Vec<(&'static str, Vec<u64>)> {
    let Widths { width, feed_forward, queries, keys, head } = *widths;
    let mut parts = match family.fused {
        Fused::Nothing => vec![
            ("attn_q.weight", vec![width, queries]),
            ("attn_k.weight", vec![width, keys]),
            ("attn_v.weight", vec![width, keys]),
        ],
        Fused::Attention | Fused::Both => {
            vec![("attn_qkv.weight", vec![width, queries + 2 * keys])]
        }
    };
    parts.push(("attn_output.weight", vec![queries, width]));
    match (family.fused, family.activation) {
        (Fused::Both, _) => parts.push(("ffn_up.weight", vec![width, 2 * feed_forward])),
        (_, Activation::GeluAlone) => parts.push(("ffn_up.weight", vec![width, feed_forward])),
        _ => {
            parts.push(("ffn_gate.weight", vec![width, feed_forward]));
            parts.push(("ffn_up.weight", vec![width, feed_forward]));
        }
    }
    parts.push(("ffn_down.weight", vec![feed_forward, width]));
    let [attention, feed_forward_norm] = norm_names(family);
    parts.push((attention, vec![width]));
    parts.push((feed_forward_norm, vec![width]));
    if family.encoder {
        parts.push(("attn_output_norm.bias", vec![width]));
        parts.push(("layer_output_norm.bias", vec![width]));
    }
    if family.encoder && family.biases {
        parts.push(("attn_output.bias", vec![width]));
        parts.push(("ffn_up.bias", vec![feed_forward]));
        parts.push(("ffn_down.bias", vec![width]));
    }
    if family.biases {
        parts.push(("attn_q.bias", vec![queries]));
        parts.push(("attn_k.bias", vec![keys]));
        parts.push(("attn_v.bias", vec![keys]));
    }
    if family.head_norms {
        parts.push(("attn_q_norm.weight", vec![head]));
        parts.push(("attn_k_norm.weight", vec![head]));
    }
    if family.post_norms {
        parts.push(("post_attention_norm.weight", vec![width]));
        parts.push(("post_ffw_norm.weight", vec![width]));
    }
    parts
}

/// What the norms of attention and of the feed-forward part are called: those of encoders stand after them.
pub(crate) fn norm_names(family: &Architecture) -> [&'static str; 2] {
    match family.encoder {
        true => ["attn_output_norm.weight", "layer_output_norm.weight"],
        false => ["attn_norm.weight", "ffn_norm.weight"],
    }
}

/// The tensors outside of the layers with their dimensions, apart from the rotation's factors; matrices first.
pub(crate) fn outer_tensors(
    family: &Architecture,
    [width, vocabulary, positions, token_types]: [u64; 4],
    tied: bool,
) -> Vec<(&'static str, Vec<u64>)> {
    let mut all = vec![("token_embd.weight", vec![width, vocabulary])];
    if family.encoder {
        all.push(("token_types.weight", vec![width, token_types]));
        if family.learned_positions {
            all.push(("position_embd.weight", vec![width, positions]));
        }
        all.push(("token_embd_norm.weight", vec![width]));
        all.push(("token_embd_norm.bias", vec![width]));
        return all;
    }
    if !tied {
        all.push(("output.weight", vec![width, vocabulary]));
    }
    all.push(("output_norm.weight", vec![width]));
    all
}

impl ModelShape {
    /// Every tensor of the model with its dimensions, fastest first.
    fn tensors(&self) -> Vec<(String, Vec<u64>)> {
        let width = u64::from(self.width);
        let sizes = [self.width, self.vocabulary, self.context_tokens, self.token_types];
        let outer = outer_tensors(self.architecture, sizes.map(u64::from), self.tied);
        let mut all: Vec<_> =
            outer.into_iter().map(|(name, dims)| (name.to_owned(), dims)).collect();
        let factors: &[_] = match self.rope_factors {
            RopeFactors::None => &[],
            RopeFactors::Fixed => &[super::FIXED_FACTORS],
            RopeFactors::ByContext { .. } => &[super::SHORT_FACTORS, super::LONG_FACTORS],
        };
        let pairs = u64::from(self.rope_width / 2);
        all.extend(factors.iter().map(|&name| (name.to_owned(), vec![pairs])));
        let widths = Widths {
            width,
            feed_forward: self.feed_forward.into(),
            queries: u64::from(self.heads) * u64::from(self.head_width),
            keys: u64::from(self.kv_heads) * u64::from(self.head_width),
            head: self.head_width.into(),
        };
        for layer in 0..self.layers {
            let parts = layer_tensors(self.architecture, &widths).into_iter();
            all.extend(parts.map(|(part, dims)| (format!("blk.{layer}.{part}"), dims)));
        }
        all
    }

    pub(super) fn check_tensors(&self, gguf: &Gguf) -> Result<(), ShapeError> {
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
        let architecture = self.architecture.name;
        match gguf.tensors().iter().find(|tensor| !expected.contains_key(&tensor.name)) {
            Some(tensor) => {
                Err(ShapeError::Unexpected { architecture, tensor: tensor.name.clone() })
            }
            None => Ok(()),
        }
    }
}
