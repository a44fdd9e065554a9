//! Generation options on the wire.

use super::{InvalidMessage, finite, out_of_range};
use crate::inference::{Mirostat, MirostatVersion, Options, OutputFormat, Predict, Sampling, Tags};
use crate::limits;
use crate::sampling::{Bounds, OutOfBounds};
use crate::wire;
use std::collections::BTreeMap;

impl From<&Options> for wire::Options {
    fn from(options: &Options) -> Self {
        let sampling = &options.sampling;
        let bias = |(&token, &bias): (&u32, &f32)| wire::TokenBias { token, bias };
        Self {
            context_tokens: options.context_tokens.unwrap_or(0),
            predict_tokens: match options.predict {
                Predict::UntilDone => -1,
                Predict::FillContext => -2,
                Predict::AtMost(tokens) => i64::from(tokens),
            },
            keep_tokens: options.keep_tokens,
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            typical_p: sampling.typical_p,
            repeat_last: sampling.repeat_last,
            repeat_penalty: sampling.repeat_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            seed: sampling.seed,
            stop: options.stop.clone(),
            truncate: options.truncate,
            shift: options.shift,
            ignore_end: options.ignore_end,
            tfs_z: Some(sampling.tfs_z),
            mirostat: sampling.mirostat.map(|mirostat| wire::Mirostat {
                version: mirostat.version.number(),
                tau: mirostat.tau,
                eta: mirostat.eta,
                mu: mirostat.mu,
            }),
            logit_bias: sampling.logit_bias.iter().map(bias).collect(),
            logprobs: options.logprobs,
            format: options.format.as_ref().map(|format| {
                let (kind, text) = match format {
                    OutputFormat::Json => ("json", ""),
                    OutputFormat::Schema(text) => ("schema", text.as_str()),
                    OutputFormat::Grammar(text) => ("grammar", text.as_str()),
                };
                wire::OutputFormat { kind: kind.to_owned(), text: text.to_owned() }
            }),
            thinking: options
                .thinking
                .as_ref()
                .map(|tags| wire::Tags { open: tags.open.clone(), close: tags.close.clone() }),
            shown: options.shown.clone(),
        }
    }
}

impl TryFrom<wire::Options> for Options {
    type Error = InvalidMessage;

    fn try_from(wire: wire::Options) -> Result<Self, InvalidMessage> {
        let predict = match wire.predict_tokens {
            -1 => Predict::UntilDone,
            -2 => Predict::FillContext,
            tokens => Predict::AtMost(u32::try_from(tokens).map_err(|_| {
                out_of_range(
                    "num_predict",
                    tokens,
                    "-1 (until done), -2 (fill context) or 0 and up",
                )
            })?),
        };
        if wire.stop.len() > limits::STOPS_COUNT
            || wire.stop.iter().any(|stop| stop.len() > limits::STOP_BYTES)
        {
            let expected =
                format!("at most {} texts of {} bytes", limits::STOPS_COUNT, limits::STOP_BYTES);
            return Err(out_of_range("stop", wire.stop.len(), expected));
        }
        if wire.shown.len() > limits::MARKERS_COUNT {
            let expected = format!("at most {} texts", limits::MARKERS_COUNT);
            return Err(out_of_range("shown", wire.shown.len(), expected));
        }
        if let Some(top) = wire.logprobs.filter(|top| *top > limits::TOP_LOGPROBS_COUNT) {
            let expected = format!("0 to {}", limits::TOP_LOGPROBS_COUNT);
            return Err(out_of_range("top_logprobs", top, expected));
        }
        Ok(Self {
            context_tokens: Some(wire.context_tokens).filter(|tokens| *tokens > 0),
            predict,
            keep_tokens: wire.keep_tokens,
            sampling: sampling(&wire)?,
            stop: wire.stop.into_iter().filter(|stop| !stop.is_empty()).collect(),
            truncate: wire.truncate,
            shift: wire.shift,
            ignore_end: wire.ignore_end,
            logprobs: wire.logprobs,
            format: wire.format.map(output_format).transpose()?,
            thinking: wire.thinking.map(tags).transpose()?,
            shown: wire
                .shown
                .into_iter()
                .map(|text| marker("shown", text))
                .collect::<Result<_, _>>()?,
        })
    }
}

fn tags(wire: wire::Tags) -> Result<Tags, InvalidMessage> {
    let (open, close) =
        (marker("thinking.open", wire.open)?, marker("thinking.close", wire.close)?);
    Ok(Tags { open, close })
}

fn marker(field: &'static str, text: String) -> Result<String, InvalidMessage> {
    match text.len() {
        1..=limits::MARKER_BYTES => Ok(text),
        bytes => Err(out_of_range(field, bytes, format!("1 to {} bytes", limits::MARKER_BYTES))),
    }
}

fn output_format(wire: wire::OutputFormat) -> Result<OutputFormat, InvalidMessage> {
    if wire.text.len() > limits::OUTPUT_FORMAT_BYTES {
        let expected = format!("at most {} bytes", limits::OUTPUT_FORMAT_BYTES);
        return Err(out_of_range("format", wire.text.len(), expected));
    }
    match wire.kind.as_str() {
        "json" => Ok(OutputFormat::Json),
        "schema" => Ok(OutputFormat::Schema(wire.text)),
        "grammar" => Ok(OutputFormat::Grammar(wire.text)),
        other => {
            let kind: String = other.chars().take(100).collect();
            Err(out_of_range("format.kind", kind, "`json`, `schema` or `grammar`"))
        }
    }
}

fn within(field: &'static str, bounds: Bounds, value: f32) -> Result<f32, InvalidMessage> {
    bounds.check(value).map_err(refusal(field))
}

fn refusal(field: &'static str) -> impl Fn(OutOfBounds) -> InvalidMessage {
    move |OutOfBounds { got, expected }| out_of_range(field, got, expected)
}

fn sampling(wire: &wire::Options) -> Result<Sampling, InvalidMessage> {
    Ok(Sampling {
        temperature: within("temperature", Bounds::TEMPERATURE, wire.temperature)?,
        top_k: wire.top_k,
        top_p: within("top_p", Bounds::PROBABILITY, wire.top_p)?,
        min_p: within("min_p", Bounds::PROBABILITY, wire.min_p)?,
        typical_p: within("typical_p", Bounds::PROBABILITY, wire.typical_p)?,
        tfs_z: within("tfs_z", Bounds::TFS_Z, wire.tfs_z.unwrap_or(1.0))?,
        mirostat: wire.mirostat.map(mirostat).transpose()?.flatten(),
        repeat_last: wire.repeat_last,
        repeat_penalty: within("repeat_penalty", Bounds::REPEAT_PENALTY, wire.repeat_penalty)?,
        presence_penalty: within("presence_penalty", Bounds::PENALTY, wire.presence_penalty)?,
        frequency_penalty: within("frequency_penalty", Bounds::PENALTY, wire.frequency_penalty)?,
        logit_bias: logit_bias(&wire.logit_bias)?,
        seed: wire.seed,
    })
}

fn mirostat(wire: wire::Mirostat) -> Result<Option<Mirostat>, InvalidMessage> {
    let version = MirostatVersion::of_number(wire.version.into()).map_err(refusal("mirostat"))?;
    let Some(version) = version else { return Ok(None) };
    Ok(Some(Mirostat {
        version,
        tau: within("mirostat_tau", Bounds::MIROSTAT_TAU, wire.tau)?,
        eta: within("mirostat_eta", Bounds::MIROSTAT_ETA, wire.eta)?,
        mu: wire.mu.map(|mu| finite("mirostat.mu", mu)).transpose()?,
    }))
}

fn logit_bias(entries: &[wire::TokenBias]) -> Result<BTreeMap<u32, f32>, InvalidMessage> {
    if entries.len() > limits::BIASES_COUNT {
        let expected = format!("at most {} tokens", limits::BIASES_COUNT);
        return Err(out_of_range("logit_bias", entries.len(), expected));
    }
    let checked = |entry: &wire::TokenBias| {
        Ok((entry.token, within("logit_bias", Bounds::LOGIT_BIAS, entry.bias)?))
    };
    entries.iter().map(checked).collect()
}
