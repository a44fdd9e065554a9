//! Streams of JSON values, one a line, as every long answer of the API comes.
//!
//! [`Lines`] cuts bytes into lines wherever the network cut them into pieces; [`Records`] reads a response through it and turns
//! an `{"error": …}` record into a failure.

use crate::exit::Failure;
use serde_json::Value;

/// Longest line accepted: a whole answer with its context fits.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Cuts pieces of bytes into lines.
#[derive(Debug, Default)]
pub struct Lines {
    buffer: Vec<u8>,
    searched: usize,
}

impl Lines {
    /// Takes the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next whole line that is not blank, without its end.
    pub fn next_line(&mut self) -> Option<Vec<u8>> {
        loop {
            let found = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
            let Some(at) = found else {
                self.searched = self.buffer.len();
                return None;
            };
            let rest = self.buffer.split_off(self.searched + at + 1);
            let line = std::mem::replace(&mut self.buffer, rest);
            self.searched = 0;
            let line = line.trim_ascii();
            if !line.is_empty() {
                return Some(line.to_vec());
            }
        }
    }

    /// What came after the last line end: a last line without one.
    pub fn finish(&mut self) -> Option<Vec<u8>> {
        self.searched = 0;
        let rest = std::mem::take(&mut self.buffer);
        let rest = rest.trim_ascii();
        (!rest.is_empty()).then(|| rest.to_vec())
    }

    /// Bytes held back.
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }
}

/// The records of one response.
pub struct Records {
    response: reqwest::Response,
    node: String,
    stream_id: Option<String>,
    lines: Lines,
    ended: bool,
}

impl Records {
    /// Reads a response of `node` record by record.
    pub fn new(response: reqwest::Response, node: String) -> Self {
        let stream_id = response.headers().get("x-stream-id").and_then(|id| id.to_str().ok());
        let stream_id = stream_id.map(str::to_owned);
        Self { response, node, stream_id, lines: Lines::default(), ended: false }
    }

    /// The id under which the stream goes on elsewhere.
    pub fn stream_id(&self) -> Option<&str> {
        self.stream_id.as_deref()
    }

    /// What it means when the stream is over too early.
    pub fn broken_off(&self) -> Failure {
        let cause = "the answer ended before it was done".to_owned();
        Failure::BrokenOff { node: self.node.clone(), cause }
    }

    /// The next record; `None` at the end of the stream.
    pub async fn next(&mut self) -> Result<Option<Value>, Failure> {
        loop {
            if let Some(line) = self.lines.next_line() {
                return self.read(&line).map(Some);
            }
            if self.ended {
                return self.lines.finish().map(|line| self.read(&line)).transpose();
            }
            let piece = self.response.chunk().await.map_err(|error| Failure::BrokenOff {
                node: self.node.clone(),
                cause: crate::client::cause_of(&error),
            })?;
            match piece {
                Some(piece) => self.lines.push(&piece),
                None => self.ended = true,
            }
            if self.lines.pending() > LINE_BYTES_MAX {
                return Err(Failure::Other(format!(
                    "{} sent a record of more than {LINE_BYTES_MAX} bytes",
                    self.node
                )));
            }
        }
    }

    fn read(&self, line: &[u8]) -> Result<Value, Failure> {
        let value: Value = serde_json::from_slice(line).map_err(|error| {
            Failure::Other(format!("{} sent a record that is no JSON: {error}", self.node))
        })?;
        match value.get("error") {
            None | Some(Value::Null) => Ok(value),
            Some(Value::String(message)) => Err(Failure::Other(message.clone())),
            Some(other) => Err(Failure::Other(other.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn blank_lines_are_skipped_and_the_last_needs_no_end() {
        let mut lines = Lines::default();
        lines.push(b"{}\r\n\n  \n[1]\n2");
        assert_eq!(lines.next_line().as_deref(), Some(&b"{}"[..]));
        assert_eq!(lines.next_line().as_deref(), Some(&b"[1]"[..]));
        assert_eq!(lines.next_line(), None);
        assert_eq!(lines.finish().as_deref(), Some(&b"2"[..]));
        assert_eq!(lines.finish(), None);
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_bytes_arrive(
            texts in proptest::collection::vec("[a-z{}]{1,20}", 0..20),
            cuts in proptest::collection::vec(1usize..15, 1..20),
        ) {
            let whole: Vec<u8> = texts.iter().flat_map(|t| format!("{t}\n").into_bytes()).collect();
            let mut lines = Lines::default();
            let mut got = Vec::new();
            let mut rest = &whole[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                lines.push(piece);
                rest = after;
                while let Some(line) = lines.next_line() {
                    got.push(String::from_utf8(line).expect("ascii"));
                }
            }
            prop_assert_eq!(got, texts);
            prop_assert_eq!(lines.finish(), None);
        }
    }
}
