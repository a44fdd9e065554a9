//! `POST /api/chat`: a conversation, continued.

use super::{Asked, Head, Metrics, check_generates, merged};
use crate::adopted::ask::{self, Said, Wish};
use crate::answer::{Answer, Call, Part, Syntax};
use crate::auth::Caller;
use crate::converse::{Choice, Prepared, Turn};
use crate::demand::Want;
use crate::dispatch::{Generation, Job, Piece, Summary};
use crate::error::{Failure, OllamaError};
use crate::keep_alive::KeepAlive;
use crate::logprobs::{self, Told};
use crate::openapi::{GenerationOptions, shapes};
use crate::request::{Asker, RequestId};
use crate::stream::{self, Render};
use crate::streams::{Flavour, Form, Keep};
use crate::{Gateway, body, format, names, options};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::access::Action;
use ollamamax_proto::inference::Message;
use ollamamax_proto::limits;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;
use utoipa::ToSchema;

/// A conversation to continue.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(examples(json!({"model": "smollm2:135m", "messages": [{"role": "user", "content": "Why is the sky blue?"}]})))]
pub(crate) struct ChatRequest {
    /// Its name; the tag is `latest` where there is none.
    #[serde(default)]
    #[schema(required, nullable = false, examples("smollm2:135m"))]
    model: Option<String>,
    /// What was said; none at all loads the model, or unloads it.
    #[serde(default)]
    messages: Option<Vec<ChatMessage>>,
    /// Functions the model may call, as JSON schemas; refused where it cannot.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Vec<Value>>,
    /// Records as they come, or one with all.
    #[serde(default)]
    #[schema(default = true)]
    stream: Option<bool>,
    #[serde(default)]
    #[schema(schema_with = shapes::format)]
    format: Option<Value>,
    #[serde(default)]
    #[schema(schema_with = shapes::keep_alive)]
    keep_alive: Option<KeepAlive>,
    #[serde(default)]
    #[schema(value_type = Option<GenerationOptions>)]
    options: Option<Map<String, Value>>,
    #[serde(default)]
    #[schema(schema_with = shapes::think)]
    think: Option<Value>,
    /// Tells how likely each token was.
    #[serde(default)]
    #[schema(default = false)]
    logprobs: Option<bool>,
    /// How many of the likeliest tokens are told beside each.
    #[serde(default)]
    top_logprobs: Option<i64>,
    /// A conversation that is too long loses its beginning, or is refused.
    #[serde(default)]
    #[schema(default = true)]
    truncate: Option<bool>,
    /// A context that is full shifts, or the answer ends.
    #[serde(default)]
    #[schema(default = true)]
    shift: Option<bool>,
}

/// One thing that was said.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Message)]
struct ChatMessage {
    /// `system`, `user`, `assistant` or `tool`.
    #[schema(examples("user"))]
    role: String,
    /// Its text.
    #[serde(default)]
    content: Option<String>,
    /// In base64; refused where the model sees nothing.
    #[serde(default)]
    images: Option<Vec<String>>,
    /// `thinking`, `tool_calls`, `tool_name`, `tool_call_id`: for the template.
    #[serde(flatten)]
    #[schema(ignore)]
    extra: Map<String, Value>,
}

/// A piece of an answer, or all of it.
#[derive(Serialize, ToSchema)]
#[schema(as = ChatRecord)]
pub(crate) struct Record<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    message: Reply<'a>,
    /// Whether it is the last.
    done: bool,
    /// Of the last: `stop`, `length`, `load` or `unload`.
    #[serde(skip_serializing_if = "Option::is_none")]
    done_reason: Option<&'static str>,
    /// How likely its tokens were.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    logprobs: Vec<Told>,
    #[serde(flatten)]
    metrics: Metrics,
}

/// What the model says.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = ChatReply)]
struct Reply<'a> {
    /// Always `assistant`.
    role: &'static str,
    /// Its text.
    content: &'a str,
    /// What it thought before.
    #[serde(skip_serializing_if = "str::is_empty")]
    #[schema(required = false)]
    thinking: &'a str,
    /// Functions it calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    tool_calls: Vec<ToolCall<'a>>,
}

/// A function that the model calls.
#[derive(Serialize, ToSchema)]
struct ToolCall<'a> {
    id: &'a str,
    function: Function<'a>,
}

/// Which, and with what.
#[derive(Serialize, ToSchema)]
#[schema(as = ToolCallFunction)]
struct Function<'a> {
    index: usize,
    name: &'a str,
    arguments: &'a Map<String, Value>,
}

impl<'a> From<&'a Call> for ToolCall<'a> {
    fn from(call: &'a Call) -> Self {
        let (index, name, arguments) = (call.index, call.name.as_str(), &call.arguments);
        Self { id: &call.id, function: Function { index, name, arguments } }
    }
}

impl<'a> Record<'a> {
    fn of(model: &'a str, message: Reply<'a>) -> Self {
        let message = Reply { role: "assistant", ..message };
        let (head, metrics) = (Head::now(model), Metrics::default());
        Self { head, message, logprobs: vec![], done: false, done_reason: None, metrics }
    }

    fn part(model: &'a str, message: Reply<'a>, piece: &Piece) -> Self {
        Self { logprobs: logprobs::ollama(&piece.logprobs), ..Self::of(model, message) }
    }

    fn last(model: &'a str, message: Reply<'a>, summary: &Summary) -> Self {
        Self {
            done: true,
            done_reason: Some(summary.reason.as_str()),
            metrics: summary.into(),
            ..Self::of(model, message)
        }
    }

    fn loaded(model: &'a str, reason: &'static str) -> Self {
        Self { done: true, done_reason: Some(reason), ..Self::of(model, Reply::default()) }
    }
}

/// Continues a conversation.
///
/// No messages at all load the model, or unload it with `keep_alive` 0. After a good status an error is a last record.
#[utoipa::path(post, path = "/api/chat", request_body = ChatRequest,
    responses((status = 200, description = "A record on each line, or one in all; `X-Stream-Id` names a stream.",
        content((Record = "application/x-ndjson"), (Record = "application/json")))))]
pub(crate) async fn chat(
    State(gateway): State<Arc<Gateway>>,
    RequestId(request_id): RequestId,
    asker: Asker,
    caller: Caller,
    keep: Keep,
    body: Body,
) -> Result<Response, OllamaError> {
    let request: ChatRequest = body::json(body, gateway.config.body_bytes).await?;
    let asked = names::named(request.model.clone(), None)?;
    let model = gateway.version_for(caller.model(
        &gateway.control.state(),
        &asked,
        Action::RunInference,
    )?);
    let name = model.name.to_string();
    let images = |message: &ChatMessage| message.images.as_ref().is_some_and(|i| !i.is_empty());
    let images = request.messages.iter().flatten().any(images);
    let think = Asked { think: request.think.as_ref(), images }.check(&name)?;
    let mut options = merged(&model, request.options.as_ref(), request.truncate)?;
    options.shift = request.shift.unwrap_or(true);
    options.logprobs = options::logprobs(request.logprobs, request.top_logprobs)?;
    let format = format::ollama(request.format.as_ref(), request.options.as_ref())?;
    options.format = format.or(options.format);
    let keep_alive = request.keep_alive;
    let keep_alive = caller.may_keep(&gateway.control.state(), &model.name, keep_alive);
    let want = Want { keep_alive, context_tokens: options.context_tokens, replicas: None };
    let messages = messages(request.messages.unwrap_or_default())?;
    if messages.is_empty() {
        let reason = gateway.load_or_unload(&asker, &model, want).await?;
        return Ok(stream::ollama_json(&Record::loaded(&asked, reason)));
    }
    check_generates(&model, "chat")?;
    let tools = request.tools.unwrap_or_default();
    let turn = Turn { messages, tools, think, options, ..Turn::default() };
    let Prepared { prompt, options, syntax } = gateway.prepare(&model, turn)?;
    let streamed = request.stream != Some(false);
    let form = Form { syntax, flavour: Flavour::Chat(Lines { model: asked.clone() }) };
    let kept = keep.stream(streamed, &form);
    let id = kept.as_ref().map(|kept| kept.id);
    let job = Job { request_id, asker, model, prompt, options, want, kept, resumed: None };
    let generation = gateway.generate(job).await?;
    if streamed {
        return Ok(form.respond(generation, 0, id)?);
    }
    Ok(whole(&asked, generation, &form.syntax).await?)
}

/// An answer in one record.
pub(crate) async fn whole(
    asked: &str,
    generation: Generation,
    syntax: &Syntax,
) -> Result<Response, Failure> {
    let whole = Answer::begin(generation, syntax, 0)?.whole().await?;
    let tool_calls = whole.calls.iter().map(Into::into).collect();
    let message = Reply { role: "", content: &whole.text, thinking: &whole.thinking, tool_calls };
    let logprobs = logprobs::ollama(&whole.logprobs);
    let last = Record { logprobs, ..Record::last(asked, message, &whole.summary) };
    Ok(stream::ollama_json(&last))
}

/// The same request, for a server that does not speak Ollama's API.
pub(crate) fn elsewhere(body: &[u8]) -> Result<Wish, Failure> {
    let request: ChatRequest = body::parse(body)?;
    let asked = names::named(request.model, None)?;
    let images = |message: &ChatMessage| message.images.as_ref().is_some_and(|i| !i.is_empty());
    let images = request.messages.iter().flatten().any(images);
    let think = Asked { think: request.think.as_ref(), images }.check(&asked)?;
    if options::logprobs(request.logprobs, request.top_logprobs)?.is_some() {
        return Err(ask::cannot("a wish for log-probabilities"));
    }
    let given = request.options.unwrap_or_default();
    let mut options = ask::read_options(&given)?;
    let format = format::ollama(request.format.as_ref(), Some(&given))?;
    options.format = format.or(options.format);
    let messages = messages(request.messages.unwrap_or_default())?;
    let tools = request.tools.unwrap_or_default();
    check_count("tools", tools.len())?;
    let unloads = request.keep_alive.is_some_and(KeepAlive::is_unload);
    if messages.is_empty() && unloads {
        return Err(ask::cannot("a wish to unload a model"));
    }
    let said = Said::Chat { messages, tools, choice: Choice::Auto };
    let flavour = Flavour::Chat(Lines { model: asked });
    let streamed = request.stream != Some(false);
    Ok(Wish { said, given, options, think, streamed, flavour })
}

/// What is told when nothing was asked of a model that is there.
pub(crate) fn loaded(asked: &str) -> Response {
    stream::ollama_json(&Record::loaded(asked, "load"))
}

fn messages(messages: Vec<ChatMessage>) -> Result<Vec<Message>, Failure> {
    /// What templates read of a message beside role and content.
    const PASSED_ON: [&str; 5] = ["thinking", "tool_calls", "tool_name", "tool_call_id", "name"];
    check_count("messages", messages.len())?;
    let convert = |(index, mut message): (usize, ChatMessage)| {
        let role = check_role("messages", index, &message.role)?;
        message.extra.retain(|key, value| PASSED_ON.contains(&key.as_str()) && !value.is_null());
        Ok(Message {
            role,
            content: message.content.unwrap_or_default(),
            extra_json: extra_json(message.extra),
        })
    };
    messages.into_iter().enumerate().map(convert).collect()
}

/// Further fields of a message as the worker takes them.
pub(crate) fn extra_json(extra: Map<String, Value>) -> String {
    if extra.is_empty() { String::new() } else { Value::Object(extra).to_string() }
}

/// Bounds the number of messages.
pub(crate) fn check_count(field: &'static str, count: usize) -> Result<(), Failure> {
    let limit = limits::MESSAGES_COUNT;
    if count > limit {
        let text = format!("`{field}` has {count} entries, at most {limit} are accepted");
        return Err(Failure::InvalidField { field, text });
    }
    Ok(())
}

/// A role in lower case, if it is one; `field` is the list it stands in.
pub(crate) fn check_role(field: &'static str, index: usize, role: &str) -> Result<String, Failure> {
    let lower = role.to_lowercase();
    match lower.as_str() {
        "system" | "user" | "assistant" | "tool" => Ok(lower),
        "developer" => Ok("system".to_owned()),
        _ => {
            let role: String = role.chars().take(100).collect();
            let text = format!(
                "invalid value for field `{field}[{index}].role`: unknown role {role:?}, expected \"system\", \"user\", \"assistant\" or \"tool\""
            );
            Err(Failure::InvalidField { field, text })
        }
    }
}

/// How a stream of records looks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lines {
    model: String,
}

impl Render for Lines {
    const CONTENT_TYPE: &'static str = "application/x-ndjson";

    fn part(&mut self, part: Part, out: &mut Vec<u8>) {
        let model = &self.model;
        match part {
            Part::Thinking(piece) => {
                let message = Reply { thinking: &piece.text, ..Reply::default() };
                stream::line(&Record::part(model, message, &piece), out);
            }
            Part::Text(piece) => {
                let message = Reply { content: &piece.text, ..Reply::default() };
                stream::line(&Record::part(model, message, &piece), out);
            }
            Part::Call(call) => {
                let message = Reply { tool_calls: vec![(&call).into()], ..Reply::default() };
                stream::line(&Record::of(model, message), out);
            }
            Part::Done(summary) => {
                stream::line(&Record::last(model, Reply::default(), &summary), out);
            }
        }
    }

    fn failure(&mut self, failure: &Failure, out: &mut Vec<u8>) {
        stream::line(&failure.ollama_body(), out);
    }
}
