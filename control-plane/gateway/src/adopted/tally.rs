//! What an answer of an adopted server took, read from it as it passes: servers tell it at the end, in words of their own; until
//! then each piece counts for a token, as most servers send one with each.

use serde::Deserialize;

/// How many tokens there are so far, and whether the answer is complete.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tally {
    pub prompt_tokens: Option<u64>,
    pub cached_tokens: u64,
    /// Told, or counted by pieces.
    pub output_tokens: u64,
    told: bool,
    /// Whether the answer said that it is over.
    pub finished: bool,
    /// Why it is, in its own word.
    pub reason: Option<String>,
    /// Leave out the event that tells the usage: the client did not ask for it.
    hides_usage: bool,
    /// The event before was left out: so is the empty line behind it.
    hid: bool,
}

/// Whatever a piece may tell, in any of the APIs.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Piece {
    // Ollama's.
    done: Option<bool>,
    done_reason: Option<String>,
    prompt_eval_count: Option<u64>,
    eval_count: Option<u64>,
    // OpenAI's.
    choices: Option<Vec<Choice>>,
    usage: Option<Usage>,
    // Of responses.
    #[serde(rename = "type")]
    kind: Option<String>,
    response: Option<Told>,
    status: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Choice {
    finish_reason: Option<String>,
}

/// A response is an object, and a text in Ollama's records.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Told {
    Response { usage: Option<Usage> },
    Other(serde::de::IgnoredAny),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Usage {
    #[serde(alias = "input_tokens")]
    prompt_tokens: Option<u64>,
    #[serde(alias = "output_tokens")]
    completion_tokens: Option<u64>,
    #[serde(alias = "input_tokens_details")]
    prompt_tokens_details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Details {
    cached_tokens: Option<u64>,
}

impl Tally {
    pub fn new(hides_usage: bool) -> Self {
        Self { hides_usage, ..Self::default() }
    }

    /// Reads an answer that is one object.
    pub fn whole(&mut self, bytes: &[u8]) {
        self.read(bytes);
        self.finished = true;
    }

    /// Reads one line of a stream of records or events; whether the client gets to see it.
    pub fn line(&mut self, line: &[u8]) -> bool {
        let line = line.trim_ascii();
        if line.is_empty() {
            return !std::mem::take(&mut self.hid);
        }
        let data = match line.strip_prefix(b"data:") {
            Some(data) => data.trim_ascii_start(),
            None if line.starts_with(b"{") => line,
            // A name of an event, or a comment.
            None => return true,
        };
        if data == b"[DONE]" {
            self.finished = true;
            return true;
        }
        // Nearly all pieces are text and nothing else: these are not taken apart.
        if !tells(data) {
            self.count();
            return true;
        }
        let is_usage_alone = self.read(data);
        self.hid = self.hides_usage && is_usage_alone;
        !self.hid
    }

    fn count(&mut self) {
        if !self.told {
            self.output_tokens += 1;
        }
    }

    /// Takes a piece in; whether it tells the usage and nothing else.
    fn read(&mut self, data: &[u8]) -> bool {
        let Ok(piece) = serde_json::from_slice::<Piece>(data) else {
            self.count();
            return false;
        };
        let nested = match piece.response {
            Some(Told::Response { usage }) => usage,
            _ => None,
        };
        let has_choices = piece.choices.as_ref().is_some_and(|choices| !choices.is_empty());
        if let Some(reason) =
            piece.choices.into_iter().flatten().find_map(|choice| choice.finish_reason)
        {
            self.reason = Some(reason);
        }
        let ends = ["response.completed", "response.incomplete", "response.failed"];
        let ended = piece.kind.as_deref().is_some_and(|kind| ends.contains(&kind));
        if piece.done == Some(true) || ended {
            self.finished = true;
        }
        self.reason = piece.done_reason.or(piece.status).or(self.reason.take());
        let usage = piece.usage.or(nested);
        let is_told = usage.is_some() || piece.eval_count.is_some();
        let usage = usage.unwrap_or_default();
        self.prompt_tokens = piece.prompt_eval_count.or(usage.prompt_tokens).or(self.prompt_tokens);
        if let Some(tokens) = piece.eval_count.or(usage.completion_tokens) {
            (self.output_tokens, self.told) = (tokens, true);
        } else if has_choices || piece.done == Some(false) {
            self.count();
        }
        let cached = usage.prompt_tokens_details.and_then(|details| details.cached_tokens);
        self.cached_tokens = cached.unwrap_or(self.cached_tokens);
        is_told && !has_choices && piece.done.is_none() && !ended
    }
}

/// Whether a piece may tell more than text: what is asked for stands in it by name. Only what stands at quotes is compared.
fn tells(data: &[u8]) -> bool {
    const NAMES: [&[u8]; 9] = [
        b"\"usage\":{",
        b"\"usage\": {",
        b"\"done\":true",
        b"\"done\": true",
        b"\"finish_reason\":\"",
        b"\"finish_reason\": \"",
        b"\"response.completed\"",
        b"\"response.incomplete\"",
        b"\"response.failed\"",
    ];
    let mut rest = data;
    while let Some(at) = rest.iter().position(|byte| *byte == b'"') {
        let here = &rest[at..];
        let may = matches!(here.get(1), Some(b'u' | b'd' | b'f' | b'r'));
        if may && NAMES.iter().any(|name| here.starts_with(name)) {
            return true;
        }
        rest = &here[1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(hides: bool, lines: &[&str]) -> (Tally, Vec<String>) {
        let mut tally = Tally::new(hides);
        let kept = lines.iter().filter(|line| tally.line(line.as_bytes())).map(|l| (*l).to_owned());
        let kept = kept.collect();
        (tally, kept)
    }

    #[test]
    fn ollamas_last_record_tells_what_it_took() {
        let (tally, kept) = read(
            true,
            &[
                r#"{"model":"m","response":"a","done":false}"#,
                r#"{"model":"m","response":"b","done":false}"#,
                r#"{"model":"m","response":"","done":true,"done_reason":"length","prompt_eval_count":7,"eval_count":3}"#,
            ],
        );
        assert_eq!(kept.len(), 3, "nothing of it is left out");
        assert_eq!((tally.prompt_tokens, tally.output_tokens), (Some(7), 3));
        assert_eq!((tally.finished, tally.reason.as_deref()), (true, Some("length")));
    }

    #[test]
    fn a_usage_that_nobody_asked_for_is_counted_and_left_out_with_its_empty_line() {
        let lines = [
            r#"data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}],"usage":null}"#,
            "",
            r#"data: {"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
            "",
            r#"data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":9,"prompt_tokens_details":{"cached_tokens":4}}}"#,
            "",
            "data: [DONE]",
            "",
        ];
        let (tally, kept) = read(true, &lines);
        assert_eq!(kept, [&lines[..4], &lines[6..]].concat());
        assert_eq!((tally.prompt_tokens, tally.cached_tokens), (Some(5), 4));
        assert_eq!((tally.output_tokens, tally.finished), (9, true));
        assert_eq!(tally.reason.as_deref(), Some("stop"));
        assert_eq!(read(false, &lines).1, lines, "who asked for it gets it");
    }

    #[test]
    fn a_response_ends_with_its_last_event() {
        let (tally, _) = read(
            false,
            &[
                "event: response.output_text.delta",
                r#"data: {"type":"response.output_text.delta","delta":"a"}"#,
                "event: response.completed",
                r#"data: {"type":"response.completed","response":{"usage":{"input_tokens":3,"output_tokens":2}}}"#,
            ],
        );
        assert_eq!((tally.prompt_tokens, tally.output_tokens), (Some(3), 2));
        assert!(tally.finished);
    }

    #[test]
    fn whole_answers_are_read_and_garbage_is_none() {
        let mut tally = Tally::default();
        tally.whole(br#"{"choices":[{"finish_reason":"length"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#);
        assert_eq!((tally.prompt_tokens, tally.output_tokens), (Some(1), 2));
        let mut tally = Tally::default();
        tally.whole(br#"{"response":"text","done":true,"prompt_eval_count":4,"eval_count":6}"#);
        assert_eq!((tally.prompt_tokens, tally.output_tokens), (Some(4), 6));
        let (tally, kept) = read(true, &["data: {\"usage\":{", "nonsense", "\u{0}"]);
        assert_eq!((kept.len(), tally.finished), (3, false));
    }
}
