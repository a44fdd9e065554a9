//! `POST /v1/chat/completions`: a conversation, as OpenAI's clients ask it.

mod frame;
mod messages;

use super::answers::{ChatCompletion, ChatCompletionChunk};
use super::{Sampling, Stop, StreamOptions, at_most, choices, effort, new_id};
use crate::auth::Caller;
use crate::converse::{Choice, Prepared, Turn};
use crate::demand::Want;
use crate::dispatch::Job;
use crate::error::{Failure, OpenAiError};
use crate::format::ResponseFormat;
use crate::request::{Asker, RequestId};
use crate::streams::{Flavour, Form, Keep};
use crate::{Gateway, body, format, ollama, options, stream};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
pub use frame::Frame;
use messages::ChatMessage;
use ollamamax_proto::inference::{Options, Think};
use serde::Deserialize;
use serde_json::{Map, Value};
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
struct Reasoning {
    #[serde(default)]
    effort: Option<String>,
}

/// Continues a conversation.
#[utoipa::path(post, path = "/v1/chat/completions", request_body = ChatRequest, responses((status = 200,
    description = "The answer, or its events, of which the last says `[DONE]`; `X-Stream-Id` names a stream.",
    content((ChatCompletion = "application/json"), (ChatCompletionChunk = "text/event-stream")))))]
pub(crate) async fn chat(
    State(gateway): State<Arc<Gateway>>,
    RequestId(request_id): RequestId,
    asker: Asker,
    caller: Caller,
    keep: Keep,
    body: Body,
) -> Result<Response, OpenAiError> {
    let mut request: ChatRequest = body::json(body, gateway.config.body_bytes).await?;
    let (asked, model) = gateway.model_for(&caller, request.model.as_deref(), "chat")?;
    let count = choices::count(request.n)?;
    let mut options = ollama::merged(&model, Some(&request.sampling().options()?), None)?;
    request.limit(&mut options)?;
    let told = options.logprobs.is_some();
    let name = model.name.to_string();
    let messages = messages::read(request.messages.take().unwrap_or_default(), &name)?;
    if messages.is_empty() {
        return Err(Failure::invalid("[] is too short - 'messages'").into());
    }
    let turn = Turn {
        messages,
        tools: request.tools.take().unwrap_or_default(),
        choice: choice(request.tool_choice.as_ref())?,
        think: request.think()?,
        options,
    };
    let Prepared { prompt, options, syntax } = gateway.prepare(&model, turn)?;
    let streamed = request.stream == Some(true);
    let frame = Frame {
        id: new_id("chatcmpl-"),
        created: jiff::Timestamp::now().as_second(),
        model: asked,
        told,
        usage: request.stream_options.unwrap_or_default().usage(),
    };
    let form = Form { syntax, flavour: Flavour::OpenAi(frame.clone()) };
    let kept = keep.stream(streamed && count == 1, &form);
    let id = kept.as_ref().map(|kept| kept.id);
    let want = Want::default();
    let job = Job { request_id, asker, model, prompt, options, want, kept, resumed: None };
    if streamed && count == 1 {
        let generation = gateway.generate(job).await?;
        return Ok(form.respond(generation, 0, id)?);
    }
    let (jobs, syntax) = (choices::seeded(job, count), &form.syntax);
    if !streamed {
        return Ok(stream::plain_json(
            &frame.whole(&choices::whole(&gateway, jobs, syntax).await?),
        ));
    }
    let ending = frame.clone();
    let end = move |all: &[_], out: &mut _| ending.ends(all, out);
    let events = |place| frame.clone().events_of(place);
    Ok(choices::respond(&gateway, jobs, syntax, events, end).await?)
}

impl ChatRequest {
    fn think(&self) -> Result<Option<Think>, Failure> {
        let nested = self.reasoning.as_ref().and_then(|reasoning| reasoning.effort.as_deref());
        effort(self.reasoning_effort.as_deref().or(nested))
    }

    fn sampling(&self) -> Sampling<'_> {
        Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            seed: self.seed,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            stop: self.stop.as_ref(),
        }
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
        let most = at_most(&[
            ("max_completion_tokens", self.max_completion_tokens),
            ("max_tokens", self.max_tokens),
        ])?;
        options.predict = most.unwrap_or(options.predict);
        options.stop = options::check_stops("stop", std::mem::take(&mut options.stop))?;
        Ok(())
    }
}

/// OpenAI's `tool_choice`.
pub(super) fn choice(asked: Option<&Value>) -> Result<Choice, Failure> {
    match asked {
        None | Some(Value::Null) => Ok(Choice::Auto),
        Some(Value::String(text)) if text == "auto" => Ok(Choice::Auto),
        Some(Value::String(text)) if text == "none" => Ok(Choice::Never),
        Some(Value::String(text)) if text == "required" => Ok(Choice::Required),
        Some(other) => {
            // The endpoints differ in whether the name stands in an object of its own.
            let named = other.pointer("/function/name").or(other.get("name"));
            named.and_then(Value::as_str).map(|name| Choice::Named(name.to_owned())).ok_or_else(
                || {
                    let got: String = other.to_string().chars().take(100).collect();
                    let text = format!(
                        "invalid value for field `tool_choice`: {got}, expected \"auto\", \"none\", \"required\" or the name of a function"
                    );
                    Failure::InvalidField { field: "tool_choice", text }
                },
            )
        }
    }
}
