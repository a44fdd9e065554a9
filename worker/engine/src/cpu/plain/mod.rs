//! The plain path: weights unpacked to floats row by row, float activations, nothing fused. It is written to be read and to
//! be right, and is the oracle that the fast path is tested against.

mod cache;

use self::cache::Cache;
use super::pool::Pool;
use super::rope::{Rope, Turns};
use super::rows::Rows;
use super::{Join, Place, Wanted, math, rope};
use crate::architecture::{Activation, Pairs};
use crate::model::{Before, From, Steps};
use crate::quant;
use crate::shape::ModelShape;
use crate::weights::{Entry, Layer, Matrix, Weights};

/// Weight rows of one claim of a thread.
const UNIT_ROWS: usize = 16;

/// A model on the plain path.
#[derive(Debug)]
pub(crate) struct Plain {
    pub weights: Weights<Matrix>,
    pub cache: Cache,
    s: Activations,
}

impl Plain {
    /// `None` when the cache is larger than can be addressed.
    pub fn new(shape: &ModelShape, weights: Weights<Matrix>, blocks: u32) -> Option<Self> {
        let cache = Cache::new(shape, blocks, ollamamax_proto::limits::KV_BLOCK_TOKENS)?;
        Some(Self { weights, cache, s: Activations::new(shape) })
    }

    /// Runs some tokens through the model and returns what is wanted.
    pub fn run(
        &mut self,
        shape: &ModelShape,
        pool: &Pool,
        places: &[Place<'_>],
        join: Join<'_>,
        wanted: &Wanted,
    ) -> Wanted<Vec<f32>> {
        let turns = Rope::new(shape, self.weights.rope_factors.as_deref()).turns(places);
        let Self { weights, cache, s } = self;
        let mut pass = Pass { shape, weights, cache, pool, places, join, turns, s };
        crate::model::forward(weights, &mut pass);
        let normed = |token: &usize| {
            let mut row = s.x.row(*token).to_vec();
            if !shape.architecture.encoder {
                math::norm(s.x.row(*token), &weights.norm, shape.norm_epsilon, &mut row);
            }
            row
        };
        let hidden = wanted.hidden.iter().map(normed).collect();
        let Some(head) = &weights.head else { return Wanted { hidden, logits: Vec::new() } };
        let mut rows = Rows::new(shape.width as usize);
        rows.resize(wanted.logits.len());
        for (row, token) in rows.rows_mut().zip(&wanted.logits) {
            row.copy_from_slice(&normed(token));
        }
        let mut logits = Rows::new(head.rows);
        multiply(pool, head, &rows, &mut logits);
        if shape.logits_cap > 0.0 {
            logits.rows_mut().for_each(|row| math::cap(row, shape.logits_cap));
        }
        let logits = (0..rows.count()).map(|token| logits.row(token).to_vec()).collect();
        Wanted { logits, hidden }
    }
}

impl Plain {
    /// The residual of a token of the last run.
    pub fn residual(&self, token: usize) -> &[f32] {
        self.s.x.row(token)
    }
}

/// What a pass writes between its steps; kept from pass to pass.
#[derive(Debug)]
struct Activations {
    x: Rows,
    input: Rows,
    queries: Rows,
    keys: Rows,
    values: Rows,
    attended: Rows,
    gate: Rows,
    up: Rows,
    delta: Rows,
}

impl Activations {
    fn new(shape: &ModelShape) -> Self {
        let width = shape.width as usize;
        let heads = |heads: u32| heads as usize * shape.head_width as usize;
        Self {
            x: Rows::new(width),
            input: Rows::new(width),
            queries: Rows::new(heads(shape.heads)),
            keys: Rows::new(heads(shape.kv_heads)),
            values: Rows::new(heads(shape.kv_heads)),
            attended: Rows::new(heads(shape.heads)),
            gate: Rows::new(shape.feed_forward as usize),
            up: Rows::new(shape.feed_forward as usize),
            delta: Rows::new(width),
        }
    }
}

struct Pass<'a> {
    shape: &'a ModelShape,
    weights: &'a Weights<Matrix>,
    cache: &'a mut Cache,
    pool: &'a Pool,
    places: &'a [Place<'a>],
    join: Join<'a>,
    turns: Turns,
    s: &'a mut Activations,
}

impl Steps for Pass<'_> {
    type Matrix = Matrix;

    fn embed(&mut self, entry: Option<&Entry>) {
        self.s.x.resize(self.places.len());
        if let Some(residuals) = self.join.residuals {
            return self.s.x.fill(residuals);
        }
        for (row, place) in self.s.x.rows_mut().zip(self.places) {
            place.look_up(self.weights, self.shape, entry, row);
        }
    }

    fn renorm(&mut self, weight: &[f32], bias: &[f32]) {
        let Activations { x, input, .. } = &mut *self.s;
        input.resize(x.count());
        for (x, input) in x.rows_mut().zip(input.rows_mut()) {
            math::layer_norm(x, weight, bias, self.shape.norm_epsilon);
            input.copy_from_slice(x);
        }
    }

    fn norm(&mut self, weight: &[f32]) {
        self.s.input.resize(self.places.len());
        for (token, out) in self.s.input.rows_mut().enumerate() {
            math::norm(self.s.x.row(token), weight, self.shape.norm_epsilon, out);
        }
    }

    fn project(&mut self, index: usize, layer: &Layer<Matrix>) {
        let Activations { input, queries, keys, values, .. } = &mut *self.s;
        multiply(self.pool, &layer.query, input, queries);
        multiply(self.pool, &layer.key, input, keys);
        multiply(self.pool, &layer.value, input, values);
        if let Some(biases) = &layer.extras.biases {
            for (rows, bias) in [&mut *queries, &mut *keys, &mut *values].into_iter().zip(biases) {
                rows.rows_mut().for_each(|row| plus(row, bias));
            }
        }
        if let Some(norms) = &layer.extras.head_norms {
            for (rows, norm) in [&mut *queries, &mut *keys].into_iter().zip(norms) {
                let epsilon = self.shape.norm_epsilon;
                rows.rows_mut().for_each(|row| math::norm_parts(row, norm, epsilon));
            }
        }
        let width = self.shape.head_width as usize;
        let rotate = match self.shape.architecture.pairs {
            Pairs::Neighbours => rope::rotate,
            Pairs::Halves => rope::rotate_halves,
        };
        let turns = self.turns.of(self.shape, index);
        for rows in [&mut *queries, &mut *keys] {
            for (token, row) in rows.rows_mut().enumerate() {
                row.chunks_exact_mut(width).for_each(|head| rotate(head, turns(token)));
            }
        }
        for (token, place) in self.places.iter().enumerate() {
            self.cache.store(
                index,
                place.blocks,
                place.position,
                keys.row(token),
                values.row(token),
            );
        }
    }

    fn attend(&mut self, index: usize) {
        let width = self.shape.head_width as usize;
        let group = (self.shape.heads / self.shape.kv_heads) as usize;
        let (scale, cap) = (self.shape.query_scale, self.shape.attention_cap);
        let window = self.shape.window_of(index).map(|window| window.tokens as usize);
        let Activations { queries, attended, .. } = &mut *self.s;
        attended.resize(self.places.len());
        for ((token, place), row) in self.places.iter().enumerate().zip(attended.rows_mut()) {
            for (head, out) in row.chunks_exact_mut(width).enumerate() {
                let query = &queries.row(token)[head * width..][..width];
                let entry = |p| self.cache.entry(index, place.blocks, head / group, p);
                let score = |p| {
                    let key = entry(p).0.iter().map(|key| quant::half_to_f32(*key));
                    scale * key.zip(query).map(|(key, query)| key * query).sum::<f32>()
                };
                let seen = place.seen;
                let first = window.map_or(0, |window| seen.saturating_sub(window));
                let mut scores: Vec<f32> = (first..seen).map(score).collect();
                if cap > 0.0 {
                    math::cap(&mut scores, cap);
                }
                let sum = math::softmax(&mut scores);
                out.fill(0.0);
                for (offset, weight) in scores.iter().enumerate() {
                    for (out, value) in out.iter_mut().zip(entry(first + offset).1) {
                        *out += weight / sum * quant::half_to_f32(*value);
                    }
                }
            }
        }
    }

    fn gate(&mut self, layer: &Layer<Matrix>) {
        let s = &mut *self.s;
        let Some(gate) = &layer.gate else {
            let bias = layer.extras.up_bias.as_deref().unwrap_or_default();
            multiply(self.pool, &layer.up, &s.input, &mut s.gate);
            return s.gate.rows_mut().for_each(|row| math::gelu(row, bias));
        };
        multiply(self.pool, gate, &s.input, &mut s.gate);
        multiply(self.pool, &layer.up, &s.input, &mut s.up);
        let gated = match self.shape.architecture.activation {
            Activation::Silu => math::swiglu,
            Activation::Gelu | Activation::GeluAlone => math::geglu,
        };
        for (token, row) in s.gate.rows_mut().enumerate() {
            gated(row, s.up.row(token));
        }
    }

    fn add(&mut self, matrix: &Matrix, from: From, before: Before<'_>) {
        let s = &mut *self.s;
        let input = match from {
            From::Attended => &s.attended,
            From::Gated => &s.gate,
        };
        multiply(self.pool, matrix, input, &mut s.delta);
        if let Some(shards) = self.join.shards.as_deref_mut()
            && self.join.failed.is_none()
        {
            *self.join.failed = shards.sum(s.delta.all_mut()).err();
        }
        let epsilon = self.shape.norm_epsilon;
        s.delta.rows_mut().for_each(|row| match before {
            Before::Nothing => {}
            Before::Norm(norm) => math::norm_parts(row, norm, epsilon),
            Before::Bias(bias) => plus(row, bias),
        });
        for (token, row) in s.x.rows_mut().enumerate() {
            plus(row, s.delta.row(token));
        }
    }
}

fn plus(row: &mut [f32], delta: &[f32]) {
    row.iter_mut().zip(delta).for_each(|(x, delta)| *x += delta);
}

/// `out = matrix input`, for every token.
fn multiply(pool: &Pool, matrix: &Matrix, input: &Rows, out: &mut Rows) {
    out.resize(input.count());
    // Products lie `[row][token]` first, so that every unit has a part of its own to write to.
    let mut products = vec![0.0; matrix.rows * input.count()];
    let mut units: Vec<_> = products.chunks_mut(UNIT_ROWS * input.count().max(1)).collect();
    let mut buffers = vec![vec![0.0f32; matrix.columns]; pool.threads()];
    pool.for_each(&mut buffers, &mut units, |unit, products, weights| {
        for (index, products) in products.chunks_exact_mut(input.count()).enumerate() {
            let bytes = matrix.row(unit * UNIT_ROWS + index);
            quant::unpack_plain(matrix.kind, bytes, weights, quant::expand);
            for (token, product) in products.iter_mut().enumerate() {
                *product = dot(weights, input.row(token));
            }
        }
    });
    for (token, row) in out.rows_mut().enumerate() {
        for (row, out) in row.iter_mut().enumerate() {
            *out = products[row * input.count() + token];
        }
    }
}

/// Sum of products in sixteen lanes.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; math::LANES];
    const LANES: usize = math::LANES;
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += a * b;
    }
    math::tree_sum(lanes)
}
