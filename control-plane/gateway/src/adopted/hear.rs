//! Answers that are told in other words than they came in: the events of OpenAI's chats and completions, read into the parts that
//! every endpoint of this gateway can tell.

use super::flow::Flow;
use super::lines::Lines;
use crate::answer::{Call, Part};
use crate::dispatch::{Event, Generation, Piece, Summary};
use crate::error::Failure;
use ollamamax_proto::inference::FinishReason;
use ollamamax_proto::limits;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio::time::Instant;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Chunk {
    choices: Vec<Choice>,
    error: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Choice {
    delta: Option<Delta>,
    /// Of a completion.
    text: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Delta {
    content: Option<String>,
    /// What servers call thinking, by their age.
    #[serde(alias = "reasoning")]
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<CallDelta>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CallDelta {
    index: Option<usize>,
    id: Option<String>,
    function: FunctionDelta,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FunctionDelta {
    name: Option<String>,
    arguments: Option<String>,
}

/// A call whose arguments are still coming.
#[derive(Debug, Default)]
struct Begun {
    id: String,
    name: String,
    arguments: String,
}

/// Reads events into parts.
#[derive(Debug, Default)]
struct Ear {
    calls: Vec<Begun>,
    /// Thinking is left out.
    deaf_to_thoughts: bool,
}

impl Ear {
    /// Reads one line; why the server gave up, where it says that.
    fn line(&mut self, line: &[u8], parts: &mut Vec<Part>) -> Result<(), String> {
        let Some(data) = line.trim_ascii().strip_prefix(b"data:") else { return Ok(()) };
        let data = data.trim_ascii_start();
        if data == b"[DONE]" {
            return Ok(());
        }
        let chunk: Chunk = serde_json::from_slice(data)
            .map_err(|error| format!("an event of its answer is none: {error}"))?;
        if let Some(error) = chunk.error {
            return Err(said(&error));
        }
        let Some(choice) = chunk.choices.into_iter().next() else { return Ok(()) };
        let piece = |text: String| Piece { text, tokens: 1, ..Piece::default() };
        let delta = choice.delta.unwrap_or_default();
        if let Some(thought) = delta.reasoning_content.filter(|text| !text.is_empty())
            && !self.deaf_to_thoughts
        {
            parts.push(Part::Thinking(piece(thought)));
        }
        let text = choice.text.or(delta.content).filter(|text| !text.is_empty());
        parts.extend(text.map(|text| Part::Text(piece(text))));
        for call in delta.tool_calls.into_iter().flatten() {
            self.call(call)?;
        }
        Ok(())
    }

    fn call(&mut self, delta: CallDelta) -> Result<(), String> {
        let index = delta.index.unwrap_or_else(|| match delta.id {
            Some(_) => self.calls.len(),
            None => self.calls.len().saturating_sub(1),
        });
        if index > self.calls.len() || index >= limits::TOOLS_COUNT {
            return Err(format!("it calls tool {index} out of order"));
        }
        if index == self.calls.len() {
            self.calls.push(Begun::default());
        }
        let begun = &mut self.calls[index];
        let short = |text: Option<String>| text.unwrap_or_default().chars().take(200).collect();
        let (id, name): (String, String) = (short(delta.id), short(delta.function.name));
        begun.id = if id.is_empty() { std::mem::take(&mut begun.id) } else { id };
        begun.name.push_str(&name);
        begun.arguments.push_str(&delta.function.arguments.unwrap_or_default());
        if begun.arguments.len() > limits::TOOL_CALL_BYTES {
            let limit = limits::TOOL_CALL_BYTES;
            return Err(format!("the arguments of a call have more than {limit} bytes"));
        }
        Ok(())
    }

    /// The calls, once they are whole.
    fn finish(&mut self) -> Result<Vec<Part>, String> {
        let whole = |(index, begun): (usize, Begun)| {
            let text = if begun.arguments.trim().is_empty() { "{}" } else { &begun.arguments };
            let arguments: Map<String, Value> = serde_json::from_str(text)
                .map_err(|error| format!("the arguments of a call are no object: {error}"))?;
            let drawn = || format!("call_{:08x}", rand::random::<u32>());
            let id = if begun.id.is_empty() { drawn() } else { begun.id };
            Ok(Part::Call(Call { id, index, name: begun.name, arguments }))
        };
        std::mem::take(&mut self.calls).into_iter().enumerate().map(whole).collect()
    }
}

/// What an error says, in any of the shapes that errors have.
pub(super) fn said(error: &Value) -> String {
    let text = error
        .as_str()
        .or_else(|| error["message"].as_str())
        .or_else(|| error["error"].as_str())
        .or_else(|| error.pointer("/error/message").and_then(Value::as_str))
        .or_else(|| error["detail"].as_str());
    let text = text.map_or_else(|| error.to_string(), str::to_owned);
    text.chars().take(limits::ERROR_TEXT_CHARS).collect()
}

/// Reads an answer to its end; what it says is heard as a generation of this gateway's own.
pub(super) async fn listen(flow: Flow, thinks: bool) -> Result<Generation, Failure> {
    let (sender, events) = mpsc::channel(limits::STREAM_CHUNKS_BUFFERED);
    tokio::spawn(async move {
        let ear = Ear { deaf_to_thoughts: !thinks, ..Ear::default() };
        let gone = sender.clone();
        tokio::select! {
            () = tell(flow, ear, sender) => {}
            () = gone.closed() => {}
        }
    });
    Generation::begun(events).await
}

async fn tell(mut flow: Flow, mut ear: Ear, sender: mpsc::Sender<Result<Event, Failure>>) {
    let stall = flow.trip.gateway.config.client_stall;
    let (mut lines, mut begun) = (Lines::default(), None);
    loop {
        let (mut parts, mut wrong) = (Vec::new(), None);
        let next = flow.next().await;
        let is_last = next.is_none();
        let mut see = |line: &[u8]| {
            flow.tally.line(line);
            if wrong.is_none() {
                wrong = ear.line(line, &mut parts).err();
            }
            true
        };
        let read = match next {
            Some(Ok(piece)) => lines.push(piece, &mut see).err().map(|error| error.to_string()),
            Some(Err(failure)) => {
                let _ = sender.send_timeout(Err(failure), stall).await;
                return;
            }
            None => {
                lines.finish(&mut see);
                None
            }
        };
        let mut wrong = wrong.or(read);
        if is_last && wrong.is_none() {
            match ear.finish() {
                Ok(calls) => parts.extend(calls),
                Err(error) => wrong = Some(error),
            }
        }
        flow.pays();
        for part in parts {
            begun.get_or_insert_with(Instant::now);
            if sender.send_timeout(Ok(Event::Part(part)), stall).await.is_err() {
                return;
            }
        }
        if let Some(error) = wrong {
            let failure = flow.breaks(&error);
            let _ = sender.send_timeout(Err(failure), stall).await;
            return;
        }
        if is_last {
            let last = flow.ends().map(|()| Event::Done(Box::new(summary(&flow, begun))));
            let _ = sender.send_timeout(last, stall).await;
            return;
        }
    }
}

/// Times are as they were seen from here.
fn summary(flow: &Flow, begun: Option<Instant>) -> Summary {
    let started = flow.trip.started;
    let begun = begun.unwrap_or_else(Instant::now);
    let nanos =
        |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let tally = &flow.tally;
    let count = |tokens: u64| u32::try_from(tokens).unwrap_or(u32::MAX);
    Summary {
        reason: match tally.reason.as_deref() {
            Some("length") => FinishReason::Length,
            _ => FinishReason::Stop,
        },
        stop: None,
        prompt_tokens: count(tally.prompt_tokens.unwrap_or(0)),
        cached_tokens: count(tally.cached_tokens),
        output_tokens: count(tally.output_tokens),
        load_ns: 0,
        prompt_ns: nanos(begun - started),
        output_ns: nanos(begun.elapsed()),
        total_ns: nanos(started.elapsed()),
        context: Vec::new(),
        resumes: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(lines: &[&str]) -> (Vec<Part>, Result<Vec<Part>, String>) {
        let (mut ear, mut parts) = (Ear::default(), Vec::new());
        for line in lines {
            if let Err(error) = ear.line(line.as_bytes(), &mut parts) {
                return (parts, Err(error));
            }
        }
        let calls = ear.finish();
        (parts, calls)
    }

    #[test]
    fn thoughts_text_and_calls_in_pieces_are_told_apart() {
        let (parts, calls) = hear(&[
            r#"data: {"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
            r#"data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}"#,
            r#"data: {"choices":[{"delta":{"content":"a"}}]}"#,
            r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c1","function":{"name":"f","arguments":""}}]}}]}"#,
            r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"x\":"}}]}}]}"#,
            r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}}]}"#,
            r#"data: {"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#,
            "data: [DONE]",
        ]);
        let texts: Vec<_> = parts
            .iter()
            .map(|part| match part {
                Part::Thinking(piece) => format!("({})", piece.text),
                Part::Text(piece) => piece.text.clone(),
                _ => "?".to_owned(),
            })
            .collect();
        assert_eq!(texts, ["(hm)", "a"]);
        let calls = calls.expect("they are whole");
        let Part::Call(call) = &calls[0] else { unreachable!("a call") };
        assert_eq!((call.id.as_str(), call.name.as_str(), calls.len()), ("c1", "f", 1));
        assert_eq!(call.arguments["x"], 1);
    }

    #[test]
    fn what_is_wrong_with_an_answer_is_said() {
        for (line, expected) in [
            (r#"data: {"error":{"message":"out of memory"}}"#, "out of memory"),
            ("data: {", "an event of its answer is none"),
            (r#"data: {"choices":[{"delta":{"tool_calls":[{"index":7}]}}]}"#, "out of order"),
        ] {
            let error = hear(&[line]).1.expect_err(line);
            assert!(error.contains(expected), "{error}");
        }
        let (_, calls) = hear(&[
            r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"[1"}}]}}]}"#,
        ]);
        assert!(calls.is_err(), "arguments that are no object");
    }
}
