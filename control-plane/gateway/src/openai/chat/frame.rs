//! How the answer of `/v1/chat/completions` looks, whole and in chunks.

use crate::answer::{Call, Part, Whole};
use crate::dispatch::{Piece, Summary};
use crate::error::Failure;
use crate::logprobs;
use crate::openai::usage;
use crate::stream::{self, Render};
use ollamamax_proto::inference::{FinishReason, TokenLogprob};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What all records of one answer share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) model: String,
    /// Whether log-probabilities were asked for.
    pub(super) told: bool,
    /// Whether a stream tells at its end what it has used.
    pub(super) usage: bool,
}

impl Frame {
    /// The events of a stream.
    pub fn events(self) -> Events {
        Events { frame: self, first: true, sent: 0, calls: 0, one_of_many: None }
    }

    /// The events of one choice among several; what ends the stream is for [`Frame::ends`].
    pub(super) fn events_of(self, choice: usize) -> Events {
        Events { one_of_many: Some(choice), ..self.events() }
    }

    fn record(&self, object: &str, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": "fp_ollama",
            "choices": choices,
        })
    }

    /// All choices at once; at least one.
    pub(super) fn whole(&self, choices: &[Whole]) -> Value {
        let choice = |(index, whole): (usize, &Whole)| {
            let mut message = json!({"role": "assistant", "content": whole.text});
            if !whole.thinking.is_empty() {
                message["reasoning"] = json!(whole.thinking);
            }
            if !whole.calls.is_empty() {
                message["tool_calls"] = whole.calls.iter().map(tool_call).collect();
            }
            let reason = reason(&whole.summary, whole.calls.len());
            let mut choice = json!({"index": index, "message": message, "finish_reason": reason});
            self.tell(&mut choice, &whole.logprobs);
            choice
        };
        let told = choices.iter().enumerate().map(choice).collect();
        let mut record = self.record("chat.completion", told);
        let summaries = choices.iter().map(|whole| &whole.summary);
        record["usage"] = usage(summaries, choices.len());
        record
    }

    fn tell(&self, choice: &mut Value, told: &[TokenLogprob]) {
        if self.told {
            choice["logprobs"] = json!({"content": logprobs::openai(told)});
        }
    }

    /// What a stream ends with.
    pub(super) fn ends(&self, all: &[Summary], out: &mut Vec<u8>) {
        if self.usage {
            let mut last = self.record("chat.completion.chunk", json!([]));
            last["usage"] = usage(all.iter(), all.len());
            stream::event(&last, out);
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }
}

fn tool_call(call: &Call) -> Value {
    let arguments = Value::Object(call.arguments.clone()).to_string();
    json!({
        "id": call.id,
        "index": call.index,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    })
}

fn reason(summary: &Summary, calls: usize) -> &'static str {
    // What was cut may have been another call: who runs the first would run half of them.
    match (calls, summary.reason) {
        (1.., FinishReason::Stop) => "tool_calls",
        (_, reason) => reason.as_str(),
    }
}

/// The events of one stream.
pub struct Events {
    frame: Frame,
    first: bool,
    /// Of the answer: each event's id tells how much the client has with it.
    sent: usize,
    calls: usize,
    one_of_many: Option<usize>,
}

impl Events {
    fn chunk(&mut self, mut delta: Value, piece: Option<&Piece>, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.first) {
            let mut first = json!({"role": "assistant", "content": ""});
            if let (Value::Object(first), Value::Object(delta)) = (&mut first, &mut delta) {
                first.append(delta);
            }
            delta = first;
        }
        let mut choice = self.choice(delta, None);
        if let Some(piece) = piece {
            self.frame.tell(&mut choice, &piece.logprobs);
        }
        if self.one_of_many.is_none() {
            out.extend_from_slice(format!("id: {}\n", self.sent).as_bytes());
        }
        stream::event(&self.frame.record("chat.completion.chunk", json!([choice])), out);
    }

    fn choice(&self, delta: Value, reason: Option<&str>) -> Value {
        json!({"index": self.one_of_many.unwrap_or(0), "delta": delta, "finish_reason": reason})
    }

    fn done(&mut self, summary: &Summary, out: &mut Vec<u8>) {
        if self.first {
            self.chunk(json!({}), None, out);
        }
        let choice = self.choice(json!({}), Some(reason(summary, self.calls)));
        stream::event(&self.frame.record("chat.completion.chunk", json!([choice])), out);
        if self.one_of_many.is_none() {
            self.frame.ends(std::slice::from_ref(summary), out);
        }
    }
}

impl Render for Events {
    const CONTENT_TYPE: &'static str = stream::EVENT_STREAM;
    const PING: Option<&'static str> = Some(stream::COMMENT);

    fn part(&mut self, part: Part, out: &mut Vec<u8>) {
        self.sent += part.size();
        match part {
            Part::Thinking(piece) => {
                self.chunk(json!({"reasoning": piece.text}), Some(&piece), out)
            }
            Part::Text(piece) => self.chunk(json!({"content": piece.text}), Some(&piece), out),
            Part::Call(call) => {
                self.calls += 1;
                self.chunk(json!({"tool_calls": [tool_call(&call)]}), None, out);
            }
            Part::Done(summary) => self.done(&summary, out),
        }
    }

    fn failure(&mut self, failure: &Failure, out: &mut Vec<u8>) {
        stream::event(&failure.openai_body(), out);
    }
}
