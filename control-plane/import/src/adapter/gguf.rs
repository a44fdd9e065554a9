//! Adapters as llama.cpp's converter writes them: a GGUF of type `adapter`, with `blk.0.attn_q.weight.lora_a` and `.lora_b`, whose
//! rows are in a GGUF's order already.

use super::{Adapter, Place, unfit};
use crate::bytes::{FromStart, ReadAt};
use crate::error::{ImportError, Quote};
use crate::safetensors::Element;
use ollamamax_gguf::{GgmlType, Gguf};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Reads one.
pub(super) fn read(name: &str, bytes: &Arc<dyn ReadAt>) -> Result<Adapter, ImportError> {
    let gguf = Gguf::read(FromStart::of(bytes.as_ref()), bytes.bytes())?;
    let kind = gguf.optional("general.type", Gguf::get_str)?.unwrap_or("model");
    if kind != "adapter" {
        return Err(unfit(format!("the file is a {kind}, not an adapter; name it in FROM")));
    }
    let method = gguf.get_str("adapter.type")?;
    if method != "lora" {
        return Err(unfit(format!("it is of the kind {}, expected `lora`", Quote::of(method))));
    }
    let alpha = gguf.get_f32("adapter.lora.alpha")?;
    let mut found = BTreeMap::<String, [Option<Place>; 2]>::new();
    for tensor in gguf.tensors() {
        let other = || unfit(format!("it changes {} in another way", Quote::of(&tensor.name)));
        let (matrix, is_b) = match tensor.name.strip_suffix(".lora_a") {
            Some(matrix) => (matrix, false),
            None => (tensor.name.strip_suffix(".lora_b").ok_or_else(other)?, true),
        };
        // That of the embedding is the other way round, since it is looked up and not multiplied with.
        if matrix == "token_embd.weight" {
            return Err(other());
        }
        let element = match tensor.kind {
            GgmlType::F32 => Element::F32,
            GgmlType::F16 => Element::F16,
            GgmlType::BF16 => Element::BF16,
            kind => {
                let (tensor, found) = (Quote::of(&tensor.name), kind.name());
                return Err(ImportError::Quantised { tensor, found });
            }
        };
        let [width, rows] = tensor.dims[..] else { return Err(other()) };
        let place = Place { file: 0, start: tensor.start, element, rows, width };
        found.entry(matrix.to_owned()).or_default()[usize::from(is_b)] = Some(place);
    }
    // As llama.cpp applies it: no alpha, no scaling.
    let scale = |rank: u64| if alpha == 0.0 { 1.0 } else { alpha / rank as f32 };
    Ok(Adapter {
        pairs: Adapter::of(found, scale)?,
        files: vec![(name.to_owned(), Arc::clone(bytes))],
        as_published: false,
        architecture: gguf.optional("general.architecture", Gguf::get_str)?.map(str::to_owned),
    })
}
