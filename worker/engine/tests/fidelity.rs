//! The forward pass against an independent float64 forward of the dequantised weights of the same file.
//!
//! Both paths are held to the same bounds: what either of them rounds is far below what eight-bit activations would.

use ollamamax_engine::backend::{Backend, BlockId, Logits, Slice, StepBatch};
use ollamamax_engine::cpu::{CpuBackend, CpuOptions, KvType, NumericPath};
use ollamamax_tests::model::smollm2;
use serde_json::Value;

const BLOCKS_COUNT: u32 = 32;
/// Below this distance of the two best logits, rounding may decide which of them is greedy.
const CLOSE_CALL: f64 = 0.05;
/// How far a logit may be off.
const LOGITS_OFF: f64 = 0.05;
/// The same with keys and values in bytes.
const BYTES_OFF: f64 = 0.5;

fn golden() -> Value {
    let text = include_str!("data/golden-smollm2-135m-q4_1.json");
    serde_json::from_str(text).expect("reference data")
}

fn backend(path: NumericPath) -> CpuBackend {
    let options = CpuOptions { path, kv_blocks: BLOCKS_COUNT, ..CpuOptions::default() };
    CpuBackend::load(smollm2(), &options).expect("a sound model")
}

fn tokens_of(value: &Value) -> Vec<u32> {
    let numbers = value.as_array().expect("tokens").iter();
    numbers.map(|t| u32::try_from(t.as_u64().expect("a token")).expect("small")).collect()
}

fn numbers_of(value: &Value) -> Vec<f64> {
    value.as_array().expect("numbers").iter().map(|n| n.as_f64().expect("a number")).collect()
}

/// The logits after `tokens`, which continue at `start`.
fn step(backend: &mut CpuBackend, start: u32, tokens: &[u32], logits: Logits) -> Vec<Vec<f32>> {
    let blocks = (0..BLOCKS_COUNT).map(BlockId).collect();
    let slice = Slice { start, tokens: tokens.to_vec(), blocks, logits };
    let mut all = backend.step(&StepBatch { slices: vec![slice] }).expect("a step");
    all.remove(0)
}

/// The largest distance of the ten best first-step logits from the reference.
fn worst_of_top_ten(item: &Value, logits: &[f32]) -> f64 {
    let top = item["reference_f64"]["first_step"]["top10"].as_array().expect("ten");
    assert_eq!(top.len(), 10);
    let distance = |entry: &Value| {
        let id = usize::try_from(entry["id"].as_u64().expect("an id")).expect("small");
        (f64::from(logits[id]) - entry["logit"].as_f64().expect("a logit")).abs()
    };
    top.iter().map(distance).fold(0.0, f64::max)
}

fn argmax(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]).then(b.cmp(a)));
    u32::try_from(best.expect("a vocabulary")).expect("small")
}

fn position(length: usize) -> u32 {
    u32::try_from(length).expect("small")
}

/// Mean negative log-likelihood of the reference text, and the reference's own.
fn likelihood(path: NumericPath) -> (f64, f64) {
    let golden = golden();
    let nll = &golden["nll"];
    let tokens = tokens_of(&nll["tokens"]);
    let rows = step(&mut backend(path), 0, &tokens, Logits::All);
    let score = |row: &Vec<f32>, next: u32| {
        let best = row.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = row.iter().map(|logit| f64::from(logit - best).exp()).sum();
        sum.ln() - f64::from(row[next as usize] - best)
    };
    let scored = tokens.len() - 1;
    let sum: f64 = rows.iter().zip(&tokens[1..]).map(|(row, next)| score(row, *next)).sum();
    let reference = nll["reference_f64"]["sum_nll"].as_f64().expect("a sum");
    (sum / scored as f64, reference / scored as f64)
}

/// First-step logits, greedy tokens, and teacher-forced the margin of every step.
fn follows_the_reference(path: NumericPath) {
    let golden = golden();
    let mut backend = backend(path);
    for item in golden["generate"].as_array().expect("items") {
        let mut tokens = tokens_of(&item["prompt_tokens"]);
        let mut logits = step(&mut backend, 0, &tokens, Logits::Last).remove(0);
        let worst = worst_of_top_ten(item, &logits);
        let reference = &item["reference_f64"];
        let margins = numbers_of(&reference["top1_minus_top2_margin"]);
        let expected = tokens_of(&reference["output_tokens"]);
        let (mut greedy, mut worst_margin) = (true, 0.0f64);
        for (index, (expected, margin)) in expected.iter().zip(margins).enumerate() {
            greedy &= margin >= CLOSE_CALL;
            if greedy {
                assert_eq!(argmax(&logits), *expected, "{}: token {index}", item["id"]);
            }
            worst_margin = worst_margin.max((margin_of(&logits, *expected) - margin).abs());
            let at = position(tokens.len());
            tokens.push(*expected);
            logits = step(&mut backend, at, &[*expected], Logits::Last).remove(0);
        }
        eprintln!(
            "{path:?} {}: logits off by {worst:.4}, margins by {worst_margin:.4}",
            item["id"]
        );
        assert!(worst <= LOGITS_OFF, "{}: off by {worst}", item["id"]);
        assert!(worst_margin <= 2.0 * LOGITS_OFF, "{}: off by {worst_margin}", item["id"]);
    }
}

/// How far `token` is above the best other one.
fn margin_of(logits: &[f32], token: u32) -> f64 {
    let others = logits.iter().enumerate().filter(|(id, _)| *id != token as usize);
    let best = others.map(|(_, logit)| *logit).fold(f32::MIN, f32::max);
    f64::from(logits[token as usize]) - f64::from(best)
}

#[test]
fn the_plain_path_follows_the_reference() {
    follows_the_reference(NumericPath::Plain);
}

#[test]
fn the_fast_path_follows_the_reference() {
    follows_the_reference(NumericPath::Fast);
}

/// On request keys and values are bytes: that costs more than everything else the fast path rounds.
#[test]
fn keys_and_values_in_bytes_stay_near_the_reference() {
    let golden = golden();
    let kv_type = KvType::Q8_0;
    let options = CpuOptions { kv_blocks: BLOCKS_COUNT, kv_type, ..CpuOptions::default() };
    let mut backend = CpuBackend::load(smollm2(), &options).expect("a sound model");
    for item in golden["generate"].as_array().expect("items") {
        let tokens = tokens_of(&item["prompt_tokens"]);
        let logits = step(&mut backend, 0, &tokens, Logits::Last).remove(0);
        let worst = worst_of_top_ten(item, &logits);
        eprintln!("keys and values in bytes, {}: logits off by {worst:.4}", item["id"]);
        assert!(worst <= BYTES_OFF, "{}: off by {worst}", item["id"]);
    }
}

#[test]
fn both_paths_find_the_reference_text_as_likely_as_the_reference_does() {
    for path in [NumericPath::Plain, NumericPath::Fast] {
        let (mean, reference) = likelihood(path);
        let off = (mean - reference).abs() / reference;
        eprintln!(
            "{path:?}: mean NLL {mean:.6}, reference {reference:.6}, off {:.4} %",
            off * 100.0
        );
        assert!(off <= 0.000_5, "{path:?}: {mean} instead of {reference}");
    }
}
