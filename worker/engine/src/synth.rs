//! Random models of any architecture, size and weight type, as GGUF files: for tests, and for timing shapes whose weights are
//! not at hand. The same description always gives the same bytes.

mod large;

pub use self::large::UnknownSynth;
use crate::architecture::{ALL, Architecture, Fused};
use crate::quant;
use crate::shape::{
    FIXED_FACTORS, LONG_FACTORS, SHORT_FACTORS, Widths, layer_tensors, outer_tensors,
};
use ollamamax_gguf::{Array, GgmlType, GgufWriter, Value};

/// Positions of every model.
const CONTEXT_TOKENS: u32 = 2048;
/// Kinds of text an encoder tells apart.
const TOKEN_TYPES: u32 = 2;

/// A model to make up.
#[derive(Clone, Debug)]
pub struct Synth {
    /// The family.
    pub architecture: &'static Architecture,
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
    /// Elements of a head that are rotated.
    pub rope_width: u32,
    /// Tokens in the vocabulary.
    pub vocabulary: u32,
    /// Type of all matrices.
    pub kind: GgmlType,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Whether to add rope factors: short and long ones where tensors are fused, else fixed ones.
    pub rope_factors: bool,
    /// Where the randomness starts.
    pub seed: u64,
    /// More metadata, e.g. a tokenizer; replaces what would be there under the same key.
    pub metadata: Vec<(String, Value)>,
}

impl Synth {
    /// Weight types that can be packed.
    pub const KINDS: [GgmlType; 11] = [
        GgmlType::F32,
        GgmlType::F16,
        GgmlType::BF16,
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q5_0,
        GgmlType::Q5_1,
        GgmlType::Q8_0,
        GgmlType::Q4_K,
        GgmlType::Q5_K,
        GgmlType::Q6_K,
    ];

    /// A model small enough for tests, with widths that suit the weight type.
    pub fn tiny(kind: GgmlType, seed: u64) -> Self {
        let width = (kind.block_elements() as u32).max(64);
        Self {
            architecture: &ALL[0],
            layers: 2,
            width,
            feed_forward: width * 2,
            heads: 4,
            kv_heads: 2,
            head_width: width / 4,
            rope_width: width / 4,
            vocabulary: 96,
            kind,
            tied: true,
            rope_factors: false,
            seed,
            metadata: Vec::new(),
        }
    }

    /// A tiny encoder whose vocabulary spells texts of letters, digits and some punctuation.
    pub fn encoder(architecture: &'static Architecture, seed: u64) -> Self {
        let tiny = Self::tiny(GgmlType::F32, seed);
        let metadata = wordpiece(tiny.vocabulary as usize);
        Self { architecture, kv_heads: tiny.heads, metadata, ..tiny }
    }

    /// The file.
    pub fn to_gguf(&self) -> Vec<u8> {
        let mut writer = GgufWriter::new();
        self.metadata(&mut writer);
        let mut random = Random(self.seed);
        for tensor in self.tensors() {
            let data = tensor.pack(&mut random, tensor.dims.iter().product());
            writer.tensor(&tensor.name, &tensor.dims, tensor.kind, data);
        }
        writer.to_bytes()
    }

    fn metadata(&self, writer: &mut GgufWriter) {
        let name = self.architecture.name;
        writer
            .metadata("general.architecture", Value::Str(name.to_owned()))
            .metadata("general.name", Value::Str("synthetic".to_owned()));
        let numbers = [
            ("block_count", self.layers),
            ("context_length", CONTEXT_TOKENS),
            ("embedding_length", self.width),
            ("feed_forward_length", self.feed_forward),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("attention.key_length", self.head_width),
            ("attention.value_length", self.head_width),
            ("rope.dimension_count", self.rope_width),
        ]
        .map(|(key, value)| (key, Value::U32(value)));
        let encoder = self.architecture.encoder;
        let epsilon = match encoder {
            true => "attention.layer_norm_epsilon",
            false => "attention.layer_norm_rms_epsilon",
        };
        let floats = [("rope.freq_base", 10_000.0), (epsilon, 1e-5)]
            .map(|(key, value)| (key, Value::F32(value)));
        let of_encoder =
            [("attention.causal", Value::Bool(false)), ("pooling_type", Value::U32(1))];
        let of_encoder = of_encoder.into_iter().filter(|_| encoder);
        for (key, value) in numbers.into_iter().chain(floats).chain(of_encoder) {
            let key = format!("{name}.{key}");
            if !self.metadata.iter().any(|(replaced, _)| *replaced == key) {
                writer.metadata(&key, value);
            }
        }
        if encoder {
            writer.metadata("tokenizer.ggml.token_type_count", Value::U32(TOKEN_TYPES));
        }
        for (key, value) in &self.metadata {
            writer.metadata(key, value.clone());
        }
    }

    /// All tensors, in the order of the file.
    fn tensors(&self) -> Vec<Tensor> {
        let widths = Widths {
            width: self.width.into(),
            feed_forward: self.feed_forward.into(),
            queries: u64::from(self.heads * self.head_width),
            keys: u64::from(self.kv_heads * self.head_width),
            head: self.head_width.into(),
        };
        let layer = layer_tensors(self.architecture, &widths);
        let of_layers = |matrices: bool| {
            let layer = layer.iter().filter(move |(_, dims)| (dims.len() > 1) == matrices);
            (0..self.layers).flat_map(move |index| {
                let name = move |part: &str| format!("blk.{index}.{part}");
                layer.clone().map(move |(part, dims)| (name(part), dims.clone()))
            })
        };
        let sizes = [self.width, self.vocabulary, CONTEXT_TOKENS, TOKEN_TYPES].map(u64::from);
        let outer = outer_tensors(self.architecture, sizes, self.tied);
        let of_outer = |matrices: bool| {
            let outer = outer.iter().filter(move |(_, dims)| (dims.len() > 1) == matrices);
            outer.map(|(name, dims)| ((*name).to_owned(), dims.clone()))
        };
        let matrix = |(name, dims): (String, Vec<u64>)| {
            // Keeps the size of activations about the same from layer to layer.
            let spread = 1.0 / (dims[0] as f32).sqrt();
            Tensor { name, dims, kind: self.kind, middle: 0.0, spread }
        };
        let mut all: Vec<Tensor> = of_outer(true).chain(of_layers(true)).map(matrix).collect();
        let vector = |name: &str, len: u64, middle: f32| Tensor {
            name: name.to_owned(),
            dims: vec![len],
            kind: GgmlType::F32,
            middle,
            spread: 0.1,
        };
        for (name, dims) in of_outer(false).chain(of_layers(false)) {
            all.push(vector(&name, dims[0], if name.ends_with(".bias") { 0.0 } else { 1.0 }));
        }
        let pairs = u64::from(self.rope_width / 2);
        match (self.rope_factors, self.architecture.fused) {
            (false, _) => {}
            (true, Fused::Nothing | Fused::Attention) => {
                all.push(vector(FIXED_FACTORS, pairs, 2.0));
            }
            (true, Fused::Both) => {
                all.push(vector(SHORT_FACTORS, pairs, 1.2));
                all.push(vector(LONG_FACTORS, pairs, 4.0));
            }
        }
        all
    }
}

/// A tensor to make up: values around `middle`, about as far from it as `spread`.
struct Tensor {
    name: String,
    dims: Vec<u64>,
    kind: GgmlType,
    middle: f32,
    spread: f32,
}

impl Tensor {
    /// `count` values, whole rows, packed.
    fn pack(&self, random: &mut Random, count: u64) -> Vec<u8> {
        let value = |_| self.middle + random.normal() * self.spread;
        let values: Vec<f32> = (0..count).map(value).collect();
        quant::pack(self.kind, &values)
    }

    /// Bytes of its data.
    fn bytes(&self) -> u64 {
        let row = self.kind.row_bytes(self.dims[0]).unwrap_or_default();
        row * self.dims[1..].iter().product::<u64>()
    }
}

/// A WordPiece vocabulary of `count` tokens, 95 at least.
fn wordpiece(count: usize) -> Vec<(String, Value)> {
    const CONTROL: i32 = 3;
    const NORMAL: i32 = 1;
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
    let letters = ('a'..='z').chain('0'..='9');
    let spelt = letters.flat_map(|letter| [format!("\u{2581}{letter}"), letter.to_string()]);
    let words = ["the", "and", "of", "cat", "dog", "sea", "sky", "sun"].map(str::to_owned);
    let words = words.into_iter().chain(".,!?'-:;()".chars().map(String::from));
    let mut tokens: Vec<String> = special.into_iter().chain(spelt).collect();
    tokens.extend(words.map(|word| format!("\u{2581}{word}")));
    tokens.extend((tokens.len()..count).map(|id| format!("[unused{id}]")));
    let kinds = (0..tokens.len()).map(|id| if id < 5 { CONTROL } else { NORMAL }).collect();
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    vec![
        (key("model"), Value::Str("bert".to_owned())),
        (key("tokens"), Value::Array(Array::Str(tokens.into()))),
        (key("token_type"), Value::Array(Array::I32(kinds))),
        (key("cls_token_id"), Value::U32(2)),
        (key("seperator_token_id"), Value::U32(3)),
    ]
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough for weights, and the same everywhere.
struct Random(u64);

impl Random {
    /// Of a part of a tensor.
    fn of(seed: u64, tensor: u64, part: u64) -> Self {
        let mut random = Self(seed);
        for number in [tensor, part] {
            random.0 ^= number;
            random.0 = random.next();
        }
        random
    }

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
