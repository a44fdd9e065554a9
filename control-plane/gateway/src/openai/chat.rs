//! `POST /v1/chat/completions`: a conversation, as OpenAI's clients ask it.

use super::answers::{ChatCompletion, ChatCompletionChunk};
use crate::auth::Caller;
use crate::demand::Want;
use crate::dispatch::{Event, Job, Piece, Summary};
use crate::error::{Failure, OpenAiError};
use crate::format::ResponseFormat;
use crate::ollama::chat::{check_count, check_role, extra_json};
use crate::request::{Asker, RequestId};
use crate::stream::{self, Render};
use crate::streams::{Flavour, Keep};
use crate::{Gateway, body, format, logprobs, names, ollama, options};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::access::Action;
use ollamamax_proto::inference::{Message, Options, Predict};
use ollamamax_proto::limits;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use utoipa::ToSchema;

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ChatCompletionRequest)]
pub(crate) struct ChatRequest {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    messages: Option<Vec<ChatMessage>>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    max_tokens: Option<i64>,
    #[serde(default)]
    max_completion_tokens: Option<i64>,
    #[serde(default)]
    seed: Option<i64>,
    #[serde(default)]
    stop: Option<Stop>,
    #[serde(default)]
    temperature: Option<f64>,
    #[serde(default)]
    top_p: Option<f64>,
    #[serde(default)]
    frequency_penalty: Option<f64>,
    #[serde(default)]
    presence_penalty: Option<f64>,
    #[serde(default)]
    response_format: Option<ResponseFormat>,
    #[serde(default)]
    grammar: Option<String>,
    #[serde(default)]
    tools: Option<Vec<Value>>,
    #[serde(default)]
    tool_choice: Option<Value>,
    #[serde(default)]
    reasoning_effort: Option<String>,
    #[serde(default)]
    reasoning: Option<Reasoning>,
    #[serde(default)]
    logprobs: Option<bool>,
    #[serde(default)]
    top_logprobs: Option<i64>,
    #[serde(default)]
    logit_bias: Option<Map<String, Value>>,
    #[serde(default)]
    n: Option<i64>,
}

#[derive(Debug, Deserialize, ToSchema)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

#[derive(Debug, Deserialize, ToSchema)]
struct Reasoning {
    #[serde(default)]
    effort: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum Stop {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Deserialize, ToSchema)]
struct ChatMessage {
    role: String,
    #[serde(default)]
    content: Option<Content>,
    #[serde(flatten)]
    #[schema(ignore)]
    extra: Map<String, Value>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or a list of parts")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize, ToSchema)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    image_url: Option<Value>,
}

/// Continues a conversation.
#[utoipa::path(post, path = "/v1/chat/completions", request_body = ChatRequest, responses((status = 200, description =
    "The answer, or its events.", content((ChatCompletion = "application/json"), (ChatCompletionChunk = "text/event-stream")))))]
pub(crate) async fn chat(
    State(gateway): State<Arc<Gateway>>,
    RequestId(request_id): RequestId,
    asker: Asker,
    caller: Caller,
    keep: Keep,
    body: Body,
) -> Result<Response, OpenAiError> {
    let mut request: ChatRequest = body::json(body, gateway.config.body_bytes).await?;
    let asked = names::named(request.model.clone(), None)?;
    let model = gateway.version_for(caller.model(
        &gateway.control.state(),
        &asked,
        Action::RunInference,
    )?);
    ollama::check_generates(&model, "chat")?;
    let name = model.name.to_string();
    request.check(&name)?;
    let mut merged = ollama::merged(&model, Some(&request.options()), None)?;
    request.limit(&mut merged)?;
    let told = merged.logprobs.is_some();
    let messages = messages(request.messages.take().unwrap_or_default(), &name)?;
    if messages.is_empty() {
        return Err(Failure::invalid("[] is too short - 'messages'").into());
    }
    let tools = request.tools.take().unwrap_or_default();
    let tools = if request.tool_choice == Some(json!("none")) { Vec::new() } else { tools };
    let prompt = gateway.conversation(&model, messages, &tools).await?;
    let streamed = request.stream == Some(true);
    let usage = request.stream_options.and_then(|options| options.include_usage);
    let frame = Frame {
        id: format!("chatcmpl-{:024x}", rand::random::<u128>() >> 32),
        created: jiff::Timestamp::now().as_second(),
        model: asked,
        told,
        usage: usage == Some(true),
    };
    let flavour = Flavour::OpenAi(frame.clone());
    let kept = keep.stream(streamed, &flavour);
    let id = kept.as_ref().map(|kept| kept.id);
    let (options, want) = (merged, Want::default());
    let job = Job { request_id, asker, model, prompt, options, want, kept, resumed: None };
    let generation = gateway.generate(job).await?;
    if streamed {
        return Ok(flavour.respond(generation, 0, id));
    }
    let (piece, summary) = generation.whole().await?;
    Ok(stream::plain_json(&frame.whole(&piece, &summary)))
}

impl ChatRequest {
    fn check(&self, name: &str) -> Result<(), Failure> {
        if let Some(n) = self.n
            && n != 1
        {
            return Err(Failure::invalid(format!("`n` is {n}; only 1 is supported yet")));
        }
        let most = limits::OPENAI_TEMPERATURE_MAX;
        if let Some(temperature) = self.temperature.filter(|given| *given > most) {
            let text =
                format!("\"temperature\" is {temperature}, expected a number from 0 to {most}");
            return Err(Failure::InvalidField { field: "temperature", text });
        }
        let nested = self.reasoning.as_ref().and_then(|reasoning| reasoning.effort.as_ref());
        match self.reasoning_effort.as_ref().or(nested).map(String::as_str) {
            None | Some("none" | "") => Ok(()),
            Some("minimal" | "low" | "medium" | "high" | "max" | "xhigh" | "ultra") => {
                Err(ollama::no_support(name, "thinking"))
            }
            Some(other) => Err(Failure::invalid(format!(
                "invalid reasoning value: {other:?} (must be \"high\", \"medium\", \"low\", \"max\", or \"none\")"
            ))),
        }
    }

    /// The request's fields as Ollama's options; OpenAI's defaults go before the model's own parameters.
    fn options(&self) -> Map<String, Value> {
        let mut options = Map::new();
        options.insert("temperature".to_owned(), self.temperature.unwrap_or(1.0).into());
        options.insert("top_p".to_owned(), self.top_p.unwrap_or(1.0).into());
        let mut set = |name: &str, value: Option<Value>| {
            options.extend(value.map(|value| (name.to_owned(), value)));
        };
        set("seed", self.seed.map(Value::from));
        set("frequency_penalty", self.frequency_penalty.map(Value::from));
        set("presence_penalty", self.presence_penalty.map(Value::from));
        set(
            "stop",
            self.stop.as_ref().map(|stop| match stop {
                Stop::One(text) => json!([text]),
                Stop::Many(texts) => json!(texts),
            }),
        );
        options
    }

    /// What Ollama's options have no name for.
    fn limit(&self, options: &mut Options) -> Result<(), Failure> {
        // Here an answer that fills the context ends, and says so by its reason.
        options.shift = false;
        options.logprobs = options::logprobs(self.logprobs, self.top_logprobs)?;
        let format = format::openai(self.response_format.as_ref(), self.grammar.as_deref())?;
        options.format = format.or(options.format.take());
        if let Some(bias) = &self.logit_bias {
            options.sampling.logit_bias = options::logit_bias(bias)?;
        }
        let named = [
            ("max_completion_tokens", self.max_completion_tokens),
            ("max_tokens", self.max_tokens),
        ];
        if let Some((field, tokens)) = named.into_iter().find_map(|(f, t)| Some((f, t?))) {
            let tokens = u32::try_from(tokens).ok().filter(|tokens| *tokens > 0);
            options.predict = Predict::AtMost(tokens.ok_or_else(|| {
                Failure::invalid(format!("invalid value for field `{field}`: expected 1 or more"))
            })?);
        }
        options.stop = options::check_stops("stop", std::mem::take(&mut options.stop))?;
        Ok(())
    }
}

fn messages(messages: Vec<ChatMessage>, name: &str) -> Result<Vec<Message>, Failure> {
    const PASSED_ON: [&str; 5] = ["tool_calls", "tool_call_id", "name", "reasoning", "thinking"];
    check_count(messages.len())?;
    let mut all = Vec::with_capacity(messages.len());
    for (index, mut message) in messages.into_iter().enumerate() {
        let role = check_role(index, &message.role)?;
        message.extra.retain(|key, value| PASSED_ON.contains(&key.as_str()) && !value.is_null());
        let content = match message.content {
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => text_of(index, parts, name)?,
            None if message.extra.contains_key("tool_calls") => String::new(),
            None => {
                return Err(Failure::invalid(format!(
                    "invalid value for field `messages[{index}].content`: it may be null only beside `tool_calls`"
                )));
            }
        };
        all.push(Message { role, content, extra_json: extra_json(message.extra) });
    }
    Ok(all)
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
                return Err(Failure::invalid(format!(
                    "invalid value for field `messages[{index}].content[{place}].type`: {other:?}"
                )));
            }
        }
    }
    Ok(text)
}

/// What all records of one answer share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    id: String,
    created: i64,
    model: String,
    /// Whether log-probabilities were asked for.
    told: bool,
    /// Whether a stream tells at its end what it has used.
    usage: bool,
}

impl Frame {
    /// The events of a stream whose client has `from` bytes of its text.
    pub fn events(self, from: usize) -> impl Render {
        Events { frame: self, first: from == 0, sent: from }
    }

    fn record(&self, object: &str, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": "fp_ollama",
            "choices": choices,
        })
    }

    fn whole(&self, piece: &Piece, summary: &Summary) -> Value {
        let mut choice = json!({
            "index": 0,
            "message": {"role": "assistant", "content": piece.text},
            "finish_reason": summary.reason.as_str(),
        });
        self.tell(&mut choice, piece);
        let mut record = self.record("chat.completion", json!([choice]));
        record["usage"] = usage(summary);
        record
    }

    fn chunk(&self, delta: Value, reason: Option<&str>) -> Value {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": reason});
        self.record("chat.completion.chunk", json!([choice]))
    }

    fn tell(&self, choice: &mut Value, piece: &Piece) {
        if self.told {
            choice["logprobs"] = json!({"content": logprobs::openai(&piece.logprobs)});
        }
    }
}

fn usage(summary: &Summary) -> Value {
    let (prompt, output) = (u64::from(summary.prompt_tokens), u64::from(summary.output_tokens));
    json!({"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output})
}

struct Events {
    frame: Frame,
    first: bool,
    /// Bytes of text: each event's id tells how many the client has with it.
    sent: usize,
}

impl Events {
    fn delta(&mut self, text: &str) -> Value {
        if std::mem::take(&mut self.first) {
            json!({"role": "assistant", "content": text})
        } else {
            json!({"content": text})
        }
    }
}

impl Render for Events {
    const CONTENT_TYPE: &'static str = stream::EVENT_STREAM;

    fn event(&mut self, event: Event, out: &mut Vec<u8>) {
        match event {
            Event::Text(piece) => {
                let delta = self.delta(&piece.text);
                let mut chunk = self.frame.chunk(delta, None);
                self.frame.tell(&mut chunk["choices"][0], &piece);
                self.sent += piece.text.len();
                out.extend_from_slice(format!("id: {}\n", self.sent).as_bytes());
                stream::event(&chunk, out);
            }
            Event::Done(summary) => {
                if self.first {
                    let delta = self.delta("");
                    stream::event(&self.frame.chunk(delta, None), out);
                }
                let reason = summary.reason.as_str();
                stream::event(&self.frame.chunk(json!({}), Some(reason)), out);
                if self.frame.usage {
                    let mut last = self.frame.record("chat.completion.chunk", json!([]));
                    last["usage"] = usage(&summary);
                    stream::event(&last, out);
                }
                out.extend_from_slice(b"data: [DONE]\n\n");
            }
        }
    }

    fn failure(&mut self, failure: &Failure, out: &mut Vec<u8>) {
        stream::event(&failure.openai_body(), out);
    }
}
