//! What `/v1/responses` takes: items that become messages, and tools in their flat form.

use crate::error::Failure;
use crate::ollama;
use crate::ollama::chat::{check_count, check_role, extra_json};
use ollamamax_proto::inference::Message;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// A text, or items.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ResponsesInput)]
#[serde(untagged, expecting = "expected a string or a list of items")]
pub(super) enum Input {
    Text(String),
    Items(Vec<Map<String, Value>>),
}

fn invalid(place: usize, what: impl std::fmt::Display) -> Failure {
    let text = format!("invalid value for field `input[{place}]`: {what}");
    Failure::InvalidField { field: "input", text }
}

/// Items as messages. Calls and thinking that follow each other are one message of the assistant, as templates want it.
pub(super) fn messages(
    instructions: Option<String>,
    input: Option<Input>,
    model: &str,
) -> Result<Vec<Message>, Failure> {
    let mut all = Vec::new();
    let instructions = instructions.filter(|text| !text.is_empty());
    all.extend(instructions.map(|text| draft("system", text)));
    match input {
        None => {}
        Some(Input::Text(text)) => all.push(draft("user", text)),
        Some(Input::Items(items)) => {
            check_count("input", items.len())?;
            let mut called = Map::new();
            for (place, item) in items.into_iter().enumerate() {
                take(&mut all, &mut called, place, item, model)?;
            }
        }
    }
    if !all.iter().any(|draft| draft.role != "system") {
        let text = "`input` is empty, expected a text or a list of items".to_owned();
        return Err(Failure::InvalidField { field: "input", text });
    }
    Ok(all.into_iter().map(Draft::finish).collect())
}

/// A message that may still grow.
struct Draft {
    role: String,
    content: String,
    extra: Map<String, Value>,
}

fn draft(role: &str, content: String) -> Draft {
    Draft { role: role.to_owned(), content, extra: Map::new() }
}

impl Draft {
    fn finish(self) -> Message {
        Message { role: self.role, content: self.content, extra_json: extra_json(self.extra) }
    }
}

fn take(
    all: &mut Vec<Draft>,
    called: &mut Map<String, Value>,
    place: usize,
    item: Map<String, Value>,
    model: &str,
) -> Result<(), Failure> {
    let text = |key: &str| item.get(key).and_then(Value::as_str).unwrap_or_default();
    match item.get("type").and_then(Value::as_str).unwrap_or("message") {
        "message" => {
            let role = check_role("input", place, text("role"))?;
            let content = content(place, item.get("content"), model)?;
            let open = all
                .last_mut()
                .filter(|last| role == "assistant" && last.role == role && last.content.is_empty());
            match open {
                Some(last) => last.content = content,
                None => all.push(draft(&role, content)),
            }
        }
        "reasoning" => {
            let parts = ["summary", "content"].iter().filter_map(|key| item.get(*key)?.as_array());
            let texts = parts.flatten().filter_map(|part| part.get("text")?.as_str());
            let thought = texts.collect::<Vec<_>>().join("\n");
            let last = assistant(all, |last| last.content.is_empty() && last.extra.is_empty());
            last.extra.insert("thinking".to_owned(), thought.into());
        }
        "function_call" => {
            let arguments = serde_json::from_str::<Map<String, Value>>(text("arguments"));
            let arguments = arguments.map_err(|_| {
                invalid(place, "`arguments` must be a JSON object, written as a text")
            })?;
            let call = json!({
                "id": text("call_id"),
                "type": "function",
                "function": {"name": text("name"), "arguments": arguments},
            });
            called.insert(text("call_id").to_owned(), text("name").into());
            let last = assistant(all, |_| true);
            let calls = last.extra.entry("tool_calls").or_insert_with(|| json!([]));
            calls.as_array_mut().into_iter().for_each(|calls| calls.push(call.clone()));
        }
        "function_call_output" => {
            let id = text("call_id");
            let name = called.get(id).cloned();
            let mut result = draft("tool", content(place, item.get("output"), model)?);
            result.extra.insert("tool_call_id".to_owned(), id.into());
            result.extra.extend(name.map(|name| ("tool_name".to_owned(), name)));
            all.push(result);
        }
        // What servers of others did on their side.
        "web_search_call" | "file_search_call" | "computer_call" => {}
        other => {
            let other: String = other.chars().take(100).collect();
            return Err(invalid(place, format!("items of type {other:?} are not supported")));
        }
    }
    Ok(())
}

/// The assistant's message that is being put together, if the last one is one and `fits`; else a new one.
fn assistant(all: &mut Vec<Draft>, fits: impl Fn(&Draft) -> bool) -> &mut Draft {
    if !all.last().is_some_and(|last| last.role == "assistant" && fits(last)) {
        all.push(draft("assistant", String::new()));
    }
    let last = all.len() - 1;
    &mut all[last]
}

fn content(place: usize, content: Option<&Value>, model: &str) -> Result<String, Failure> {
    match content {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => {
            let mut all = String::new();
            for part in parts {
                match part["type"].as_str().unwrap_or_default() {
                    "input_text" | "output_text" | "text" => {
                        all.push_str(part["text"].as_str().unwrap_or_default());
                    }
                    "refusal" => all.push_str(part["refusal"].as_str().unwrap_or_default()),
                    "input_image" => return Err(ollama::no_support(model, "vision")),
                    "input_audio" => return Err(ollama::no_support(model, "audio")),
                    other => {
                        let other: String = other.chars().take(100).collect();
                        return Err(invalid(
                            place,
                            format!("parts of type {other:?} are not supported"),
                        ));
                    }
                }
            }
            Ok(all)
        }
        Some(_) => Err(invalid(place, "expected a text or a list of parts")),
    }
}

/// Functions as the other endpoints take them. Tools that a server would run by itself are left out: the model shall not call
/// what nobody would answer.
pub(super) fn tools(tools: Vec<Value>) -> Result<Vec<Value>, Failure> {
    let mut all = Vec::new();
    for (place, mut tool) in tools.into_iter().enumerate() {
        match tool["type"].as_str() {
            Some("function") if tool["name"].is_string() => {
                tool.as_object_mut().map(|fields| fields.shift_remove("type"));
                all.push(json!({"type": "function", "function": tool}));
            }
            Some("namespace") => {
                let inner = tool.get_mut("tools").map(Value::take);
                if let Some(Value::Array(inner)) = inner {
                    all.extend(self::tools(inner)?);
                }
            }
            Some("function") | None => {
                let text = format!(
                    "invalid value for field `tools[{place}]`: expected a type, and the name of a function"
                );
                return Err(Failure::InvalidField { field: "tools", text });
            }
            Some(kind) => tracing::debug!(kind, "a tool that nobody would run is left out"),
        }
    }
    Ok(all)
}
