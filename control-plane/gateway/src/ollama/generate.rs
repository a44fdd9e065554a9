//! `POST /api/generate`: a prompt, continued.

use super::{Asked, Head, Metrics, check_generates, merged};
use crate::adopted::ask::{self, Said, Wish};
use crate::answer::{Answer, Part, Syntax};
use crate::auth::Caller;
use crate::converse::{Choice, Prepared, Text};
use crate::demand::Want;
use crate::dispatch::{Generation, Job, Piece, Summary};
use crate::error::{Failure, OllamaError};
use crate::keep_alive::KeepAlive;
use crate::logprobs::{self, Told};
use crate::openapi::{GenerationOptions, shapes};
use crate::request::{Asker, RequestId};
use crate::stream::{self, Render};
use crate::streams::{Flavour, Form, Keep};
use crate::{Gateway, body, format, options};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::access::Action;
use ollamamax_core::record::ModelRecord;
use ollamamax_proto::inference::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;
use utoipa::ToSchema;

/// A prompt to continue.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(examples(json!({"model": "smollm2:135m", "prompt": "Why is the sky blue?", "stream": false})))]
pub(crate) struct GenerateRequest {
    /// Its name; the tag is `latest` where there is none.
    #[serde(default)]
    #[schema(required, nullable = false, examples("smollm2:135m"))]
    model: Option<String>,
    /// What to continue; an empty one loads the model, or unloads it.
    #[serde(default)]
    prompt: Option<String>,
    /// Not supported by any model yet.
    #[serde(default)]
    suffix: Option<String>,
    /// In base64; refused where the model sees nothing.
    #[serde(default)]
    images: Option<Vec<String>>,
    #[serde(default)]
    #[schema(schema_with = shapes::format)]
    format: Option<Value>,
    #[serde(default)]
    #[schema(value_type = Option<GenerationOptions>)]
    options: Option<Map<String, Value>>,
    /// In place of the model's own.
    #[serde(default)]
    system: Option<String>,
    /// In place of the model's own.
    #[serde(default)]
    template: Option<String>,
    /// Of the last record of an answer before: its conversation goes on.
    #[serde(default)]
    context: Option<Vec<u32>>,
    /// Records as they come, or one with all.
    #[serde(default)]
    #[schema(default = true)]
    stream: Option<bool>,
    /// The prompt as it is, without a template.
    #[serde(default)]
    #[schema(default = false)]
    raw: Option<bool>,
    #[serde(default)]
    #[schema(schema_with = shapes::keep_alive)]
    keep_alive: Option<KeepAlive>,
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
    /// A prompt that is too long loses its beginning, or is refused.
    #[serde(default)]
    #[schema(default = true)]
    truncate: Option<bool>,
    /// A context that is full shifts, or the answer ends.
    #[serde(default)]
    #[schema(default = true)]
    shift: Option<bool>,
}

/// A piece of an answer, or all of it.
#[derive(Serialize, ToSchema)]
#[schema(as = GenerateRecord)]
pub(crate) struct Record<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    /// Its text.
    response: &'a str,
    /// What it thought before.
    #[serde(skip_serializing_if = "str::is_empty")]
    #[schema(required = false)]
    thinking: &'a str,
    /// Whether it is the last.
    done: bool,
    /// Of the last: `stop`, `length`, `load` or `unload`.
    #[serde(skip_serializing_if = "Option::is_none")]
    done_reason: Option<&'static str>,
    /// Of the last: all tokens, to go on with.
    #[serde(skip_serializing_if = "<[u32]>::is_empty")]
    #[schema(value_type = Vec<u32>, required = false)]
    context: &'a [u32],
    /// How likely its tokens were.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    logprobs: Vec<Told>,
    #[serde(flatten)]
    metrics: Metrics,
}

impl<'a> Record<'a> {
    fn text(model: &'a str, piece: &'a Piece) -> Self {
        let logprobs = logprobs::ollama(&piece.logprobs);
        Self { logprobs, ..Self::bare(model, &piece.text) }
    }

    fn bare(model: &'a str, response: &'a str) -> Self {
        let (head, metrics) = (Head::now(model), Metrics::default());
        let logprobs = Vec::new();
        let (thinking, context) = ("", [].as_slice());
        Self {
            head,
            response,
            thinking,
            logprobs,
            done: false,
            done_reason: None,
            context,
            metrics,
        }
    }

    fn thinking(model: &'a str, piece: &'a Piece) -> Self {
        Self { response: "", thinking: &piece.text, ..Self::text(model, piece) }
    }

    fn last(model: &'a str, piece: &'a Piece, summary: &'a Summary, raw: bool) -> Self {
        Self {
            done: true,
            done_reason: Some(summary.reason.as_str()),
            context: if raw { &[] } else { &summary.context },
            metrics: summary.into(),
            ..Self::text(model, piece)
        }
    }

    fn loaded(model: &'a str, reason: &'static str) -> Self {
        Self { done: true, done_reason: Some(reason), ..Self::bare(model, "") }
    }
}

/// Continues a prompt.
///
/// An empty prompt loads the model, or unloads it with `keep_alive` 0. After a good status an error is a last record.
#[utoipa::path(post, path = "/api/generate", request_body = GenerateRequest,
    responses((status = 200, description = "A record on each line, or one in all; `X-Stream-Id` names a stream.",
        content((Record = "application/x-ndjson"), (Record = "application/json")))))]
pub(crate) async fn generate(
    State(gateway): State<Arc<Gateway>>,
    RequestId(request_id): RequestId,
    asker: Asker,
    caller: Caller,
    keep: Keep,
    body: Body,
) -> Result<Response, OllamaError> {
    let request: GenerateRequest = body::json(body, gateway.config.body_bytes).await?;
    let asked = request.model.clone().unwrap_or_default();
    let model = gateway.version_for(caller.model(
        &gateway.control.state(),
        &asked,
        Action::RunInference,
    )?);
    let images = request.images.as_ref().is_some_and(|images| !images.is_empty());
    let think = Asked { think: request.think.as_ref(), images }.check(&model.name.to_string())?;
    let mut options = merged(&model, request.options.as_ref(), request.truncate)?;
    options.shift = request.shift.unwrap_or(true);
    options.logprobs = options::logprobs(request.logprobs, request.top_logprobs)?;
    let format = format::ollama(request.format.as_ref(), request.options.as_ref())?;
    options.format = format.or(options.format);
    let keep_alive = request.keep_alive;
    let keep_alive = caller.may_keep(&gateway.control.state(), &model.name, keep_alive);
    let want = Want { keep_alive, context_tokens: options.context_tokens, replicas: None };
    if request.prompt.as_deref().unwrap_or_default().is_empty() {
        let reason = gateway.load_or_unload(&asker, &model, want).await?;
        return Ok(stream::ollama_json(&Record::loaded(&asked, reason)));
    }
    check_generates(&model, "generate")?;
    let raw = request.raw == Some(true);
    let streamed = request.stream != Some(false);
    let text = Text {
        prompt: request.prompt.unwrap_or_default(),
        suffix: request.suffix.unwrap_or_default(),
        system: request.system.unwrap_or_default(),
        template: request.template.unwrap_or_default(),
        context: request.context.unwrap_or_default(),
        raw,
        think,
        options,
    };
    let Prepared { prompt, options, syntax } = gateway.prepare_text(&model, text)?;
    let form = Form { syntax, flavour: Flavour::Generate(Lines { model: asked.clone(), raw }) };
    let kept = keep.stream(streamed, &form);
    let id = kept.as_ref().map(|kept| kept.id);
    let job = Job { request_id, asker, prompt, model, options, want, kept, resumed: None };
    let generation = gateway.generate(job).await?;
    if streamed {
        return Ok(form.respond(generation, 0, id)?);
    }
    Ok(whole(&asked, generation, &form.syntax, raw).await?)
}

/// An answer in one record.
pub(crate) async fn whole(
    asked: &str,
    generation: Generation,
    syntax: &Syntax,
    raw: bool,
) -> Result<Response, Failure> {
    let whole = Answer::begin(generation, syntax, 0)?.whole().await?;
    let piece = Piece { text: whole.text, logprobs: whole.logprobs, ..Piece::default() };
    let last = Record::last(asked, &piece, &whole.summary, raw);
    Ok(stream::ollama_json(&Record { thinking: &whole.thinking, ..last }))
}

/// The same request, for a server that does not speak Ollama's API.
pub(crate) fn elsewhere(body: &[u8]) -> Result<Wish, Failure> {
    let request: GenerateRequest = body::parse(body)?;
    let asked = request.model.unwrap_or_default();
    let images = request.images.as_ref().is_some_and(|images| !images.is_empty());
    let think = Asked { think: request.think.as_ref(), images }.check(&asked)?;
    if options::logprobs(request.logprobs, request.top_logprobs)?.is_some() {
        return Err(ask::cannot("a wish for log-probabilities"));
    }
    if request.context.is_some_and(|context| !context.is_empty()) {
        return Err(ask::cannot("`context`, which are tokens of another server's,"));
    }
    let template = request.template.is_some_and(|text| !text.is_empty());
    let (system, raw) = (request.system.unwrap_or_default(), request.raw == Some(true));
    if raw && (template || !system.is_empty()) {
        return Err(Failure::invalid("raw mode does not support template, system, or context"));
    }
    if template {
        return Err(ask::cannot("a `template`"));
    }
    let given = request.options.unwrap_or_default();
    let mut options = ask::read_options(&given)?;
    let format = format::ollama(request.format.as_ref(), Some(&given))?;
    options.format = format.or(options.format);
    let prompt = request.prompt.unwrap_or_default();
    if prompt.is_empty() && request.keep_alive.is_some_and(KeepAlive::is_unload) {
        return Err(ask::cannot("a wish to unload a model"));
    }
    let suffix = request.suffix.unwrap_or_default();
    let plain = |role: &str, content: String| Message {
        role: role.to_owned(),
        content,
        extra_json: String::new(),
    };
    let said = match raw || !suffix.is_empty() {
        true => Said::Text { prompt, suffix },
        false => {
            let mut messages = Vec::new();
            messages.extend((!system.is_empty()).then(|| plain("system", system)));
            messages.extend((!prompt.is_empty()).then(|| plain("user", prompt)));
            Said::Chat { messages, tools: Vec::new(), choice: Choice::Auto }
        }
    };
    let flavour = Flavour::Generate(Lines { model: asked, raw: true });
    let streamed = request.stream != Some(false);
    Ok(Wish { said, given, options, think, streamed, flavour })
}

/// What is told when nothing was asked of a model that is there.
pub(crate) fn loaded(asked: &str) -> Response {
    stream::ollama_json(&Record::loaded(asked, "load"))
}

/// How a stream of records looks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lines {
    model: String,
    raw: bool,
}

impl Render for Lines {
    const CONTENT_TYPE: &'static str = "application/x-ndjson";

    fn part(&mut self, part: Part, out: &mut Vec<u8>) {
        match part {
            Part::Thinking(piece) => stream::line(&Record::thinking(&self.model, &piece), out),
            Part::Text(piece) => stream::line(&Record::text(&self.model, &piece), out),
            // Nobody offered a tool.
            Part::Call(_) => {}
            Part::Done(summary) => {
                let nothing = Piece::default();
                stream::line(&Record::last(&self.model, &nothing, &summary, self.raw), out);
            }
        }
    }

    fn failure(&mut self, failure: &Failure, out: &mut Vec<u8>) {
        stream::line(&failure.ollama_body(), out);
    }
}

impl Gateway {
    /// What an empty prompt asks for: the model in memory, or out of it. Answers the `done_reason`.
    pub(crate) async fn load_or_unload(
        self: &Arc<Self>,
        asker: &Asker,
        model: &ModelRecord,
        want: Want,
    ) -> Result<&'static str, Failure> {
        let _charge = self.let_in(asker, &model.name, 0)?;
        if want.keep_alive.is_some_and(KeepAlive::is_unload) {
            self.unload(asker, &model.name).await?;
            return Ok("unload");
        }
        let _entry = self.enter(&model.name, asker, want)?;
        self.ensure_loaded(asker, model, want).await?;
        Ok("load")
    }
}
