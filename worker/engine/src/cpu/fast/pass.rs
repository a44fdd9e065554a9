//! One pass over some tokens on the fast path. With few tokens everything between two multiplications is done by the calling
//! thread: waking others would cost more than it saves.

mod outputs;

use super::attend_plan::AttendPlan;
use super::attention::{self, Job, partial_len};
use super::cache::{Cache, head_stride};
use super::kernels::FastKernels;
use super::levels::Levels;
use super::load;
use super::multiply::{Buffers, Packed, Products, multiply, quantise};
use super::panels::ROWS;
use crate::architecture::{Activation, Pairs};
use crate::cpu::pool::Pool;
use crate::cpu::rows::Rows;
use crate::cpu::{Join, KvType, LoadError, Place, Wanted};
use crate::model::{Before, From, Steps, forward};
use crate::quant;
use crate::rope::{Rope, Turns};
use crate::shape::ModelShape;
use crate::weights::{Entry, Extras, Layer, Matrix, Weights};

/// Fewer tokens than this are normed, rotated, gated and added by the calling thread.
const SPREAD_TOKENS: usize = 4;

/// Places in [`Extras`].
const QUERIES: usize = 0;
const KEYS: usize = 1;
const VALUES: usize = 2;

/// A model on the fast path.
#[derive(Debug)]
pub(crate) struct Fast {
    pub weights: Weights<Packed>,
    pub cache: Cache,
    kernels: FastKernels,
    buffers: Vec<Buffers>,
    rope: Rope,
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
        (blocks, kv_type): (u32, KvType),
        kernels: FastKernels,
        pool: &Pool,
    ) -> Result<Self, LoadError> {
        let cache = Cache::new(shape, blocks, kv_type).ok_or(LoadError::cache(blocks))?;
        let rope = Rope::new(shape, weights.rope_factors.as_deref());
        let mut buffers: Vec<_> = (0..pool.threads()).map(|_| Buffers::default()).collect();
        let weights = load::pack(weights, pool, &mut buffers)?;
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
        Ok(Self { weights, cache, kernels, buffers, rope, s })
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
        let turns = self.rope.turns(places);
        let Self { weights, cache, kernels, buffers, s, .. } = self;
        let embedding = &weights.embedding;
        let tied = weights.head.as_ref().filter(|_| shape.tied);
        let mut pass =
            Pass { shape, embedding, tied, cache, kernels, pool, buffers, places, join, turns, s };
        forward(weights, &mut pass);
        let hidden = pass.hidden(weights, &wanted.hidden);
        Wanted { logits: pass.logits(weights, &wanted.logits), hidden }
    }
}

struct Pass<'a> {
    shape: &'a ModelShape,
    embedding: &'a Matrix,
    /// The head, where it is the embedding, too: then the file's pages need not stay in memory beside it.
    tied: Option<&'a Packed>,
    cache: &'a mut Cache,
    kernels: &'a FastKernels,
    pool: &'a Pool,
    buffers: &'a mut [Buffers],
    places: &'a [Place<'a>],
    join: Join<'a>,
    turns: Turns,
    s: &'a mut Activations,
}

impl Steps for Pass<'_> {
    type Matrix = Packed;

    fn embed(&mut self, entry: Option<&Entry>) {
        self.s.x.resize(self.places.len());
        if let Some(residuals) = self.join.residuals {
            return self.s.x.fill(residuals);
        }
        for (row, place) in self.s.x.rows_mut().zip(self.places) {
            let token = place.token as usize;
            if let Some(head) = self.tied {
                head.row(token, self.kernels, &mut self.buffers[0], row);
            } else {
                let bytes = self.embedding.row(token);
                quant::unpack_plain(self.embedding.kind, bytes, row, quant::expand);
            }
            let scale = self.shape.embedding_scale;
            if scale != 1.0 {
                row.iter_mut().for_each(|x| *x *= scale);
            }
            if let Some(entry) = entry {
                entry.add_to(row, place.position);
            }
        }
    }

    fn renorm(&mut self, weight: &[f32], bias: &[f32]) {
        let (layer_norm, epsilon) = (self.kernels.layer_norm, self.shape.norm_epsilon);
        let Activations { x, normed, .. } = &mut *self.s;
        each(self.pool, self.buffers, x, |_, row, _| layer_norm(row, weight, bias, epsilon));
        normed.resize(self.places.len());
        let x = &*x;
        each(self.pool, self.buffers, normed, |token, out, _| out.copy_from_slice(x.row(token)));
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
        let width = shape.head_width as usize;
        let stride = self.cache.stride();
        let (scale, epsilon) = (shape.query_scale, shape.norm_epsilon);
        let (key_panel, value_panel) =
            (layer.query.panels(), layer.query.panels() + layer.key.panels());
        let (turns, norm_parts) = (self.turns.of(shape, index), self.kernels.norm_parts);
        let rotate = match shape.architecture.pairs {
            Pairs::Neighbours => self.kernels.rotate,
            Pairs::Halves => self.kernels.rotate_halves,
        };
        let Extras { biases, head_norms, .. } = &layer.extras;
        // One head after another, from products to what attention takes.
        let finish = |which: usize, token: usize, row: &mut [f32]| {
            if let Some(biases) = biases {
                plus(row, &biases[which]);
            }
            if let Some(norms) = head_norms {
                norm_parts(row, &norms[which], epsilon);
            }
            rotate(row, width, turns(token));
        };
        let Activations { queries, keys, values, products, .. } = &mut *self.s;
        let products = &*products;
        for rows in [&mut *queries, &mut *keys, &mut *values] {
            rows.resize(places.len());
        }
        each(self.pool, self.buffers, queries, |token, row, buffers| {
            buffers.row.resize(shape.heads as usize * width, 0.0);
            products.gather(0, token, &mut buffers.row);
            finish(QUERIES, token, &mut buffers.row);
            let heads = row.chunks_exact_mut(stride).zip(buffers.row.chunks_exact(width));
            for (row, head) in heads {
                row.iter_mut().zip(head).for_each(|(out, value)| *out = value * scale);
            }
        });
        each(self.pool, self.buffers, keys, |token, row, _| {
            products.gather(key_panel, token, row);
            finish(KEYS, token, row);
        });
        for (token, (place, value)) in places.iter().zip(values.rows_mut()).enumerate() {
            products.gather(value_panel, token, value);
            if let Some(biases) = biases {
                plus(value, &biases[VALUES]);
            }
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
        let window = self.shape.window_of(index).map_or(usize::MAX, |w| w.tokens as usize);
        let cap = self.shape.attention_cap;
        let plan = AttendPlan::new(self.shape, self.places, window, self.pool.threads());
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
                seen.extend(std::iter::repeat_n(place.seen, plan.group));
            }
            (kernels.attend)(Job {
                cache,
                layer: index,
                kv_head,
                blocks: places[first].blocks,
                queries: &gathered,
                seen: &seen,
                window,
                cap,
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

    fn gate(&mut self, layer: &Layer<Packed>) {
        let Some(gate) = &layer.gate else {
            return self.bend(&layer.up, layer.extras.up_bias.as_deref().unwrap_or_default());
        };
        self.multiply(&[gate, &layer.up], Input::Normed);
        let panels = gate.panels();
        let glu = match self.shape.architecture.activation {
            Activation::Silu => self.kernels.swiglu,
            Activation::Gelu | Activation::GeluAlone => self.kernels.geglu,
        };
        let Activations { gated, products, .. } = &mut *self.s;
        gated.resize(self.places.len());
        let products = &*products;
        each(self.pool, self.buffers, gated, |token, row, _| {
            for (panel, row) in row.chunks_mut(ROWS).enumerate() {
                row.copy_from_slice(&products.lanes(panel, token)[..row.len()]);
                glu(row, &products.lanes(panels + panel, token)[..row.len()]);
            }
        });
    }

    fn add(&mut self, matrix: &Packed, from: From, before: Before<'_>) {
        self.multiply(&[matrix], Input::Of(from));
        let Activations { x, products, .. } = &mut *self.s;
        if let Some(shards) = self.join.shards.as_deref_mut() {
            outputs::sum_products(shards, products, x, self.join.failed);
        }
        let products = &*products;
        if !matches!(before, Before::Nothing) {
            let (norm_parts, epsilon) = (self.kernels.norm_parts, self.shape.norm_epsilon);
            each(self.pool, self.buffers, x, |token, row, buffers| {
                buffers.row.resize(row.len(), 0.0);
                products.gather(0, token, &mut buffers.row);
                match before {
                    Before::Nothing => {}
                    Before::Norm(norm) => norm_parts(&mut buffers.row, norm, epsilon),
                    Before::Bias(bias) => plus(&mut buffers.row, bias),
                }
                plus(row, &buffers.row);
            });
            return;
        }
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

    /// `gated = gelu(W_up normed + bias)`.
    fn bend(&mut self, up: &Packed, bias: &[f32]) {
        self.multiply(&[up], Input::Normed);
        let gelu = self.kernels.gelu;
        let Activations { gated, products, .. } = &mut *self.s;
        gated.resize(self.places.len());
        let products = &*products;
        each(self.pool, self.buffers, gated, |token, row, _| {
            products.gather(0, token, row);
            gelu(row, bias);
        });
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

fn plus(row: &mut [f32], delta: &[f32]) {
    row.iter_mut().zip(delta).for_each(|(x, delta)| *x += delta);
}
