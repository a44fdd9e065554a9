//! The real weights of all-MiniLM-L6-v2 against what its own tokenizer and a float64 forward make of the same texts
//! (`data/minilm.py`), in floats as published and in the types that files come in.

use ollamamax_engine::backend::Backend;
use ollamamax_engine::cpu::{CpuBackend, CpuOptions, NumericPath, Tier};
use ollamamax_engine::engine::{Engine, EngineLimits, TextModel};
use ollamamax_engine::quant;
use ollamamax_engine::weights::Mapping;
use ollamamax_gguf::{GgmlType, Gguf, GgufWriter};
use ollamamax_proto::inference::{EmbedInput, Embedding};
use ollamamax_proto::limits::STEP_TOKENS_CPU;
use ollamamax_tests::model::minilm;
use serde::Deserialize;
use std::sync::{Arc, OnceLock};

const CONTEXT_TOKENS: u32 = 512;

#[derive(Deserialize)]
struct Reference {
    texts: Vec<Entry>,
    /// Of every text that has a vector with every other.
    cosines: Vec<Vec<f64>>,
}

#[derive(Deserialize)]
struct Entry {
    text: String,
    tokens: Vec<u32>,
    /// The first values.
    #[serde(default)]
    vector: Vec<f64>,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("data/minilm.json")).expect("reference data")
}

fn text() -> Arc<TextModel> {
    static TEXT: OnceLock<Arc<TextModel>> = OnceLock::new();
    let read = || {
        let bytes = std::fs::read(minilm()).expect("the model file is readable");
        let gguf = Gguf::parse(&bytes).expect("a sound header");
        Arc::new(TextModel::from_gguf(&gguf).expect("a known tokenizer"))
    };
    Arc::clone(TEXT.get_or_init(read))
}

fn tokens(text_to_embed: &str) -> Vec<u32> {
    let input = EmbedInput::Text(text_to_embed.to_owned());
    text().prepare_input(&input, true, CONTEXT_TOKENS).expect("tokens")
}

/// The file with its matrices in another type.
fn packed(kind: GgmlType) -> Mapping {
    let bytes = std::fs::read(minilm()).expect("the model file is readable");
    let gguf = Gguf::parse(&bytes).expect("a sound header");
    let mut writer = GgufWriter::new();
    for entry in gguf.entries() {
        writer.metadata(&entry.key, entry.value.clone());
    }
    for info in gguf.tensors() {
        let data = &bytes[info.start as usize..][..info.bytes as usize];
        match info.name.ends_with(".weight") && info.dims.len() > 1 {
            true => {
                let values = quant::unpack(info.kind, data);
                writer.tensor(&info.name, &info.dims, kind, quant::pack(kind, &values));
            }
            false => {
                writer.tensor(&info.name, &info.dims, info.kind, data.to_vec());
            }
        }
    }
    Mapping::from_vec(writer.to_bytes())
}

fn embed(mapping: Mapping, options: &CpuOptions, texts: &[&str]) -> Vec<Embedding> {
    let options = CpuOptions { kv_blocks: 32, context_tokens: CONTEXT_TOKENS, ..options.clone() };
    let backend = CpuBackend::from_mapping(Arc::new(mapping), &options).expect("a sound model");
    assert!(backend.is_encoder());
    let limits = EngineLimits {
        context_tokens: CONTEXT_TOKENS,
        sequences_max: 1,
        step_tokens: STEP_TOKENS_CPU,
        waiting_max: 16,
        speculating_max: 0,
    };
    let mut engine = Engine::new(Box::new(backend), text(), limits);
    let inputs = texts.iter().map(|text| tokens(text)).collect();
    engine.embed(inputs).expect("taken");
    while !engine.is_idle() {
        engine.step().expect("a step");
        if let Some(embedded) = engine.embedded().pop() {
            return embedded.embeddings;
        }
    }
    Vec::new()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[test]
fn tokens_are_those_of_the_models_own_tokenizer() {
    for Entry { text, tokens: expected, .. } in reference().texts {
        assert_eq!(tokens(&text), expected, "{text:?}");
    }
}

/// A long text is tokenised in parts, and only its beginning: nothing of that is seen.
#[test]
fn a_long_text_has_the_tokens_of_its_beginning() {
    let words: Vec<String> = reference().texts.into_iter().map(|entry| entry.text).collect();
    let long = words.join(" ").repeat(40);
    let whole = text().tokenizer().encode(&long, true).expect("tokens");
    assert_eq!(text().tokenizer().encode_beginning(&long, usize::MAX).expect("tokens"), whole);
    let beginning = text().tokenizer().encode_beginning(&long, 600).expect("tokens");
    assert!(beginning.len() > 600 && beginning.len() < whole.len() / 4, "{}", beginning.len());
    assert_eq!(beginning, whole[..beginning.len()]);
    let cut = tokens(&long);
    assert_eq!(cut.len(), CONTEXT_TOKENS as usize);
    assert_eq!(cut[1..511], whole[..510]);
}

#[test]
fn vectors_are_those_of_the_published_weights() {
    let Reference { texts, cosines } = reference();
    let texts: Vec<Entry> = texts.into_iter().filter(|entry| !entry.vector.is_empty()).collect();
    let asked: Vec<&str> = texts.iter().map(|entry| entry.text.as_str()).collect();
    let cases = [
        (GgmlType::F32, NumericPath::Plain, 2e-4),
        (GgmlType::F32, NumericPath::Fast, 2e-4),
        (GgmlType::F16, NumericPath::Fast, 5e-4),
        (GgmlType::Q8_0, NumericPath::Fast, 1e-2),
        (GgmlType::Q4_0, NumericPath::Fast, 1.5e-1),
    ];
    for (kind, path, bound) in cases {
        let mapping = match kind {
            GgmlType::F32 => Mapping::open(minilm()).expect("the model file is readable"),
            kind => packed(kind),
        };
        let found = embed(mapping, &CpuOptions { path, ..CpuOptions::default() }, &asked);
        let mut worst: f64 = 0.0;
        for (entry, embedding) in texts.iter().zip(&found) {
            assert_eq!(embedding.tokens as usize, entry.tokens.len());
            for (value, expected) in embedding.values.iter().zip(&entry.vector) {
                worst = worst.max((f64::from(*value) - expected).abs());
            }
        }
        for (a, row) in found.iter().zip(&cosines) {
            for (b, expected) in found.iter().zip(row) {
                worst = worst.max((cosine(&a.values, &b.values) - expected).abs());
            }
        }
        eprintln!("{kind} {path:?}: off by {worst:.6}");
        assert!(worst < bound, "{kind} {path:?}: off by {worst}");
    }
}

#[test]
fn tiers_and_company_change_no_bit_of_a_real_vector() {
    let texts = ["A kitten is resting on a rug.", "", "Stock markets fell.", &"long ".repeat(400)];
    let on = |tier, threads, texts: &[&str]| {
        let options = CpuOptions { tier: Some(tier), threads, ..CpuOptions::default() };
        embed(packed(GgmlType::Q8_0), &options, texts)
    };
    let together = on(Tier::best(), 2, &texts);
    for (text, together) in texts.iter().zip(&together) {
        assert!(on(Tier::best(), 1, &[text]) == [together.clone()], "{text:?}");
    }
    for tier in [Tier::Portable, Tier::Avx2, Tier::Avx512, Tier::Amx] {
        if tier.is_available() {
            assert!(on(tier, 2, &texts) == together, "{tier:?}");
        }
    }
}
