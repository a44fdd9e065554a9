//! The weights of a model where they lie in the file, and the table of all of them, whatever form a matrix has taken.

use crate::architecture::{Activation, Fused};
use crate::part::Part;
use crate::quant;
use crate::shape::{ModelShape, ShapeError, norm_names};
use ollamamax_gguf::{GgmlType, Gguf};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The bytes of a model file.
pub struct Mapping(Bytes);

enum Bytes {
    File(memmap2::Mmap),
    Memory(Vec<u8>),
}

impl Mapping {
    /// Maps a file. It must not be changed or truncated while mapped: blobs are content-addressed and written once, and
    /// replaced only by renaming, which leaves the mapped file alone.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is read-only and private, and by the rule above nobody writes to the file while it lives; a
        // writer who breaks the rule ends the process with SIGBUS or changes weights, which are only ever numbers.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Self(Bytes::File(map)))
    }

    /// A model held in memory.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        Self(Bytes::Memory(bytes))
    }

    /// See [`Matrix::forget`].
    pub fn forget(&self, start: usize, len: usize) {
        /// When one page is touched the system maps those around it, too, up to this far back.
        const AROUND_BYTES: usize = 64 * 1024;
        if let Bytes::File(map) = &self.0 {
            let (first, end) = (start.saturating_sub(AROUND_BYTES), start + len);
            let (start, len) = (first, end - first);
            // SAFETY: the map is of a file and read-only, so its pages can always be had again with the same contents.
            let forgotten = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len)
            };
            // Only memory use depends on it.
            let _ = forgotten;
        }
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::File(map) => map,
            Bytes::Memory(bytes) => bytes,
        }
    }
}

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mapping({} bytes)", self.bytes().len())
    }
}

/// A matrix in the file: `rows` outputs of `columns` inputs each.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    pub kind: GgmlType,
    pub rows: usize,
    pub columns: usize,
    mapping: Arc<Mapping>,
    start: usize,
    row_bytes: usize,
    /// From one row to the next; more than a row where only some columns are meant.
    stride: usize,
}

impl Matrix {
    fn of(gguf: &Gguf, mapping: &Arc<Mapping>, name: &str) -> Result<Self, ShapeError> {
        let tensor = gguf.tensor(name)?;
        // The parser has checked that the tensor lies inside the file, hence that all of this fits.
        let rows = tensor.dims.get(1).copied().unwrap_or(1) as usize;
        Ok(Self {
            kind: tensor.kind,
            rows,
            columns: tensor.dims[0] as usize,
            mapping: Arc::clone(mapping),
            start: tensor.start as usize,
            row_bytes: tensor.bytes as usize / rows,
            stride: tensor.bytes as usize / rows,
        })
    }

    /// The packed bytes of a row.
    pub fn row(&self, row: usize) -> &[u8] {
        let start = self.start + row * self.stride;
        &self.mapping.bytes()[start..start + self.row_bytes]
    }

    /// The packed bytes of all rows.
    pub fn bytes(&self) -> usize {
        self.rows * self.row_bytes
    }

    /// Tells the system that the bytes of some rows will not be needed soon: they need not stay in memory. Reading them
    /// again is slower, not wrong.
    pub fn forget(&self, rows: std::ops::Range<usize>) {
        let start = self.start + rows.start * self.stride;
        self.mapping.forget(start, rows.len() * self.stride);
    }

    /// The same for the whole file.
    pub fn forget_file(&self) {
        self.mapping.forget(0, self.mapping.bytes().len());
    }

    /// Some of the rows, as a matrix of their own.
    fn rows(&self, rows: std::ops::Range<usize>) -> Self {
        Self { rows: rows.len(), start: self.start + rows.start * self.stride, ..self.clone() }
    }

    /// Some of the columns; only whole blocks can be had. `at` are the heads they belong to, for messages.
    fn columns(
        &self,
        what: &'static str,
        columns: std::ops::Range<usize>,
        at: &std::ops::Range<u32>,
    ) -> Result<Self, ShapeError> {
        let unit = self.kind.block_elements();
        let bytes = |columns: usize| self.kind.row_bytes(columns as u64);
        match (bytes(columns.start), bytes(columns.end)) {
            (Some(before), Some(end)) => Ok(Self {
                columns: columns.len(),
                start: self.start + before as usize,
                row_bytes: (end - before) as usize,
                ..self.clone()
            }),
            _ => {
                let (columns, at) = (self.columns as u64, at.clone());
                Err(ShapeError::Cut { what, columns, at, unit })
            }
        }
    }

    fn vector(gguf: &Gguf, mapping: &Arc<Mapping>, name: &str) -> Result<Vec<f32>, ShapeError> {
        let matrix = Self::of(gguf, mapping, name)?;
        Ok(quant::unpack(matrix.kind, matrix.row(0)))
    }
}

/// One transformer layer.
#[derive(Debug)]
pub(crate) struct Layer<M> {
    pub attention_norm: Vec<f32>,
    pub query: M,
    pub key: M,
    pub value: M,
    pub output: M,
    pub feed_forward_norm: Vec<f32>,
    /// Where the feed-forward part has one.
    pub gate: Option<M>,
    pub up: M,
    pub down: M,
    pub extras: Extras,
}

/// What layers of some architectures have besides.
#[derive(Debug)]
pub(crate) struct Extras {
    /// Added to queries, keys and values.
    pub biases: Option<[Vec<f32>; 3]>,
    /// Norms of every head of queries and of keys.
    pub head_norms: Option<[Vec<f32>; 2]>,
    /// Norm of what attention gave.
    pub attention_post_norm: Option<Vec<f32>>,
    /// Norm of what the feed-forward part gave.
    pub feed_forward_post_norm: Option<Vec<f32>>,
    /// Bias of the attention's norm in an encoder; empty elsewhere.
    pub attention_norm_bias: Vec<f32>,
    /// Bias of the feed-forward part's norm in an encoder; empty elsewhere.
    pub feed_forward_norm_bias: Vec<f32>,
    /// Added to the products of matrices, where an encoder has it.
    pub output_bias: Option<Vec<f32>>,
    pub up_bias: Option<Vec<f32>>,
    pub down_bias: Option<Vec<f32>>,
}

/// What an encoder has before its layers.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Added to every token: the type that all texts here have.
    pub token_type: Vec<f32>,
    /// Added by position; `None` where heads are rotated.
    pub positions: Option<Matrix>,
    /// Of the norm of all of it.
    pub norm_weight: Vec<f32>,
    pub norm_bias: Vec<f32>,
}

/// All weights of a model; `M` is how a numeric path holds a matrix.
#[derive(Debug)]
pub(crate) struct Weights<M> {
    /// Rows are only looked up, so it stays in the file.
    pub embedding: Matrix,
    /// In an encoder only.
    pub entry: Option<Entry>,
    pub layers: Vec<Layer<M>>,
    /// Norm before the head; empty in an encoder, whose layers end with one, and in a part without head.
    pub norm: Vec<f32>,
    /// The output head; the embedding itself when tied. An encoder has none, and not every part of a model has.
    pub head: Option<M>,
    /// Divisors of the rotation's frequencies.
    pub rope_factors: Option<Vec<f32>>,
}

impl Weights<Matrix> {
    /// Finds the tensors of a part of the model whose shape was read from the same file, for sequences of up to
    /// `context_tokens`. Of tensors that are no part of it, nothing is read.
    pub fn of(
        gguf: &Gguf,
        shape: &ModelShape,
        file: &Arc<Mapping>,
        context_tokens: u32,
        part: &Part,
    ) -> Result<Self, ShapeError> {
        let embedding = Matrix::of(gguf, file, "token_embd.weight")?;
        let encoder = shape.architecture.encoder;
        let head = match shape.tied {
            _ if encoder || !part.head => None,
            true => Some(embedding.clone()),
            false => Some(Matrix::of(gguf, file, "output.weight")?),
        };
        let factors = shape.rope_factors.tensor(context_tokens);
        Ok(Self {
            embedding,
            entry: encoder.then(|| Entry::of(gguf, shape, file)).transpose()?,
            layers: (part.layers.clone())
                .map(|index| Layer::of(gguf, shape, file, index, part))
                .collect::<Result<_, _>>()?,
            norm: match encoder || !part.head {
                true => Vec::new(),
                false => Matrix::vector(gguf, file, "output_norm.weight")?,
            },
            head,
            rope_factors: factors.map(|name| Matrix::vector(gguf, file, name)).transpose()?,
        })
    }
}

impl Entry {
    /// Adds type and position to a token's embedding.
    pub fn add_to(&self, row: &mut [f32], position: usize) {
        row.iter_mut().zip(&self.token_type).for_each(|(x, t)| *x += t);
        if let Some(positions) = &self.positions {
            let learned = quant::unpack(positions.kind, positions.row(position));
            row.iter_mut().zip(learned).for_each(|(x, learned)| *x += learned);
        }
    }

    fn of(gguf: &Gguf, shape: &ModelShape, file: &Arc<Mapping>) -> Result<Self, ShapeError> {
        let positions = shape.architecture.learned_positions;
        Ok(Self {
            token_type: Matrix::vector(gguf, file, "token_types.weight")?,
            positions: match positions {
                true => Some(Matrix::of(gguf, file, "position_embd.weight")?),
                false => None,
            },
            norm_weight: Matrix::vector(gguf, file, "token_embd_norm.weight")?,
            norm_bias: Matrix::vector(gguf, file, "token_embd_norm.bias")?,
        })
    }
}

impl Layer<Matrix> {
    fn of(
        gguf: &Gguf,
        shape: &ModelShape,
        file: &Arc<Mapping>,
        index: u32,
        part: &Part,
    ) -> Result<Self, ShapeError> {
        let family = shape.architecture;
        let matrix = |part: &str| Matrix::of(gguf, file, &format!("blk.{index}.{part}.weight"));
        let vector = |part: &str| Matrix::vector(gguf, file, &format!("blk.{index}.{part}"));
        let [q, kv] =
            [shape.heads, shape.kv_heads].map(|heads| heads as usize * shape.head_width as usize);
        let [query, key, value] = match family.fused {
            Fused::Nothing => [matrix("attn_q")?, matrix("attn_k")?, matrix("attn_v")?],
            Fused::Attention | Fused::Both => {
                let qkv = matrix("attn_qkv")?;
                [qkv.rows(0..q), qkv.rows(q..q + kv), qkv.rows(q + kv..q + 2 * kv)]
            }
        };
        let (queries, keys, rows) = (part.queries(shape), part.keys(shape), part.inner(shape)?);
        let (query, key, value) =
            (query.rows(queries.clone()), key.rows(keys.clone()), value.rows(keys.clone()));
        let output = matrix("attn_output")?;
        let output = output.columns("`attn_output.weight`", queries.clone(), &part.heads)?;
        let down = matrix("ffn_down")?.columns("`ffn_down.weight`", rows.clone(), &part.heads)?;
        let (inner, up) = (shape.feed_forward as usize, matrix("ffn_up")?);
        let (gate, up) = match (family.fused, family.activation) {
            (Fused::Both, _) => (Some(up.rows(0..inner)), up.rows(inner..2 * inner)),
            (_, Activation::GeluAlone) => (None, up),
            _ => (Some(matrix("ffn_gate")?), up),
        };
        let (gate, up) = (gate.map(|gate| gate.rows(rows.clone())), up.rows(rows));
        let some = |bias: Vec<f32>, rows: &std::ops::Range<usize>| bias[rows.clone()].to_vec();
        let [attention_norm, feed_forward_norm] = norm_names(family);
        let post_norm = |part| family.post_norms.then(|| vector(part)).transpose();
        let norm_bias = |part| match family.encoder {
            true => vector(part),
            false => Ok(Vec::new()),
        };
        let outer_bias = |part| (family.encoder && family.biases).then(|| vector(part)).transpose();
        Ok(Self {
            attention_norm: vector(attention_norm)?,
            query,
            key,
            value,
            output,
            feed_forward_norm: vector(feed_forward_norm)?,
            gate,
            up,
            down,
            extras: Extras {
                biases: match family.biases {
                    true => Some([
                        some(vector("attn_q.bias")?, &queries),
                        some(vector("attn_k.bias")?, &keys),
                        some(vector("attn_v.bias")?, &keys),
                    ]),
                    false => None,
                },
                head_norms: match family.head_norms {
                    true => Some([vector("attn_q_norm.weight")?, vector("attn_k_norm.weight")?]),
                    false => None,
                },
                attention_post_norm: post_norm("post_attention_norm.weight")?,
                feed_forward_post_norm: post_norm("post_ffw_norm.weight")?,
                attention_norm_bias: norm_bias("attn_output_norm.bias")?,
                feed_forward_norm_bias: norm_bias("layer_output_norm.bias")?,
                output_bias: outer_bias("attn_output.bias")?,
                up_bias: outer_bias("ffn_up.bias")?,
                down_bias: outer_bias("ffn_down.bias")?,
            },
        })
    }
}

impl<M> Weights<M> {
    /// The same table with every matrix of a multiplication in another form.
    pub fn try_map<N, E>(self, mut form: impl FnMut(M) -> Result<N, E>) -> Result<Weights<N>, E> {
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in self.layers {
            layers.push(Layer {
                attention_norm: layer.attention_norm,
                query: form(layer.query)?,
                key: form(layer.key)?,
                value: form(layer.value)?,
                output: form(layer.output)?,
                feed_forward_norm: layer.feed_forward_norm,
                gate: layer.gate.map(&mut form).transpose()?,
                up: form(layer.up)?,
                down: form(layer.down)?,
                extras: layer.extras,
            });
        }
        Ok(Weights {
            layers,
            head: self.head.map(&mut form).transpose()?,
            entry: self.entry,
            embedding: self.embedding,
            norm: self.norm,
            rope_factors: self.rope_factors,
        })
    }

    /// Every matrix that is multiplied with.
    pub fn matrices(&self) -> impl Iterator<Item = &M> {
        self.layers
            .iter()
            .flat_map(|l| [&l.query, &l.key, &l.value, &l.output, &l.up, &l.down])
            .chain(self.layers.iter().filter_map(|layer| layer.gate.as_ref()))
            .chain(&self.head)
    }
}
