//! Models of real sizes: written as they are made up, on all processors, and never held whole.

use super::{Random, Synth, Tensor};
use crate::architecture::Architecture;
use ollamamax_gguf::{Array, GgmlType, GgufWriter, Value};
use std::io::{self, Write};

/// Bytes made up at once by each thread.
const PART_BYTES: u64 = 4 << 20;

/// Sizes of the Llama 3 family, and one to try things with.
const SHAPES: [Shape; 5] = [
    Shape {
        name: "tiny",
        layers: 2,
        width: 256,
        feed_forward: 512,
        heads: 4,
        kv_heads: 2,
        head_width: 64,
        vocabulary: 1_024,
    },
    Shape {
        name: "1b",
        layers: 16,
        width: 2_048,
        feed_forward: 8_192,
        heads: 32,
        kv_heads: 8,
        head_width: 64,
        vocabulary: 128_256,
    },
    Shape {
        name: "3b",
        layers: 28,
        width: 3_072,
        feed_forward: 8_192,
        heads: 24,
        kv_heads: 8,
        head_width: 128,
        vocabulary: 128_256,
    },
    Shape {
        name: "8b",
        layers: 32,
        width: 4_096,
        feed_forward: 14_336,
        heads: 32,
        kv_heads: 8,
        head_width: 128,
        vocabulary: 128_256,
    },
    Shape {
        name: "70b",
        layers: 80,
        width: 8_192,
        feed_forward: 28_672,
        heads: 64,
        kv_heads: 8,
        head_width: 128,
        vocabulary: 128_256,
    },
];

#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    layers: u32,
    width: u32,
    feed_forward: u32,
    heads: u32,
    kv_heads: u32,
    head_width: u32,
    vocabulary: u32,
}

/// Words that describe no model that can be made up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no {what}; expected one of {expected}")]
pub struct UnknownSynth {
    found: String,
    what: &'static str,
    expected: String,
}

impl Synth {
    /// A model of a real size: of a family, a shape (`tiny`, `1b`, `3b`, `8b`, `70b`) and a weight type, as in `q4_0`. Its
    /// vocabulary spells bytes.
    pub fn of_shape(
        architecture: &str,
        shape: &str,
        kind: &str,
        seed: u64,
    ) -> Result<Self, UnknownSynth> {
        let unknown = |found: &str, what, expected: Vec<String>| UnknownSynth {
            found: found.chars().take(50).collect(),
            what,
            expected: expected.join(", "),
        };
        let families = || super::ALL.iter().filter(|family| !family.encoder);
        let family = families().find(|family| family.name == architecture).ok_or_else(|| {
            let names = families().map(|family| family.name.to_owned()).collect();
            unknown(architecture, "architecture that continues texts", names)
        })?;
        let known = SHAPES.iter().find(|known| known.name == shape).ok_or_else(|| {
            unknown(shape, "shape", SHAPES.map(|shape| shape.name.to_owned()).to_vec())
        })?;
        let kind = kind_of(kind).ok_or_else(|| {
            unknown(
                kind,
                "weight type",
                Self::KINDS.map(|kind| kind.name().to_lowercase()).to_vec(),
            )
        })?;
        Ok(known.synth(family, kind, seed))
    }

    /// Writes the file. Its weights are not those of [`Synth::to_gguf`]: every part of a tensor has a randomness of its own, so
    /// that parts can be made up at the same time.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<u64> {
        let mut writer = GgufWriter::new();
        self.metadata(&mut writer);
        let tensors = self.tensors();
        for tensor in &tensors {
            writer.declare(&tensor.name, &tensor.dims, tensor.kind, tensor.bytes());
        }
        let header = writer.header();
        out.write_all(&header)?;
        let mut written = header.len() as u64;
        for (nth, tensor) in tensors.iter().enumerate() {
            let padding = written.next_multiple_of(writer.alignment()) - written;
            out.write_all(&vec![0; padding as usize])?;
            self.write_tensor(tensor, nth as u64, out)?;
            written += padding + tensor.bytes();
        }
        Ok(written)
    }

    fn write_tensor(&self, tensor: &Tensor, nth: u64, out: &mut dyn Write) -> io::Result<()> {
        let rows: u64 = tensor.dims[1..].iter().product();
        let row_bytes = (tensor.bytes() / rows).max(1);
        let part_rows = (PART_BYTES / row_bytes).max(1);
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
        let mut first = 0;
        while first < rows {
            let parts = (0..threads).map(|part| first + part * part_rows).filter(|at| *at < rows);
            let parts = std::thread::scope(|scope| {
                let make = |at: u64| {
                    let rows = part_rows.min(rows - at);
                    let mut random = Random::of(self.seed, nth, at);
                    tensor.pack(&mut random, rows * tensor.dims[0])
                };
                let work: Vec<_> = parts.map(|at| scope.spawn(move || make(at))).collect();
                work.into_iter().map(|part| part.join()).collect::<Vec<_>>()
            });
            for part in parts {
                let part = part.map_err(|_| io::Error::other("making up weights panicked"))?;
                out.write_all(&part)?;
            }
            first += threads * part_rows;
        }
        Ok(())
    }
}

impl Shape {
    fn synth(self, architecture: &'static Architecture, kind: GgmlType, seed: u64) -> Synth {
        let Self { layers, width, feed_forward, heads, kv_heads, head_width, vocabulary, .. } =
            self;
        Synth {
            architecture,
            layers,
            width,
            feed_forward,
            heads,
            kv_heads,
            head_width,
            rope_width: head_width,
            vocabulary,
            kind,
            tied: false,
            rope_factors: false,
            seed,
            metadata: bytes(vocabulary),
        }
    }
}

fn kind_of(name: &str) -> Option<GgmlType> {
    Synth::KINDS.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name))
}

/// A vocabulary that spells every byte, as byte-level BPE writes them, and ends with a token that ends a text.
fn bytes(count: u32) -> Vec<(String, Value)> {
    const NORMAL: i32 = 1;
    const CONTROL: i32 = 3;
    const UNUSED: i32 = 5;
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let plain = (0..=u8::MAX).filter(printable).map(char::from);
    let others = (0..=u8::MAX).filter(|byte| !printable(byte)).count() as u32;
    let shifted = (0..others).filter_map(|nth| char::from_u32(256 + nth));
    let mut tokens: Vec<String> = plain.chain(shifted).map(String::from).collect();
    let spelt = tokens.len();
    tokens.extend((spelt as u32..count - 1).map(|id| format!("[unused{id}]")));
    tokens.push("<|end|>".to_owned());
    let last = tokens.len() - 1;
    let kind = |id: usize| match id {
        id if id < spelt => NORMAL,
        id if id == last => CONTROL,
        _ => UNUSED,
    };
    let kinds = (0..tokens.len()).map(kind).collect();
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    vec![
        (key("model"), Value::Str("gpt2".to_owned())),
        (key("pre"), Value::Str("gpt-2".to_owned())),
        (key("tokens"), Value::Array(Array::Str(tokens.into()))),
        (key("token_type"), Value::Array(Array::I32(kinds))),
        (key("merges"), Value::Array(Array::Str(Vec::<String>::new().into()))),
        (key("eos_token_id"), Value::U32(count - 1)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{CpuBackend, CpuOptions};
    use crate::engine::TextModel;
    use crate::weights::Mapping;
    use ollamamax_gguf::Gguf;
    use std::sync::Arc;

    fn written(synth: &Synth) -> Vec<u8> {
        let mut bytes = Vec::new();
        let count = synth.write(&mut bytes).expect("memory takes it");
        assert_eq!(count, bytes.len() as u64);
        bytes
    }

    #[test]
    fn what_is_written_is_a_model_and_always_the_same() {
        for kind in ["q4_0", "Q8_0", "bf16", "q4_k"] {
            let synth = Synth::of_shape("llama", "tiny", kind, 7).expect("it is known");
            let bytes = written(&synth);
            assert_eq!(bytes, written(&synth));
            let other = Synth::of_shape("llama", "tiny", kind, 8).expect("it is known");
            assert_ne!(bytes, written(&other));
            let text = TextModel::from_gguf(&Gguf::parse(&bytes).expect("a GGUF")).expect("a text");
            let spelt = text.tokenizer().encode("Hé!\n", false).expect("every byte is spelt");
            assert_eq!(spelt.len(), 5);
            let mapping = Arc::new(Mapping::from_vec(bytes));
            CpuBackend::from_mapping(mapping, &CpuOptions::default()).expect("it loads");
        }
    }

    #[test]
    fn what_is_not_known_is_refused_with_what_is() {
        let refused = |family: &str, shape: &str, kind: &str| {
            Synth::of_shape(family, shape, kind, 1).expect_err("unknown").to_string()
        };
        assert!(refused("bert", "8b", "q4_0").contains("qwen2"));
        assert!(
            refused("llama", "9b", "q4_0").contains("`9b` is no shape; expected one of tiny, 1b")
        );
        assert!(refused("llama", "8b", "q3_k").contains("q4_0"));
    }
}
