//! Every answer a test gets is held against the description of its route: a status, a header, a field or a type that is not
//! described fails the test that saw it, whatever that one looks for.

use crate::control::{FakeBlobs, FakeControl};
use axum::http::{HeaderMap, StatusCode};
use ollamamax_gateway::{Config, Gateway};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};

/// The description, made once.
pub static DESCRIPTION: LazyLock<Value> = LazyLock::new(|| gateway().description());

/// The same with schemas that allow nothing beside what they name.
static CLOSED: LazyLock<Value> = LazyLock::new(|| closed(&DESCRIPTION));

/// Schemas by where they stand, ready to check with.
static CHECKS: LazyLock<Mutex<BTreeMap<String, Arc<jsonschema::Validator>>>> =
    LazyLock::new(Mutex::default);

pub fn gateway() -> Arc<Gateway> {
    Gateway::new(FakeControl::new(), FakeBlobs::new(), Config::default())
}

/// Holds an answer against what is described for it.
pub fn check(method: &str, path: &str, status: StatusCode, headers: &HeaderMap, text: &str) {
    // A slash may come escaped.
    let path = path.split('?').next().unwrap_or_default().replace("%2f", "/").replace("%2F", "/");
    let path = path.as_str();
    let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let told = format!("{method} {path} -> {status} {kind}: {text:.2000}");
    let method = method.to_lowercase();
    let operation = DESCRIPTION["paths"].as_object().and_then(|paths| {
        let fits = |template: &str| fits(template, path);
        let item = paths.iter().filter(|(template, item)| {
            let has =
                item.get(&method).is_some() || (method == "head" && item.get("get").is_some());
            has && fits(template)
        });
        // `/a/b` before `/a/{x}`.
        item.min_by_key(|(template, _)| template.matches('{').count())
    });
    let Some((template, item)) = operation else {
        // What a browser asks before it asks.
        if status == StatusCode::NO_CONTENT {
            return;
        }
        let below = |prefix: &str| path.starts_with(prefix);
        let family = match () {
            () if below("/v1/messages") => "Anthropic",
            () if below("/v1/") => "OpenAi",
            () if below("/admin/") || below("/auth/") => "Ours",
            () => "Ollama",
        };
        let at = format!("#/components/responses/{family}{}", status.as_str());
        let described = DESCRIPTION.pointer(&at[1..]);
        let content = described.map(|described| &described["content"][kind]);
        assert!(content.is_some_and(|content| !content.is_null()), "not described: {told}");
        hold(&format!("{at}/content/{}/schema", escaped(kind)), kind, text, &told);
        return;
    };
    let method = if item.get(&method).is_some() { method } else { "get".to_owned() };
    let described = &item[&method]["responses"][status.as_str()];
    assert!(!described.is_null(), "the status is not described: {told}");
    let (at, described) = match described["$ref"].as_str() {
        Some(reference) => (reference.to_owned(), resolve(reference)),
        None => {
            let place = format!(
                "#/paths/{}/{method}/responses/{status}",
                escaped(template),
                status = status.as_str()
            );
            (place, described)
        }
    };
    if text.is_empty() {
        return;
    }
    let content = &described["content"][kind];
    assert!(!content.is_null(), "the content type is not described: {told}");
    // Bytes have no schema.
    if content.get("schema").is_none() {
        assert_eq!(kind, "application/octet-stream", "{told}");
        return;
    }
    let data =
        if kind == "text/event-stream" { "/properties/data/anyOf/0/contentSchema" } else { "" };
    let at = format!("{at}/content/{}/schema{data}", escaped(kind));
    hold(&at, kind, text, &told);
}

/// Holds what a body consists of against a schema.
fn hold(at: &str, kind: &str, text: &str, told: &str) {
    if text.is_empty() {
        return;
    }
    for value in values(kind, text) {
        let check = validator(at);
        let errors = check.iter_errors(&value);
        let errors: Vec<String> =
            errors.map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{errors:#?}\n{told}");
    }
}

/// The JSON values of a body: one, or one of each line or event.
fn values(kind: &str, text: &str) -> Vec<Value> {
    let parse =
        |text: &str| serde_json::from_str(text).unwrap_or_else(|_| panic!("no JSON: {text}"));
    match kind {
        kind if kind == "application/json" || kind.ends_with("+json") => vec![parse(text)],
        "application/x-ndjson" => text.lines().map(parse).collect(),
        "text/event-stream" => {
            let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
            data.filter(|data| *data != "[DONE]").map(parse).collect()
        }
        _ => vec![Value::String(text.to_owned())],
    }
}

fn validator(at: &str) -> Arc<jsonschema::Validator> {
    let mut checks = CHECKS.lock().unwrap();
    let check = checks.entry(at.to_owned()).or_insert_with(|| {
        let mut root = Map::new();
        root.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        root.insert("components".to_owned(), CLOSED["components"].clone());
        root.insert("paths".to_owned(), CLOSED["paths"].clone());
        root.insert("$ref".to_owned(), json!(at));
        Arc::new(jsonschema::validator_for(&Value::Object(root)).expect("a schema"))
    });
    Arc::clone(check)
}

fn resolve(reference: &str) -> &'static Value {
    let pointer = reference.strip_prefix('#').expect("a reference into the description");
    DESCRIPTION.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere"))
}

/// A part of a pointer in a URL.
fn escaped(part: &str) -> String {
    part.replace('~', "~0")
        .replace('/', "~1")
        .replace('{', "%7B")
        .replace('}', "%7D")
        .replace('+', "%2B")
}

/// Whether a path is one of a template's; what is named last may hold slashes.
pub fn fits(template: &str, path: &str) -> bool {
    let Some((before, rest)) = template.split_once('{') else { return template == path };
    let Some(path) = path.strip_prefix(before) else { return false };
    let after = rest.split_once('}').map_or("", |(_, after)| after);
    match after {
        "" => !path.is_empty(),
        // One of several holds no slash.
        after if after.contains('{') => path
            .split_once('/')
            .is_some_and(|(name, rest)| !name.is_empty() && fits(after, &format!("/{rest}"))),
        after => path.strip_suffix(after).is_some_and(|name| !name.is_empty()),
    }
}

/// Schemas that allow nothing beside what they name. What is part of a larger one (`allOf`) is open by itself: the larger one is
/// closed.
fn closed(description: &Value) -> Value {
    let mut description = description.clone();
    let schemas = description["components"]["schemas"].as_object_mut().expect("schemas");
    let mut both = Map::new();
    for (name, schema) in std::mem::take(schemas) {
        both.insert(format!("{name}-open"), close(&schema, false));
        both.insert(name, close(&schema, true));
    }
    *schemas = both;
    let paths = description["paths"].take();
    description["paths"] = close_inline(&paths);
    let responses = description["components"]["responses"].take();
    description["components"]["responses"] = close_inline(&responses);
    description
}

fn close_inline(part: &Value) -> Value {
    match part {
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| {
                let value = if key == "schema" { close(value, true) } else { close_inline(value) };
                (key.clone(), value)
            })
            .collect(),
        Value::Array(values) => values.iter().map(close_inline).collect(),
        other => other.clone(),
    }
}

fn close(schema: &Value, whole: bool) -> Value {
    let Value::Object(fields) = schema else { return schema.clone() };
    let mut out = Map::new();
    for (key, value) in fields {
        let value = match (key.as_str(), value) {
            ("$ref", Value::String(to)) if !whole => json!(format!("{to}-open")),
            ("properties", Value::Object(properties)) => properties
                .iter()
                .map(|(name, schema)| (name.clone(), close(schema, true)))
                .collect(),
            ("items" | "additionalProperties" | "contentSchema", value) => close(value, true),
            ("oneOf" | "anyOf", Value::Array(parts)) => {
                parts.iter().map(|part| close(part, whole)).collect()
            }
            ("allOf", Value::Array(parts)) => parts.iter().map(|part| close(part, false)).collect(),
            (_, value) => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    let names = fields.contains_key("properties") || fields.contains_key("allOf");
    if whole && names && !fields.contains_key("additionalProperties") {
        out.insert("unevaluatedProperties".to_owned(), json!(false));
    }
    Value::Object(out)
}
