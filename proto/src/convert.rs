//! Wire to domain and back: the one place where input from another process is doubted.
//!
//! Everything that comes in is checked against [`crate::limits`] here, so that code behind it may rely on its types.

use crate::ids::{AssignmentId, Generation, InvalidId};
use crate::inference::{
    Done, FinishReason, GenerateRequest, Message, Options, Predict, Prompt, Sampling, Started,
    TokenChunk,
};
use crate::limits;
use crate::placement::{Assignment, AssignmentReport, Device, Phase, Stage};
use crate::wire;

/// A message from another process that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// An identity in it is malformed.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// A part that must be there is not.
    #[error("`{message}` lacks `{field}`")]
    Missing {
        /// The message's name.
        message: &'static str,
        /// The absent field.
        field: &'static str,
    },
    /// A field's value is out of range.
    #[error("`{field}` is `{got}`, expected {expected}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// What came.
        got: String,
        /// What may come.
        expected: String,
    },
}

impl From<InvalidMessage> for tonic::Status {
    fn from(error: InvalidMessage) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

fn out_of_range(
    field: &'static str,
    got: impl ToString,
    expected: impl Into<String>,
) -> InvalidMessage {
    let got = got.to_string().chars().take(100).collect();
    InvalidMessage::OutOfRange { field, got, expected: expected.into() }
}

impl From<&Device> for wire::Device {
    fn from(device: &Device) -> Self {
        Self {
            kind: device.kind.clone(),
            name: device.name.clone(),
            memory_bytes: device.memory_bytes,
            threads: device.threads,
        }
    }
}

impl TryFrom<wire::Device> for Device {
    type Error = InvalidMessage;

    fn try_from(device: wire::Device) -> Result<Self, InvalidMessage> {
        if !matches!(device.kind.as_str(), "cpu" | "cuda") {
            return Err(out_of_range("device.kind", device.kind, "`cpu` or `cuda`"));
        }
        if device.name.len() > 200 {
            return Err(out_of_range("device.name", device.name, "at most 200 bytes"));
        }
        Ok(Self {
            kind: device.kind,
            name: device.name,
            memory_bytes: device.memory_bytes,
            threads: device.threads,
        })
    }
}

impl From<&Assignment> for wire::Assignment {
    fn from(assignment: &Assignment) -> Self {
        let stage = assignment.stage;
        Self {
            id: assignment.id.0,
            generation: assignment.generation.0,
            model: assignment.model.to_string(),
            blob: assignment.blob.to_string(),
            blob_bytes: assignment.blob_bytes,
            stage: Some(wire::Stage {
                first_layer: stage.first_layer,
                end_layer: stage.end_layer,
                embedding: stage.embedding,
                head: stage.head,
                shard: stage.shard,
                shards: stage.shards,
            }),
            context_length: assignment.context_length,
            sequences_max: assignment.sequences_max,
        }
    }
}

impl TryFrom<wire::Assignment> for Assignment {
    type Error = InvalidMessage;

    fn try_from(wire: wire::Assignment) -> Result<Self, InvalidMessage> {
        let stage =
            wire.stage.ok_or(InvalidMessage::Missing { message: "Assignment", field: "stage" })?;
        if stage.first_layer >= stage.end_layer || stage.shard >= stage.shards {
            return Err(out_of_range(
                "stage",
                format!("{stage:?}"),
                "first_layer < end_layer and shard < shards",
            ));
        }
        Ok(Self {
            id: AssignmentId(wire.id),
            generation: Generation(wire.generation),
            model: wire.model.parse()?,
            blob: wire.blob.parse()?,
            blob_bytes: wire.blob_bytes,
            stage: Stage {
                first_layer: stage.first_layer,
                end_layer: stage.end_layer,
                embedding: stage.embedding,
                head: stage.head,
                shard: stage.shard,
                shards: stage.shards,
            },
            context_length: wire.context_length,
            sequences_max: wire.sequences_max.min(limits::SEQUENCES_COUNT),
        })
    }
}

impl From<&AssignmentReport> for wire::AssignmentReport {
    fn from(report: &AssignmentReport) -> Self {
        let detail = match &report.phase {
            Phase::Failed { reason } => reason.clone(),
            _ => String::new(),
        };
        Self {
            id: report.id.0,
            generation: report.generation.0,
            phase: report.phase.to_string(),
            detail,
            resident_bytes: report.resident_bytes,
            running: report.running,
            waiting: report.waiting,
            load_ns: report.load_ns,
        }
    }
}

impl TryFrom<wire::AssignmentReport> for AssignmentReport {
    type Error = InvalidMessage;

    fn try_from(wire: wire::AssignmentReport) -> Result<Self, InvalidMessage> {
        let phase = match wire.phase.as_str() {
            "pending" => Phase::Pending,
            "loading" => Phase::Loading,
            "ready" => Phase::Ready,
            "failed" => Phase::Failed { reason: wire.detail.chars().take(1_000).collect() },
            other => {
                return Err(out_of_range("phase", other, "pending, loading, ready or failed"));
            }
        };
        Ok(Self {
            id: AssignmentId(wire.id),
            generation: Generation(wire.generation),
            phase,
            resident_bytes: wire.resident_bytes,
            running: wire.running,
            waiting: wire.waiting,
            load_ns: wire.load_ns,
        })
    }
}

impl From<&GenerateRequest> for wire::GenerateRequest {
    fn from(request: &GenerateRequest) -> Self {
        let mut wire = Self {
            request_id: request.request_id.clone(),
            attempt: request.attempt,
            model: request.model.to_string(),
            blob: request.blob.to_string(),
            assignment: request.assignment.0,
            generation: request.generation.0,
            options: Some((&request.options).into()),
            resume: request.resume.clone(),
            ..Self::default()
        };
        match &request.prompt {
            Prompt::Chat { messages, template, tools_json, context } => {
                wire.kind = "chat".to_owned();
                wire.chat = Some(wire::ChatPrompt {
                    messages: messages
                        .iter()
                        .map(|message| wire::Message {
                            role: message.role.clone(),
                            content: message.content.clone(),
                            extra_json: message.extra_json.clone(),
                        })
                        .collect(),
                    template: template.clone().unwrap_or_default(),
                    tools_json: tools_json.clone(),
                    context: context.clone(),
                });
            }
            Prompt::Text(text) => {
                wire.kind = "text".to_owned();
                wire.text = text.clone();
            }
            Prompt::Tokens(tokens) => {
                wire.kind = "tokens".to_owned();
                wire.tokens = tokens.clone();
            }
        }
        wire
    }
}

impl TryFrom<wire::GenerateRequest> for GenerateRequest {
    type Error = InvalidMessage;

    fn try_from(wire: wire::GenerateRequest) -> Result<Self, InvalidMessage> {
        let prompt = match wire.kind.as_str() {
            "chat" => {
                let chat = wire
                    .chat
                    .ok_or(InvalidMessage::Missing { message: "GenerateRequest", field: "chat" })?;
                if chat.messages.len() > limits::MESSAGES_COUNT {
                    return Err(out_of_range(
                        "messages",
                        chat.messages.len(),
                        format!("at most {}", limits::MESSAGES_COUNT),
                    ));
                }
                Prompt::Chat {
                    messages: chat
                        .messages
                        .into_iter()
                        .map(|message| Message {
                            role: message.role,
                            content: message.content,
                            extra_json: message.extra_json,
                        })
                        .collect(),
                    template: Some(chat.template).filter(|text| !text.is_empty()),
                    tools_json: chat.tools_json,
                    context: chat.context,
                }
            }
            "text" => Prompt::Text(wire.text),
            "tokens" => Prompt::Tokens(wire.tokens),
            other => return Err(out_of_range("kind", other, "chat, text or tokens")),
        };
        let options = wire
            .options
            .ok_or(InvalidMessage::Missing { message: "GenerateRequest", field: "options" })?;
        Ok(Self {
            request_id: wire.request_id.chars().take(128).collect(),
            attempt: wire.attempt,
            model: wire.model.parse()?,
            blob: wire.blob.parse()?,
            assignment: AssignmentId(wire.assignment),
            generation: Generation(wire.generation),
            prompt,
            options: options.try_into()?,
            resume: wire.resume,
        })
    }
}

impl From<&Options> for wire::Options {
    fn from(options: &Options) -> Self {
        let sampling = &options.sampling;
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
            ignore_end: options.ignore_end,
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
        let finite = |field: &'static str, value: f32| {
            if value.is_finite() {
                Ok(value)
            } else {
                Err(out_of_range(field, value, "a finite number"))
            }
        };
        let not_negative = |field: &'static str, value: f32| {
            finite(field, value)?;
            if value >= 0.0 { Ok(value) } else { Err(out_of_range(field, value, "0 or more")) }
        };
        Ok(Self {
            context_tokens: Some(wire.context_tokens).filter(|tokens| *tokens > 0),
            predict,
            keep_tokens: wire.keep_tokens,
            sampling: Sampling {
                temperature: not_negative("temperature", wire.temperature)?,
                top_k: wire.top_k,
                top_p: not_negative("top_p", wire.top_p)?,
                min_p: not_negative("min_p", wire.min_p)?,
                typical_p: not_negative("typical_p", wire.typical_p)?,
                repeat_last: wire.repeat_last,
                repeat_penalty: not_negative("repeat_penalty", wire.repeat_penalty)?,
                presence_penalty: finite("presence_penalty", wire.presence_penalty)?,
                frequency_penalty: finite("frequency_penalty", wire.frequency_penalty)?,
                seed: wire.seed,
            },
            stop: wire.stop.into_iter().filter(|stop| !stop.is_empty()).collect(),
            truncate: wire.truncate,
            ignore_end: wire.ignore_end,
        })
    }
}

impl From<TokenChunk> for wire::TokenChunk {
    fn from(chunk: TokenChunk) -> Self {
        Self {
            index: chunk.index,
            tokens: chunk.tokens,
            text: chunk.text,
            started: chunk.started.map(|started| wire::Started {
                prompt_tokens: started.prompt_tokens,
                cached_tokens: started.cached_tokens,
                queue_ns: started.queue_ns,
            }),
            done: chunk.done.map(|done| wire::Done {
                reason: done.reason.as_str().to_owned(),
                prompt_tokens: done.prompt_tokens,
                output_tokens: done.output_tokens,
                prompt_ns: done.prompt_ns,
                output_ns: done.output_ns,
                context: done.context,
            }),
        }
    }
}

impl TryFrom<wire::TokenChunk> for TokenChunk {
    type Error = InvalidMessage;

    fn try_from(wire: wire::TokenChunk) -> Result<Self, InvalidMessage> {
        let done = match wire.done {
            None => None,
            Some(done) => Some(Done {
                reason: match done.reason.as_str() {
                    "stop" => FinishReason::Stop,
                    "length" => FinishReason::Length,
                    other => return Err(out_of_range("reason", other, "stop or length")),
                },
                prompt_tokens: done.prompt_tokens,
                output_tokens: done.output_tokens,
                prompt_ns: done.prompt_ns,
                output_ns: done.output_ns,
                context: done.context,
            }),
        };
        Ok(Self {
            index: wire.index,
            tokens: wire.tokens,
            text: wire.text,
            started: wire.started.map(|started| Started {
                prompt_tokens: started.prompt_tokens,
                cached_tokens: started.cached_tokens,
                queue_ns: started.queue_ns,
            }),
            done,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest;
    use proptest::prelude::*;

    fn request(options: Options) -> GenerateRequest {
        GenerateRequest {
            request_id: "r1".to_owned(),
            attempt: 1,
            model: "m:1".parse().expect("a name"),
            blob: Digest::of(b"x"),
            assignment: AssignmentId(3),
            generation: Generation(4),
            prompt: Prompt::Text("hello".to_owned()),
            options,
            resume: vec![1, 2],
        }
    }

    proptest! {
        #[test]
        fn a_request_survives_the_wire(seed: u64, predict in 0u32..9, top_p in 0.0f32..1.0) {
            let mut options = Options { predict: Predict::AtMost(predict), ..Options::default() };
            options.sampling.seed = seed;
            options.sampling.top_p = top_p;
            let request = request(options);
            let back = GenerateRequest::try_from(wire::GenerateRequest::from(&request));
            prop_assert_eq!(back, Ok(request));
        }
    }

    #[test]
    fn out_of_range_options_are_refused_by_name() {
        let mut wire = wire::GenerateRequest::from(&request(Options::default()));
        if let Some(options) = &mut wire.options {
            options.predict_tokens = -3;
        }
        let error = GenerateRequest::try_from(wire).expect_err("-3 has no meaning");
        assert!(error.to_string().contains("num_predict"), "{error}");
        let mut wire = wire::GenerateRequest::from(&request(Options::default()));
        if let Some(options) = &mut wire.options {
            options.temperature = f32::NAN;
        }
        let error = GenerateRequest::try_from(wire).expect_err("NaN is no temperature");
        assert!(error.to_string().contains("temperature"), "{error}");
    }
}
