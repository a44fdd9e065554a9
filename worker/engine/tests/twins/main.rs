//! The CPU backend against a naive float64 forward, and against itself: other chunks, neighbours, threads, tiers.

mod encoders;
mod families;
mod naive;
mod parts;
mod reference;

use naive::Naive;
use ollamamax_engine::backend::{Backend, BackendError, BlockId, Logits, Slice, StepBatch};
use ollamamax_engine::cpu::{CpuBackend, CpuOptions, KvType, NumericPath, Tier};
use ollamamax_engine::synth::Synth;
use ollamamax_engine::weights::Mapping;
use ollamamax_gguf::GgmlType;
use std::sync::Arc;

const PATHS: [NumericPath; 2] = [NumericPath::Plain, NumericPath::Fast];

fn load(file: &[u8], options: CpuOptions) -> CpuBackend {
    let mapping = Arc::new(Mapping::from_vec(file.to_vec()));
    CpuBackend::from_mapping(mapping, &options).expect("a synthetic model loads")
}

fn options(path: NumericPath) -> CpuOptions {
    CpuOptions { path, threads: 2, kv_blocks: 32, ..CpuOptions::default() }
}

fn tokens(count: u32, seed: u32) -> Vec<u32> {
    (0..count).map(|i| (i * 31 + seed * 17 + i * i % 7) % 96).collect()
}

fn slice(start: usize, tokens: &[u32], blocks: &[u32], logits: Logits) -> Slice {
    let blocks = blocks.iter().copied().map(BlockId).collect();
    Slice { start: start as u32, tokens: tokens.to_vec(), blocks, logits }
}

fn step(backend: &mut CpuBackend, slices: Vec<Slice>) -> Vec<Vec<Vec<f32>>> {
    backend.step(&StepBatch { slices }).expect("a step")
}

/// All logits of one text, computed in chunks of `chunk` in the given blocks.
fn score(backend: &mut CpuBackend, text: &[u32], chunk: usize, blocks: &[u32]) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    for (index, part) in text.chunks(chunk).enumerate() {
        all.extend(step(backend, vec![slice(index * chunk, part, blocks, Logits::All)]).remove(0));
    }
    all
}

/// Largest difference over all logits.
fn worst<A: Copy + Into<f64>, B: Copy + Into<f64>>(a: &[Vec<A>], b: &[Vec<B>]) -> f64 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(&a, &b)| (a.into() - b.into()).abs()).fold(0.0, f64::max)
}

#[test]
fn every_weight_type_agrees_with_the_naive_forward() {
    for (seed, kind) in Synth::KINDS.into_iter().enumerate() {
        let synth = Synth {
            tied: seed % 2 == 0,
            rope_factors: seed % 3 == 0,
            ..Synth::tiny(kind, seed as u64)
        };
        let naive = Naive::new(&synth);
        let text = tokens(9, seed as u32);
        let expected = naive.score(&text, 2048);
        let spread = expected.iter().flatten().fold(0.0f64, |most, l| most.max(l.abs()));
        for (path, bound) in PATHS.into_iter().zip([0.002, 0.002]) {
            let off =
                worst(&score(&mut load(&naive.file, options(path)), &text, 9, &[0]), &expected);
            assert!(off < bound * spread, "{kind} {path:?}: off by {off} of {spread}");
        }
    }
}

/// Odd sizes: heads that are no multiple of a vector, one head, widths that need padding.
#[test]
fn odd_widths_agree_with_the_naive_forward() {
    let odd = Synth {
        width: 56,
        feed_forward: 72,
        heads: 3,
        kv_heads: 1,
        head_width: 10,
        rope_width: 10,
        vocabulary: 99,
        ..Synth::tiny(GgmlType::F32, 5)
    };
    let padded = Synth {
        width: 96,
        feed_forward: 160,
        heads: 4,
        kv_heads: 4,
        head_width: 24,
        rope_width: 24,
        ..Synth::tiny(GgmlType::Q8_0, 6)
    };
    for synth in [odd, padded] {
        let naive = Naive::new(&synth);
        let text = tokens(20, 3);
        let expected = naive.score(&text, 2048);
        for tier in tiers() {
            for (path, bound) in PATHS.into_iter().zip([0.01, 0.01]) {
                let mut backend =
                    load(&naive.file, CpuOptions { tier: Some(tier), ..options(path) });
                let off = worst(&score(&mut backend, &text, 20, &[0, 1]), &expected);
                assert!(off < bound, "{tier:?} {path:?}: off by {off}");
            }
        }
    }
}

fn tiers() -> impl Iterator<Item = Tier> {
    [Tier::Portable, Tier::Avx2, Tier::Avx512, Tier::Amx]
        .into_iter()
        .filter(|tier| tier.is_available())
}

#[test]
fn tiers_change_no_bit() {
    for kind in Synth::KINDS {
        let file = Synth::tiny(kind, 11).to_gguf();
        let text = tokens(300, 1);
        let blocks: Vec<u32> = (0..20).collect();
        let on = |tier| CpuOptions { tier: Some(tier), ..options(NumericPath::Fast) };
        let portable = score(&mut load(&file, on(Tier::Portable)), &text, 300, &blocks);
        for tier in tiers() {
            for chunk in [1, 2, 3, 19, 300] {
                let again = score(&mut load(&file, on(tier)), &text, chunk, &blocks);
                assert!(again == portable, "{kind} {tier:?} in chunks of {chunk}");
            }
        }
    }
}

#[test]
fn keys_and_values_in_bytes_stay_near_and_no_tier_changes_a_bit() {
    for (seed, kind) in [(11, GgmlType::F32), (12, GgmlType::Q4_1)] {
        let file = Synth::tiny(kind, seed).to_gguf();
        let text = tokens(300, 1);
        let blocks: Vec<u32> = (0..20).collect();
        let on = |tier, kv_type| CpuOptions { tier, kv_type, ..options(NumericPath::Fast) };
        let exact = score(&mut load(&file, on(None, KvType::F16)), &text, 300, &blocks);
        let spread = exact.iter().flatten().fold(0.0f32, |most, l| most.max(l.abs()));
        let run = |tier, chunk| {
            score(&mut load(&file, on(Some(tier), KvType::Q8_0)), &text, chunk, &blocks)
        };
        let portable = run(Tier::Portable, 300);
        let off = worst(&portable, &exact);
        assert!(off < 0.02 * f64::from(spread), "{kind}: off by {off} of {spread}");
        assert!(off > 0.0, "{kind}: the type of the cache changes nothing");
        for tier in tiers() {
            for chunk in [1, 19, 300] {
                assert!(run(tier, chunk) == portable, "{kind} {tier:?} in chunks of {chunk}");
            }
        }
        let held = |kv_type| load(&file, on(None, kv_type)).resident_bytes();
        assert!(held(KvType::Q8_0) < held(KvType::F16));
    }
}

#[test]
fn every_family_agrees_with_the_naive_forward() {
    for case in families::cases(GgmlType::F32) {
        let naive = Naive::new(&case.synth);
        let text = tokens(45, 3);
        let expected = naive.score(&text, case.context_tokens);
        let spread = expected.iter().flatten().fold(0.0f64, |most, l| most.max(l.abs()));
        for path in PATHS {
            let options = CpuOptions { context_tokens: case.context_tokens, ..options(path) };
            let off =
                worst(&score(&mut load(&naive.file, options), &text, 45, &[0, 1, 2]), &expected);
            eprintln!("{} {path:?}: off by {:.6} of {spread:.2}", case.name, off / spread);
            assert!(off < 0.002 * spread, "{} {path:?}: off by {off} of {spread}", case.name);
        }
    }
}

#[test]
fn tiers_and_chunks_change_no_bit_of_any_family() {
    for case in families::cases(GgmlType::Q8_0) {
        let file = case.synth.to_gguf();
        // Past the end of a segment of attention, which a window then spans or leaves behind.
        let text = tokens(290, 1);
        let blocks: Vec<u32> = (0..20).collect();
        let run = |tier, threads, chunk| {
            let tier = Some(tier);
            let options = CpuOptions { tier, threads, ..options(NumericPath::Fast) };
            score(&mut load(&file, options), &text, chunk, &blocks)
        };
        let portable = run(Tier::Portable, 1, 290);
        for tier in tiers() {
            for (threads, chunk) in [(2, 1), (3, 19), (2, 290)] {
                let again = run(tier, threads, chunk);
                assert!(again == portable, "{} {tier:?} in chunks of {chunk}", case.name);
            }
        }
    }
}

#[test]
fn chunks_threads_and_blocks_change_no_bit() {
    for kind in [GgmlType::F16, GgmlType::Q4_1, GgmlType::Q6_K] {
        let file = Synth::tiny(kind, 7).to_gguf();
        // Longer than one piece of the backend's own cutting.
        let text = tokens(300, 2);
        let order: Vec<u32> = (0..20).collect();
        let shuffled: Vec<u32> = (0..20).map(|i| i * 7 % 20 + 5).collect();
        for path in PATHS {
            for tier in tiers() {
                let on = |threads| CpuOptions { threads, tier: Some(tier), ..options(path) };
                let whole = score(&mut load(&file, on(1)), &text, 300, &order);
                for (threads, chunk) in [(1, 7), (2, 1), (3, 128), (2, 300)] {
                    let again = score(&mut load(&file, on(threads)), &text, chunk, &shuffled);
                    assert!(whole == again, "{kind} {path:?} {tier:?} {threads} {chunk}");
                }
            }
        }
    }
}

#[test]
fn neighbours_change_no_bit() {
    let file = Synth::tiny(GgmlType::Q4_0, 9).to_gguf();
    for path in PATHS {
        let mut backend = load(&file, options(path));
        let text = tokens(40, 4);
        let alone = score(&mut backend, &text, 1, &[0, 1, 2]);
        // Prefill beside another prefill, then decode beside decodes, a longer sequence and a growing prompt.
        let other = tokens(90, 5);
        let mut backend = load(&file, options(path));
        let prompt = slice(0, &text[..30], &[9, 4, 2], Logits::All);
        let beside = slice(0, &other[..33], &[0, 1, 3, 5, 6, 7], Logits::Last);
        let mut results = step(&mut backend, vec![beside, prompt]);
        let mut batched = results.remove(1);
        assert_eq!(results[0].len(), 1);
        for position in 30..40 {
            let token = slice(position, &text[position..=position], &[9, 4, 2], Logits::Last);
            let at = 33 + (position - 30) * 5;
            let chunk = slice(at, &other[at..at + 5], &[0, 1, 3, 5, 6, 7], Logits::None);
            let mut results = step(&mut backend, vec![token, chunk]);
            assert!(results[1].is_empty());
            batched.extend(results.remove(0));
        }
        assert!(alone == batched, "{path:?}");
    }
}

#[test]
fn a_step_that_cannot_be_is_refused() {
    let mut backend = load(&Synth::tiny(GgmlType::Q8_0, 1).to_gguf(), options(NumericPath::Plain));
    let mut refused =
        |slice| backend.step(&StepBatch { slices: vec![slice] }).expect_err("refused");
    assert_eq!(
        refused(slice(0, &[96], &[0], Logits::Last)),
        BackendError::Token { token: 96, vocabulary: 96 }
    );
    assert_eq!(
        refused(slice(15, &[1, 2], &[0], Logits::Last)),
        BackendError::Blocks { needed: 17, held: 16 }
    );
    assert_eq!(
        refused(slice(0, &[1], &[32], Logits::Last)),
        BackendError::Block { block: 32, blocks: 32 }
    );
    assert!(backend.step(&StepBatch::default()).is_ok_and(|results| results.is_empty()));
}
