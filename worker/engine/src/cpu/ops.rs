//! The steps of a forward pass that [`crate::model::forward`] is written in. Each treats every token alone, so a token's
//! result does not depend on its neighbours.

use super::cache::Cache;
use super::multiply::{Multiplier, Product};
use super::rows::Rows;
use crate::backend::BlockId;
use crate::shape::ModelShape;
use crate::weights::{Matrix, Weights};

/// Fewer tokens than this are normed, gated or added by the calling thread: waking others costs more.
const SPREAD_TOKENS: usize = 4;

/// A token to compute: its id, its place in its sequence, and where that sequence's keys and values are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub token: u32,
    pub position: usize,
    pub blocks: &'a [BlockId],
}

/// What the steps work with: threads and kernels, the cache, and the tokens of this pass.
pub(crate) struct Ops<'a> {
    pub shape: &'a ModelShape,
    pub cache: &'a mut Cache,
    pub multiplier: &'a mut Multiplier,
    pub places: &'a [Place<'a>],
    /// Cosine and sine per token and rotated pair.
    pub turns: Vec<(f32, f32)>,
}

impl<'a> Ops<'a> {
    pub fn new(
        shape: &'a ModelShape,
        weights: &Weights,
        cache: &'a mut Cache,
        multiplier: &'a mut Multiplier,
        places: &'a [Place<'a>],
    ) -> Self {
        let factors = weights.rope_factors.as_deref();
        let frequencies = frequencies(shape, factors);
        let turn = |position: usize, frequency: &f64| {
            let angle = position as f64 * f64::from(shape.rope_scale) * frequency;
            (angle.cos() as f32, angle.sin() as f32)
        };
        let turns_at = |place: &Place<'_>| {
            let position = place.position;
            frequencies.iter().map(move |f| turn(position, f)).collect::<Vec<_>>()
        };
        let turns = places.iter().flat_map(turns_at).collect();
        Self { shape, cache, multiplier, places, turns }
    }

    /// Rows of the embedding.
    pub fn embed(&mut self, embedding: &Matrix, out: &mut Rows) {
        let unpack = self.multiplier.kernels.unpack_plain;
        for (row, place) in out.rows_mut().zip(self.places) {
            unpack(embedding.kind, embedding.row(place.token as usize), row);
        }
    }

    /// Root-mean-square norm.
    pub fn norm(&mut self, x: &Rows, weight: &[f32], out: &mut Rows) {
        let (norm, epsilon) = (self.multiplier.kernels.norm, self.shape.norm_epsilon);
        self.each(out, |token, out| norm(x.row(token), weight, epsilon, out));
    }

    /// Matrices times one input.
    pub fn multiply<const N: usize>(&mut self, x: &Rows, products: [(&Matrix, &mut Rows); N]) {
        let products = products.map(|(matrix, out)| Product::new(matrix, out));
        self.multiplier.multiply(x, products.into());
    }

    /// The output head.
    pub fn multiply_into(&mut self, x: &Rows, matrix: &Matrix, out: &mut [Vec<f32>]) {
        let out = out.iter_mut().map(Vec::as_mut_slice).collect();
        self.multiplier.multiply(x, vec![Product { matrix, out }]);
    }

    /// Rotary position embedding. llama files have their query and key rows permuted so that neighbours form a pair.
    pub fn rotate(&mut self, x: &mut Rows) {
        let (head, pairs) = (self.shape.head_width as usize, self.shape.rope_width as usize / 2);
        let turns = &self.turns;
        each(self.multiplier, x, |token, row| {
            let turns = &turns[token * pairs..][..pairs];
            for head in row.chunks_exact_mut(head) {
                for ([a, b], (cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
                    (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                }
            }
        });
    }

    /// Keys and values into the cache.
    pub fn store(&mut self, layer: usize, keys: &Rows, values: &Rows) {
        let (to_half, width) = (self.multiplier.kernels.to_half, self.shape.head_width as usize);
        for (token, place) in self.places.iter().enumerate() {
            let block = place.blocks[place.position / self.cache.block_tokens()];
            let heads =
                keys.row(token).chunks_exact(width).zip(values.row(token).chunks_exact(width));
            for (head, (key, value)) in heads.enumerate() {
                let (k, v) = self.cache.entry_mut(layer, block, head, place.position);
                to_half(key, k);
                to_half(value, v);
            }
        }
    }

    /// Attention of every token over its sequence's positions up to its own.
    pub fn attend(&mut self, layer: usize, queries: &Rows, out: &mut Rows) {
        let (width, stride) = (self.shape.head_width as usize, self.cache.stride());
        let group = (self.shape.heads / self.shape.kv_heads) as usize;
        let scale = 1.0 / (width as f32).sqrt();
        let (cache, places, kernels) = (&*self.cache, self.places, self.multiplier.kernels);
        let block_tokens = cache.block_tokens();
        let heads = |(token, row)| {
            std::iter::repeat(token).zip(<[f32]>::chunks_exact_mut(row, width).enumerate())
        };
        let mut units: Vec<_> = out.rows_mut().enumerate().flat_map(heads).collect();
        let Multiplier { pool, scratch, .. } = self.multiplier;
        pool.for_each(scratch, &mut units, |_, (token, (head, out)), scratch| {
            let place = &places[*token];
            let positions = place.position + 1;
            let [query, mix] = &mut scratch.head;
            query.clear();
            query.extend_from_slice(&queries.row(*token)[*head * width..][..width]);
            query.resize(stride, 0.0);
            mix.clear();
            mix.resize(stride, 0.0);
            scratch.scores.resize(positions, 0.0);
            let kv_head = *head / group;
            for (block, scores) in place.blocks.iter().zip(scratch.scores.chunks_mut(block_tokens))
            {
                let keys = cache.keys(layer, *block, kv_head, scores.len());
                (kernels.scores)(query, keys, scale, scores);
            }
            let sum = (kernels.softmax)(&mut scratch.scores);
            for (block, weights) in place.blocks.iter().zip(scratch.scores.chunks(block_tokens)) {
                let values = cache.values(layer, *block, kv_head, weights.len());
                (kernels.mix)(weights, values, mix);
            }
            for (out, mix) in out.iter_mut().zip(mix) {
                *out = *mix / sum;
            }
        });
    }

    /// `gate = silu(gate) * up`.
    pub fn swiglu(&mut self, gate: &mut Rows, up: &Rows) {
        let swiglu = self.multiplier.kernels.swiglu;
        self.each(gate, |token, gate| swiglu(gate, up.row(token)));
    }

    /// The residual connection.
    pub fn add(&mut self, x: &mut Rows, delta: &Rows) {
        self.each(x, |token, x| {
            for (x, delta) in x.iter_mut().zip(delta.row(token)) {
                *x += delta;
            }
        });
    }

    fn each(&mut self, rows: &mut Rows, work: impl Fn(usize, &mut [f32]) + Sync) {
        each(self.multiplier, rows, work);
    }
}

/// Calls `work` for every row, on several threads when there are enough.
fn each(multiplier: &mut Multiplier, rows: &mut Rows, work: impl Fn(usize, &mut [f32]) + Sync) {
    if rows.count() < SPREAD_TOKENS {
        rows.rows_mut().enumerate().for_each(|(token, row)| work(token, row));
        return;
    }
    let mut rows: Vec<_> = rows.rows_mut().collect();
    let Multiplier { pool, scratch, .. } = multiplier;
    pool.for_each(scratch, &mut rows, |token, row, _| work(token, row));
}

/// Radians per position of every rotated pair.
fn frequencies(shape: &ModelShape, factors: Option<&[f32]>) -> Vec<f64> {
    let width = f64::from(shape.rope_width);
    let frequency = |pair: u32| {
        let factor = factors.map_or(1.0, |factors| f64::from(factors[pair as usize]));
        f64::from(shape.rope_base).powf(-2.0 * f64::from(pair) / width) / factor
    };
    (0..shape.rope_width / 2).map(frequency).collect()
}
