//! Tiny models of every family, with what distinguishes it: the cases of the tests, and of `data/reference.py`.

use ollamamax_engine::architecture::Architecture;
use ollamamax_engine::synth::Synth;
use ollamamax_gguf::{GgmlType, Value};

/// Positions of windows: fewer than the texts have.
pub const WINDOW: u32 = 20;

/// One case.
pub struct Case {
    /// Its name in the reference data.
    pub name: &'static str,
    /// The model.
    pub synth: Synth,
    /// The context to load it for.
    pub context_tokens: u32,
}

fn case(name: &'static str, family: &str, kind: GgmlType) -> Case {
    let architecture = Architecture::find(family).expect("a family");
    let metadata = vec![
        ("tokenizer.ggml.model".to_owned(), Value::Str("no_vocab".to_owned())),
        (format!("{family}.vocab_size"), Value::U32(96)),
    ];
    let seed = name.bytes().map(u64::from).sum();
    let synth = Synth { architecture, metadata, ..Synth::tiny(kind, seed) };
    Case { name, synth, context_tokens: 512 }
}

impl Case {
    fn with(mut self, key: &str, value: Value) -> Self {
        self.synth.metadata.push((format!("{}.{key}", self.synth.architecture.name), value));
        self
    }

    fn but(mut self, change: impl Fn(&mut Synth)) -> Self {
        change(&mut self.synth);
        self
    }

    fn stretched(self, kind: &str, factor: f32) -> Self {
        self.with("rope.scaling.type", Value::Str(kind.to_owned()))
            .with("rope.scaling.factor", Value::F32(factor))
    }

    fn original(self, tokens: u32) -> Self {
        self.with("rope.scaling.original_context_length", Value::U32(tokens))
    }
}

/// All encoders.
pub fn encoders(kind: GgmlType) -> Vec<Case> {
    let case = |name, family| case(name, family, kind).but(|synth| synth.kv_heads = synth.heads);
    vec![
        case("bert", "bert"),
        case("bert-cls", "bert").with("pooling_type", Value::U32(2)),
        case("nomic-bert", "nomic-bert").with("rope.freq_base", Value::F32(1_000.0)),
    ]
}

/// All cases of models that continue texts.
pub fn cases(kind: GgmlType) -> Vec<Case> {
    let case = |name, family| case(name, family, kind);
    let window = |case: Case| case.with("attention.sliding_window", Value::U32(WINDOW));
    let scaled = |case: Case| {
        case.but(|synth| synth.rope_factors = true)
            .with("rope.scaling.attn_factor", Value::F32(1.19))
            .original(256)
    };
    vec![
        case("llama-factors", "llama").but(|synth| synth.rope_factors = true),
        case("llama-linear", "llama").stretched("linear", 4.0),
        case("llama-yarn", "llama").stretched("yarn", 4.0).original(64),
        window(case("llama-window", "llama")),
        case("qwen2", "qwen2").but(|synth| synth.tied = false),
        case("qwen2-yarn", "qwen2").stretched("yarn", 4.0).original(32),
        case("qwen3", "qwen3").but(|synth| (synth.head_width, synth.rope_width) = (32, 32)),
        case("phi3", "phi3").but(|synth| synth.rope_width = 12),
        Case { context_tokens: 256, ..scaled(case("phi3-short", "phi3")) },
        scaled(case("phi3-long", "phi3")),
        case("gemma", "gemma"),
        window(case("gemma2", "gemma2"))
            .but(|synth| synth.layers = 3)
            // Low enough for the scores of these models to feel it.
            .with("attn_logit_softcapping", Value::F32(2.0))
            .with("final_logit_softcapping", Value::F32(10.0)),
        window(case("gemma3", "gemma3"))
            .but(|synth| synth.layers = 7)
            .with("rope.freq_base", Value::F32(1e6))
            .with("rope.freq_base_swa", Value::F32(1e4))
            .with("final_logit_softcapping", Value::F32(0.0))
            .stretched("linear", 8.0),
    ]
}
