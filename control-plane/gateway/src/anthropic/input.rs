//! What Anthropic's clients send: messages of blocks, and tools with an `input_schema`.

use crate::error::Failure;
use crate::ollama;
use crate::ollama::chat::{check_count, extra_json};
use ollamamax_proto::inference::Message;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct InputMessage {
    role: String,
    content: Content,
}

/// A text, or blocks.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = MessagesContent)]
#[serde(untagged, expecting = "expected a string or a list of blocks")]
pub(super) enum Content {
    Text(String),
    Blocks(Vec<Map<String, Value>>),
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = MessagesTool)]
pub(super) struct Tool {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    input_schema: Option<Value>,
}

impl Tool {
    /// As the other endpoints take it; `None` for tools without a schema, which Anthropic's servers run by themselves.
    pub(super) fn function(self) -> Option<Value> {
        let function = json!({
            "name": self.name?,
            "description": self.description.unwrap_or_default(),
            "parameters": self.input_schema?,
        });
        Some(json!({"type": "function", "function": function}))
    }
}

/// As a worker takes them.
pub(super) fn messages(
    system: Option<Content>,
    messages: Vec<InputMessage>,
    model: &str,
) -> Result<Vec<Message>, Failure> {
    if messages.is_empty() {
        return Err(Failure::invalid("messages: at least one message is required"));
    }
    check_count("messages", messages.len())?;
    let mut all = Vec::new();
    let mut called: Map<String, Value> = Map::new();
    if let Some(system) = system {
        let text = text_of(&system, "system", model)?;
        all.extend(
            Some(text)
                .filter(|text| !text.is_empty())
                .map(|text| message("system", text, Map::new())),
        );
    }
    for (place, InputMessage { role, content }) in messages.into_iter().enumerate() {
        let at = format!("messages.{place}.content");
        match role.as_str() {
            "user" => user(&mut all, content, &at, model, &called)?,
            "assistant" => assistant(&mut all, content, &at, model, &mut called)?,
            "system" => all.push(message("system", text_of(&content, &at, model)?, Map::new())),
            other => {
                let other: String = other.chars().take(100).collect();
                return Err(Failure::invalid(format!(
                    "messages.{place}.role is {other:?}, expected \"user\" or \"assistant\""
                )));
            }
        }
    }
    Ok(all)
}

fn message(role: &str, content: String, extra: Map<String, Value>) -> Message {
    Message { role: role.to_owned(), content, extra_json: extra_json(extra) }
}

/// Results of tools come first, as messages of their own.
fn user(
    all: &mut Vec<Message>,
    content: Content,
    at: &str,
    model: &str,
    called: &Map<String, Value>,
) -> Result<(), Failure> {
    let Content::Blocks(blocks) = content else {
        all.push(message("user", text_of(&content, at, model)?, Map::new()));
        return Ok(());
    };
    let (results, rest): (Vec<_>, Vec<_>) =
        blocks.into_iter().partition(|block| kind(block) == "tool_result");
    let is_only_results = rest.is_empty() && !results.is_empty();
    for mut block in results {
        let id = block.get("tool_use_id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let text = match block.remove("content") {
            None | Some(Value::Null) => String::new(),
            Some(content) => {
                let content = serde_json::from_value(content)
                    .map_err(|error| Failure::invalid(format!("{at}: tool_result: {error}")))?;
                text_of(&content, at, model)?
            }
        };
        let mut extra = Map::new();
        extra.extend(called.get(&id).map(|name| ("tool_name".to_owned(), name.clone())));
        extra.insert("tool_call_id".to_owned(), id.into());
        all.push(message("tool", text, extra));
    }
    if !is_only_results {
        all.push(message("user", text_of(&Content::Blocks(rest), at, model)?, Map::new()));
    }
    Ok(())
}

fn assistant(
    all: &mut Vec<Message>,
    content: Content,
    at: &str,
    model: &str,
    called: &mut Map<String, Value>,
) -> Result<(), Failure> {
    let mut extra = Map::new();
    let content = match content {
        Content::Text(text) => Content::Text(text),
        Content::Blocks(blocks) => {
            let mut rest = Vec::new();
            for block in blocks {
                match kind(&block) {
                    "thinking" => {
                        let thought = block.get("thinking").cloned().unwrap_or_default();
                        extra.insert("thinking".to_owned(), thought);
                    }
                    "redacted_thinking" => {}
                    "tool_use" => {
                        let get = |key: &str| block.get(key).cloned().unwrap_or_default();
                        let (id, name, input) = (get("id"), get("name"), get("input"));
                        called.extend(id.as_str().map(|id| (id.to_owned(), name.clone())));
                        let call = json!({
                            "id": id,
                            "type": "function",
                            "function": {"name": name, "arguments": input},
                        });
                        let calls = extra.entry("tool_calls").or_insert_with(|| json!([]));
                        calls.as_array_mut().into_iter().for_each(|calls| calls.push(call.clone()));
                    }
                    _ => rest.push(block),
                }
            }
            Content::Blocks(rest)
        }
    };
    all.push(message("assistant", text_of(&content, at, model)?, extra));
    Ok(())
}

fn kind(block: &Map<String, Value>) -> &str {
    block.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn text_of(content: &Content, at: &str, model: &str) -> Result<String, Failure> {
    let blocks = match content {
        Content::Text(text) => return Ok(text.clone()),
        Content::Blocks(blocks) => blocks,
    };
    let mut all = String::new();
    for block in blocks {
        match kind(block) {
            "text" => all.push_str(block.get("text").and_then(Value::as_str).unwrap_or_default()),
            "image" => return Err(ollama::no_support(model, "vision")),
            other => {
                let other: String = other.chars().take(100).collect();
                return Err(Failure::invalid(format!(
                    "{at}: blocks of type {other:?} are not supported here"
                )));
            }
        }
    }
    Ok(all)
}
