//! What a model looks like from outside: details, capabilities, parameters.

use crate::Gateway;
use ollamamax_gguf::{Gguf, TensorInfo, Value as GgufValue};
use ollamamax_proto::Digest;
use ollamamax_proto::model::ModelVersion;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use utoipa::ToSchema;

/// `details` of tags, show and ps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ModelDetails)]
pub(crate) struct Details {
    /// The model it was made from.
    parent_model: String,
    /// Always `gguf`.
    format: &'static str,
    /// Its architecture.
    #[schema(examples("llama"))]
    family: String,
    families: Vec<String>,
    /// How many parameters it has.
    #[schema(examples("134.52M"))]
    parameter_size: String,
    /// How its weights are packed.
    #[schema(examples("Q4_0"))]
    quantization_level: String,
    /// Tokens it was trained with.
    context_length: u32,
    /// The width of its vectors.
    embedding_length: u32,
}

impl From<&ModelVersion> for Details {
    fn from(version: &ModelVersion) -> Self {
        let facts = &version.facts;
        Self {
            parent_model: version.parent.clone().unwrap_or_default(),
            format: "gguf",
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

/// What show needs of a file beside the facts in the catalogue.
#[derive(Debug)]
pub(crate) struct Header {
    pub chat_template: Option<String>,
    pub tensors: Vec<Tensor>,
}

/// Headers read lately, so that a tool that lists models again and again does not open files.
#[derive(Default)]
pub(crate) struct Headers(Mutex<BTreeMap<Digest, Arc<Option<String>>>>);

/// Chat templates kept: a few kilobytes each.
const TEMPLATES_KEPT: usize = 256;

/// Reads the header of a GGUF. For threads that may block.
pub(crate) fn read_gguf(path: &Path) -> Result<(Gguf, u64), String> {
    let file = File::open(path).map_err(|error| format!("cannot open the blob: {error}"))?;
    let bytes = file.metadata().map_err(|error| format!("cannot open the blob: {error}"))?.len();
    let gguf = Gguf::read(BufReader::new(file), bytes).map_err(|error| error.to_string())?;
    Ok((gguf, bytes))
}

impl Gateway {
    /// The header of a blob, fetched first when only a peer has it.
    pub(crate) async fn header(&self, blob: Digest) -> Option<Header> {
        let path = self.blobs.open(blob).await.ok()?;
        let read = tokio::task::spawn_blocking(move || read_gguf(&path));
        let (gguf, _) = read.await.ok()?.ok()?;
        let chat_template = match gguf.get("tokenizer.chat_template") {
            Some(GgufValue::Str(text)) => Some(text.clone()),
            _ => None,
        };
        let tensor = |tensor: &TensorInfo| {
            let (name, shape) = (tensor.name.clone(), tensor.dims.clone());
            Tensor { name, kind: tensor.kind.name(), shape }
        };
        Some(Header { chat_template, tensors: gguf.tensors().iter().map(tensor).collect() })
    }

    /// The template a model's conversations are rendered with. `fetch` allows to ask a peer for the blob.
    pub(crate) async fn template(&self, version: &ModelVersion, fetch: bool) -> Option<String> {
        if let Some(template) = &version.template {
            return Some(template.clone());
        }
        let kept = |headers: &Headers| {
            let kept = headers.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.get(&version.blob).cloned()
        };
        if let Some(template) = kept(&self.headers) {
            return (*template).clone();
        }
        let here = self.blobs.stat(version.blob).is_some();
        if !version.facts.has_chat_template || !(here || fetch) {
            return None;
        }
        let template = self.header(version.blob).await?.chat_template;
        let mut kept = self.headers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= TEMPLATES_KEPT {
            kept.clear();
        }
        kept.insert(version.blob, Arc::new(template.clone()));
        template
    }

    /// What a model can do.
    pub(crate) async fn capabilities(
        &self,
        version: &ModelVersion,
        fetch: bool,
    ) -> Vec<&'static str> {
        if only_embeds(version) {
            return vec!["embedding"];
        }
        let mut capabilities = vec!["completion"];
        let template = self.template(version, fetch).await;
        if template.is_some_and(|text| text.contains("tools") || text.contains(".Tools")) {
            capabilities.push("tools");
        }
        capabilities
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
