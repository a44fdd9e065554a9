//! Schemas of fields that take several kinds of values, which no type of ours stands for.

use ollamamax_proto::limits;
use serde_json::{Value, json};
use utoipa::openapi::schema::Schema;

fn schema(value: Value) -> Schema {
    serde_json::from_value(value).expect("these are schemas")
}

/// How long a model stays loaded.
pub(crate) fn keep_alive() -> Schema {
    schema(json!({"oneOf": [
        {"type": "string", "description": "A duration as Go writes it.", "examples": ["5m", "1h30m", "-1s"]},
        {"type": "number", "description": "Seconds; 0 unloads, less than 0 is for ever.", "examples": [300]},
        {"type": "null"},
    ], "description": "How long the model stays loaded after its last use.", "default": "5m"}))
}

/// Whether and how hard a model thinks.
pub(crate) fn think() -> Schema {
    schema(json!({"oneOf": [
        {"type": "boolean"},
        {"type": "string", "enum": ["low", "medium", "high", "max"]},
        {"type": "null"},
    ], "description": "Whether and how hard the model thinks first; refused where it cannot."}))
}

/// What an answer may be, as Ollama's clients say it.
pub(crate) fn format() -> Schema {
    schema(json!({"oneOf": [
        {"type": "string", "enum": ["", "json"]},
        {"type": "object", "description": format!("A JSON schema of at most {} bytes.", limits::OUTPUT_FORMAT_BYTES)},
        {"type": "null"},
    ], "description": "What the answer may be: any JSON, or what a JSON schema describes."}))
}

/// One text or several.
pub(crate) fn texts() -> Schema {
    schema(json!({"oneOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "null"},
    ]}))
}

/// What is embedded by Ollama's endpoint.
pub(crate) fn embed_input() -> Schema {
    schema(json!({"oneOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "maxItems": limits::EMBED_INPUTS_COUNT},
        {"type": "null"},
    ], "description": "A text, or texts: each becomes a vector.", "examples": ["The cat"]}))
}

/// What is embedded by OpenAI's endpoint.
pub(crate) fn embeddings_input() -> Schema {
    let token = json!({"type": "integer", "minimum": 0, "maximum": u32::MAX});
    let tokens = json!({"type": "array", "items": token, "minItems": 1});
    let texts = json!({"type": "array", "items": {"type": "string"}, "minItems": 1,
        "maxItems": limits::EMBED_INPUTS_COUNT});
    let lists = json!({"type": "array", "items": tokens, "minItems": 1,
        "maxItems": limits::EMBED_INPUTS_COUNT});
    schema(json!({"oneOf": [{"type": "string"}, texts, tokens, lists],
        "description": "A text, texts, tokens, or lists of tokens.", "examples": ["The cat"]}))
}
