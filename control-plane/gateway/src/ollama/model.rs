//! What a model looks like from outside: details, capabilities, parameters.

use crate::Gateway;
use ollamamax_gguf::{Gguf, TensorInfo};
use ollamamax_proto::Digest;
use ollamamax_proto::model::ModelVersion;
use ollamamax_template::Traits;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use utoipa::ToSchema;

/// `details` of tags, show and ps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ModelDetails)]
pub(crate) struct Details {
    /// The model it was made from.
    pub parent_model: String,
    /// `gguf`, but where an adopted server has it in another.
    pub format: String,
    /// Its architecture.
    #[schema(examples("llama"))]
    pub family: String,
    pub families: Vec<String>,
    /// How many parameters it has.
    #[schema(examples("134.52M"))]
    pub parameter_size: String,
    /// How its weights are packed.
    #[schema(examples("Q4_0"))]
    pub quantization_level: String,
    /// Tokens it was trained with.
    pub context_length: u32,
    /// The width of its vectors.
    pub embedding_length: u32,
}

impl From<&ModelVersion> for Details {
    fn from(version: &ModelVersion) -> Self {
        let facts = &version.facts;
        Self {
            parent_model: version.parent.clone().unwrap_or_default(),
            format: "gguf".to_owned(),
            family: facts.architecture.clone(),
            families: vec![facts.architecture.clone()],
            parameter_size: human_count(facts.parameter_count),
            quantization_level: facts.quantization.clone(),
            context_length: facts.context_length,
            embedding_length: facts.embedding_length,
        }
    }
}

/// A number of parameters as Ollama shows it: `134.52M`, `8.0B`.
pub(crate) fn human_count(count: u64) -> String {
    let number = count as f64;
    match count {
        1_000_000_000.. => format!("{:.1}B", number / 1e9),
        1_000_000.. => format!("{:.2}M", number / 1e6),
        1_000.. => format!("{:.0}K", number / 1e3),
        _ => count.to_string(),
    }
}

/// A tensor of a file.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Tensor {
    name: String,
    /// How its values are packed.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Its dimensions, the innermost first.
    shape: Vec<u64>,
}

/// What was learnt lately of the templates in files: each request asks for that.
#[derive(Default)]
pub(crate) struct Templates(Mutex<BTreeMap<Digest, Arc<Own>>>);

/// The chat template of a file, and what it tells.
#[derive(Debug)]
pub(crate) struct Own {
    template: Option<String>,
    traits: Arc<Traits>,
    /// Whether the vocabulary has tokens around a gap.
    has_gap: bool,
}

/// Chat templates kept: a few kilobytes each.
const TEMPLATES_KEPT: usize = 1024;
/// The key under which the catalogue keeps the chat template of a file.
pub(crate) const TEMPLATE_KEY: &str = "tokenizer.chat_template";
/// The keys of tokens that stand before the text before a gap.
const GAP_KEYS: [&str; 2] = ["tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id"];

impl Own {
    fn of(version: &ModelVersion) -> Self {
        let fields = serde_json::from_str::<Map<String, Value>>(&version.facts.metadata_json);
        let fields = fields.unwrap_or_default();
        let template = fields.get(TEMPLATE_KEY).and_then(Value::as_str).map(str::to_owned);
        let traits = Arc::new(template.as_deref().map(Traits::of).unwrap_or_default());
        Self { template, traits, has_gap: GAP_KEYS.iter().any(|key| fields.contains_key(*key)) }
    }
}

/// Reads the header of a GGUF. For threads that may block.
pub(crate) fn read_gguf(path: &Path) -> Result<(Gguf, u64), String> {
    let file = File::open(path).map_err(|error| format!("cannot open the blob: {error}"))?;
    let bytes = file.metadata().map_err(|error| format!("cannot open the blob: {error}"))?.len();
    let gguf = Gguf::read(BufReader::new(file), bytes).map_err(|error| error.to_string())?;
    Ok((gguf, bytes))
}

impl Gateway {
    /// The tensors of a blob, fetched first when only a peer has it.
    pub(crate) async fn tensors(&self, blob: Digest) -> Option<Vec<Tensor>> {
        let path = self.blobs.open(blob).await.ok()?;
        let read = tokio::task::spawn_blocking(move || read_gguf(&path));
        let (gguf, _) = read.await.ok()?.ok()?;
        let tensor = |tensor: &TensorInfo| {
            let (name, shape) = (tensor.name.clone(), tensor.dims.clone());
            Tensor { name, kind: tensor.kind.name(), shape }
        };
        Some(gguf.tensors().iter().map(tensor).collect())
    }

    fn own_template(&self, version: &ModelVersion) -> Arc<Own> {
        let mut kept = self.templates.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = kept.get(&version.blob) {
            return Arc::clone(own);
        }
        if kept.len() >= TEMPLATES_KEPT {
            kept.clear();
        }
        let own = Arc::new(Own::of(version));
        kept.insert(version.blob, Arc::clone(&own));
        own
    }

    /// The template a model's conversations are rendered with.
    pub(crate) fn template(&self, version: &ModelVersion) -> Option<String> {
        version.template.clone().or_else(|| self.own_template(version).template.clone())
    }

    /// What a model's template tells of its answers.
    pub(crate) fn traits(&self, version: &ModelVersion) -> Arc<Traits> {
        match &version.template {
            Some(template) => Arc::new(Traits::of(template)),
            None => Arc::clone(&self.own_template(version).traits),
        }
    }

    /// The same, where a request may bring a template of its own; empty for none.
    pub(crate) fn traits_under(&self, version: &ModelVersion, template: &str) -> Arc<Traits> {
        if template.is_empty() { self.traits(version) } else { Arc::new(Traits::of(template)) }
    }

    /// Whether the vocabulary of a model has tokens for a text with a gap.
    pub(crate) fn has_gap(&self, version: &ModelVersion) -> bool {
        self.own_template(version).has_gap
    }

    /// What a model can do.
    pub(crate) fn capabilities(&self, version: &ModelVersion) -> Vec<&'static str> {
        if only_embeds(version) {
            return vec!["embedding"];
        }
        let traits = self.traits(version);
        let able = [
            ("completion", true),
            ("tools", traits.tools),
            ("insert", traits.insert || self.has_gap(version)),
            ("thinking", traits.thinking.is_some()),
        ];
        able.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect()
    }
}

/// Whether a model makes vectors of texts and is for nothing else: an encoder, or one whose file tells how to pool. That is how
/// Ollama tells them.
pub(crate) fn only_embeds(version: &ModelVersion) -> bool {
    let facts = &version.facts;
    // It is compact JSON, in which a quote that belongs to a text has a backslash before it.
    let pooling = format!("\"{}.pooling_type\":", facts.architecture);
    facts.kv_bytes_per_token == 0 || facts.metadata_json.contains(&pooling)
}

/// Parameters as show prints them: a name in thirty columns, then the value, texts quoted.
pub(crate) fn parameters_text(version: &ModelVersion) -> String {
    let lines = each_parameter(version).map(|(name, value)| format!("{name:<30} {value}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The Modelfile that makes this version again.
pub(crate) fn modelfile(name: &str, version: &ModelVersion, template: Option<&str>) -> String {
    let mut lines = vec![
        "# Modelfile generated by \"ollama show\"".to_owned(),
        "# To build a new Modelfile based on this, replace FROM with:".to_owned(),
        format!("# FROM {name}"),
        String::new(),
        format!("FROM {}", version.blob),
    ];
    let block = |keyword: &str, text: &str| format!("{keyword} \"\"\"{text}\"\"\"");
    lines.extend(template.map(|text| block("TEMPLATE", text)));
    lines.extend(version.system.iter().map(|text| block("SYSTEM", text)));
    lines.extend(each_parameter(version).map(|(name, value)| format!("PARAMETER {name} {value}")));
    let message = |m: &ollamamax_proto::model::SeedMessage| {
        format!("MESSAGE {} \"\"\"{}\"\"\"", m.role, m.content)
    };
    lines.extend(version.messages.iter().map(message));
    lines.extend(version.licenses.iter().map(|text| block("LICENSE", text)));
    lines.join("\n") + "\n"
}

fn each_parameter(version: &ModelVersion) -> impl Iterator<Item = (&str, String)> {
    version.parameters.iter().flat_map(|(name, values)| {
        let show = move |value: &String| {
            let value = crate::options::parameter_value(name, std::slice::from_ref(value));
            let value = match value {
                Value::Array(values) => values.into_iter().next().unwrap_or_default(),
                other => other,
            };
            (name.as_str(), value.to_string())
        };
        values.iter().map(show)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_shown_as_ollama_does() {
        for (count, shown) in
            [(134_515_008, "134.52M"), (8_030_261_248, "8.0B"), (1_500, "2K"), (7, "7")]
        {
            assert_eq!(human_count(count), shown);
        }
    }
}
