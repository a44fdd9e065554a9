//! How the answer of `/v1/messages` looks: blocks, whole or growing by events.

use crate::answer::{Call, Part, Whole};
use crate::dispatch::Summary;
use crate::error::Failure;
use crate::stream::{self, Render};
use ollamamax_proto::inference::FinishReason;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What all events of one answer share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    pub(super) key: String,
    pub(super) model: String,
    /// What the prompt is thought to take, in tokens: told first, until the last event knows.
    pub(super) guess: u32,
    /// Whether the stop texts are the request's and not the model's.
    pub(super) own_stops: bool,
}

impl Frame {
    /// The events of a stream.
    pub fn events(self) -> Events {
        Events { frame: self, begun: false, open: None, place: 0, calls: 0 }
    }

    fn record(&self, content: Value, ending: Ending, usage: Value) -> Value {
        json!({
            "id": format!("msg_{}", self.key),
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": ending.reason,
            "stop_sequence": ending.sequence,
            "usage": usage,
        })
    }

    /// All at once.
    pub(super) fn whole(&self, whole: &Whole) -> Value {
        let mut blocks = Vec::new();
        if !whole.thinking.is_empty() {
            blocks.push(json!({"type": "thinking", "thinking": whole.thinking, "signature": ""}));
        }
        if !whole.text.is_empty() || whole.calls.is_empty() {
            blocks.push(json!({"type": "text", "text": whole.text}));
        }
        blocks.extend(whole.calls.iter().map(|call| {
            let mut block = tool_use(call);
            block["input"] = Value::Object(call.arguments.clone());
            block
        }));
        let ending = self.ending(&whole.summary, whole.calls.len());
        self.record(json!(blocks), ending, usage(&whole.summary))
    }

    fn ending<'a>(&self, summary: &'a Summary, calls: usize) -> Ending<'a> {
        let stop = summary.stop.as_deref().filter(|_| self.own_stops);
        let (reason, sequence) = match (calls, summary.reason, stop) {
            // What was cut may have been another call: who runs the first would run half of them.
            (_, FinishReason::Length, _) => ("max_tokens", None),
            (1.., FinishReason::Stop, _) => ("tool_use", None),
            (0, FinishReason::Stop, None) => ("end_turn", None),
            (0, FinishReason::Stop, stop) => ("stop_sequence", stop),
        };
        Ending { reason: Some(reason), sequence }
    }
}

/// Why an answer ended, and at which of the request's stop sequences.
#[derive(Clone, Copy, Debug, Default)]
struct Ending<'a> {
    reason: Option<&'static str>,
    sequence: Option<&'a str>,
}

fn tool_use(call: &Call) -> Value {
    let id = call.id.replace("call_", "toolu_");
    json!({"type": "tool_use", "id": id, "name": call.name, "input": {}})
}

fn usage(summary: &Summary) -> Value {
    json!({"input_tokens": summary.prompt_tokens, "output_tokens": summary.output_tokens})
}

/// A block that still grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Thinking,
    Text,
}

/// The events of one stream.
pub struct Events {
    frame: Frame,
    begun: bool,
    open: Option<Open>,
    /// Blocks before the one that grows.
    place: usize,
    calls: usize,
}

fn event(kind: &str, mut fields: Value, out: &mut Vec<u8>) {
    fields["type"] = kind.into();
    out.extend_from_slice(format!("event: {kind}\n").as_bytes());
    stream::event(&fields, out);
}

impl Events {
    fn begin(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.begun, true) {
            let usage = json!({"input_tokens": self.frame.guess, "output_tokens": 0});
            let message = self.frame.record(json!([]), Ending::default(), usage);
            event("message_start", json!({"message": message}), out);
        }
    }

    fn start(&self, block: Value, out: &mut Vec<u8>) {
        event("content_block_start", json!({"index": self.place, "content_block": block}), out);
    }

    fn delta(&self, delta: Value, out: &mut Vec<u8>) {
        event("content_block_delta", json!({"index": self.place, "delta": delta}), out);
    }

    fn stop(&mut self, out: &mut Vec<u8>) {
        event("content_block_stop", json!({"index": self.place}), out);
        self.place += 1;
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        let Some(open) = self.open.take() else { return };
        if open == Open::Thinking {
            self.delta(json!({"type": "signature_delta", "signature": ""}), out);
        }
        self.stop(out);
    }

    fn grow(&mut self, open: Open, more: &str, out: &mut Vec<u8>) {
        if self.open != Some(open) {
            self.close(out);
            self.start(
                match open {
                    Open::Thinking => json!({"type": "thinking", "thinking": "", "signature": ""}),
                    Open::Text => json!({"type": "text", "text": ""}),
                },
                out,
            );
            self.open = Some(open);
        }
        self.delta(
            match open {
                Open::Thinking => json!({"type": "thinking_delta", "thinking": more}),
                Open::Text => json!({"type": "text_delta", "text": more}),
            },
            out,
        );
    }

    fn call(&mut self, call: &Call, out: &mut Vec<u8>) {
        self.close(out);
        self.calls += 1;
        self.start(tool_use(call), out);
        let arguments = Value::Object(call.arguments.clone()).to_string();
        self.delta(json!({"type": "input_json_delta", "partial_json": arguments}), out);
        self.stop(out);
    }

    fn done(&mut self, summary: &Summary, out: &mut Vec<u8>) {
        if self.open.is_none() && self.place == 0 {
            self.start(json!({"type": "text", "text": ""}), out);
            self.open = Some(Open::Text);
        }
        self.close(out);
        let ending = self.frame.ending(summary, self.calls);
        let delta = json!({"stop_reason": ending.reason, "stop_sequence": ending.sequence});
        event("message_delta", json!({"delta": delta, "usage": usage(summary)}), out);
        event("message_stop", json!({}), out);
    }
}

impl Render for Events {
    const CONTENT_TYPE: &'static str = stream::EVENT_STREAM;
    const PING: Option<&'static str> = Some("event: ping\ndata: {\"type\": \"ping\"}\n\n");

    fn part(&mut self, part: Part, out: &mut Vec<u8>) {
        self.begin(out);
        match part {
            Part::Thinking(piece) => self.grow(Open::Thinking, &piece.text, out),
            Part::Text(piece) => self.grow(Open::Text, &piece.text, out),
            Part::Call(call) => self.call(&call, out),
            Part::Done(summary) => self.done(&summary, out),
        }
    }

    fn failure(&mut self, failure: &Failure, out: &mut Vec<u8>) {
        event("error", json!({"error": failure.anthropic_body().error}), out);
    }
}
