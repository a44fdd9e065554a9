//! Ollama's endpoints.

pub mod blobs;
pub mod chat;
pub mod create;
pub mod embed;
pub mod generate;
pub(crate) mod import;
mod making;
pub mod model;
pub mod models;
pub mod pull;
pub mod push;
pub mod show;

use crate::dispatch::Summary;
use crate::error::Failure;
use crate::options;
use crate::stream::timestamp;
use ollamamax_core::record::ModelRecord;
use ollamamax_proto::inference::{Options, Think};
use ollamamax_template::Traits;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Fields generate and chat share beside what they continue.
#[derive(Debug, Default)]
pub(crate) struct Asked<'a> {
    pub think: Option<&'a Value>,
    pub images: bool,
}

impl Asked<'_> {
    /// Refuses what this server cannot do, plainly; else tells how the model shall think, where that was said.
    pub(crate) fn check(&self, name: &str) -> Result<Option<Think>, Failure> {
        let think = match self.think {
            None | Some(Value::Null) => None,
            Some(Value::Bool(think)) => Some(if *think { Think::On } else { Think::Off }),
            Some(other) => Some(level(other).ok_or_else(|| {
                Failure::invalid(format!(
                    "invalid think value: {other} (must be \"high\", \"medium\", \"low\", \"max\", true, or false)"
                ))
            })?),
        };
        if self.images {
            return Err(no_support(name, "vision"));
        }
        Ok(think)
    }
}

fn level(think: &Value) -> Option<Think> {
    let levels = [Think::Low, Think::Medium, Think::High, Think::Max];
    levels.into_iter().find(|level| level.level() == think.as_str())
}

/// How a model shall think: one that can does so unless it is told not to.
pub(crate) fn thinking(
    name: &str,
    traits: &Traits,
    asked: Option<Think>,
) -> Result<Option<Think>, Failure> {
    match (traits.thinking.is_some(), asked) {
        (true, asked) => Ok(Some(asked.unwrap_or(Think::On))),
        (false, None | Some(Think::Off)) => Ok(None),
        (false, Some(_)) => Err(no_support(name, "thinking")),
    }
}

/// Refuses a model that only embeds.
pub(crate) fn check_generates(model: &ModelRecord, what: &str) -> Result<(), Failure> {
    match model::only_embeds(&model.version) {
        true => Err(no_support(&model.name.to_string(), what)),
        false => Ok(()),
    }
}

/// What a model cannot do, in Ollama's words.
pub(crate) fn no_support(name: &str, what: &str) -> Failure {
    Failure::invalid(format!("{name:?} does not support {what}"))
}

/// A request's options over its model's.
pub(crate) fn merged(
    model: &ModelRecord,
    request: Option<&Map<String, Value>>,
    truncate: Option<bool>,
) -> Result<Options, Failure> {
    let none = Map::new();
    let parameters = &model.version.parameters;
    let mut options = options::merge(parameters, request.unwrap_or(&none), rand::random)?;
    options.truncate = truncate.unwrap_or(true);
    let trained = model.version.facts.context_length;
    if trained > 0 {
        options.context_tokens = options.context_tokens.map(|tokens| tokens.min(trained));
    }
    Ok(options)
}

/// The figures of a last record; zeros are left out, as Ollama does.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(crate) struct Metrics {
    /// From the first byte of the request on, in nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    total_duration: u64,
    /// Waiting for the model, in nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    load_duration: u64,
    /// Tokens of the prompt.
    #[serde(skip_serializing_if = "is_zero")]
    prompt_eval_count: u64,
    /// Computing them, in nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    prompt_eval_duration: u64,
    /// Tokens of the answer.
    #[serde(skip_serializing_if = "is_zero")]
    eval_count: u64,
    /// Computing them, in nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    eval_duration: u64,
}

impl Metrics {
    /// Of texts that were only read.
    pub(crate) fn of_texts(total_duration: u64, prompt_eval_count: u64) -> Self {
        Self { total_duration, prompt_eval_count, ..Self::default() }
    }
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl From<&Summary> for Metrics {
    fn from(summary: &Summary) -> Self {
        Self {
            total_duration: summary.total_ns,
            load_duration: summary.load_ns,
            prompt_eval_count: summary.prompt_tokens.into(),
            prompt_eval_duration: summary.prompt_ns,
            eval_count: summary.output_tokens.into(),
            eval_duration: summary.output_ns,
        }
    }
}

/// What every record starts with.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Head<'a> {
    /// The model, as it was asked.
    model: &'a str,
    /// When it was said.
    #[schema(format = DateTime)]
    created_at: String,
}

impl<'a> Head<'a> {
    pub(crate) fn now(model: &'a str) -> Self {
        Self { model, created_at: timestamp() }
    }
}
