//! What is asked of a server that does not speak what the client asked in: a chat or a completion of OpenAI's, which all of them
//! speak. What cannot be said there is refused, by name; what it says nothing of, a server does as it likes.

use crate::answer::Syntax;
use crate::converse::Choice;
use crate::error::Failure;
use crate::options;
use crate::streams::{Flavour, Form};
use bytes::Bytes;
use ollamamax_proto::inference::{Message, Options, OutputFormat, Predict, Think};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What is to be answered.
#[derive(Debug)]
pub(crate) enum Said {
    /// A conversation.
    Chat { messages: Vec<Message>, tools: Vec<Value>, choice: Choice },
    /// A text as it is, and what stands behind a gap at its end.
    Text { prompt: String, suffix: String },
}

/// A request in none of its clients' words, and how its answer is told.
#[derive(Debug)]
pub(crate) struct Wish {
    pub said: Said,
    /// Options by Ollama's names, as the request has them.
    pub given: Map<String, Value>,
    /// The same, read: what is not right is refused before.
    pub options: Options,
    pub think: Option<Think>,
    pub streamed: bool,
    pub flavour: Flavour,
}

/// Options that have the same name and meaning in both APIs, and those that servers have beside OpenAI's.
const SAME: [&str; 8] = [
    "temperature",
    "top_p",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "top_k",
    "min_p",
];

/// Reads options where no model of the catalogue has any of its own.
pub(crate) fn read_options(given: &Map<String, Value>) -> Result<Options, Failure> {
    options::merge(&BTreeMap::new(), given, || 0)
}

/// What a server that speaks OpenAI's API cannot be asked.
pub(crate) fn cannot(what: &str) -> Failure {
    Failure::invalid(format!(
        "{what} cannot be passed on: the model is at an adopted server that speaks OpenAI's API alone"
    ))
}

impl Wish {
    /// How its answer is told.
    pub fn form(&self) -> Form {
        Form { syntax: Syntax::default(), flavour: self.flavour.clone() }
    }

    /// Whether anybody wants to know what the model thinks.
    pub fn wants_thoughts(&self) -> bool {
        self.think != Some(Think::Off)
    }

    /// Where it is asked, and with what; always as a stream, so that whoever falls silent is noticed.
    pub fn put(&self, id: &str) -> Result<(&'static str, Bytes), Failure> {
        let mut body = Map::new();
        body.insert("model".to_owned(), id.into());
        body.insert("stream".to_owned(), true.into());
        body.insert("stream_options".to_owned(), json!({"include_usage": true}));
        let path = match &self.said {
            Said::Chat { messages, tools, choice } => {
                body.insert("messages".to_owned(), conversation(messages)?);
                if !tools.is_empty() && *choice != Choice::Never {
                    body.insert("tools".to_owned(), tools.clone().into());
                    body.extend(choice_of(choice).map(|choice| ("tool_choice".to_owned(), choice)));
                }
                "/v1/chat/completions"
            }
            Said::Text { prompt, suffix } => {
                body.insert("prompt".to_owned(), prompt.as_str().into());
                if !suffix.is_empty() {
                    body.insert("suffix".to_owned(), suffix.as_str().into());
                }
                "/v1/completions"
            }
        };
        for name in SAME {
            let given = self.given.get(name).filter(|value| !value.is_null());
            body.extend(given.map(|value| (name.to_owned(), value.clone())));
        }
        // A seed of -1 draws one, as none does there.
        if body.get("seed").and_then(Value::as_i64) == Some(-1) {
            body.remove("seed");
        }
        if let Some(penalty) = self.given.get("repeat_penalty").filter(|value| !value.is_null()) {
            // llama-server's name and vLLM's.
            for name in ["repeat_penalty", "repetition_penalty"] {
                body.insert(name.to_owned(), penalty.clone());
            }
        }
        if let Predict::AtMost(tokens) = self.options.predict {
            body.insert("max_tokens".to_owned(), tokens.into());
        }
        body.extend(format(&self.options)?.map(|format| ("response_format".to_owned(), format)));
        self.thinks(&mut body);
        Ok((path, Value::Object(body).to_string().into()))
    }

    fn thinks(&self, body: &mut Map<String, Value>) {
        match self.think {
            None | Some(Think::On) => {}
            Some(Think::Off) if matches!(self.flavour, Flavour::Messages(_)) => {
                // Its clients say nothing of it with every request; thoughts are left out.
            }
            Some(Think::Off) => {
                let off = json!({"enable_thinking": false});
                body.insert("chat_template_kwargs".to_owned(), off);
            }
            Some(level) => {
                body.extend(level.level().map(|l| ("reasoning_effort".to_owned(), l.into())));
            }
        }
    }
}

fn choice_of(choice: &Choice) -> Option<Value> {
    match choice {
        Choice::Auto | Choice::Never => None,
        Choice::Required => Some("required".into()),
        Choice::Named(name) => Some(json!({"type": "function", "function": {"name": name}})),
    }
}

fn format(options: &Options) -> Result<Option<Value>, Failure> {
    match &options.format {
        None => Ok(None),
        Some(OutputFormat::Json) => Ok(Some(json!({"type": "json_object"}))),
        Some(OutputFormat::Schema(text)) => {
            let schema: Value = serde_json::from_str(text)
                .map_err(|error| Failure::invalid(format!("the schema is no JSON: {error}")))?;
            let schema = json!({"name": "answer", "schema": schema});
            Ok(Some(json!({"type": "json_schema", "json_schema": schema})))
        }
        Some(OutputFormat::Grammar(_)) => Err(cannot("a grammar")),
    }
}

/// Messages in OpenAI's words: arguments of calls are texts there, and results name the call they are of.
fn conversation(messages: &[Message]) -> Result<Value, Failure> {
    let mut all = Vec::new();
    // Calls without an answer yet: their names and ids.
    let mut open: Vec<(String, String)> = Vec::new();
    for message in messages {
        let extra = match message.extra_json.as_str() {
            "" => Map::new(),
            text => serde_json::from_str(text)
                .map_err(|error| Failure::invalid(format!("a message is no object: {error}")))?,
        };
        let mut told = Map::new();
        told.insert("role".to_owned(), message.role.as_str().into());
        told.insert("content".to_owned(), message.content.as_str().into());
        if let Some(calls) = extra.get("tool_calls").and_then(Value::as_array) {
            open.clear();
            let calls: Vec<Value> = calls.iter().map(|call| call_of(call, &mut open)).collect();
            if !calls.is_empty() {
                told.insert("tool_calls".to_owned(), calls.into());
            }
        }
        if message.role == "tool" {
            let id = extra.get("tool_call_id").and_then(Value::as_str).map(str::to_owned);
            let name = extra.get("tool_name").and_then(Value::as_str);
            let at = open.iter().position(|(open, own)| match (&id, name) {
                (Some(id), _) => own == id,
                (None, Some(name)) => open == name,
                (None, None) => true,
            });
            let found = at.map(|at| open.remove(at).1);
            let id = id.or(found).unwrap_or_else(|| "call_0".to_owned());
            told.insert("tool_call_id".to_owned(), id.into());
        }
        all.push(Value::Object(told));
    }
    Ok(all.into())
}

fn call_of(call: &Value, open: &mut Vec<(String, String)>) -> Value {
    let name = call.pointer("/function/name").and_then(Value::as_str).unwrap_or_default();
    let id = call.get("id").and_then(Value::as_str).filter(|id| !id.is_empty());
    let id = id.map_or_else(|| format!("call_{}", open.len()), str::to_owned);
    let arguments = match call.pointer("/function/arguments") {
        None | Some(Value::Null) => "{}".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    open.push((name.to_owned(), id.clone()));
    let function = json!({"name": name, "arguments": arguments});
    json!({"id": id, "type": "function", "function": function})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ollama::chat;

    fn asked(request: Value) -> Result<Value, String> {
        let wish = chat::elsewhere(request.to_string().as_bytes()).map_err(|e| e.to_string())?;
        let (path, body) = wish.put("org/M").map_err(|e| e.to_string())?;
        assert_eq!(path, "/v1/chat/completions");
        Ok(serde_json::from_slice(&body).expect("JSON"))
    }

    #[test]
    fn a_chat_is_told_in_other_words() {
        let body = asked(json!({
            "model": "m", "think": "low", "format": {"type": "object"},
            "options": {"temperature": 0.5, "num_predict": 9, "seed": -1, "repeat_penalty": 1.1,
                        "num_ctx": 4096, "stop": ["x"]},
            "messages": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]},
                {"role": "tool", "tool_name": "f", "content": "2"},
            ],
            "tools": [{"type": "function", "function": {"name": "f"}}],
        }));
        assert_eq!(
            body,
            Ok(json!({
                "model": "org/M", "stream": true, "stream_options": {"include_usage": true},
                "messages": [
                    {"role": "user", "content": "hi"},
                    {"role": "assistant", "content": "", "tool_calls": [
                        {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}}]},
                    {"role": "tool", "content": "2", "tool_call_id": "call_0"},
                ],
                "tools": [{"type": "function", "function": {"name": "f"}}],
                "temperature": 0.5, "stop": ["x"], "repeat_penalty": 1.1, "repetition_penalty": 1.1,
                "max_tokens": 9, "reasoning_effort": "low",
                "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}},
            }))
        );
    }

    #[test]
    fn what_cannot_be_said_there_is_refused_by_name() {
        let user = json!([{"role": "user", "content": "hi"}]);
        for (field, value, named) in [
            ("logprobs", json!(true), "log-probabilities"),
            ("options", json!({"grammar": "start: \"x\""}), "grammar"),
            ("options", json!({"temperature": "hot"}), "temperature"),
        ] {
            let mut request = json!({"model": "m", "messages": user});
            request[field] = value;
            let error = asked(request).expect_err(field);
            assert!(error.contains(named), "{error}");
        }
    }
}
