//! Prefill and decode speed of the CPU backend: `cargo run --release -p ollamamax-engine --example speed -- MODEL.gguf`.

#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use ollamamax_engine::backend::{Backend, BlockId, Logits, Slice, StepBatch};
use ollamamax_engine::cpu::{CpuBackend, CpuOptions, NumericPath, Tier};
use std::error::Error;
use std::path::Path;
use std::time::Instant;

const PROMPT_TOKENS: u32 = 512;
const DECODE_TOKENS: u32 = 128;
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: speed MODEL.gguf [THREADS] [TIER] [WHAT]")?;
    let threads = args.next().map_or(Ok(0), |threads| threads.parse())?;
    let only = args.next().unwrap_or_default();
    let what = args.next().unwrap_or_default();
    println!(
        "{:<10} {:>7} {:>12} {:>12} {:>12}",
        "tier", "threads", "prefill t/s", "decode t/s", "at 2k t/s"
    );
    for tier in [Tier::Amx, Tier::Avx512, Tier::Avx2].into_iter().filter(|tier| tier.is_available())
    {
        let name = format!("{tier:?}");
        if !name.contains(&only) {
            continue;
        }
        let options = CpuOptions {
            path: NumericPath::Fast,
            threads,
            tier: Some(tier),
            ..CpuOptions::default()
        };
        let mut backend = CpuBackend::load(Path::new(&path), &options)?;
        let mut best = [0.0f64; 3];
        for _ in 0..ROUNDS {
            for (index, (name, start, count, chunk)) in [
                ("prefill", 0, PROMPT_TOKENS, PROMPT_TOKENS),
                ("decode", 16, DECODE_TOKENS, 1),
                ("long", 2000, DECODE_TOKENS, 1),
            ]
            .into_iter()
            .enumerate()
            {
                if name.contains(&what) {
                    best[index] = best[index].max(run(&mut backend, start, count, chunk)?);
                }
            }
        }
        let [prefill, decode, long] = best;
        let threads = backend.threads();
        println!("{name:<10} {threads:>7} {prefill:>12.1} {decode:>12.1} {long:>12.1}");
    }
    Ok(())
}

/// Tokens per second over `count` tokens from `start`, `chunk` a step.
fn run(
    backend: &mut CpuBackend,
    start: u32,
    count: u32,
    chunk: u32,
) -> Result<f64, Box<dyn Error>> {
    let blocks: Vec<_> =
        (0..(start + count).div_ceil(backend.block_tokens())).map(BlockId).collect();
    let began = Instant::now();
    for at in (start..start + count).step_by(chunk as usize) {
        let tokens = (at..(at + chunk).min(start + count)).map(|i| i * 37 % 1000).collect();
        let slice = Slice { start: at, tokens, blocks: blocks.clone(), logits: Logits::Last };
        backend.step(&StepBatch { slices: vec![slice] })?;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}
