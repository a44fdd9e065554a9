//! Generation options: request over model PARAMETER over default, as Ollama merges them.
//!
//! One table ([`KINDS`]) names every known option and its type; requests bring JSON values, models bring texts, and both end
//! in the same typed [`Options`]. Unknown names are ignored with a log line; a wrong type is refused by name.

use crate::error::Failure;
use crate::format;
use ollamamax_proto::inference::{Mirostat, MirostatVersion, Options, OutputFormat, Predict};
use ollamamax_proto::limits;
use ollamamax_proto::sampling::Bounds;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The type of an option's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number.
    Integer,
    /// A number.
    Float,
    /// True or false.
    Boolean,
    /// A text.
    Text,
    /// A list of texts.
    Texts,
}

/// Every known option, with the kind of value it takes.
pub const KINDS: [(&str, Kind); 26] = [
    ("num_keep", Kind::Integer),
    ("seed", Kind::Integer),
    ("num_predict", Kind::Integer),
    ("top_k", Kind::Integer),
    ("top_p", Kind::Float),
    ("min_p", Kind::Float),
    ("typical_p", Kind::Float),
    ("tfs_z", Kind::Float),
    ("repeat_last_n", Kind::Integer),
    ("temperature", Kind::Float),
    ("repeat_penalty", Kind::Float),
    ("presence_penalty", Kind::Float),
    ("frequency_penalty", Kind::Float),
    ("mirostat", Kind::Integer),
    ("mirostat_tau", Kind::Float),
    ("mirostat_eta", Kind::Float),
    ("stop", Kind::Texts),
    ("grammar", Kind::Text),
    ("ignore_eos", Kind::Boolean),
    ("num_ctx", Kind::Integer),
    ("num_batch", Kind::Integer),
    ("num_gpu", Kind::Integer),
    ("main_gpu", Kind::Integer),
    ("num_thread", Kind::Integer),
    ("draft_num_predict", Kind::Integer),
    ("use_mmap", Kind::Boolean),
];

/// What kind of value an option takes; `None` for names nobody knows.
pub fn kind(name: &str) -> Option<Kind> {
    KINDS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
}

/// Whether a PARAMETER of this name means something here.
pub fn is_known(name: &str) -> bool {
    kind(name).is_some()
}

/// Names Ollama once knew and still lets pass.
const RETIRED: [&str; 7] =
    ["penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock", "numa"];

/// Options on their way: what several names say together, or what silence decides at the end.
#[derive(Debug, Default)]
struct Draft {
    options: Options,
    seed: Option<u64>,
    mirostat: Option<MirostatVersion>,
    tau: Option<f32>,
    eta: Option<f32>,
}

/// What a request and its model ask for, merged. `draw` gives the seed when nobody named one: it is drawn once per request,
/// so that every attempt over workers continues the same text.
pub fn merge(
    parameters: &BTreeMap<String, Vec<String>>,
    request: &Map<String, Value>,
    draw: impl FnOnce() -> u64,
) -> Result<Options, Failure> {
    let mut draft = Draft::default();
    for (name, values) in parameters {
        if kind(name).is_some() {
            apply(&mut draft, name, &parameter_value(name, values))?;
        }
    }
    for (name, value) in request {
        if value.is_null() {
            continue;
        }
        if kind(name).is_some() {
            apply(&mut draft, name, value)?;
        } else if !RETIRED.contains(&name.as_str()) {
            tracing::debug!(option = name, "invalid option provided");
        }
    }
    let Draft { mut options, seed, mirostat, tau, eta } = draft;
    options.sampling.seed = seed.unwrap_or_else(draw);
    options.sampling.mirostat = mirostat.map(|version| Mirostat::new(version, tau, eta));
    Ok(options)
}

/// A model's PARAMETER as the JSON value it stands for.
pub fn parameter_value(name: &str, values: &[String]) -> Value {
    let last = values.last().map(String::as_str).unwrap_or_default();
    let text = || Value::String(last.to_owned());
    match kind(name) {
        Some(Kind::Texts) => values.iter().cloned().map(Value::String).collect(),
        Some(Kind::Boolean) => last.parse::<bool>().map_or_else(|_| text(), Value::Bool),
        Some(Kind::Integer | Kind::Float) => {
            serde_json::from_str::<serde_json::Number>(last).map_or_else(|_| text(), Value::Number)
        }
        Some(Kind::Text) | None => text(),
    }
}

/// A JSON value as the texts of a PARAMETER, type-checked when the name is known.
pub fn parameter_texts(name: &str, value: &Value) -> Result<Vec<String>, Failure> {
    if kind(name).is_some() && !value.is_null() {
        apply(&mut Draft::default(), name, value)?;
    }
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Ok(match value {
        Value::Null => Vec::new(),
        Value::Array(values) => values.iter().map(text).collect(),
        other => vec![text(other)],
    })
}

fn apply(draft: &mut Draft, name: &str, value: &Value) -> Result<(), Failure> {
    let options = &mut draft.options;
    let sampling = &mut options.sampling;
    match name {
        "num_keep" => options.keep_tokens = count(name, value, i64::from(i32::MAX))?,
        "seed" => {
            // -1 draws one; other negative seeds are seeds.
            draft.seed =
                Some(integer(name, value)?).filter(|seed| *seed != -1).map(i64::cast_unsigned);
        }
        "num_predict" => options.predict = predict(name, value)?,
        "top_k" => sampling.top_k = count(name, value, 0)?,
        "repeat_last_n" => sampling.repeat_last = count(name, value, i64::from(i32::MAX))?,
        "num_ctx" => {
            let tokens = u32::try_from(integer(name, value)?)
                .map_err(|_| out_of_range(name, value, "a number of tokens, 0 or more"))?;
            options.context_tokens = Some(tokens).filter(|tokens| *tokens > 0);
        }
        "temperature" => sampling.temperature = float(name, value, Bounds::TEMPERATURE)?,
        "top_p" => sampling.top_p = float(name, value, Bounds::PROBABILITY)?,
        "min_p" => sampling.min_p = float(name, value, Bounds::PROBABILITY)?,
        "typical_p" => sampling.typical_p = float(name, value, Bounds::PROBABILITY)?,
        "tfs_z" => sampling.tfs_z = float(name, value, Bounds::TFS_Z)?,
        "mirostat" => {
            draft.mirostat = MirostatVersion::of_number(integer(name, value)?)
                .map_err(|error| out_of_range(name, value, &error.expected))?;
        }
        "mirostat_tau" => draft.tau = Some(float(name, value, Bounds::MIROSTAT_TAU)?),
        "mirostat_eta" => draft.eta = Some(float(name, value, Bounds::MIROSTAT_ETA)?),
        "repeat_penalty" => {
            sampling.repeat_penalty = float(name, value, Bounds::REPEAT_PENALTY)?;
        }
        "presence_penalty" => sampling.presence_penalty = float(name, value, Bounds::PENALTY)?,
        "frequency_penalty" => sampling.frequency_penalty = float(name, value, Bounds::PENALTY)?,
        "ignore_eos" => options.ignore_end = boolean(name, value)?,
        "stop" => options.stop = stops(name, value)?,
        "grammar" => options.format = grammar(name, value)?,
        // Load options of a single machine: checked, then the worker's own business.
        _ => match kind(name) {
            Some(Kind::Integer) => integer(name, value).map(drop)?,
            Some(Kind::Boolean) => boolean(name, value).map(drop)?,
            _ => {}
        },
    }
    Ok(())
}

fn wrong_type(name: &str, expected: &str) -> Failure {
    Failure::invalid(format!("option {name:?} must be of type {expected}"))
}

fn out_of_range(name: &str, got: &Value, expected: &str) -> Failure {
    Failure::invalid(format!("option {name:?} is {got}, expected {expected}"))
}

fn integer(name: &str, value: &Value) -> Result<i64, Failure> {
    if let Some(integer) = value.as_i64() {
        return Ok(integer);
    }
    // Clients of languages without integers send 40.0.
    value
        .as_f64()
        .filter(|float| float.abs() < 9.2e18)
        .map(|float| float as i64)
        .ok_or_else(|| wrong_type(name, "integer"))
}

/// A number of tokens where a negative one means `all`.
fn count(name: &str, value: &Value, all: i64) -> Result<u32, Failure> {
    let integer = integer(name, value)?;
    let integer = if integer < 0 { all } else { integer };
    Ok(u32::try_from(integer.min(i64::from(i32::MAX))).unwrap_or(0))
}

fn predict(name: &str, value: &Value) -> Result<Predict, Failure> {
    match integer(name, value)? {
        -1 => Ok(Predict::UntilDone),
        -2 => Ok(Predict::FillContext),
        tokens => {
            u32::try_from(tokens.min(i64::from(u32::MAX))).map(Predict::AtMost).map_err(|_| {
                out_of_range(name, value, "-1 (until done), -2 (fill the context) or 0 and more")
            })
        }
    }
}

fn float(name: &str, value: &Value, bounds: Bounds) -> Result<f32, Failure> {
    let float = value.as_f64().ok_or_else(|| wrong_type(name, "float32"))? as f32;
    bounds.check(float).map_err(|error| out_of_range(name, value, &error.expected))
}

fn boolean(name: &str, value: &Value) -> Result<bool, Failure> {
    value.as_bool().ok_or_else(|| wrong_type(name, "boolean"))
}

fn stops(name: &str, value: &Value) -> Result<Vec<String>, Failure> {
    let Value::Array(values) = value else { return Err(wrong_type(name, "array")) };
    let texts: Vec<String> = values
        .iter()
        .map(|value| value.as_str().map(str::to_owned))
        .collect::<Option<_>>()
        .ok_or_else(|| {
            Failure::invalid(format!("option {name:?} must be of an array of strings"))
        })?;
    check_stops(name, texts)
}

/// What the output may be, in Lark; nothing for an empty one.
fn grammar(name: &str, value: &Value) -> Result<Option<OutputFormat>, Failure> {
    let text = value.as_str().ok_or_else(|| wrong_type(name, "string"))?;
    let text = format::bounded("options.grammar", text.to_owned())?;
    Ok(Some(text).filter(|text| !text.is_empty()).map(OutputFormat::Grammar))
}

/// OpenAI's `logit_bias`: token ids, as texts, with what is added to their logits.
pub fn logit_bias(entries: &Map<String, Value>) -> Result<BTreeMap<u32, f32>, Failure> {
    let (count, limit) = (entries.len(), limits::BIASES_COUNT);
    if count > limit {
        return Err(Failure::invalid(format!(
            "`logit_bias` has {count} entries, at most {limit} are accepted"
        )));
    }
    let entry = |(token, bias): (&String, &Value)| {
        let id = token.parse::<u32>().map_err(|_| {
            let token: String = token.chars().take(100).collect();
            Failure::invalid(format!("`logit_bias` names {token:?}, expected the id of a token"))
        })?;
        let bounds = Bounds::LOGIT_BIAS;
        // What is not a number is out of bounds, too.
        let checked = bounds.check(bias.as_f64().map_or(f32::NAN, |bias| bias as f32));
        let bias = checked.map_err(|_| {
            let bias: String = bias.to_string().chars().take(100).collect();
            Failure::invalid(format!("`logit_bias[\"{id}\"]` is {bias}, expected {bounds}"))
        })?;
        Ok((id, bias))
    };
    entries.iter().map(entry).collect()
}

/// How many of the likeliest tokens are to be told beside each token; `None` where log-probabilities were not asked for.
pub fn logprobs(asked: Option<bool>, top: Option<i64>) -> Result<Option<u32>, Failure> {
    let top = u32::try_from(top.unwrap_or(0)).ok().filter(|top| *top <= limits::TOP_LOGPROBS_COUNT);
    let Some(top) = top else {
        // Ollama's words.
        let limit = limits::TOP_LOGPROBS_COUNT;
        return Err(Failure::invalid(format!("top_logprobs must be between 0 and {limit}")));
    };
    Ok(Some(top).filter(|_| asked == Some(true)))
}

/// Bounds stop texts; empty ones mean nothing and are dropped.
pub fn check_stops(field: &str, texts: Vec<String>) -> Result<Vec<String>, Failure> {
    if texts.len() > limits::STOPS_COUNT || texts.iter().any(|t| t.len() > limits::STOP_BYTES) {
        let (count, bytes) = (limits::STOPS_COUNT, limits::STOP_BYTES);
        return Err(Failure::invalid(format!(
            "{field:?} takes at most {count} texts of {bytes} bytes each"
        )));
    }
    Ok(texts.into_iter().filter(|text| !text.is_empty()).collect())
}

#[cfg(test)]
mod tests;
