//! The steps of the forward pass as kernels.

use super::arguments as args;
use super::device::{Address, Grid};
use super::multiply::DeviceMatrix;
use super::pass::{Pass, ROW_THREADS, elementwise};
use super::workspace::CHUNK;
use crate::architecture::{Activation, Pairs};
use crate::backend::Shards;
use crate::model::{Before, From, Steps};
use crate::weights::{Entry, Layer};
use ollamamax_proto::limits::KV_BLOCK_TOKENS;

/// Query heads of one pass over keys: `GROUP` of attention.cu.
const GROUP: u32 = 8;
/// Threads of a block of attention.
const ATTEND_THREADS: u32 = 128;

impl Steps for Pass<'_> {
    type Matrix = DeviceMatrix;

    fn embed(&mut self, entry: Option<&Entry>) {
        self.prepared = None;
        if let Some(residuals) = self.join.residuals {
            return self.send(self.space.x, residuals);
        }
        let width = self.shape.width as usize;
        let mut x = vec![0.0; self.places.len() * width];
        for (row, place) in x.chunks_exact_mut(width).zip(self.places) {
            place.look_up(self.weights, self.shape, entry, row);
        }
        self.send(self.space.x, &x);
    }

    fn norm(&mut self, weight: &[f32]) {
        self.prepared = None;
        let weight = self.vector(weight);
        self.norm_rows(self.space.x, weight, self.space.input, self.tokens());
    }

    fn renorm(&mut self, weight: &[f32], bias: &[f32]) {
        self.prepared = None;
        let norm = args::Norm {
            x: self.space.x,
            weight: self.vector(weight),
            bias: self.vector(bias),
            out: self.space.input,
            width: self.shape.width,
            epsilon: self.shape.norm_epsilon,
        };
        self.launch("renorm", Grid::of(self.tokens(), ROW_THREADS), &norm);
    }

    fn project(&mut self, index: usize, layer: &Layer<DeviceMatrix>) {
        let (space, tokens) = (self.space, self.tokens());
        self.multiply(&layer.query, space.input, space.queries, tokens);
        self.multiply(&layer.key, space.input, space.keys, tokens);
        self.multiply(&layer.value, space.input, space.values, tokens);
        let shape = self.shape;
        let biases = layer.extras.biases.as_ref();
        let bias = |nth: usize| biases.map_or(Address::NONE, |biases| self.vector(&biases[nth]));
        let norms = layer.extras.head_norms.as_ref();
        let norm = |nth: usize| norms.map_or(Address::NONE, |norms| self.vector(&norms[nth]));
        let local = shape.window_of(index).is_some_and(|window| window.rotation.is_some());
        let heads = args::Heads {
            queries: space.queries,
            keys: space.keys,
            values: space.values,
            query_bias: bias(0),
            key_bias: bias(1),
            value_bias: bias(2),
            query_norm: norm(0),
            key_norm: norm(1),
            turns: if local { space.local_turns } else { space.turns },
            places: space.places,
            table: space.table,
            cached_keys: self.cache.keys.after(self.cache.layer_bytes * index as u64),
            cached_values: self.cache.values.after(self.cache.layer_bytes * index as u64),
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_width: shape.head_width,
            pairs: shape.rope_width / 2,
            neighbours: (shape.architecture.pairs == Pairs::Neighbours).into(),
            block_tokens: KV_BLOCK_TOKENS as u32,
            epsilon: shape.norm_epsilon,
            padding: 0,
        };
        let all = shape.heads + 2 * shape.kv_heads;
        self.launch(
            "heads",
            Grid::wide(all.div_ceil(ROW_THREADS / 32), tokens, ROW_THREADS),
            &heads,
        );
    }

    fn attend(&mut self, index: usize) {
        self.prepared = None;
        let (space, shape, tokens) = (self.space, self.shape, self.tokens());
        let longest = self.places.iter().map(|place| place.seen).max().unwrap_or_default();
        let chunks = longest.div_ceil(CHUNK) as u32;
        let few = tokens * shape.kv_heads < 2 * self.device.processors();
        let apart = few && chunks > 1 && tokens as usize <= space.parts_tokens;
        let attend = args::Attend {
            queries: space.queries,
            keys: self.cache.keys.after(self.cache.layer_bytes * index as u64),
            values: self.cache.values.after(self.cache.layer_bytes * index as u64),
            places: space.places,
            table: space.table,
            out: space.attended,
            parts: if apart { space.parts } else { Address::NONE },
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_width: shape.head_width,
            block_tokens: KV_BLOCK_TOKENS as u32,
            window: shape.window_of(index).map_or(0, |window| window.tokens),
            chunks: space.chunks as u32,
            scale: shape.query_scale,
            cap: shape.attention_cap,
        };
        let warps = ATTEND_THREADS / 32;
        let floats = GROUP * (2 * shape.head_width + CHUNK as u32 + 4 + warps * shape.head_width);
        let blocks = [tokens, shape.kv_heads, if apart { chunks } else { 1 }];
        let grid = Grid { blocks, threads: ATTEND_THREADS, shared_bytes: floats * 4 };
        self.launch("attend", grid, &attend);
        if apart {
            let threads = shape.head_width.next_multiple_of(32);
            self.launch("join_chunks", Grid::wide(tokens, shape.heads, threads), &attend);
        }
    }

    fn gate(&mut self, layer: &Layer<DeviceMatrix>) {
        let (space, tokens) = (self.space, self.tokens());
        let function = match self.shape.architecture.activation {
            _ if layer.gate.is_none() => 2,
            Activation::Silu => 0,
            Activation::Gelu | Activation::GeluAlone => 1,
        };
        match &layer.gate {
            Some(gate) => {
                self.multiply(gate, space.input, space.gate, tokens);
                self.multiply(&layer.up, space.input, space.up, tokens);
            }
            None => self.multiply(&layer.up, space.input, space.gate, tokens),
        }
        let bias = layer.extras.up_bias.as_deref();
        let width = self.shape.feed_forward;
        let count = u64::from(tokens) * u64::from(width);
        let gate = args::Gate {
            gate: space.gate,
            up: space.up,
            bias: bias.map_or(Address::NONE, |bias| self.vector(bias)),
            count,
            width,
            function,
        };
        self.launch("gate", elementwise(count), &gate);
        self.prepared = None;
    }

    fn add(&mut self, matrix: &DeviceMatrix, from: From, before: Before<'_>) {
        let (space, tokens) = (self.space, self.tokens());
        let input = match from {
            From::Attended => space.attended,
            From::Gated => space.gate,
        };
        self.multiply(matrix, input, space.delta, tokens);
        self.sum_shards();
        let (norm, bias) = match before {
            Before::Nothing => (Address::NONE, Address::NONE),
            Before::Norm(norm) => (self.vector(norm), Address::NONE),
            Before::Bias(bias) => (Address::NONE, self.vector(bias)),
        };
        let (width, epsilon) = (self.shape.width, self.shape.norm_epsilon);
        let add = args::Add { x: space.x, delta: space.delta, norm, bias, width, epsilon };
        self.launch("add", Grid::of(tokens, ROW_THREADS), &add);
        self.prepared = None;
    }
}

impl Pass<'_> {
    /// Brings the products of all shards together, where there are some.
    fn sum_shards(&mut self) {
        if self.join.shards.is_none() || self.join.failed.is_some() || self.failed.is_some() {
            return;
        }
        let count = self.places.len() * self.shape.width as usize;
        let mut products = self.floats(self.space.delta, count);
        let Some(shards) = self.join.shards.as_deref_mut() else { return };
        let shards: &mut dyn Shards = shards;
        *self.join.failed = shards.sum(&mut products).err();
        self.send(self.space.delta, &products);
    }
}
