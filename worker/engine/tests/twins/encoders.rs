//! Texts as vectors: encoders against a naive float64 forward and llama.cpp's vectors, models that continue texts against the
//! latter, and everything against itself in other company and on other tiers.
//!
//! The reference is written as that of the logits, see `reference.rs`.

use super::families::{Case, cases, encoders};
use super::{PATHS, load, options, tiers, tokens};
use crate::naive::Naive;
use ollamamax_engine::backend::{Backend, BackendError, BlockId, Logits, Slice, StepBatch};
use ollamamax_engine::cpu::{CpuBackend, CpuOptions, NumericPath};
use ollamamax_engine::engine::{Engine, EngineLimits, Refusal, TextModel};
use ollamamax_engine::vocabulary::Vocabulary;
use ollamamax_gguf::GgmlType;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const REFERENCE: &str = include_str!("../data/embeddings.json");

/// An engine over a backend; nothing here is text.
fn engine(backend: CpuBackend, step_tokens: usize) -> Engine {
    let tokens = vec!["[CLS]", "[SEP]", "[UNK]"].into();
    let vocabulary = Vocabulary { model: "bert".to_owned(), tokens, ..Vocabulary::default() };
    let text = Arc::new(TextModel::new(vocabulary, None).expect("a tokenizer"));
    let limits = EngineLimits {
        context_tokens: 512,
        sequences_max: 4,
        step_tokens,
        waiting_max: 64,
        speculating_max: 0,
    };
    Engine::new(Box::new(backend), text, limits)
}

/// The vectors of some requests, each of some texts, computed in one another's company.
fn embed(
    backend: CpuBackend,
    step_tokens: usize,
    requests: &[Vec<Vec<u32>>],
) -> Vec<Vec<Vec<f32>>> {
    let mut engine = engine(backend, step_tokens);
    let ids: Vec<_> =
        requests.iter().map(|texts| engine.embed(texts.clone()).expect("taken")).collect();
    let mut found = BTreeMap::new();
    while !engine.is_idle() {
        assert!(engine.step().expect("a step").is_empty());
        for embedded in engine.embedded() {
            found.insert(embedded.request, embedded.embeddings);
        }
    }
    let usage = engine.kv_usage();
    assert_eq!((usage.used, usage.cached), (0, 0), "blocks are given back");
    let values = |id| -> Vec<Vec<f32>> {
        let embeddings = found.get(id).expect("finished").iter();
        embeddings.map(|embedding| embedding.values.clone()).collect()
    };
    ids.iter().map(values).collect()
}

fn one(backend: CpuBackend, text: &[u32]) -> Vec<f32> {
    embed(backend, 128, &[vec![text.to_vec()]]).remove(0).remove(0)
}

fn off(vector: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(vector.len(), expected.len());
    let pairs = vector.iter().zip(expected);
    pairs.map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>().sqrt()
}

fn all(kind: GgmlType) -> Vec<Case> {
    encoders(kind).into_iter().chain(cases(kind)).collect()
}

#[test]
fn every_encoder_agrees_with_the_naive_forward() {
    for kind in [GgmlType::F32, GgmlType::F16, GgmlType::Q8_0, GgmlType::Q4_K] {
        for case in encoders(kind) {
            let naive = Naive::new(&case.synth);
            // Longer than a segment of attention.
            for count in [1, 45, 300] {
                let text = tokens(count, 3);
                let expected = naive.embed(&text);
                for path in PATHS {
                    let off = off(&one(load(&naive.file, options(path)), &text), &expected);
                    eprintln!("{} {kind} {path:?} {count}: off by {off:.7}", case.name);
                    assert!(off < 5e-4, "{} {kind} {path:?} {count}: off by {off}", case.name);
                }
            }
        }
    }
}

#[test]
fn every_family_embeds_as_llama_cpp() {
    if let Some(folder) = std::env::var_os("FAMILIES_OUT") {
        write_task(folder.as_ref());
    }
    let reference: Value = serde_json::from_str(REFERENCE).expect("reference data");
    for case in all(GgmlType::F32) {
        let Some(expected) = reference.get(case.name) else {
            assert_eq!(case.name, "llama-window", "it has no reference");
            continue;
        };
        let expected: Vec<f64> = serde_json::from_value(expected.clone()).expect("a vector");
        for path in PATHS {
            let options = CpuOptions { context_tokens: case.context_tokens, ..options(path) };
            let off = off(&one(load(&case.synth.to_gguf(), options), &tokens(45, 3)), &expected);
            eprintln!("{} {path:?}: off by {off:.6}", case.name);
            // In part it is llama.cpp's: its GELU is a table of sixteen bits over the approximation with tanh.
            assert!(off < 1e-3, "{} {path:?}: off by {off}", case.name);
        }
    }
}

/// Writes the models that the reference is made from, and what is asked of them.
fn write_task(folder: &std::path::Path) {
    std::fs::create_dir_all(folder).expect("a folder");
    let mut contexts = serde_json::Map::new();
    for case in all(GgmlType::F32) {
        let path = folder.join(format!("{}.gguf", case.name));
        std::fs::write(path, case.synth.to_gguf()).expect("a file");
        contexts.insert(case.name.to_owned(), case.context_tokens.into());
    }
    let encoders: Vec<_> = encoders(GgmlType::F32).iter().map(|case| case.name).collect();
    let task = json!({ "text": tokens(45, 3), "contexts": contexts, "encoders": encoders });
    std::fs::write(folder.join("embeddings-task.json"), task.to_string()).expect("a file");
}

/// Texts of all lengths, in requests of several: whatever the step's budget, tier and neighbours, each vector is that of the text
/// alone.
#[test]
fn company_and_tiers_change_no_bit_of_a_vector() {
    let lens = [1, 2, 17, 300, 5, 64, 31, 33, 140, 3, 16, 8];
    let texts: Vec<_> = (0u32..).zip(lens).map(|(seed, len)| tokens(len, seed)).collect();
    let requests: Vec<_> = texts.chunks(5).map(<[_]>::to_vec).collect();
    for kind in [GgmlType::F16, GgmlType::Q8_0] {
        for case in all(kind) {
            let file = case.synth.to_gguf();
            let on = |tier, threads| {
                let options = CpuOptions { kv_blocks: 24, ..options(NumericPath::Fast) };
                load(&file, CpuOptions { tier: Some(tier), threads, ..options })
            };
            let best = tiers().last().expect("one");
            let alone: Vec<_> = texts.iter().map(|text| one(on(best, 1), text)).collect();
            for (tier, step_tokens) in tiers().flat_map(|tier| [(tier, 7), (tier, 128)]) {
                let together = embed(on(tier, 2), step_tokens, &requests).concat();
                assert!(together == alone, "{} {kind} {tier:?} {step_tokens}", case.name);
            }
        }
    }
}

#[test]
fn what_an_encoder_cannot_do_is_refused() {
    let file = encoders(GgmlType::F32).remove(0).synth.to_gguf();
    let mut backend = load(&file, options(NumericPath::Fast));
    let mut step = |start, count, logits| {
        let blocks = (0..32).map(BlockId).collect();
        let slices = vec![Slice { start, tokens: tokens(count, 1), blocks, logits }];
        backend.step(&StepBatch { slices })
    };
    assert_eq!(step(0, 3, Logits::Last), Err(BackendError::Encoder));
    assert_eq!(step(1, 3, Logits::Hidden), Err(BackendError::Encoder));
    assert!(matches!(step(0, 2049, Logits::Hidden), Err(BackendError::TooLong { .. })));
    assert!(step(0, 3, Logits::Hidden).is_ok_and(|rows| rows[0].len() == 3));

    let mut engine = engine(load(&file, options(NumericPath::Fast)), 128);
    assert_eq!(engine.embed(vec![vec![1], vec![]]), Err(Refusal::Empty));
    assert!(matches!(engine.embed(vec![vec![1; 513]]), Err(Refusal::TooLong { .. })));
    assert!(matches!(engine.embed(vec![vec![96]]), Err(Refusal::Token { token: 96, .. })));
    let id = engine.embed(vec![vec![1, 2]]).expect("taken");
    assert!(engine.cancel(id) && !engine.cancel(id) && engine.is_idle());
}
