//! Prefill and decode speed of the CPU backend: `cargo run --release -p ollamamax-engine --example speed -- MODEL.gguf`.

#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use ollamamax_engine::backend::{Backend, BlockId, Logits, Slice, StepBatch};
use ollamamax_engine::cpu::{CpuBackend, CpuOptions, NumericPath, Tier};
use std::error::Error;
use std::path::Path;
use std::time::Instant;

const PROMPT_TOKENS: u32 = 512;
const DECODE_TOKENS: u32 = 128;
const ROUNDS: usize = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: speed MODEL.gguf [THREADS]")?;
    let threads = args.next().map_or(Ok(0), |threads| threads.parse())?;
    println!(
        "{:<10} {:<10} {:>7} {:>12} {:>12}",
        "path", "tier", "threads", "prefill t/s", "decode t/s"
    );
    for numeric in [NumericPath::Fast] {
        for tier in [Tier::Avx512, Tier::Avx2].into_iter().filter(|tier| tier.is_available()) {
            let options =
                CpuOptions { path: numeric, threads, tier: Some(tier), ..CpuOptions::default() };
            let mut backend = CpuBackend::load(Path::new(&path), &options)?;
            let (mut prefill, mut decode) = (0.0f64, 0.0f64);
            for _ in 0..ROUNDS {
                prefill = prefill.max(run(&mut backend, 0, PROMPT_TOKENS, 128)?);
                decode = decode.max(run(&mut backend, PROMPT_TOKENS, DECODE_TOKENS, 1)?);
            }
            let threads = backend.threads();
            let (numeric, tier) = (format!("{numeric:?}"), format!("{tier:?}"));
            println!("{numeric:<10} {tier:<10} {threads:>7} {prefill:>12.1} {decode:>12.1}");
        }
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
