//! Clients that generate: each asks for one seeded stream after the other and compares nothing itself.
//!
//! A client whose gateway goes away goes on at another one, from the byte it has, as the API offers it; where nothing was kept of
//! the stream (it was younger than a second) it asks anew. It is refused a stream for good reasons (no worker, no place): then it
//! asks again, and only what never ends is an error. What breaks a stream that has begun is told as it is.

use super::{Clients, MODEL};
use crate::history::{Stream, Told};
use crate::recorder::Recorder;
use ollamamax_tests::stream::text_of;
use ollamamax_tests::{Api, HarnessError, Records};
use rand::RngExt;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Different streams.
pub const PROMPTS_COUNT: usize = 6;
/// How long a client goes on asking for a stream, or for the rest of one.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a stream may be silent: then its client gives up.
const SILENCE: Duration = Duration::from_secs(45);
const AGAIN: Duration = Duration::from_millis(250);

fn ask(prompt: usize, tokens: u32) -> Value {
    let text = format!("Chapter {prompt}. It was a quiet morning when");
    let options = json!({
        "temperature": 0.9, "seed": 7_000 + prompt, "num_predict": tokens, "ignore_eos": true,
    });
    json!({"model": MODEL, "raw": true, "prompt": text, "options": options})
}

/// What a prompt gives when nothing happens.
///
/// # Errors
/// When it gives nothing.
pub async fn read_reference(api: &Api, prompt: usize, tokens: u32) -> Result<String, HarnessError> {
    api.stream("/api/generate", &ask(prompt, tokens)).await?.text().await
}

/// Runs one.
pub async fn run(clients: Clients, number: usize) {
    let mut coin = clients.coin(2, number);
    while !clients.over.is_cancelled() {
        let prompt = coin.random_range(0..PROMPTS_COUNT);
        let node = coin.random_range(0..clients.apis.len());
        let mut reader = Reader::new(&clients, prompt, node);
        if let Err(error) = reader.read().await {
            reader.stream.error = Some(error);
        }
        let mut stream = reader.stream;
        stream.ended_us = clients.recorder.now_us();
        // One that was never let in because everything was over shows nothing.
        let is_idle = clients.over.is_cancelled() && stream.text.is_empty();
        if !is_idle {
            clients.recorder.note(|history| history.streams.push(stream));
        }
        clients.rest(Duration::from_millis(50)).await;
    }
}

struct Reader<'a> {
    clients: &'a Clients,
    recorder: &'a Recorder,
    stream: Stream,
    /// At which node it reads now.
    at: usize,
    id: Option<String>,
    last: Option<Instant>,
}

impl<'a> Reader<'a> {
    fn new(clients: &'a Clients, prompt: usize, node: usize) -> Self {
        let begun_us = clients.recorder.now_us();
        let stream = Stream {
            prompt,
            node,
            begun_us,
            ended_us: begun_us,
            text: String::new(),
            ends: 0,
            after_end: 0,
            moves: 0,
            restarts: 0,
            pause_us: 0,
            told: Vec::new(),
            error: None,
        };
        Self { clients, recorder: &clients.recorder, stream, at: node, id: None, last: None }
    }

    /// Reads until the end, wherever that is.
    async fn read(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        let mut why = String::new();
        while begun.elapsed() < PATIENCE || self.stream.ends > 0 {
            let records = match self.open().await {
                Ok(records) => records,
                Err(error) => {
                    why = error;
                    self.at = (self.at + 1) % self.clients.apis.len();
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            match self.follow(records).await {
                Ok(()) if self.stream.ends > 0 => return Ok(()),
                Ok(()) => why = "it stopped without a last record".to_owned(),
                // The gateway is there and says that it cannot go on.
                Err(HarnessError::Shape { got: words, .. }) => {
                    let (at_us, node) = (self.recorder.now_us(), self.at);
                    why.clone_from(&words);
                    self.stream.told.push(Told { at_us, node, words });
                }
                Err(error) => why = error.to_string(),
            }
            if self.stream.ends > 0 {
                return Ok(());
            }
            self.at = (self.at + 1) % self.clients.apis.len();
        }
        Err(format!("{why}; nothing more came within {} s", PATIENCE.as_secs()))
    }

    /// The stream, or the rest of it.
    async fn open(&mut self) -> Result<Records, String> {
        let api = &self.clients.apis[self.at];
        if let Some(id) = &self.id {
            let path = format!("/api/streams/{id}?from={}", self.stream.text.len());
            let rest = tokio::time::timeout(SILENCE, api.records(&path)).await;
            match rest.map_err(|_| "no answer".to_owned())? {
                Ok(records) => {
                    self.stream.moves += 1;
                    return Ok(records);
                }
                Err(HarnessError::Refused { status: 404, .. }) => {
                    // Nothing is kept of it: the same again from the begin.
                    self.stream.restarts += 1;
                    self.stream.text.clear();
                    self.id = None;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        let ask = ask(self.stream.prompt, self.clients.load.tokens);
        let asked = tokio::time::timeout(SILENCE, api.stream_with_id("/api/generate", &ask)).await;
        let (id, records) =
            asked.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())?;
        self.id = Some(id);
        Ok(records)
    }

    async fn follow(&mut self, mut records: Records) -> Result<(), HarnessError> {
        loop {
            let next = tokio::time::timeout(SILENCE, records.next()).await;
            let next = next.map_err(|_| HarnessError::Other("it is silent".to_owned()))??;
            let Some(record) = next else { return Ok(()) };
            let now = Instant::now();
            if let Some(last) = self.last.replace(now) {
                let pause = u64::try_from((now - last).as_micros()).unwrap_or(u64::MAX);
                self.stream.pause_us = self.stream.pause_us.max(pause);
            }
            if self.stream.ends > 0 {
                self.stream.after_end += 1;
            }
            self.stream.text.push_str(text_of(&record));
            self.stream.ends += u32::from(record["done"] == true);
            self.stream.ended_us = self.recorder.now_us();
        }
    }
}
