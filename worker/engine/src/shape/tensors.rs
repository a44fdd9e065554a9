//! The tensors a shape asks for, held against those of the file.

use super::{ModelShape, RopeFactors, ShapeError};
use crate::architecture::Architecture;
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
        false => vec![
            ("attn_q.weight", vec![width, queries]),
            ("attn_k.weight", vec![width, keys]),
            ("attn_v.weight", vec![width, keys]),
            ("attn_output.weight", vec![queries, width]),
            ("ffn_gate.weight", vec![width, feed_forward]),
            ("ffn_up.weight", vec![width, feed_forward]),
        ],
        true => vec![
            ("attn_qkv.weight", vec![width, queries + 2 * keys]),
            ("attn_output.weight", vec![queries, width]),
            ("ffn_up.weight", vec![width, 2 * feed_forward]),
        ],
    };
    parts.push(("ffn_down.weight", vec![feed_forward, width]));
    parts.push(("attn_norm.weight", vec![width]));
    parts.push(("ffn_norm.weight", vec![width]));
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

impl ModelShape {
    /// Every tensor of the model with its dimensions, fastest first.
    fn tensors(&self) -> Vec<(String, Vec<u64>)> {
        let [width, vocabulary] = [self.width, self.vocabulary].map(u64::from);
        let mut all = vec![
            ("token_embd.weight".to_owned(), vec![width, vocabulary]),
            ("output_norm.weight".to_owned(), vec![width]),
        ];
        if !self.tied {
            all.push(("output.weight".to_owned(), vec![width, vocabulary]));
        }
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
