//! Wire to domain and back: the one place where input from another process is doubted.
//!
//! Everything that comes in is checked against [`crate::limits`] here, so that code behind it may rely on its types.

use crate::ids::{AssignmentId, Generation, InvalidId};
use crate::inference::{
    Chat, Done, FinishReason, GenerateRequest, Insert, Message, Prompt, Started, Think, TokenChunk,
};
use crate::limits;
use crate::placement::{AssignmentReport, Device, DeviceHealth, Phase};
use crate::wire;
use std::time::Duration;

mod assigned;
mod caches;
mod embed;
mod logprobs;
mod options;

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

fn finite(field: &'static str, value: f64) -> Result<f64, InvalidMessage> {
    if value.is_finite() { Ok(value) } else { Err(out_of_range(field, value, "a finite number")) }
}

/// A time that is left; what is nearly over is not endless.
fn to_ms(left: Option<Duration>) -> u64 {
    left.map_or(0, |left| (left.as_millis() as u64).max(1))
}

fn from_ms(ms: u64) -> Option<Duration> {
    Some(ms).filter(|ms| *ms > 0).map(Duration::from_millis)
}

impl From<DeviceHealth> for wire::DeviceHealth {
    fn from(health: DeviceHealth) -> Self {
        let DeviceHealth { memory_used_bytes, busy_percent, celsius, memory_errors, xid } = health;
        Self { memory_used_bytes, busy_percent, celsius, memory_errors, xid }
    }
}

impl From<wire::DeviceHealth> for DeviceHealth {
    fn from(wire: wire::DeviceHealth) -> Self {
        let wire::DeviceHealth { memory_used_bytes, busy_percent, celsius, memory_errors, xid } =
            wire;
        Self { memory_used_bytes, busy_percent, celsius, memory_errors, xid }
    }
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
            step_ns_per_mib: report.step_ns_per_mib,
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
            step_ns_per_mib: wire.step_ns_per_mib,
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
            caller: request.caller.clone(),
            time_left_ms: to_ms(request.time_left),
            prefix: caches::prefix_to_wire(&request.prefix),
            salt: caches::salt_to_wire(request.salt),
            ..Self::default()
        };
        match &request.prompt {
            Prompt::Chat(chat) => {
                wire.kind = "chat".to_owned();
                wire.chat = Some(chat.into());
            }
            Prompt::Insert(insert) => {
                wire.kind = "insert".to_owned();
                wire.insert = Some(wire::InsertPrompt {
                    before: insert.before.clone(),
                    after: insert.after.clone(),
                    template: insert.template.clone().unwrap_or_default(),
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
                Prompt::Chat(chat.try_into()?)
            }
            "insert" => {
                let field = "insert";
                let insert = wire
                    .insert
                    .ok_or(InvalidMessage::Missing { message: "GenerateRequest", field })?;
                Prompt::Insert(Insert {
                    before: insert.before,
                    after: insert.after,
                    template: Some(insert.template).filter(|text| !text.is_empty()),
                })
            }
            "text" => Prompt::Text(wire.text),
            "tokens" => Prompt::Tokens(wire.tokens),
            other => return Err(out_of_range("kind", other, "chat, text, tokens or insert")),
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
            caller: wire.caller.chars().take(128).collect(),
            time_left: from_ms(wire.time_left_ms),
            prefix: caches::prefix_from_wire(wire.prefix)?,
            salt: caches::salt_from_wire(&wire.salt)?,
        })
    }
}

impl From<&Chat> for wire::ChatPrompt {
    fn from(chat: &Chat) -> Self {
        let message = |message: &Message| wire::Message {
            role: message.role.clone(),
            content: message.content.clone(),
            extra_json: message.extra_json.clone(),
        };
        Self {
            messages: chat.messages.iter().map(message).collect(),
            template: chat.template.clone().unwrap_or_default(),
            tools_json: chat.tools_json.clone(),
            context: chat.context.clone(),
            think: chat.think.map_or("", Think::as_str).to_owned(),
        }
    }
}

impl TryFrom<wire::ChatPrompt> for Chat {
    type Error = InvalidMessage;

    fn try_from(wire: wire::ChatPrompt) -> Result<Self, InvalidMessage> {
        let (count, most) = (wire.messages.len(), limits::MESSAGES_COUNT);
        if count > most {
            return Err(out_of_range("messages", count, format!("at most {most}")));
        }
        let message = |wire: wire::Message| Message {
            role: wire.role,
            content: wire.content,
            extra_json: wire.extra_json,
        };
        Ok(Self {
            messages: wire.messages.into_iter().map(message).collect(),
            template: Some(wire.template).filter(|text| !text.is_empty()),
            tools_json: wire.tools_json,
            context: wire.context,
            think: think(&wire.think)?,
        })
    }
}

fn think(text: &str) -> Result<Option<Think>, InvalidMessage> {
    if text.is_empty() {
        return Ok(None);
    }
    let think = Think::ALL.into_iter().find(|think| think.as_str() == text);
    let got = || text.chars().take(100).collect::<String>();
    let expected = "false, true, low, medium, high or max";
    think.map(Some).ok_or_else(|| out_of_range("think", got(), expected))
}

impl From<TokenChunk> for wire::TokenChunk {
    fn from(chunk: TokenChunk) -> Self {
        Self {
            index: chunk.index,
            tokens: chunk.tokens,
            text: chunk.text,
            logprobs: chunk.logprobs.into_iter().map(Into::into).collect(),
            mu: chunk.mu,
            started: chunk.started.map(|started| wire::Started {
                prompt_tokens: started.prompt_tokens,
                cached_tokens: started.cached_tokens,
                queue_ns: started.queue_ns,
            }),
            done: chunk.done.map(|done| wire::Done {
                reason: done.reason.as_str().to_owned(),
                stop: done.stop,
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
                stop: done.stop,
                prompt_tokens: done.prompt_tokens,
                output_tokens: done.output_tokens,
                prompt_ns: done.prompt_ns,
                output_ns: done.output_ns,
                context: done.context,
            }),
        };
        if wire.logprobs.len() > wire.tokens.len() {
            let expected = format!("at most one for each of {} tokens", wire.tokens.len());
            return Err(out_of_range("logprobs", wire.logprobs.len(), expected));
        }
        let logprobs = wire.logprobs.into_iter().map(TryInto::try_into);
        Ok(Self {
            index: wire.index,
            tokens: wire.tokens,
            text: wire.text,
            logprobs: logprobs.collect::<Result<_, _>>()?,
            mu: wire.mu.map(|mu| finite("mu", mu)).transpose()?,
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
mod tests;
