//! One answer of a model, printed as it comes: shared by one-shot `run` and the conversation.

use crate::answer::{Look, Printer, response_of, thinking_of, timings};
use crate::client::Client;
use crate::exit::Failure;
use crate::ndjson::Records;
use crate::out;
use crate::progress::Progress;
use serde_json::{Map, Value, json};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// What every request of one `run` has in common.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The model.
    pub model: String,
    /// How long it stays loaded.
    pub keep_alive: Option<Value>,
    /// `"json"` or a schema.
    pub format: Option<Value>,
    /// Whether or how hard to think.
    pub think: Option<Value>,
    /// How answers look.
    pub look: Look,
    /// Print the timings.
    pub verbose: bool,
    /// Print the records instead of the text.
    pub json: bool,
    /// Options as `/set parameter` left them.
    pub options: Map<String, Value>,
}

impl Settings {
    /// A request body with these settings and the given fields.
    pub fn request(&self, fields: Value) -> Value {
        let mut body = json!({"model": self.model, "stream": true});
        let set = [
            ("keep_alive", self.keep_alive.clone()),
            ("format", self.format.clone()),
            ("think", self.think.clone()),
            ("options", (!self.options.is_empty()).then(|| Value::Object(self.options.clone()))),
        ];
        for (name, value) in set {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        if let Value::Object(fields) = fields {
            for (name, value) in fields {
                body[name] = value;
            }
        }
        body
    }

    /// How this answer looks: what has a format is data and not styled.
    fn printer(&self) -> Printer {
        let data = self.format.is_some();
        Printer::new(Look { colour: self.look.colour && !data, ..self.look })
    }
}

/// `30` is seconds, everything else a duration like `5m`.
pub fn keep_alive(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| json!(text), |seconds| json!(seconds))
}

/// How often one answer goes on at another node.
const RESUMES_MAX: usize = 5;
/// How long another node is looked for, and how long between two looks.
const RESUME_WAIT: Duration = Duration::from_secs(10);
const RESUME_PAUSE: Duration = Duration::from_millis(300);

/// Asks, prints the answer to its end, and keeps its text in `heard` as it comes. Works for `/api/generate` and `/api/chat`.
///
/// When the node that answers dies, another one goes on with the answer from the byte that is missing.
pub async fn answer(
    client: &Client,
    path: &str,
    request: &Value,
    settings: &Settings,
    heard: &mut Heard,
) -> Result<(), Failure> {
    let mut records = client.stream(path, request).await?;
    let mut printer = settings.printer();
    for _ in 0..RESUMES_MAX {
        let failure = match print(&mut records, &mut printer, settings, heard).await {
            Err(failure @ Failure::BrokenOff { .. }) => failure,
            ended => return ended,
        };
        // Where one is in thoughts cannot be told.
        let Some(id) = records.stream_id().filter(|_| !heard.thoughts) else { return Err(failure) };
        records = go_on(client, id, heard.text.len()).await.map_err(|why| {
            Failure::Other(format!("{failure}, and no other node went on with the answer: {why}"))
        })?;
    }
    Err(records.broken_off())
}

/// Finds another node for an answer. A cluster that has lost its leader with the node needs a moment for a new one.
async fn go_on(client: &Client, stream_id: &str, from_bytes: usize) -> Result<Records, Failure> {
    let begun = Instant::now();
    loop {
        match client.resume(stream_id, from_bytes).await {
            // The dead node itself may be asked once more, and break off again.
            Err(
                Failure::Unreachable { .. }
                | Failure::BrokenOff { .. }
                | Failure::Refused { status: 502..=504, .. },
            ) if begun.elapsed() < RESUME_WAIT => {
                tokio::time::sleep(RESUME_PAUSE).await;
            }
            resumed => return resumed,
        }
    }
}

/// What came of an answer so far.
#[derive(Debug, Default)]
pub struct Heard {
    /// Its text.
    pub text: String,
    /// There were thoughts, too.
    pub thoughts: bool,
}

async fn print(
    records: &mut Records,
    printer: &mut Printer,
    settings: &Settings,
    heard: &mut Heard,
) -> Result<(), Failure> {
    let waiting = Progress::new();
    if heard.text.is_empty() && settings.look.terminal && std::io::stderr().is_terminal() {
        waiting.status(" ");
    }
    while let Some(record) = records.next().await.inspect_err(|_| waiting.finish())? {
        waiting.finish();
        heard.text.push_str(response_of(&record));
        heard.thoughts |= !thinking_of(&record).is_empty();
        if settings.json {
            out::line(&record.to_string());
        } else {
            out::text(&printer.show(&record));
        }
        if record["done"] == true {
            if !settings.json {
                end(&record, settings);
            }
            return Ok(());
        }
    }
    Err(records.broken_off())
}

fn end(record: &Value, settings: &Settings) {
    // A record that only loaded the model has printed nothing, and needs no line end.
    if record["done_reason"] != "load" && record["done_reason"] != "unload" {
        out::text(if settings.look.terminal { "\n\n" } else { "\n" });
    }
    if settings.verbose {
        out::say(&timings(record));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unset_settings_are_not_sent() {
        let plain = Settings { model: "m".into(), ..Settings::default() };
        assert_eq!(
            plain.request(json!({"prompt": "hi"})),
            json!({"model": "m", "stream": true, "prompt": "hi"})
        );
        let full = Settings {
            keep_alive: Some(keep_alive("-1")),
            format: Some(json!("json")),
            options: Map::from_iter([("seed".to_owned(), json!(1))]),
            ..plain
        };
        assert_eq!(
            full.request(json!({})),
            json!({"model": "m", "stream": true, "keep_alive": -1, "format": "json", "options": {"seed": 1}})
        );
        assert_eq!(keep_alive("5m"), json!("5m"));
    }
}
