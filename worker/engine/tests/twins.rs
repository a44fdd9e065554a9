//! The CPU backend against a naive float64 forward, and against itself: other chunks, neighbours, threads, tiers.

use ollamamax_engine::backend::{Backend, BackendError, BlockId, Logits, Slice, StepBatch};
use ollamamax_engine::cpu::{CpuBackend, CpuOptions, NumericPath, Tier};
use ollamamax_engine::quant::unpack;
use ollamamax_engine::synth::Synth;
use ollamamax_engine::weights::Mapping;
use ollamamax_gguf::{GgmlType, Gguf};
use std::sync::Arc;

const KINDS: [GgmlType; 11] = [
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
const PATHS: [NumericPath; 2] = [NumericPath::Plain, NumericPath::Fast];

fn load(file: &[u8], options: CpuOptions) -> CpuBackend {
    let mapping = Arc::new(Mapping::from_vec(file.to_vec()));
    CpuBackend::from_mapping(mapping, &options).expect("a synthetic model loads")
}

fn options(path: NumericPath) -> CpuOptions {
    CpuOptions { path, threads: 2, kv_blocks: 32, tier: None }
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

/// The forward pass once more, in float64, with no cache, block, thread or kernel.
struct Naive {
    gguf: Gguf,
    file: Vec<u8>,
    synth: Synth,
}

impl Naive {
    fn new(synth: &Synth) -> Self {
        let file = synth.to_gguf();
        Self { gguf: Gguf::parse(&file).expect("a valid file"), file, synth: synth.clone() }
    }

    fn tensor(&self, name: &str) -> Vec<f64> {
        let info = self.gguf.tensor(name).expect("is there");
        let bytes = &self.file[info.start as usize..][..info.bytes as usize];
        unpack(info.kind, bytes).into_iter().map(f64::from).collect()
    }

    fn times(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let dot = |row: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum();
        self.tensor(name).chunks_exact(x.len()).map(dot).collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let factor = 1.0 / (mean + f64::from(1e-5f32)).sqrt();
        x.iter().zip(self.tensor(name)).map(|(x, w)| x * factor * w).collect()
    }

    fn rotated(&self, x: &[f64], position: usize) -> Vec<f64> {
        let width = self.synth.head_width as usize;
        let factors = self.synth.rope_factors.then(|| self.tensor("rope_freqs.weight"));
        let mut out = x.to_vec();
        for head in out.chunks_exact_mut(width) {
            for pair in 0..width / 2 {
                let factor = factors.as_ref().map_or(1.0, |factors| factors[pair]);
                let frequency = 10_000f64.powf(-2.0 * pair as f64 / width as f64) / factor;
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                let (a, b) = (head[2 * pair], head[2 * pair + 1]);
                head[2 * pair] = a * cos - b * sin;
                head[2 * pair + 1] = a * sin + b * cos;
            }
        }
        out
    }

    fn attend(&self, query: &[f64], keys: &[Vec<f64>], values: &[Vec<f64>]) -> Vec<f64> {
        let (width, heads) = (self.synth.head_width as usize, self.synth.heads as usize);
        let group = heads / self.synth.kv_heads as usize;
        let mut out = Vec::new();
        for head in 0..heads {
            let query = &query[head * width..][..width];
            let at = head / group * width;
            let score = |key: &Vec<f64>| -> f64 {
                let dot: f64 = key[at..at + width].iter().zip(query).map(|(k, q)| k * q).sum();
                dot / (width as f64).sqrt()
            };
            let scores: Vec<f64> = keys.iter().map(|key| score(key).exp()).collect();
            let sum: f64 = scores.iter().sum();
            let mix = |i: usize| {
                let weighted = scores.iter().zip(values).map(|(s, value)| s / sum * value[at + i]);
                weighted.sum::<f64>()
            };
            out.extend((0..width).map(mix));
        }
        out
    }

    /// Logits after every token.
    fn score(&self, text: &[u32]) -> Vec<Vec<f64>> {
        let width = self.synth.width as usize;
        let embedding = self.tensor("token_embd.weight");
        let mut xs: Vec<Vec<f64>> =
            text.iter().map(|&t| embedding[t as usize * width..][..width].to_vec()).collect();
        for layer in 0..self.synth.layers {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            for (position, x) in xs.iter_mut().enumerate() {
                let normed = self.norm(&name("attn_norm"), x);
                keys.push(self.rotated(&self.times(&name("attn_k"), &normed), position));
                values.push(self.times(&name("attn_v"), &normed));
                let query = self.rotated(&self.times(&name("attn_q"), &normed), position);
                let attended = self.attend(&query, &keys, &values);
                add(x, &self.times(&name("attn_output"), &attended));
                let normed = self.norm(&name("ffn_norm"), x);
                let gate = self.times(&name("ffn_gate"), &normed);
                let up = self.times(&name("ffn_up"), &normed);
                let hidden: Vec<f64> =
                    gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                add(x, &self.times(&name("ffn_down"), &hidden));
            }
        }
        let head = if self.synth.tied { "token_embd.weight" } else { "output.weight" };
        let logits = |x: &Vec<f64>| self.times(head, &self.norm("output_norm.weight", x));
        xs.iter().map(logits).collect()
    }
}

fn add(x: &mut [f64], delta: &[f64]) {
    x.iter_mut().zip(delta).for_each(|(x, delta)| *x += delta);
}

/// Largest difference over all logits.
fn worst<A: Copy + Into<f64>, B: Copy + Into<f64>>(a: &[Vec<A>], b: &[Vec<B>]) -> f64 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(&a, &b)| (a.into() - b.into()).abs()).fold(0.0, f64::max)
}

#[test]
fn every_weight_type_agrees_with_the_naive_forward() {
    for (seed, kind) in KINDS.into_iter().enumerate() {
        let synth = Synth {
            tied: seed % 2 == 0,
            rope_factors: seed % 3 == 0,
            ..Synth::tiny(kind, seed as u64)
        };
        let naive = Naive::new(&synth);
        let text = tokens(9, seed as u32);
        let expected = naive.score(&text);
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
        vocabulary: 99,
        ..Synth::tiny(GgmlType::F32, 5)
    };
    let padded = Synth {
        width: 96,
        feed_forward: 160,
        heads: 4,
        kv_heads: 4,
        head_width: 24,
        ..Synth::tiny(GgmlType::Q8_0, 6)
    };
    for synth in [odd, padded] {
        let naive = Naive::new(&synth);
        let text = tokens(20, 3);
        let expected = naive.score(&text);
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
    for kind in KINDS {
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
