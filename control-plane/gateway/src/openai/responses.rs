//! `POST /v1/responses`: OpenAI's newer way to ask, with items instead of messages. Nothing is stored: each request brings the
//! whole conversation.

mod frame;
mod input;

use super::{Sampling, at_most, effort, new_id};
use crate::answer::Answer;
use crate::auth::Caller;
use crate::converse::{Prepared, Turn};
use crate::demand::Want;
use crate::dispatch::Job;
use crate::error::{Failure, OpenAiError};
use crate::format::{JsonSchema, ResponseFormat};
use crate::request::{Asker, RequestId};
use crate::streams::{Flavour, Form, Keep};
use crate::{Gateway, body, format, ollama, stream};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
pub use frame::Frame;
use input::Input;
use ollamamax_proto::inference::{Options, Think};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use utoipa::ToSchema;

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ResponsesRequest {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    input: Option<Input>,
    #[serde(default)]
    instructions: Option<String>,
    #[serde(default)]
    max_output_tokens: Option<i64>,
    #[serde(default)]
    temperature: Option<f64>,
    #[serde(default)]
    top_p: Option<f64>,
    #[serde(default)]
    text: Option<TextOptions>,
    #[serde(default)]
    tools: Option<Vec<Value>>,
    #[serde(default)]
    tool_choice: Option<Value>,
    #[serde(default)]
    reasoning: Option<Reasoning>,
    #[serde(default)]
    truncation: Option<String>,
    #[serde(default)]
    metadata: Option<Value>,
    #[serde(default)]
    previous_response_id: Option<String>,
    #[serde(default)]
    conversation: Option<Value>,
    #[serde(default)]
    background: Option<bool>,
    #[serde(default)]
    stream: Option<bool>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ResponsesReasoning)]
struct Reasoning {
    #[serde(default)]
    effort: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
struct TextOptions {
    #[serde(default)]
    format: Option<TextFormat>,
}

/// As `response_format` elsewhere, with the schema one level up.
#[derive(Debug, Deserialize, ToSchema)]
struct TextFormat {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    schema: Option<Value>,
}

/// Answers, as OpenAI's newer clients ask it.
#[utoipa::path(post, path = "/v1/responses", request_body = ResponsesRequest, responses((status = 200,
    description = "The response, or its events; the fields are those of OpenAI's.",
    content((Object = "application/json"), (Object = "text/event-stream")))))]
pub(crate) async fn responses(
    State(gateway): State<Arc<Gateway>>,
    RequestId(request_id): RequestId,
    asker: Asker,
    caller: Caller,
    keep: Keep,
    body: Body,
) -> Result<Response, OpenAiError> {
    let mut request: ResponsesRequest = body::json(body, gateway.config.body_bytes).await?;
    let (asked, model) = gateway.model_for(&caller, request.model.as_deref(), "chat")?;
    request.check()?;
    let mut options = ollama::merged(&model, Some(&request.sampling().options()?), None)?;
    request.limit(&mut options)?;
    let echo = request.echo();
    let instructions = request.instructions.take();
    let messages = input::messages(instructions, request.input.take(), &model.name.to_string())?;
    let turn = Turn {
        messages,
        tools: input::tools(request.tools.take().unwrap_or_default())?,
        choice: super::chat::choice(request.tool_choice.as_ref())?,
        think: request.think()?,
        options,
    };
    let Prepared { prompt, options, syntax } = gateway.prepare(&model, turn)?;
    let streamed = request.stream == Some(true);
    let created = jiff::Timestamp::now().as_second();
    let frame = Frame { key: new_id(""), created, model: asked, echo };
    let form = Form { syntax, flavour: Flavour::Responses(Box::new(frame.clone())) };
    let kept = keep.stream(streamed, &form);
    let id = kept.as_ref().map(|kept| kept.id);
    let want = Want::default();
    let job = Job { request_id, asker, model, prompt, options, want, kept, resumed: None };
    let generation = gateway.generate(job).await?;
    if streamed {
        return Ok(form.respond(generation, 0, id)?);
    }
    let whole = Answer::begin(generation, &form.syntax, 0)?.whole().await?;
    Ok(stream::plain_json(&frame.whole(&whole)))
}

impl ResponsesRequest {
    /// Refuses what would need answers to be stored.
    fn check(&self) -> Result<(), Failure> {
        let stored = [
            ("previous_response_id", self.previous_response_id.is_some()),
            ("conversation", self.conversation.as_ref().is_some_and(|value| !value.is_null())),
            ("background", self.background == Some(true)),
        ];
        match stored.into_iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((field, _)) => {
                let text = format!(
                    "`{field}` is not supported: no answer is stored here; send the whole conversation as `input`"
                );
                Err(Failure::InvalidField { field, text })
            }
        }
    }

    fn think(&self) -> Result<Option<Think>, Failure> {
        effort(self.reasoning.as_ref().and_then(|reasoning| reasoning.effort.as_deref()))
    }

    fn sampling(&self) -> Sampling<'_> {
        Sampling { temperature: self.temperature, top_p: self.top_p, ..Sampling::default() }
    }

    fn limit(&self, options: &mut Options) -> Result<(), Failure> {
        options.shift = false;
        options.truncate = self.truncation.as_deref() != Some("disabled");
        let format = self.text.as_ref().and_then(|text| text.format.as_ref());
        let format = format.map(|format| ResponseFormat {
            kind: format.kind.clone(),
            json_schema: Some(JsonSchema { schema: format.schema.clone() }),
        });
        options.format = format::openai(format.as_ref(), None)?.or(options.format.take());
        let most = at_most(&[("max_output_tokens", self.max_output_tokens)])?;
        options.predict = most.unwrap_or(options.predict);
        Ok(())
    }

    /// What an answer repeats of its request.
    fn echo(&self) -> Value {
        let effort = self.reasoning.as_ref().and_then(|reasoning| reasoning.effort.as_ref());
        let text = self.text.as_ref().and_then(|text| text.format.as_ref());
        let kind = text.map_or("text", |format| format.kind.as_str());
        let mut format = json!({"type": kind});
        if let Some(schema) = text.and_then(|format| format.schema.as_ref()) {
            format["schema"] = schema.clone();
        }
        json!({
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata.clone().unwrap_or_else(|| json!({})),
            "parallel_tool_calls": true,
            "previous_response_id": null,
            "reasoning": {"effort": effort, "summary": null},
            "store": false,
            "temperature": self.temperature.unwrap_or(1.0),
            "text": {"format": format},
            "tool_choice": self.tool_choice.clone().unwrap_or_else(|| json!("auto")),
            "tools": self.tools.clone().unwrap_or_default(),
            "top_p": self.top_p.unwrap_or(1.0),
            "truncation": self.truncation.as_deref().unwrap_or("auto"),
            "background": false,
        })
    }
}
