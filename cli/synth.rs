//! `ollamamax synth`: a model file of random weights.

use crate::exit::Failure;
use crate::{human, out};
use std::path::PathBuf;

/// What to make up.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Family of the model, as its files name it
    #[arg(long, default_value = "llama")]
    arch: String,
    /// Its size: tiny, 1b, 3b, 8b or 70b, as in Llama 3
    #[arg(long, default_value = "8b")]
    shape: String,
    /// Type of its weights, as in q4_0, q8_0, q4_k or bf16
    #[arg(long, default_value = "q4_0")]
    quant: String,
    /// Where the randomness starts: the same seed gives the same file
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The file
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Runs it.
pub fn run(args: &Args) -> Result<(), Failure> {
    let Args { arch, shape, quant, seed, output } = args;
    let bytes = ollamamax_worker::bench::synth(arch, shape, quant, *seed, output);
    let bytes = human::bytes(bytes.map_err(Failure::Other)?);
    out::line(&format!("wrote {bytes} of random weights to `{}`", output.display()));
    Ok(())
}
