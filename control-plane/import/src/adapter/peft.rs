//! Adapters as PEFT saves them: `adapter_config.json`, and `adapter_model.safetensors` with tensors such as
//! `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`.

use super::{Adapter, Place, unfit};
use crate::checkpoint::{Files, Weights};
use crate::error::{ImportError, Quote};
use crate::family;
use crate::json::Json;
use serde_json::Value;
use std::collections::BTreeMap;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS_END: &str = ".safetensors";

/// Reads one.
pub(super) fn read(files: &Files) -> Result<Adapter, ImportError> {
    let missing = || ImportError::MissingFile {
        file: Quote::of(CONFIG),
        why: "it says how the adapter is scaled",
    };
    let json = Json::read(CONFIG, files.get(CONFIG).ok_or_else(missing)?.as_ref())?;
    let mut weights = Weights::default();
    for (name, bytes) in files.iter().filter(|(name, _)| name.ends_with(WEIGHTS_END)) {
        weights.add(name, bytes)?;
    }
    let scale = scale(&json)?;
    let mut found = BTreeMap::<String, [Option<Place>; 2]>::new();
    for (name, (file, stored)) in &weights.tensors {
        let part = part(name);
        let other =
            || unfit(format!("it changes {} in a way that is not a low-rank sum", Quote::of(name)));
        let (matrix, is_b) = part.ok_or_else(other)?;
        let element = stored.element().ok_or_else(|| ImportError::Element {
            tensor: Quote::of(name),
            found: Quote::of(&stored.dtype),
        })?;
        let [rows, width] = stored.shape[..] else {
            return Err(unfit(format!("{} is no matrix", Quote::of(name))));
        };
        let place = Place { file: *file, start: stored.start, element, rows, width };
        let slot = &mut found.entry(matrix).or_default()[usize::from(is_b)];
        if slot.replace(place).is_some() {
            return Err(unfit(format!("it has {} under two names", Quote::of(name))));
        }
    }
    let pairs = Adapter::of(found, scale)?;
    Ok(Adapter { pairs, files: weights.files, as_published: true, architecture: None })
}

/// The name here of the matrix a tensor is part of, and whether it is `B`.
fn part(name: &str) -> Option<(String, bool)> {
    let name = name.strip_suffix(".weight")?;
    // Older ones have the adapter's name, too.
    let name = name.strip_suffix(".default").unwrap_or(name);
    let (module, is_b) = match name.strip_suffix(".lora_A") {
        Some(module) => (module, false),
        None => (name.strip_suffix(".lora_B")?, true),
    };
    let module = module.strip_prefix("base_model.model.").unwrap_or(module);
    let ours = family::ours(module)?;
    // The embedding is looked up and not multiplied with.
    (ours != "token_embd").then(|| (format!("{ours}.weight"), is_b))
}

/// What `B * A` is multiplied with, by rank.
fn scale(json: &Json) -> Result<impl Fn(u64) -> f32 + use<>, ImportError> {
    let kind = json.needed("peft_type", "`LORA`", Value::as_str)?;
    if kind != "LORA" {
        return Err(json.wrong("peft_type", kind, "`LORA`"));
    }
    for (field, expected) in [
        ("use_dora", "false: magnitudes are not merged"),
        ("fan_in_fan_out", "false: rows are expected to be outputs"),
        ("lora_bias", "false: biases are not merged"),
        ("use_qalora", "false"),
    ] {
        if json.optional_truth(field)? == Some(true) {
            return Err(json.wrong(field, true, expected));
        }
    }
    let bias = json.optional("bias", "a name", Value::as_str)?.unwrap_or("none");
    if bias != "none" {
        return Err(json.wrong("bias", bias, "`none`: biases are not merged"));
    }
    let patterns = json.optional("alpha_pattern", "an object", Value::as_object)?;
    if patterns.is_some_and(|patterns| !patterns.is_empty()) {
        return Err(json.wrong("alpha_pattern", "filled", "one `lora_alpha` for all"));
    }
    let alpha = json.needed("lora_alpha", "a number above 0", crate::json::number)? as f32;
    let by_root = json.optional_truth("use_rslora")?.unwrap_or(false);
    Ok(move |rank: u64| alpha / if by_root { (rank as f32).sqrt() } else { rank as f32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_parts_of_matrices() {
        let q = "base_model.model.model.layers.3.self_attn.q_proj";
        let expected = |is_b| Some(("blk.3.attn_q.weight".to_owned(), is_b));
        assert_eq!(part(&format!("{q}.lora_A.weight")), expected(false));
        assert_eq!(part(&format!("{q}.lora_B.default.weight")), expected(true));
        assert_eq!(part(&format!("{q}.lora_magnitude_vector.weight")), None);
        assert_eq!(part(&format!("{q}.weight")), None);
        assert_eq!(part("base_model.model.model.embed_tokens.lora_A.weight"), None);
        assert_eq!(part("base_model.model.transformer.h.0.lora_A.weight"), None);
    }
}
