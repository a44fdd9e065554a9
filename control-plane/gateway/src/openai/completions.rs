//! `POST /v1/completions`: texts, continued.
//!
//! As with Ollama a text goes through the model's chat template. What a model thinks before it answers is not part of the text.

use super::answers::Completion;
use super::{Sampling, Stop, StreamOptions, at_most, choices, new_id, usage};
use crate::answer::{Part, Syntax, Whole};
use crate::auth::Caller;
use crate::converse::{Prepared, Text};
use crate::demand::Want;
use crate::dispatch::{Job, Summary};
use crate::error::{Failure, OpenAiError};
use crate::request::{Asker, RequestId};
use crate::stream::{self, Render};
use crate::streams::{Flavour, Form, Keep};
use crate::{Gateway, body, ollama, options};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ollamamax_proto::inference::{Options, TokenLogprob};
use ollamamax_proto::limits;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use utoipa::ToSchema;

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct CompletionRequest {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    prompt: Option<Prompts>,
    #[serde(default)]
    suffix: Option<String>,
    #[serde(default)]
    max_tokens: Option<i64>,
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
    logprobs: Option<i64>,
    #[serde(default)]
    logit_bias: Option<Map<String, Value>>,
    #[serde(default)]
    n: Option<i64>,
    #[serde(default)]
    echo: Option<bool>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
}

/// One text, or several.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum Prompts {
    One(String),
    Many(Vec<String>),
}

/// Continues prompts, as older clients of OpenAI ask it.
#[utoipa::path(post, path = "/v1/completions", request_body = CompletionRequest, responses((status = 200,
    description = "The answers, or their events, of which the last says `[DONE]`.",
    content((Completion = "application/json"), (Completion = "text/event-stream")))))]
pub(crate) async fn completions(
    State(gateway): State<Arc<Gateway>>,
    RequestId(request_id): RequestId,
    asker: Asker,
    caller: Caller,
    keep: Keep,
    body: Body,
) -> Result<Response, OpenAiError> {
    let request: CompletionRequest = body::json(body, gateway.config.body_bytes).await?;
    let (asked, model) = gateway.model_for(&caller, request.model.as_deref(), "generate")?;
    let prompts = request.prompts()?;
    let count = choices::count(request.n)?;
    if prompts.len() * count > limits::CHOICES_COUNT {
        let (asked, most) = (prompts.len() * count, limits::CHOICES_COUNT);
        let text = format!("`prompt` and `n` ask for {asked} answers, at most {most} are given");
        return Err(Failure::InvalidField { field: "prompt", text }.into());
    }
    let mut options = ollama::merged(&model, Some(&request.sampling().options()?), None)?;
    request.limit(&mut options)?;
    let frame = Frame {
        id: new_id("cmpl-"),
        created: jiff::Timestamp::now().as_second(),
        model: asked,
        told: options.logprobs.is_some(),
        usage: request.stream_options.unwrap_or_default().usage(),
    };
    let text =
        Text { suffix: request.suffix.clone().unwrap_or_default(), options, ..Text::default() };
    let prepared = prompts.iter().map(|prompt| {
        gateway.prepare_text(&model, Text { prompt: prompt.clone(), ..text.clone() })
    });
    let prepared = prepared.collect::<Result<Vec<Prepared>, Failure>>()?;
    // They differ in their prompts alone.
    let syntax = prepared.first().map(|first| first.syntax.clone()).unwrap_or_default();
    // This endpoint has no place for thinking.
    let syntax = Syntax { hidden: true, ..syntax };
    let form = Form { syntax, flavour: Flavour::Completion(frame.clone()) };
    let streamed = request.stream == Some(true);
    let alone = prompts.len() * count == 1;
    let kept = keep.stream(streamed && alone, &form);
    let id = kept.as_ref().map(|kept| kept.id);
    let job = |prepared: Prepared| Job {
        request_id: request_id.clone(),
        asker: asker.clone(),
        model: model.clone(),
        prompt: prepared.prompt,
        options: prepared.options,
        want: Want::default(),
        kept: kept.clone(),
        resumed: None,
    };
    let mut jobs = prepared.into_iter().flat_map(|text| choices::seeded(job(text), count));
    if streamed
        && alone
        && let Some(job) = jobs.next()
    {
        let generation = gateway.generate(job).await?;
        return Ok(form.respond(generation, 0, id)?);
    }
    if !streamed {
        let all = choices::whole(&gateway, jobs, &form.syntax).await?;
        let echo = |place: usize| match request.echo {
            Some(true) => prompts[place / count].as_str(),
            _ => "",
        };
        return Ok(stream::plain_json(&frame.whole(&all, count, echo)));
    }
    let ending = frame.clone();
    let end = move |all: &[_], out: &mut _| ending.ends(all, count, out);
    let events = |place| frame.clone().events_of(place);
    Ok(choices::respond(&gateway, jobs, &form.syntax, events, end).await?)
}

impl CompletionRequest {
    fn prompts(&self) -> Result<Vec<String>, Failure> {
        let prompts = match &self.prompt {
            Some(Prompts::One(text)) => vec![text.clone()],
            Some(Prompts::Many(texts)) => texts.clone(),
            None => Vec::new(),
        };
        if prompts.is_empty() || prompts.iter().any(String::is_empty) {
            let text = "`prompt` is empty, expected a text or a list of texts".to_owned();
            return Err(Failure::InvalidField { field: "prompt", text });
        }
        if self.echo == Some(true) && self.stream == Some(true) {
            let text = "`echo` is for answers in one piece; leave out `stream`".to_owned();
            return Err(Failure::InvalidField { field: "echo", text });
        }
        Ok(prompts)
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

    fn limit(&self, options: &mut Options) -> Result<(), Failure> {
        options.shift = false;
        options.logprobs = options::logprobs(self.logprobs.map(|_| true), self.logprobs)?;
        if let Some(bias) = &self.logit_bias {
            options.sampling.logit_bias = options::logit_bias(bias)?;
        }
        options.predict = at_most(&[("max_tokens", self.max_tokens)])?.unwrap_or(options.predict);
        options.stop = options::check_stops("stop", std::mem::take(&mut options.stop))?;
        Ok(())
    }
}

/// What all records of one answer share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    id: String,
    created: i64,
    model: String,
    told: bool,
    usage: bool,
}

impl Frame {
    /// The events of a stream.
    pub fn events(self) -> Events {
        Events { frame: self, sent: 0, one_of_many: None }
    }

    fn events_of(self, choice: usize) -> Events {
        Events { one_of_many: Some(choice), ..self.events() }
    }

    fn record(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": "fp_ollama",
            "choices": choices,
        })
    }

    fn choice(
        &self,
        index: usize,
        text: &str,
        told: &[TokenLogprob],
        reason: Option<&str>,
    ) -> Value {
        let logprobs = if self.told { legacy(told) } else { Value::Null };
        json!({"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason})
    }

    /// All choices, `count` for each prompt.
    fn whole<'a>(&self, all: &[Whole], count: usize, echo: impl Fn(usize) -> &'a str) -> Value {
        let choice = |(index, whole): (usize, &Whole)| {
            let text = format!("{}{}", echo(index), whole.text);
            let reason = whole.summary.reason.as_str();
            self.choice(index, &text, &whole.logprobs, Some(reason))
        };
        let mut record = self.record(all.iter().enumerate().map(choice).collect());
        record["usage"] = usage(all.iter().map(|whole| &whole.summary), count);
        record
    }

    fn ends(&self, all: &[Summary], count: usize, out: &mut Vec<u8>) {
        if self.usage {
            let mut last = self.record(json!([]));
            last["usage"] = usage(all.iter(), count);
            stream::event(&last, out);
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }
}

/// Log-probabilities as this old endpoint writes them: lists side by side.
fn legacy(told: &[TokenLogprob]) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let tops = told.iter().map(|token| {
        let top = token.top.iter().map(|rival| (text(&rival.bytes), json!(rival.logprob)));
        Value::Object(top.collect())
    });
    let mut offset = 0;
    let offsets = told.iter().map(|token| {
        let at = offset;
        offset += text(&token.chosen.bytes).chars().count();
        json!(at)
    });
    json!({
        "tokens": told.iter().map(|token| text(&token.chosen.bytes)).collect::<Vec<_>>(),
        "token_logprobs": told.iter().map(|token| token.chosen.logprob).collect::<Vec<_>>(),
        "text_offset": offsets.collect::<Vec<_>>(),
        "top_logprobs": tops.collect::<Vec<_>>(),
    })
}

/// The events of one stream.
pub struct Events {
    frame: Frame,
    sent: usize,
    one_of_many: Option<usize>,
}

impl Events {
    fn chunk(&self, text: &str, told: &[TokenLogprob], reason: Option<&str>, out: &mut Vec<u8>) {
        let choice = self.frame.choice(self.one_of_many.unwrap_or(0), text, told, reason);
        if self.one_of_many.is_none() {
            out.extend_from_slice(format!("id: {}\n", self.sent).as_bytes());
        }
        stream::event(&self.frame.record(json!([choice])), out);
    }
}

impl Render for Events {
    const CONTENT_TYPE: &'static str = stream::EVENT_STREAM;
    const PING: Option<&'static str> = Some(stream::COMMENT);

    fn part(&mut self, part: Part, out: &mut Vec<u8>) {
        self.sent += part.size();
        match part {
            Part::Thinking(_) | Part::Call(_) => {}
            Part::Text(piece) => self.chunk(&piece.text, &piece.logprobs, None, out),
            Part::Done(summary) => {
                self.chunk("", &[], Some(summary.reason.as_str()), out);
                if self.one_of_many.is_none() {
                    self.frame.ends(std::slice::from_ref(&*summary), 1, out);
                }
            }
        }
    }

    fn failure(&mut self, failure: &Failure, out: &mut Vec<u8>) {
        stream::event(&failure.openai_body(), out);
    }
}
