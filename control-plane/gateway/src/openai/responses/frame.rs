//! How the answer of `/v1/responses` looks: items, whole or growing by events.

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
    /// What all ids of the answer are made of.
    pub(super) key: String,
    pub(super) created: i64,
    pub(super) model: String,
    /// Fields repeated from the request.
    pub(super) echo: Value,
}

impl Frame {
    /// The events of a stream.
    pub fn events(self) -> Events {
        Events {
            frame: self,
            sequence: 0,
            output: Vec::new(),
            open: None,
            text: String::new(),
            thought: 0,
        }
    }

    fn record(&self, status: &str, output: &[Value], used: Option<(&Summary, usize)>) -> Value {
        let mut record = json!({
            "id": format!("resp_{}", self.key),
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": null,
            "incomplete_details": null,
            "model": self.model,
            "output": output,
            "usage": null,
        });
        if status == "incomplete" {
            record["incomplete_details"] = json!({"reason": "max_output_tokens"});
        }
        if let Some((summary, thought)) = used {
            let (input, output) =
                (u64::from(summary.prompt_tokens), u64::from(summary.output_tokens));
            record["usage"] = json!({
                "input_tokens": input,
                "input_tokens_details": {"cached_tokens": summary.cached_tokens},
                "output_tokens": output,
                "output_tokens_details": {"reasoning_tokens": thought},
                "total_tokens": input + output,
            });
        }
        if let (Value::Object(record), Value::Object(echo)) = (&mut record, self.echo.clone()) {
            record.extend(echo);
        }
        record
    }

    fn id(&self, kind: &str, place: usize) -> String {
        format!("{kind}_{}_{place}", self.key)
    }

    /// All at once.
    pub(super) fn whole(&self, whole: &Whole) -> Value {
        let mut output = Vec::new();
        if !whole.thinking.is_empty() {
            output.push(self.reasoning(output.len(), "completed", Some(&whole.thinking)));
        }
        if !whole.text.is_empty() || whole.calls.is_empty() {
            output.push(self.message(output.len(), "completed", Some(&whole.text)));
        }
        for call in &whole.calls {
            output.push(self.call(output.len(), "completed", call, true));
        }
        let used = Some((&whole.summary, whole.thinking_tokens));
        self.record(status(&whole.summary), &output, used)
    }

    fn reasoning(&self, place: usize, status: &str, text: Option<&str>) -> Value {
        let summary: Vec<Value> =
            text.iter().map(|text| json!({"type": "summary_text", "text": text})).collect();
        json!({"id": self.id("rs", place), "type": "reasoning", "status": status, "summary": summary})
    }

    fn message(&self, place: usize, status: &str, text: Option<&str>) -> Value {
        let content: Vec<Value> = text.iter().map(|text| output_text(text)).collect();
        json!({
            "id": self.id("msg", place),
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        })
    }

    fn call(&self, place: usize, status: &str, call: &Call, whole: bool) -> Value {
        let arguments =
            if whole { Value::Object(call.arguments.clone()).to_string() } else { String::new() };
        json!({
            "id": self.id("fc", place),
            "type": "function_call",
            "status": status,
            "call_id": call.id,
            "name": call.name,
            "arguments": arguments,
        })
    }
}

fn output_text(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn status(summary: &Summary) -> &'static str {
    match summary.reason {
        FinishReason::Stop => "completed",
        FinishReason::Length => "incomplete",
    }
}

/// An item that still grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Reasoning,
    Message,
}

/// The events of one stream.
pub struct Events {
    frame: Frame,
    sequence: u64,
    /// Items that are complete.
    output: Vec<Value>,
    open: Option<Open>,
    /// Of the item that grows.
    text: String,
    /// Tokens of thinking.
    thought: usize,
}

impl Events {
    fn event(&mut self, kind: &str, fields: Value, out: &mut Vec<u8>) {
        let mut event = json!({"type": kind, "sequence_number": self.sequence});
        self.sequence += 1;
        if let (Value::Object(event), Value::Object(fields)) = (&mut event, fields) {
            event.extend(fields);
        }
        out.extend_from_slice(format!("event: {kind}\n").as_bytes());
        stream::event(&event, out);
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if self.sequence == 0 {
            for kind in ["response.created", "response.in_progress"] {
                let response = self.frame.record("in_progress", &[], None);
                self.event(kind, json!({"response": response}), out);
            }
        }
    }

    /// Where the item that grows is.
    fn at(&self, open: Open) -> Value {
        let place = self.output.len();
        match open {
            Open::Reasoning => json!({
                "item_id": self.frame.id("rs", place), "output_index": place, "summary_index": 0,
            }),
            Open::Message => json!({
                "item_id": self.frame.id("msg", place), "output_index": place, "content_index": 0,
            }),
        }
    }

    fn at_with(&self, open: Open, key: &str, value: Value) -> Value {
        let mut at = self.at(open);
        at[key] = value;
        at
    }

    fn grow(&mut self, open: Open, more: &str, out: &mut Vec<u8>) {
        if self.open != Some(open) {
            self.close(out);
            self.open(open, out);
        }
        self.text.push_str(more);
        let kind = match open {
            Open::Reasoning => "response.reasoning_summary_text.delta",
            Open::Message => "response.output_text.delta",
        };
        let mut fields = self.at_with(open, "delta", more.into());
        if open == Open::Message {
            fields["logprobs"] = json!([]);
        }
        self.event(kind, fields, out);
    }

    fn open(&mut self, open: Open, out: &mut Vec<u8>) {
        let place = self.output.len();
        let (item, kind, part) = match open {
            Open::Reasoning => (
                self.frame.reasoning(place, "in_progress", None),
                "response.reasoning_summary_part.added",
                json!({"type": "summary_text", "text": ""}),
            ),
            Open::Message => (
                self.frame.message(place, "in_progress", None),
                "response.content_part.added",
                output_text(""),
            ),
        };
        self.event("response.output_item.added", json!({"output_index": place, "item": item}), out);
        let fields = self.at_with(open, "part", part);
        self.event(kind, fields, out);
        self.open = Some(open);
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        let Some(open) = self.open.take() else { return };
        let (place, text) = (self.output.len(), std::mem::take(&mut self.text));
        let (kinds, part, item) = match open {
            Open::Reasoning => (
                ["response.reasoning_summary_text.done", "response.reasoning_summary_part.done"],
                json!({"type": "summary_text", "text": text}),
                self.frame.reasoning(place, "completed", Some(&text)),
            ),
            Open::Message => (
                ["response.output_text.done", "response.content_part.done"],
                output_text(&text),
                self.frame.message(place, "completed", Some(&text)),
            ),
        };
        let mut fields = self.at_with(open, "text", text.into());
        if open == Open::Message {
            fields["logprobs"] = json!([]);
        }
        self.event(kinds[0], fields, out);
        let fields = self.at_with(open, "part", part);
        self.event(kinds[1], fields, out);
        self.complete(item, out);
    }

    fn complete(&mut self, item: Value, out: &mut Vec<u8>) {
        let fields = json!({"output_index": self.output.len(), "item": item});
        self.event("response.output_item.done", fields, out);
        self.output.push(item);
    }

    fn call(&mut self, call: &Call, out: &mut Vec<u8>) {
        self.close(out);
        let place = self.output.len();
        let item = self.frame.call(place, "in_progress", call, false);
        self.event("response.output_item.added", json!({"output_index": place, "item": item}), out);
        let whole = self.frame.call(place, "completed", call, true);
        let at = |key: &str| json!({"item_id": whole["id"], "output_index": place, key: whole["arguments"]});
        self.event("response.function_call_arguments.delta", at("delta"), out);
        self.event("response.function_call_arguments.done", at("arguments"), out);
        self.complete(whole, out);
    }

    fn done(&mut self, summary: &Summary, out: &mut Vec<u8>) {
        if self.open.is_none() && self.output.is_empty() {
            self.open(Open::Message, out);
        }
        self.close(out);
        let status = status(summary);
        let response = self.frame.record(status, &self.output, Some((summary, self.thought)));
        self.event(&format!("response.{status}"), json!({"response": response}), out);
    }
}

impl Render for Events {
    const CONTENT_TYPE: &'static str = stream::EVENT_STREAM;
    const PING: Option<&'static str> = Some(stream::COMMENT);

    fn part(&mut self, part: Part, out: &mut Vec<u8>) {
        self.begin(out);
        match part {
            Part::Thinking(piece) => {
                self.thought += piece.tokens;
                self.grow(Open::Reasoning, &piece.text, out);
            }
            Part::Text(piece) => self.grow(Open::Message, &piece.text, out),
            Part::Call(call) => self.call(&call, out),
            Part::Done(summary) => self.done(&summary, out),
        }
    }

    fn failure(&mut self, failure: &Failure, out: &mut Vec<u8>) {
        let mut response = self.frame.record("failed", &self.output, None);
        let error = failure.openai_body();
        response["error"] = json!({"code": "server_error", "message": error.error.message});
        self.event("response.failed", json!({"response": response}), out);
    }
}
