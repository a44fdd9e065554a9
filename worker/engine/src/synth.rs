//! Random llama models of any size and weight type, as GGUF files: for tests, and for timing shapes whose weights are
//! not at hand. The same description always gives the same bytes.

use crate::quant;
use ollamamax_gguf::{GgmlType, GgufWriter, Value};

/// A model to make up.
#[derive(Clone, Debug)]
pub struct Synth {
    /// Transformer layers.
    pub layers: u32,
    /// Width of the residual stream; a multiple of the weight type's block.
    pub width: u32,
    /// Width of the feed-forward part; a multiple of the weight type's block.
    pub feed_forward: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Width of a head; `heads * head_width` is a multiple of the weight type's block.
    pub head_width: u32,
    /// Tokens in the vocabulary.
    pub vocabulary: u32,
    /// Type of all matrices.
    pub kind: GgmlType,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Whether to add rope factors.
    pub rope_factors: bool,
    /// Where the randomness starts.
    pub seed: u64,
    /// More metadata, e.g. a tokenizer.
    pub metadata: Vec<(String, Value)>,
}

impl Synth {
    /// A model small enough for tests, with widths that suit the weight type.
    pub fn tiny(kind: GgmlType, seed: u64) -> Self {
        let width = (kind.block_elements() as u32).max(64);
        Self {
            layers: 2,
            width,
            feed_forward: width * 2,
            heads: 4,
            kv_heads: 2,
            head_width: width / 4,
            vocabulary: 96,
            kind,
            tied: true,
            rope_factors: false,
            seed,
            metadata: Vec::new(),
        }
    }

    /// The file.
    pub fn to_gguf(&self) -> Vec<u8> {
        let mut writer = GgufWriter::new();
        let number = |value: u32| Value::U32(value);
        writer
            .metadata("general.architecture", Value::Str("llama".to_owned()))
            .metadata("general.name", Value::Str("synthetic".to_owned()))
            .metadata("llama.block_count", number(self.layers))
            .metadata("llama.context_length", number(2048))
            .metadata("llama.embedding_length", number(self.width))
            .metadata("llama.feed_forward_length", number(self.feed_forward))
            .metadata("llama.attention.head_count", number(self.heads))
            .metadata("llama.attention.head_count_kv", number(self.kv_heads))
            .metadata("llama.attention.key_length", number(self.head_width))
            .metadata("llama.attention.value_length", number(self.head_width))
            .metadata("llama.rope.dimension_count", number(self.head_width))
            .metadata("llama.rope.freq_base", Value::F32(10_000.0))
            .metadata("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
        for (key, value) in &self.metadata {
            writer.metadata(key, value.clone());
        }
        self.tensors(&mut writer);
        writer.to_bytes()
    }

    fn tensors(&self, writer: &mut GgufWriter) {
        let (width, q, kv) =
            (self.width, self.heads * self.head_width, self.kv_heads * self.head_width);
        let mut random = Random(self.seed);
        let mut matrix = |writer: &mut GgufWriter, name: &str, columns: u32, rows: u32| {
            // Keeps the size of activations about the same from layer to layer.
            let spread = 1.0 / (columns as f32).sqrt();
            let values: Vec<f32> = (0..u64::from(columns) * u64::from(rows))
                .map(|_| random.normal() * spread)
                .collect();
            let data = quant::pack(self.kind, &values);
            writer.tensor(name, &[columns.into(), rows.into()], self.kind, data);
        };
        matrix(writer, "token_embd.weight", width, self.vocabulary);
        if !self.tied {
            matrix(writer, "output.weight", width, self.vocabulary);
        }
        for layer in 0..self.layers {
            for (part, columns, rows) in [
                ("attn_q", width, q),
                ("attn_k", width, kv),
                ("attn_v", width, kv),
                ("attn_output", q, width),
                ("ffn_gate", width, self.feed_forward),
                ("ffn_up", width, self.feed_forward),
                ("ffn_down", self.feed_forward, width),
            ] {
                matrix(writer, &format!("blk.{layer}.{part}.weight"), columns, rows);
            }
        }
        let mut vector = |name: String, len: u32, middle: f32| {
            let values: Vec<f32> = (0..len).map(|_| middle + 0.1 * random.normal()).collect();
            let data = quant::pack(GgmlType::F32, &values);
            writer.tensor(&name, &[len.into()], GgmlType::F32, data);
        };
        vector("output_norm.weight".to_owned(), width, 1.0);
        for layer in 0..self.layers {
            vector(format!("blk.{layer}.attn_norm.weight"), width, 1.0);
            vector(format!("blk.{layer}.ffn_norm.weight"), width, 1.0);
        }
        if self.rope_factors {
            vector("rope_freqs.weight".to_owned(), self.head_width / 2, 2.0);
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough for weights, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// About normal, mean 0 and deviation 1: the sum of twelve uniforms.
    fn normal(&mut self) -> f32 {
        let uniform = |random: &mut Self| (random.next() >> 40) as f32 / (1u32 << 24) as f32;
        (0..12).map(|_| uniform(self)).sum::<f32>() - 6.0
    }
}
