//! A model on its way to a GGUF: what it will tell of itself, and for each tensor where its rows lie and what becomes of them.

use crate::bytes::{FromStart, ReadAt};
use crate::checkpoint::Checkpoint;
use crate::error::{ImportError, Quote};
use crate::family::{self, Family, Order};
use crate::mix::{Build, Quantisation};
use crate::rows::Delta;
use crate::safetensors::Element;
use ollamamax_gguf::{GgmlType, Gguf, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A model that can be written.
pub struct Model {
    pub(crate) metadata: Vec<(String, Value)>,
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) files: Vec<(String, Arc<dyn ReadAt>)>,
    /// Where it is one that is known.
    pub(crate) family: Option<&'static Family>,
    pub(crate) build: Build,
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
}

/// A tensor that will be written.
pub(crate) struct Tensor {
    pub name: String,
    /// Its dimensions, fastest first.
    pub dims: Vec<u64>,
    /// Where its values come from.
    pub source: Source,
    /// In which order its rows are taken from there.
    pub order: Order,
    /// Its type where nothing else is asked for.
    pub kept: GgmlType,
    /// What an adapter adds to it.
    pub delta: Option<Delta>,
}

/// Where values come from.
#[derive(Clone)]
pub(crate) enum Source {
    /// From a file.
    File { file: usize, start: u64, element: Element },
    /// They were computed.
    Values(Vec<f32>),
}

impl Tensor {
    /// Rows it has.
    pub fn rows(&self) -> u64 {
        self.dims[1..].iter().product()
    }
}

impl Model {
    /// The model of a checkpoint. Where nothing else is asked for, matrices stay in sixteen bits as they are, and those of 32 become
    /// F16; vectors are always F32.
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Result<Self, ImportError> {
        let Checkpoint { config, weights, .. } = checkpoint;
        let (name, layers) = (config.family.name, config.layers);
        // A claim is believed only as far as tensors back it.
        if u64::from(layers) > weights.tensors.len() as u64 {
            let tensor = Quote::of(format!("model.layers.{}.self_attn.q_proj.weight", layers - 1));
            return Err(ImportError::MissingTensor { tensor, family: name, layers });
        }
        let mut left = weights.tensors.clone();
        left.retain(|theirs, _| !family::is_computed(theirs));
        if config.tied {
            left.remove("lm_head.weight");
        }
        let mut tensors = Vec::new();
        for wanted in family::wanted(config) {
            let missing = || {
                let tensor = Quote::of(&wanted.theirs);
                ImportError::MissingTensor { tensor, family: name, layers }
            };
            let (file, stored) = left.remove(&wanted.theirs).ok_or_else(missing)?;
            let tensor = || Quote::of(&wanted.theirs);
            if stored.shape != wanted.shape {
                let (found, expected) = (stored.shape, wanted.shape);
                return Err(ImportError::Shape { tensor: tensor(), found, expected });
            }
            let other =
                || ImportError::Element { tensor: tensor(), found: Quote::of(&stored.dtype) };
            let element = stored.element().ok_or_else(other)?;
            let kept = match (wanted.shape.len(), element) {
                (1, _) => GgmlType::F32,
                (_, Element::BF16) => GgmlType::BF16,
                (_, Element::F16 | Element::F32) => GgmlType::F16,
            };
            tensors.push(Tensor {
                name: wanted.ours,
                dims: wanted.shape.into_iter().rev().collect(),
                source: Source::File { file, start: stored.start, element },
                order: wanted.order,
                kept,
                delta: None,
            });
        }
        if let Some(theirs) = left.keys().next() {
            return Err(ImportError::Unplaced { tensor: Quote::of(theirs), family: name });
        }
        if let Some(factors) = config.rope.factors(config.head_width) {
            tensors.push(Tensor {
                name: "rope_freqs.weight".to_owned(),
                dims: vec![factors.len() as u64],
                source: Source::Values(factors),
                order: Order::AsTheyLie,
                kept: GgmlType::F32,
                delta: None,
            });
        }
        let mut metadata = config.entries();
        metadata.extend(checkpoint.vocabulary()?);
        let grouped = config.kv_heads < config.heads;
        Ok(Self {
            metadata,
            tensors,
            files: weights.files.clone(),
            family: Some(config.family),
            build: Build { layers, tied: config.tied, grouped },
            heads: config.heads,
            kv_heads: config.kv_heads,
        })
    }

    /// The model of a GGUF whose weights are floats still.
    pub fn of_gguf(name: &str, bytes: Arc<dyn ReadAt>) -> Result<Self, ImportError> {
        let gguf = Gguf::read(FromStart::of(bytes.as_ref()), bytes.bytes())?;
        let architecture = gguf.get_str("general.architecture")?.to_owned();
        let number = |key: &str| gguf.optional(&format!("{architecture}.{key}"), Gguf::get_u32);
        // Heads may be a list, one for each layer: then they decide nothing here.
        let heads = number("attention.head_count").unwrap_or(None).unwrap_or(0);
        let kv_heads = number("attention.head_count_kv").unwrap_or(None).unwrap_or(heads);
        let mut tensors = Vec::new();
        for tensor in gguf.tensors() {
            let quantised = || ImportError::Quantised {
                tensor: Quote::of(&tensor.name),
                found: tensor.kind.name(),
            };
            let element = element(tensor.kind).ok_or_else(quantised)?;
            tensors.push(Tensor {
                name: tensor.name.clone(),
                dims: tensor.dims.clone(),
                source: Source::File { file: 0, start: tensor.start, element },
                order: Order::AsTheyLie,
                kept: tensor.kind,
                delta: None,
            });
        }
        const OURS: [&str; 2] = ["general.file_type", "general.quantization_version"];
        let entries = gguf.entries().iter().filter(|entry| !OURS.contains(&entry.key.as_str()));
        let layers = number("block_count")?.unwrap_or(0);
        let tied = gguf.find_tensor("output.weight").is_none();
        Ok(Self {
            metadata: entries.map(|entry| (entry.key.clone(), entry.value.clone())).collect(),
            tensors,
            files: vec![(name.to_owned(), bytes)],
            family: Family::of_name(&architecture),
            build: Build { layers, tied, grouped: kv_heads < heads },
            heads,
            kv_heads,
        })
    }

    /// What most of its weights are where nothing else is asked for, e.g. `F16`.
    pub fn kept(&self) -> Quantisation {
        let mut counts: BTreeMap<GgmlType, u64> = BTreeMap::new();
        for tensor in self.tensors.iter().filter(|tensor| tensor.dims.len() > 1) {
            *counts.entry(tensor.kept).or_default() += tensor.dims[0] * tensor.rows();
        }
        let most = counts.into_iter().max_by_key(|(_, elements)| *elements);
        most.and_then(|(kind, _)| Quantisation::of_floats(kind)).unwrap_or(Quantisation::F16)
    }

    /// The type of a tensor.
    pub(crate) fn kind(&self, tensor: &Tensor, quantisation: Option<Quantisation>) -> GgmlType {
        let asked = quantisation.and_then(|q| q.kind(&tensor.name, &tensor.dims, self.build));
        asked.unwrap_or(tensor.kept)
    }
}

fn element(kind: GgmlType) -> Option<Element> {
    match kind {
        GgmlType::F32 => Some(Element::F32),
        GgmlType::F16 => Some(Element::F16),
        GgmlType::BF16 => Some(Element::BF16),
        _ => None,
    }
}
