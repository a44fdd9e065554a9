//! Answers that come as JSON records, one a line, read while they come.

use crate::error::HarnessError;
use serde_json::Value;

/// The records of one response.
#[derive(Debug)]
pub struct Records {
    url: String,
    response: reqwest::Response,
    buffer: Vec<u8>,
}

impl Records {
    /// Reads `response`, which `url` gave.
    pub fn new(url: String, response: reqwest::Response) -> Self {
        Self { url, response, buffer: Vec::new() }
    }

    /// The next record; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Value>, HarnessError> {
        loop {
            if let Some(at) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(at + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return self.parse(&line).map(Some);
            }
            let piece = self.response.chunk().await;
            match piece.map_err(|error| HarnessError::no_answer(&self.url, &error))? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None if self.buffer.trim_ascii().is_empty() => return Ok(None),
                None => {
                    let line = std::mem::take(&mut self.buffer);
                    return self.parse(&line).map(Some);
                }
            }
        }
    }

    /// All that is left.
    pub async fn collect(mut self) -> Result<Vec<Value>, HarnessError> {
        let mut all = Vec::new();
        while let Some(record) = self.next().await? {
            all.push(record);
        }
        Ok(all)
    }

    /// The whole answer of a generation, from `/api/chat` or `/api/generate`: an error unless it ends with `done`.
    pub async fn text(mut self) -> Result<String, HarnessError> {
        let mut text = String::new();
        let mut last = Value::Null;
        while let Some(record) = self.next().await? {
            text.push_str(text_of(&record));
            last = record;
        }
        if last["done"] == true {
            return Ok(text);
        }
        let what = format!("the last record of {}", self.url);
        Err(HarnessError::Shape { what, got: last.to_string() })
    }

    fn parse(&self, line: &[u8]) -> Result<Value, HarnessError> {
        let got = || String::from_utf8_lossy(line).into_owned();
        let shape = |what: String| HarnessError::Shape { what, got: got() };
        let record: Value = serde_json::from_slice(line)
            .map_err(|error| shape(format!("a record of {} ({error})", self.url)))?;
        if record.get("error").is_some() {
            return Err(shape(format!("a record of {}", self.url)));
        }
        Ok(record)
    }
}

/// The text that a record of `/api/chat` or `/api/generate` adds.
pub fn text_of(record: &Value) -> &str {
    let chat = record["message"]["content"].as_str();
    chat.or(record["response"].as_str()).unwrap_or_default()
}
