//! [`ModelFacts`] from a header: what planner and API need without opening the file again.

use crate::error::{Fault, GgufError};
use crate::kind::GgmlType;
use crate::parse::{Gguf, TensorInfo};
use crate::value::Value;
use ollamamax_proto::limits::MODEL_METADATA_BYTES;
use ollamamax_proto::model::ModelFacts;
use std::collections::BTreeMap;

/// Bytes of one entry of the engine's KV cache, which holds f16.
pub const KV_ELEMENT_BYTES: u64 = 2;

/// The facts of a model; fails when the header lacks what every language model has.
pub fn model_facts(gguf: &Gguf) -> Result<ModelFacts, GgufError> {
    let architecture = gguf.get_str("general.architecture")?.to_owned();
    let key = |name: &str| format!("{architecture}.{name}");
    let layers = gguf.get_u32(&key("block_count"))?;
    let parts = Parts::of(gguf, &key("block_count"), layers)?;
    let elements = gguf.tensors().iter().map(TensorInfo::elements);
    let parameter_count = elements.fold(0u64, u64::saturating_add);
    Ok(ModelFacts {
        parameter_count,
        quantization: quantization(gguf)?,
        context_length: gguf.get_u32(&key("context_length"))?,
        embedding_length: gguf.get_u32(&key("embedding_length"))?,
        layers,
        vocabulary: vocabulary(gguf, &key("vocab_size"))?,
        kv_bytes_per_token: kv_bytes_per_token(gguf, &architecture, layers)?,
        layer_bytes: parts.layers,
        embedding_bytes: parts.embedding,
        head_bytes: parts.head,
        has_chat_template: gguf.get("tokenizer.chat_template").is_some(),
        metadata_json: metadata_json(gguf, parameter_count),
        architecture,
    })
}

/// Bytes of the parts a stage is cut from.
struct Parts {
    layers: Vec<u64>,
    embedding: u64,
    head: u64,
}

impl Parts {
    fn of(gguf: &Gguf, key: &str, layers: u32) -> Result<Self, GgufError> {
        // A claim is believed only as far as tensors back it: this bounds the vector.
        if layers == 0 || u64::from(layers) > gguf.tensors().len() as u64 {
            let reason = "a model has at least one layer and every layer a tensor";
            return Err(gguf.value_error(key, layers.into(), reason));
        }
        let mut parts = Self { layers: vec![0; layers as usize], embedding: 0, head: 0 };
        let tied = gguf.find_tensor("output.weight").is_none();
        for tensor in gguf.tensors() {
            let layer = layer_of(&tensor.name);
            match layer {
                Some(layer) if layer < layers => parts.layers[layer as usize] += tensor.bytes,
                Some(_) => {
                    let reason = "the file has tensors of layers past it";
                    return Err(gguf.value_error(key, layers.into(), reason));
                }
                None if !tied && tensor.name.starts_with("output") => parts.head += tensor.bytes,
                None => parts.embedding += tensor.bytes,
            }
        }
        if let Some(empty) = parts.layers.iter().position(|&bytes| bytes == 0) {
            let fault = Fault::MissingTensor { tensor: format!("blk.{empty}.*") };
            return Err(GgufError::new(gguf.data_start, fault));
        }
        Ok(parts)
    }
}

/// The layer a tensor belongs to: `blk.7.attn_q.weight` is of layer 7.
fn layer_of(name: &str) -> Option<u32> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

fn vocabulary(gguf: &Gguf, key: &str) -> Result<u32, GgufError> {
    if let Some(&rows) = gguf.find_tensor("token_embd.weight").and_then(|t| t.dims.get(1)) {
        let error = || gguf.value_error(key, rows, "the token embedding has more rows than 2^32");
        return rows.try_into().map_err(|_| error());
    }
    gguf.get_u32(key)
}

fn kv_bytes_per_token(gguf: &Gguf, architecture: &str, layers: u32) -> Result<u64, GgufError> {
    let key = |name: &str| format!("{architecture}.{name}");
    // An encoder computes a text whole and keeps nothing of it.
    if gguf.optional(&key("attention.causal"), Gguf::get_bool)? == Some(false) {
        return Ok(0);
    }
    let heads_key = key("attention.head_count");
    let kv_key = key("attention.head_count_kv");
    // Some models have another number of heads in every layer: then the value is an array.
    let heads_key = if gguf.get(&kv_key).is_some() { kv_key } else { heads_key };
    let heads_total = match gguf.get(&heads_key) {
        Some(Value::Array(array)) => {
            let sum = |heads: Vec<u64>| heads.iter().fold(0u64, |sum, &n| sum.saturating_add(n));
            array.to_u64s().map(sum).unwrap_or_default()
        }
        _ => gguf.get_u64(&heads_key)?.saturating_mul(layers.into()),
    };
    let heads = || gguf.get_u64(&key("attention.head_count"));
    let width = |name: &str| -> Result<u64, GgufError> {
        match gguf.optional(&key(name), Gguf::get_u64)? {
            Some(width) => Ok(width),
            None => Ok(gguf.get_u64(&key("embedding_length"))? / heads()?.max(1)),
        }
    };
    let widths = width("attention.key_length")?.saturating_add(width("attention.value_length")?);
    heads_total
        .checked_mul(widths)
        .and_then(|elements| elements.checked_mul(KV_ELEMENT_BYTES))
        .ok_or_else(|| gguf.value_error(&heads_key, heads_total, "the KV cache size overflows"))
}

/// The quantisation as Ollama spells it: from `general.file_type`, else the type of most weights.
fn quantization(gguf: &Gguf) -> Result<String, GgufError> {
    let declared = gguf.optional("general.file_type", Gguf::get_u32)?;
    if let Some(name) = declared.and_then(file_type_name) {
        return Ok(name.to_owned());
    }
    let mut counts: BTreeMap<GgmlType, u64> = BTreeMap::new();
    for tensor in gguf.tensors().iter().filter(|tensor| tensor.dims.len() > 1) {
        *counts.entry(tensor.kind).or_default() += tensor.elements();
    }
    let most = counts.into_iter().max_by_key(|&(_, elements)| elements);
    Ok(most.map_or("unknown", |(kind, _)| kind.name()).to_owned())
}

/// llama.cpp's `llama_ftype` numbers.
fn file_type_name(file_type: u32) -> Option<&'static str> {
    Some(match file_type {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        19 => "IQ2_XXS",
        20 => "IQ2_XS",
        21 => "Q2_K_S",
        22 => "IQ3_XS",
        23 => "IQ3_XXS",
        24 => "IQ1_S",
        25 => "IQ4_NL",
        26 => "IQ3_S",
        27 => "IQ3_M",
        28 => "IQ2_S",
        29 => "IQ2_M",
        30 => "IQ4_XS",
        31 => "IQ1_M",
        32 => "BF16",
        36 => "TQ1_0",
        37 => "TQ2_0",
        38 => "MXFP4",
        _ => return None,
    })
}

/// Entries as a JSON object: no arrays, no template, no name (both are told elsewhere), and no more than fits.
fn metadata_json(gguf: &Gguf, parameter_count: u64) -> String {
    const LEFT_OUT: [&str; 1] = ["general.name"];
    let mut fields: Vec<(String, serde_json::Value)> = gguf
        .entries()
        .iter()
        .filter(|entry| !LEFT_OUT.contains(&entry.key.as_str()))
        .filter_map(|entry| Some((entry.key.clone(), json(&entry.value)?)))
        .filter(|(key, _)| key != "general.parameter_count")
        .collect();
    fields.push(("general.parameter_count".to_owned(), parameter_count.into()));
    fields.sort_by(|a, b| a.0.cmp(&b.0));

    let size = |(key, value): &(String, serde_json::Value)| {
        serde_json::Value::from(key.as_str()).to_string().len() + value.to_string().len() + 2
    };
    let mut sizes: Vec<usize> = fields.iter().map(size).collect();
    let mut total = 2 + sizes.iter().sum::<usize>();
    // The longest go first: they are texts, the short ones are the numbers somebody asks for.
    while total > MODEL_METADATA_BYTES {
        let Some(longest) = (0..sizes.len()).max_by_key(|&index| sizes[index]) else { break };
        total -= sizes.swap_remove(longest);
        fields.swap_remove(longest);
    }
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    serde_json::Value::Object(fields.into_iter().collect()).to_string()
}

fn json(value: &Value) -> Option<serde_json::Value> {
    Some(match value {
        Value::U8(v) => (*v).into(),
        Value::I8(v) => (*v).into(),
        Value::U16(v) => (*v).into(),
        Value::I16(v) => (*v).into(),
        Value::U32(v) => (*v).into(),
        Value::I32(v) => (*v).into(),
        Value::U64(v) => (*v).into(),
        Value::I64(v) => (*v).into(),
        Value::Bool(v) => (*v).into(),
        Value::Str(v) => v.as_str().into(),
        // Through text, so that 1e-5 stays 1e-5 instead of 0.000009999999747378752.
        Value::F32(v) => serde_json::Number::from_f64(v.to_string().parse().ok()?)?.into(),
        Value::F64(v) => serde_json::Number::from_f64(*v)?.into(),
        Value::Array(_) => return None,
    })
}
