//! A version of a model as the layers that registries know: its bytes, a text for each thing that a Modelfile says, and a
//! configuration that tells others what it is.

use crate::ollama::model::human_count;
use crate::options;
use bytes::Bytes;
use ollamamax_proto::Digest;
use ollamamax_proto::model::ModelVersion;
use ollamamax_sources::push::Content;
use ollamamax_sources::{Kind, Layer, Manifest};
use serde_json::{Map, Value, json};

/// All layers, the bytes first and the configuration last.
pub(crate) fn manifest(version: &ModelVersion) -> Manifest {
    let weights = Layer { kind: Kind::Model, digest: version.blob, bytes: version.blob_bytes };
    let texts = texts(version).into_iter().map(|(layer, _)| layer);
    Manifest { layers: std::iter::once(weights).chain(texts).collect() }
}

/// The layers of a version beside its bytes, the configuration last.
pub(crate) fn texts(version: &ModelVersion) -> Vec<(Layer, Content)> {
    let mut all = Vec::new();
    let mut add = |kind: Kind, text: String| {
        let bytes = Bytes::from(text);
        let layer = Layer { kind, digest: Digest::of(&bytes), bytes: bytes.len() as u64 };
        all.push((layer, Content::Bytes(bytes)));
    };
    version.template.iter().for_each(|text| add(Kind::Template, text.clone()));
    version.licenses.iter().for_each(|text| add(Kind::License, text.clone()));
    version.system.iter().for_each(|text| add(Kind::System, text.clone()));
    if !version.parameters.is_empty() {
        let value = |(name, values): (&String, &Vec<String>)| {
            (name.clone(), options::parameter_value(name, values))
        };
        let all: Map<String, Value> = version.parameters.iter().map(value).collect();
        add(Kind::Params, Value::Object(all).to_string());
    }
    if !version.messages.is_empty() {
        let messages: Vec<Value> = version
            .messages
            .iter()
            .map(|m| json!({"role": m.role, "content": m.content}))
            .collect();
        add(Kind::Messages, Value::Array(messages).to_string());
    }
    let facts = &version.facts;
    let mut config = json!({
        "model_format": "gguf",
        "model_family": facts.architecture,
        "model_families": [facts.architecture],
        "model_type": human_count(facts.parameter_count),
        "file_type": facts.quantization,
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [version.blob.to_string()]},
    });
    if let Some(parent) = &version.parent {
        config["parent_model"] = parent.as_str().into();
    }
    add(Kind::Config, config.to_string());
    all
}
