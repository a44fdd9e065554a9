//! Messages as OpenAI's clients send them.

use crate::error::Failure;
use crate::ollama;
use crate::ollama::chat::{check_count, check_role, extra_json};
use ollamamax_proto::inference::Message;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ChatMessage {
    role: String,
    #[serde(default)]
    content: Option<Content>,
    #[serde(flatten)]
    #[schema(ignore)]
    extra: Map<String, Value>,
}

/// A text, or parts.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ChatContent)]
#[serde(untagged, expecting = "expected a string or a list of parts")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ChatPart)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    image_url: Option<Value>,
}

/// As a worker takes them.
pub(super) fn read(messages: Vec<ChatMessage>, name: &str) -> Result<Vec<Message>, Failure> {
    const PASSED_ON: [&str; 5] = ["tool_calls", "tool_call_id", "name", "reasoning", "thinking"];
    check_count("messages", messages.len())?;
    let mut all = Vec::with_capacity(messages.len());
    for (index, mut message) in messages.into_iter().enumerate() {
        let role = check_role("messages", index, &message.role)?;
        message.extra.retain(|key, value| PASSED_ON.contains(&key.as_str()) && !value.is_null());
        let content = match message.content {
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => text_of(index, parts, name)?,
            None if message.extra.contains_key("tool_calls") => String::new(),
            None => {
                let text = format!(
                    "invalid value for field `messages[{index}].content`: it may be null only beside `tool_calls`"
                );
                return Err(Failure::InvalidField { field: "messages", text });
            }
        };
        as_templates_read(&mut message.extra);
        all.push(Message { role, content, extra_json: extra_json(message.extra) });
    }
    name_results(&mut all);
    Ok(all)
}

/// OpenAI writes the arguments of a call as a text and calls thinking `reasoning`; templates want the object and `thinking`.
fn as_templates_read(extra: &mut Map<String, Value>) {
    if let Some(reasoning) = extra.shift_remove("reasoning") {
        extra.entry("thinking").or_insert(reasoning);
    }
    let calls = extra.get_mut("tool_calls").and_then(Value::as_array_mut);
    for call in calls.into_iter().flatten() {
        let arguments = call.get_mut("function").and_then(|function| function.get_mut("arguments"));
        if let Some(arguments) = arguments
            && let Some(text) = arguments.as_str()
            && let Ok(object @ Value::Object(_)) = serde_json::from_str(text)
        {
            *arguments = object;
        }
    }
}

/// A result names the call it belongs to by id; templates want to know which tool that was.
fn name_results(messages: &mut [Message]) {
    let mut called: Map<String, Value> = Map::new();
    for message in messages {
        let Ok(mut extra) = serde_json::from_str::<Map<String, Value>>(&message.extra_json) else {
            continue;
        };
        for call in extra.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
            if let (Some(id), name @ Value::String(_)) =
                (call["id"].as_str(), &call["function"]["name"])
            {
                called.insert(id.to_owned(), name.clone());
            }
        }
        if message.role == "tool" && !extra.contains_key("tool_name") {
            let id = extra.get("tool_call_id").and_then(Value::as_str);
            let name = extra.get("name").or_else(|| called.get(id?)).cloned();
            if let Some(name) = name {
                extra.insert("tool_name".to_owned(), name);
                message.extra_json = extra_json(extra);
            }
        }
    }
}

fn text_of(index: usize, parts: Vec<Part>, name: &str) -> Result<String, Failure> {
    let mut text = String::new();
    for (place, part) in parts.into_iter().enumerate() {
        match part.kind.as_str() {
            "text" => text.push_str(&part.text.unwrap_or_default()),
            "image_url" => {
                let url = part.image_url.as_ref();
                let url = url.and_then(|image| image.get("url").or(Some(image))?.as_str());
                if url.is_some_and(|url| url.starts_with("http")) {
                    return Err(Failure::invalid(
                        "image URLs are not currently supported, please use base64 encoded data instead",
                    ));
                }
                return Err(ollama::no_support(name, "vision"));
            }
            "input_audio" => return Err(ollama::no_support(name, "audio")),
            other => {
                let text = format!(
                    "invalid value for field `messages[{index}].content[{place}].type`: {other:?}"
                );
                return Err(Failure::InvalidField { field: "messages", text });
            }
        }
    }
    Ok(text)
}
