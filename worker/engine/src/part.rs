//! A part of a model: some layers, and of each layer a shard. The whole model is a part, too.
//!
//! A shard is a run of key-value heads with the query heads that belong to them, and the same share of the feed-forward
//! part: the first matrices of both halves of a layer are cut by rows, the second by columns, so that only their products,
//! which are sums over the shards, have to be brought together (Shoeybi et al., *Megatron-LM*, 2019).

use crate::architecture::Fused;
use crate::shape::{ModelShape, ShapeError};
use ollamamax_gguf::Gguf;
use std::ops::Range;

/// What of a model is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Layers.
    pub layers: Range<u32>,
    /// Starts from tokens instead of residuals.
    pub embedding: bool,
    /// Ends in logits instead of residuals.
    pub head: bool,
    /// Key-value heads of each layer.
    pub heads: Range<u32>,
}

impl Part {
    /// All of a model.
    pub fn whole(shape: &ModelShape) -> Self {
        Self { layers: 0..shape.layers, embedding: true, head: true, heads: 0..shape.kv_heads }
    }

    /// Whether each layer is split.
    pub fn is_shard(&self, shape: &ModelShape) -> bool {
        self.heads != (0..shape.kv_heads)
    }

    /// The numbers of the part, as if it were a model of its own.
    pub(crate) fn shape(&self, whole: &ModelShape) -> Result<ModelShape, ShapeError> {
        let Self { layers, heads, .. } = self;
        let fits = layers.start < layers.end && layers.end <= whole.layers;
        let heads_fit = heads.start < heads.end && heads.end <= whole.kv_heads;
        let encoder = whole.architecture.encoder && *self != Self::whole(whole);
        if !fits || !heads_fit || encoder {
            return Err(ShapeError::Part {
                part: self.clone(),
                layers: whole.layers,
                kv_heads: whole.kv_heads,
            });
        }
        if !self.is_shard(whole) {
            return Ok(ModelShape { layers: layers.end - layers.start, ..self.placed(whole) });
        }
        let group = whole.heads / whole.kv_heads;
        let inner = self.inner(whole)?;
        Ok(ModelShape {
            layers: layers.end - layers.start,
            heads: (heads.end - heads.start) * group,
            kv_heads: heads.end - heads.start,
            feed_forward: (inner.end - inner.start) as u32,
            ..self.placed(whole)
        })
    }

    fn placed(&self, whole: &ModelShape) -> ModelShape {
        ModelShape { first_layer: self.layers.start, ..whole.clone() }
    }

    /// Rows of queries in the whole model.
    pub(crate) fn queries(&self, whole: &ModelShape) -> Range<usize> {
        let width = (whole.heads / whole.kv_heads * whole.head_width) as usize;
        self.heads.start as usize * width..self.heads.end as usize * width
    }

    /// Rows of keys, and of values.
    pub(crate) fn keys(&self, whole: &ModelShape) -> Range<usize> {
        let width = whole.head_width as usize;
        self.heads.start as usize * width..self.heads.end as usize * width
    }

    /// Rows of gate and up; columns of down.
    pub(crate) fn inner(&self, whole: &ModelShape) -> Result<Range<usize>, ShapeError> {
        let (all, heads) = (u64::from(whole.feed_forward), u64::from(whole.kv_heads));
        let cut = |at: u32| {
            let product = all * u64::from(at);
            product.is_multiple_of(heads).then(|| (product / heads) as usize)
        };
        match (cut(self.heads.start), cut(self.heads.end)) {
            (Some(start), Some(end)) => Ok(start..end),
            _ => Err(ShapeError::Cut {
                what: "the feed-forward part",
                columns: all,
                at: self.heads.clone(),
                unit: heads,
            }),
        }
    }

    /// Where in the file the bytes lie that this part reads, besides the header; in order, each once, not empty.
    pub fn ranges(&self, gguf: &Gguf, whole: &ModelShape) -> Result<Vec<Range<u64>>, ShapeError> {
        let cut = self.is_shard(whole) && whole.architecture.fused == Fused::Nothing;
        let inner = self.inner(whole)?;
        let mut ranges = Vec::new();
        for tensor in gguf.tensors() {
            let all = tensor.start..tensor.start + tensor.bytes;
            let Some((layer, part)) = layer_of(&tensor.name) else {
                let embedding = tensor.name == "token_embd.weight";
                let head = tensor.name.starts_with("output");
                let tied_head = embedding && whole.tied && self.head;
                let wanted = (embedding && self.embedding) || tied_head || (head && self.head);
                if wanted || !(embedding || head) {
                    ranges.push(all);
                }
                continue;
            };
            if !self.layers.contains(&layer) {
                continue;
            }
            let rows = match part {
                "attn_q.weight" if cut => Some(self.queries(whole)),
                "attn_k.weight" | "attn_v.weight" if cut => Some(self.keys(whole)),
                "ffn_gate.weight" | "ffn_up.weight" if cut => Some(inner.clone()),
                _ => None,
            };
            let count = tensor.dims.get(1).copied().unwrap_or(1).max(1);
            ranges.push(match rows {
                None => all,
                Some(rows) => {
                    let row = tensor.bytes / count;
                    all.start + rows.start as u64 * row..all.start + rows.end as u64 * row
                }
            });
        }
        Ok(joined(ranges))
    }
}

/// Sorts, and joins what touches.
fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| range.start < range.end);
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// `blk.7.attn_q.weight` is `attn_q.weight` of layer 7.
fn layer_of(name: &str) -> Option<(u32, &str)> {
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((layer.parse().ok()?, part))
}
