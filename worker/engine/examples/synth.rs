//! Writes a model of random weights with the tokenizer of another one: for timing weight types that a real model's widths
//! do not allow. `cargo run --release -p ollamamax-engine --example synth -- FROM.gguf Q4_K OUT.gguf`.

use ollamamax_engine::synth::Synth;
use ollamamax_engine::weights::Mapping;
use ollamamax_gguf::{GgmlType, Gguf};
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [from, kind, out] = &args[..] else {
        return Err("usage: synth FROM.gguf KIND OUT.gguf".into());
    };
    let kinds = [GgmlType::Q4_K, GgmlType::Q5_K, GgmlType::Q6_K, GgmlType::Q8_0, GgmlType::F16];
    let kind = kinds.into_iter().find(|known| known.to_string() == *kind);
    let kind = kind.ok_or_else(|| format!("expected one of {kinds:?}"))?;
    let mapping = Mapping::open(Path::new(from))?;
    let gguf = Gguf::parse(mapping.bytes())?;
    let of_tokenizer = gguf.entries().iter().filter(|entry| entry.key.starts_with("tokenizer."));
    let metadata = of_tokenizer.map(|entry| (entry.key.clone(), entry.value.clone())).collect();
    let tokens = gguf.tensor("token_embd.weight")?.dims[1];
    let synth = Synth {
        layers: 16,
        width: 768,
        feed_forward: 2048,
        heads: 12,
        kv_heads: 4,
        head_width: 64,
        rope_width: 64,
        vocabulary: u32::try_from(tokens)?,
        metadata,
        ..Synth::tiny(kind, 1)
    };
    std::fs::write(out, synth.to_gguf())?;
    Ok(())
}
