//! One pass over some tokens on the fast path. With few tokens everything between two multiplications is done by the calling
//! thread: waking others would cost more than it saves.

use super::attention::{self, Job, partial_len};
use super::cache::{Cache, head_stride};
use super::kernels::FastKernels;
use super::levels::Levels;
use super::load;
use super::multiply::{Buffers, Packed, Products, multiply, quantise};
use super::panels::ROWS;
use crate::cpu::pool::Pool;
use crate::cpu::rows::Rows;
use crate::cpu::{Place, rope};
use crate::model::{From, Steps, forward};
use crate::quant;
use crate::shape::ModelShape;
use crate::weights::{Layer, Matrix, Weights};

/// Fewer tokens than this are normed, rotated, gated and added by the calling thread.
const SPREAD_TOKENS: usize = 4;
/// Neighbouring tokens of a sequence whose attention is computed together.
const ATTEND_TOKENS: usize = 8;

/// A model on the fast path.
#[derive(Debug)]
pub(crate) struct Fast {
    pub weights: Weights<Packed>,
    pub cache: Cache,
    kernels: FastKernels,
    buffers: Vec<Buffers>,
    frequencies: Vec<f64>,
    s: Activations,
}

/// What a pass writes between its steps; kept from pass to pass.
#[derive(Debug)]
struct Activations {
    x: Rows,
    normed: Rows,
    queries: Rows,
    keys: Rows,
    values: Rows,
    attended: Rows,
    gated: Rows,
    levels: Levels,
    products: Products,
    partials: Vec<f32>,
}

impl Fast {
    /// Repacks the weights; `None` when the cache is larger than can be addressed.
    pub fn new(
        shape: &ModelShape,
        weights: Weights<Matrix>,
        blocks: u32,
        kernels: FastKernels,
        pool: &Pool,
    ) -> Option<Self> {
        let cache = Cache::new(shape, blocks)?;
        let frequencies = rope::frequencies(shape, weights.rope_factors.as_deref());
        let mut buffers: Vec<_> = (0..pool.threads()).map(|_| Buffers::default()).collect();
        let weights = load::pack(weights, pool, &mut buffers);
        let width = shape.width as usize;
        let heads = |heads: u32| heads as usize * shape.head_width as usize;
        let s = Activations {
            x: Rows::new(width),
            normed: Rows::new(width),
            queries: Rows::new(shape.heads as usize * head_stride(shape)),
            keys: Rows::new(heads(shape.kv_heads)),
            values: Rows::new(heads(shape.kv_heads)),
            attended: Rows::new(heads(shape.heads)),
            gated: Rows::new(shape.feed_forward as usize),
            levels: Levels::default(),
            products: Products::default(),
            partials: Vec::new(),
        };
        Some(Self { weights, cache, kernels, buffers, frequencies, s })
    }

    /// Runs some tokens through the model and returns the logits of those wanted, in order.
    pub fn run(
        &mut self,
        shape: &ModelShape,
        pool: &Pool,
        places: &[Place<'_>],
        wanted: &[usize],
    ) -> Vec<Vec<f32>> {
        let turns = places.iter().flat_map(|place| rope::turns(&self.frequencies, place.position));
        let turns = turns.collect();
        let Self { weights, cache, kernels, buffers, s, .. } = self;
        let embedding = &weights.embedding;
        let mut pass = Pass { shape, embedding, cache, kernels, pool, buffers, places, turns, s };
        forward(weights, &mut pass);
        pass.logits(weights, wanted)
    }
}

struct Pass<'a> {
    shape: &'a ModelShape,
    embedding: &'a Matrix,
    cache: &'a mut Cache,
    kernels: &'a FastKernels,
    pool: &'a Pool,
    buffers: &'a mut [Buffers],
    places: &'a [Place<'a>],
    /// Cosine and sine per token and rotated pair.
    turns: Vec<rope::Turn>,
    s: &'a mut Activations,
}

impl Steps for Pass<'_> {
    type Matrix = Packed;

    fn embed(&mut self) {
        self.s.x.resize(self.places.len());
        for (row, place) in self.s.x.rows_mut().zip(self.places) {
            let bytes = self.embedding.row(place.token as usize);
            quant::unpack_plain(self.embedding.kind, bytes, row, quant::expand);
        }
    }

    fn norm(&mut self, weight: &[f32]) {
        let (norm, epsilon) = (self.kernels.norm, self.shape.norm_epsilon);
        let Activations { x, normed, .. } = &mut *self.s;
        normed.resize(self.places.len());
        let x = &*x;
        each(self.pool, self.buffers, normed, |token, out, _| {
            norm(x.row(token), weight, epsilon, out);
        });
    }

    fn project(&mut self, index: usize, layer: &Layer<Packed>) {
        self.multiply(&[&layer.query, &layer.key, &layer.value], Input::Normed);
        let (shape, places) = (self.shape, self.places);
        let (width, pairs) = (shape.head_width as usize, shape.rope_width as usize / 2);
        let stride = self.cache.stride();
        let scale = 1.0 / (width as f32).sqrt();
        let (key_panel, value_panel) =
            (layer.query.panels(), layer.query.panels() + layer.key.panels());
        let (rotate, turns) = (self.kernels.rotate, &self.turns);
        let Activations { queries, keys, values, products, .. } = &mut *self.s;
        let products = &*products;
        for rows in [&mut *queries, &mut *keys, &mut *values] {
            rows.resize(places.len());
        }
        let turns = |token: usize| &turns[token * pairs..][..pairs];
        each(self.pool, self.buffers, queries, |token, row, buffers| {
            buffers.row.resize(shape.heads as usize * width, 0.0);
            products.gather(0, token, &mut buffers.row);
            rotate(&mut buffers.row, width, turns(token));
            let heads = row.chunks_exact_mut(stride).zip(buffers.row.chunks_exact(width));
            for (row, head) in heads {
                row.iter_mut().zip(head).for_each(|(out, value)| *out = value * scale);
            }
        });
        each(self.pool, self.buffers, keys, |token, row, _| {
            products.gather(key_panel, token, row);
            rotate(row, width, turns(token));
        });
        for (token, (place, value)) in places.iter().zip(values.rows_mut()).enumerate() {
            products.gather(value_panel, token, value);
            self.cache.store(
                index,
                place.blocks,
                place.position,
                keys.row(token),
                value,
                self.kernels.to_half,
            );
        }
    }

    fn attend(&mut self, index: usize) {
        let plan = AttendPlan::new(self.shape, self.places, self.pool.threads());
        let len = partial_len(self.cache.stride());
        let (width, stride) = (self.shape.head_width as usize, self.cache.stride());
        let (cache, places, kernels) = (&*self.cache, self.places, self.kernels);
        let Activations { queries, attended, partials, .. } = &mut *self.s;
        let queries = &*queries;
        partials.resize(plan.units() * plan.rows * len, 0.0);
        let mut units: Vec<_> = partials.chunks_exact_mut(plan.rows * len).collect();
        self.pool.for_each(self.buffers, &mut units, |unit, partials, buffers| {
            let (first, count) = plan.tile(unit);
            let (kv_head, segments) = (plan.kv_head(unit), plan.segments(unit));
            let rows = count * plan.group;
            let scratch = &mut buffers.attention;
            let (mut gathered, mut seen) =
                (std::mem::take(&mut scratch.queries), std::mem::take(&mut scratch.seen));
            gathered.clear();
            seen.clear();
            for (token, place) in places.iter().enumerate().skip(first).take(count) {
                let heads = kv_head * plan.group * stride..(kv_head + 1) * plan.group * stride;
                gathered.extend_from_slice(&queries.row(token)[heads]);
                seen.extend(std::iter::repeat_n(place.position + 1, plan.group));
            }
            (kernels.attend)(Job {
                cache,
                layer: index,
                kv_head,
                blocks: places[first].blocks,
                queries: &gathered,
                seen: &seen,
                segments,
                partials: &mut partials[..rows * len],
                scratch,
            });
            (scratch.queries, scratch.seen) = (gathered, seen);
        });
        attended.resize(places.len());
        let partials = &*partials;
        each(self.pool, self.buffers, attended, |token, row, buffers| {
            for (head, out) in row.chunks_exact_mut(width).enumerate() {
                let mut parts = plan.partials(token, head).map(|at| &partials[at * len..][..len]);
                let Some(first) = parts.next() else { continue };
                let total = &mut buffers.attention.partials;
                total.clear();
                total.extend_from_slice(first);
                parts.for_each(|part| attention::merge(total, part));
                attention::finish(total, out);
            }
        });
    }

    fn gate(&mut self, gate: &Packed, up: &Packed) {
        self.multiply(&[gate, up], Input::Normed);
        let (swiglu, panels) = (self.kernels.swiglu, gate.panels());
        let Activations { gated, products, .. } = &mut *self.s;
        gated.resize(self.places.len());
        let products = &*products;
        each(self.pool, self.buffers, gated, |token, row, _| {
            for (panel, row) in row.chunks_mut(ROWS).enumerate() {
                row.copy_from_slice(&products.lanes(panel, token)[..row.len()]);
                swiglu(row, &products.lanes(panels + panel, token)[..row.len()]);
            }
        });
    }

    fn add(&mut self, matrix: &Packed, from: From) {
        self.multiply(&[matrix], Input::Of(from));
        let Activations { x, products, .. } = &mut *self.s;
        let products = &*products;
        each(self.pool, self.buffers, x, |token, row, _| {
            for (panel, row) in row.chunks_mut(ROWS).enumerate() {
                let delta = products.lanes(panel, token);
                row.iter_mut().zip(delta).for_each(|(x, delta)| *x += delta);
            }
        });
    }
}

enum Input {
    Normed,
    Of(From),
}

impl Pass<'_> {
    fn multiply(&mut self, matrices: &[&Packed], input: Input) {
        let Activations { normed, attended, gated, levels, products, .. } = &mut *self.s;
        let input = match input {
            Input::Normed => &*normed,
            Input::Of(From::Attended) => &*attended,
            Input::Of(From::Gated) => &*gated,
        };
        if matrices.iter().any(|matrix| matches!(matrix, Packed::Levels(_))) {
            quantise(self.kernels, self.pool, self.buffers, input, levels);
        }
        multiply(self.kernels, self.pool, self.buffers, matrices, (input, levels), products);
    }

    fn logits(&mut self, weights: &Weights<Packed>, wanted: &[usize]) -> Vec<Vec<f32>> {
        let Activations { x, normed, .. } = &mut *self.s;
        normed.resize(wanted.len());
        for (row, token) in normed.rows_mut().zip(wanted) {
            (self.kernels.norm)(x.row(*token), &weights.norm, self.shape.norm_epsilon, row);
        }
        self.multiply(&[&weights.head], Input::Normed);
        let of_token = |token| {
            let mut logits = vec![0.0; weights.head.rows()];
            self.s.products.gather(0, token, &mut logits);
            logits
        };
        (0..wanted.len()).map(of_token).collect()
    }
}

/// Calls `work` for every row, on several threads when there are enough.
fn each(
    pool: &Pool,
    buffers: &mut [Buffers],
    rows: &mut Rows,
    work: impl Fn(usize, &mut [f32], &mut Buffers) + Sync,
) {
    if rows.count() < SPREAD_TOKENS {
        let buffers = &mut buffers[0];
        rows.rows_mut().enumerate().for_each(|(token, row)| work(token, row, buffers));
        return;
    }
    let mut rows: Vec<_> = rows.rows_mut().collect();
    pool.for_each(buffers, &mut rows, |token, row, buffers| work(token, row, buffers));
}

/// How the attention of a pass is cut into units: tiles of neighbouring tokens, times heads of keys, and with few tokens
/// times segments, so that there is work for all threads.
struct AttendPlan {
    /// First token and number of tokens of each tile.
    tiles: Vec<(usize, usize)>,
    /// For each token its tile and its place in it.
    place: Vec<(usize, usize)>,
    kv_heads: usize,
    /// Query heads per head of keys.
    group: usize,
    /// Parts that segments are cut into: one for each, or one for all.
    parts: usize,
    segments: usize,
    /// Rows a unit has room for.
    rows: usize,
}

impl AttendPlan {
    fn new(shape: &ModelShape, places: &[Place<'_>], threads: usize) -> Self {
        let mut tiles: Vec<(usize, usize)> = Vec::new();
        let mut place = Vec::with_capacity(places.len());
        for (token, here) in places.iter().enumerate() {
            match tiles.last_mut() {
                Some((first, count))
                    if *count < ATTEND_TOKENS
                        && std::ptr::eq(places[*first].blocks, here.blocks) =>
                {
                    *count += 1;
                }
                _ => tiles.push((token, 1)),
            }
            let (first, _) = tiles.last().expect("just pushed");
            place.push((tiles.len() - 1, token - first));
        }
        let longest = places.iter().map(|place| place.position + 1).max().unwrap_or(0);
        let segments = longest.div_ceil(attention::SEGMENT);
        let kv_heads = shape.kv_heads as usize;
        let widest = tiles.iter().map(|(_, count)| *count).max().unwrap_or(0);
        let few = tiles.len() * kv_heads < 4 * threads;
        let group = (shape.heads / shape.kv_heads) as usize;
        let (parts, rows) = (if few { segments } else { 1 }, widest * group);
        Self { tiles, place, kv_heads, group, parts, segments, rows }
    }

    fn units(&self) -> usize {
        self.tiles.len() * self.kv_heads * self.parts
    }

    fn tile(&self, unit: usize) -> (usize, usize) {
        self.tiles[unit / (self.kv_heads * self.parts)]
    }

    fn kv_head(&self, unit: usize) -> usize {
        unit / self.parts % self.kv_heads
    }

    fn segments(&self, unit: usize) -> std::ops::Range<usize> {
        let part = unit % self.parts;
        if self.parts == 1 { 0..self.segments } else { part..part + 1 }
    }

    /// Where the partial results of a token's head lie, in order.
    fn partials(&self, token: usize, head: usize) -> impl Iterator<Item = usize> + '_ {
        let (tile, index) = self.place[token];
        let (kv_head, row) = (head / self.group, index * self.group + head % self.group);
        let unit = (tile * self.kv_heads + kv_head) * self.parts;
        (unit..unit + self.parts).map(move |unit| unit * self.rows + row)
    }
}
