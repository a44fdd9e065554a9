//! OpenAI's endpoints.

pub mod answers;
pub mod chat;
mod choices;
pub mod completions;
pub mod embeddings;
pub mod models;
pub mod responses;

use crate::dispatch::Summary;
use crate::error::Failure;
use ollamamax_proto::inference::{Predict, Think};
use ollamamax_proto::limits;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// What a stream shall tell beside the answer.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
pub(crate) struct StreamOptions {
    /// Whether a last chunk tells the tokens used.
    #[serde(default)]
    include_usage: Option<bool>,
}

impl StreamOptions {
    fn usage(self) -> bool {
        self.include_usage == Some(true)
    }
}

/// Texts that end an answer.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub(crate) enum Stop {
    One(String),
    Many(Vec<String>),
}

impl Stop {
    fn texts(&self) -> Value {
        match self {
            Self::One(text) => json!([text]),
            Self::Many(texts) => json!(texts),
        }
    }
}

/// The fields that all of OpenAI's endpoints for text share with Ollama's options. OpenAI's defaults go before the model's own
/// parameters.
#[derive(Debug, Default)]
struct Sampling<'a> {
    temperature: Option<f64>,
    top_p: Option<f64>,
    seed: Option<i64>,
    frequency_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    stop: Option<&'a Stop>,
}

impl Sampling<'_> {
    fn options(&self) -> Result<Map<String, Value>, Failure> {
        let most = limits::OPENAI_TEMPERATURE_MAX;
        if let Some(temperature) = self.temperature.filter(|given| *given > most) {
            let text =
                format!("\"temperature\" is {temperature}, expected a number from 0 to {most}");
            return Err(Failure::InvalidField { field: "temperature", text });
        }
        let mut options = Map::new();
        options.insert("temperature".to_owned(), self.temperature.unwrap_or(1.0).into());
        options.insert("top_p".to_owned(), self.top_p.unwrap_or(1.0).into());
        let mut set = |name: &str, value: Option<Value>| {
            options.extend(value.map(|value| (name.to_owned(), value)));
        };
        set("seed", self.seed.map(Value::from));
        set("frequency_penalty", self.frequency_penalty.map(Value::from));
        set("presence_penalty", self.presence_penalty.map(Value::from));
        set("stop", self.stop.map(Stop::texts));
        Ok(options)
    }
}

/// At most so many tokens, by the first of these fields that is there.
fn at_most(fields: &[(&'static str, Option<i64>)]) -> Result<Option<Predict>, Failure> {
    let given = fields.iter().find_map(|(field, tokens)| Some((*field, (*tokens)?)));
    let Some((field, tokens)) = given else { return Ok(None) };
    let tokens = u32::try_from(tokens).ok().filter(|tokens| *tokens > 0);
    tokens.map(|tokens| Some(Predict::AtMost(tokens))).ok_or_else(|| {
        let text = format!("invalid value for field `{field}`: expected 1 or more");
        Failure::InvalidField { field, text }
    })
}

/// How hard to think, in OpenAI's words.
pub(crate) fn effort(asked: Option<&str>) -> Result<Option<Think>, Failure> {
    match asked {
        None | Some("") => Ok(None),
        Some("none") => Ok(Some(Think::Off)),
        Some("minimal" | "low") => Ok(Some(Think::Low)),
        Some("medium") => Ok(Some(Think::Medium)),
        Some("high") => Ok(Some(Think::High)),
        Some("max" | "xhigh" | "ultra") => Ok(Some(Think::Max)),
        Some(other) => {
            let other: String = other.chars().take(100).collect();
            let text = format!(
                "invalid reasoning value: {other:?} (must be \"high\", \"medium\", \"low\", \"max\", or \"none\")"
            );
            Err(Failure::InvalidField { field: "reasoning_effort", text })
        }
    }
}

/// The tokens of all prompts, each of which has `count` answers, and of all answers.
fn usage<'a>(all: impl Iterator<Item = &'a Summary>, count: usize) -> Value {
    let (mut prompt, mut output) = (0, 0);
    for (place, summary) in all.enumerate() {
        prompt += if place % count == 0 { u64::from(summary.prompt_tokens) } else { 0 };
        output += u64::from(summary.output_tokens);
    }
    json!({"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output})
}

/// A new id.
fn new_id(prefix: &str) -> String {
    format!("{prefix}{:024x}", rand::random::<u128>() >> 32)
}
