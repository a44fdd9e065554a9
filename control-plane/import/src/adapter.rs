//! Low-rank adapters (LoRA): for some matrices of a model two thin ones whose product is added.
//!
//! `W' = W + scale * B * A`, computed in `f32` while the model is written, and rounded once to the type it is written in. They come
//! as PEFT saves them, or as llama.cpp's converter does. An adapter that wants more than that (other parts retrained, magnitudes,
//! embeddings), or that is for another shape, is refused: half an adapter is another model.

mod gguf;
mod peft;

use crate::bytes::ReadAt;
use crate::checkpoint::Files;
use crate::error::ImportError;
use crate::family::Order;
use crate::model::Model;
use crate::rows::{Delta, values};
use crate::safetensors::Element;
use ollamamax_proto::limits::ADAPTER_RANK_COUNT;
use std::collections::BTreeMap;
use std::sync::Arc;

/// An adapter whose headers are read.
pub struct Adapter {
    /// By the name of the matrix in a GGUF.
    pairs: BTreeMap<String, Pair>,
    files: Vec<(String, Arc<dyn ReadAt>)>,
    /// Its rows are in the order of checkpoints.
    as_published: bool,
    /// `general.architecture` of the models it is for, where it says so.
    architecture: Option<String>,
}

/// The two matrices that are added to one.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pair {
    a: Place,
    b: Place,
    scale: f32,
}

/// A matrix in a file.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    file: usize,
    start: u64,
    element: Element,
    rows: u64,
    width: u64,
}

fn unfit(reason: impl Into<String>) -> ImportError {
    ImportError::Adapter { reason: reason.into() }
}

impl Adapter {
    /// Reads an adapter: a GGUF by itself, or `adapter_config.json` and `adapter_model.safetensors`.
    pub fn read(files: &Files) -> Result<Self, ImportError> {
        let ends = |end: &str| files.iter().find(|(name, _)| name.ends_with(end));
        match ends(".gguf") {
            Some((name, bytes)) => gguf::read(name, bytes),
            None if files.len() == 1
                && !files.keys().any(|name| name.ends_with(".safetensors")) =>
            {
                // A blob by itself may have any name.
                let (name, bytes) = files.iter().next().ok_or_else(|| unfit("it has no file"))?;
                gguf::read(name, bytes)
            }
            None => peft::read(files),
        }
    }

    /// Puts together what was found of matrices by name: `A` and `B` of each.
    fn of(
        found: BTreeMap<String, [Option<Place>; 2]>,
        scale: impl Fn(u64) -> f32,
    ) -> Result<BTreeMap<String, Pair>, ImportError> {
        if found.is_empty() {
            return Err(unfit("it changes nothing: no tensor of it is one of an adapter"));
        }
        let pair = |(name, [a, b]): (String, [Option<Place>; 2])| {
            let (Some(a), Some(b)) = (a, b) else {
                return Err(unfit(format!("`{name}` has only one of its two matrices")));
            };
            let rank = a.rows;
            if rank != b.width || rank == 0 || rank > ADAPTER_RANK_COUNT {
                let ranks = format!("{rank} and {}", b.width);
                let most = ADAPTER_RANK_COUNT;
                return Err(unfit(format!(
                    "the ranks of `{name}` are {ranks}, expected one from 1 to {most}"
                )));
            }
            let scale = scale(rank);
            if !scale.is_finite() {
                return Err(unfit(format!("`{name}` is scaled by {scale}")));
            }
            Ok((name, Pair { a, b, scale }))
        };
        found.into_iter().map(pair).collect()
    }

    /// Adds it to a model.
    pub fn merge_into(&self, model: &mut Model) -> Result<(), ImportError> {
        let Some(family) = model.family else {
            return Err(unfit("adapters are merged into llama, qwen2 and qwen3 models only"));
        };
        if let Some(other) = self.architecture.as_ref().filter(|other| **other != family.name) {
            return Err(unfit(format!("it is for {other} models, this one is {}", family.name)));
        }
        let (heads, kv_heads) = (model.heads, model.kv_heads);
        for (name, pair) in &self.pairs {
            let missing = || unfit(format!("the model has no `{name}`"));
            let tensor = model.tensors.iter_mut().find(|tensor| tensor.name == *name);
            let tensor = tensor.filter(|tensor| tensor.dims.len() == 2).ok_or_else(missing)?;
            let (width, rows) = (tensor.dims[0], tensor.dims[1]);
            if (pair.a.width, pair.b.rows) != (width, rows) {
                let (theirs, ours) = ([pair.b.rows, pair.a.width], [rows, width]);
                return Err(unfit(format!(
                    "it is for `{name}` of {theirs:?}, the model's is {ours:?}"
                )));
            }
            if tensor.delta.is_some() {
                return Err(unfit(format!(
                    "another adapter changes `{name}` already; create from that model and this adapter"
                )));
            }
            let order = match self.as_published {
                true if heads == 0 || kv_heads == 0 => {
                    return Err(unfit("the model has not the same number of heads in every layer"));
                }
                true => family.order(name, heads, kv_heads),
                false => Order::AsTheyLie,
            };
            tensor.delta = Some(Delta {
                a: self.matrix(name, pair.a)?,
                b: self.matrix(name, pair.b)?,
                rank: pair.a.rows as usize,
                scale: pair.scale,
                order,
            });
        }
        Ok(())
    }

    fn matrix(&self, name: &str, place: Place) -> Result<Vec<f32>, ImportError> {
        let mut out = Vec::new();
        let count = (place.rows * place.width) as usize;
        values(name, &self.files[place.file], place.start, count, place.element, &mut out)?;
        Ok(out)
    }
}
