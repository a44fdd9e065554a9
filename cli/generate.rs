//! One answer of a model, printed as it comes: shared by one-shot `run` and the conversation.

use crate::exit::Failure;
use crate::ndjson::Records;
use crate::{human, out};
use serde_json::{Map, Value, json};
use std::io::IsTerminal;

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
    /// Do not print thoughts.
    pub hide_thinking: bool,
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
}

/// `30` is seconds, everything else a duration like `5m`.
pub fn keep_alive(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| json!(text), |seconds| json!(seconds))
}

/// Prints an answer until its last record; returns its text. Works for `/api/generate` and `/api/chat`.
pub async fn print(mut records: Records, settings: &Settings) -> Result<String, Failure> {
    let mut printer = Printer::new(settings);
    while let Some(record) = records.next().await? {
        if settings.json {
            out::line(&record.to_string());
        } else {
            out::text(&printer.show(&record));
        }
        printer.text.push_str(response_of(&record));
        if record["done"] == true {
            if !settings.json {
                printer.end(&record);
            }
            return Ok(printer.text);
        }
    }
    Err(Failure::Other("the answer ended before it was done".to_owned()))
}

fn response_of(record: &Value) -> &str {
    let chat = record["message"]["content"].as_str();
    chat.or(record["response"].as_str()).unwrap_or_default()
}

fn thinking_of(record: &Value) -> &str {
    let chat = record["message"]["thinking"].as_str();
    chat.or(record["thinking"].as_str()).unwrap_or_default()
}

struct Printer<'a> {
    settings: &'a Settings,
    text: String,
    thinking: bool,
    terminal: bool,
}

impl<'a> Printer<'a> {
    fn new(settings: &'a Settings) -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self { settings, text: String::new(), thinking: false, terminal }
    }

    /// What a record adds to the output.
    fn show(&mut self, record: &Value) -> String {
        let mut shown = String::new();
        let thoughts = thinking_of(record);
        if !thoughts.is_empty() && !self.settings.hide_thinking {
            if !self.thinking {
                shown.push_str("Thinking...\n");
                self.thinking = true;
            }
            shown.push_str(thoughts);
        }
        let response = response_of(record);
        if self.thinking && !response.is_empty() {
            shown.push_str("\n...done thinking.\n\n");
            self.thinking = false;
        }
        shown.push_str(response);
        if self.terminal { printable(&shown) } else { shown }
    }

    fn end(&self, record: &Value) {
        // A record that only loaded the model has printed nothing, and needs no line end.
        if record["done_reason"] != "load" && record["done_reason"] != "unload" {
            out::text("\n");
            if self.terminal {
                out::text("\n");
            }
        }
        if self.settings.verbose {
            out::say(&timings(record));
        }
    }
}

/// A model's output must not move the cursor or recolour the terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| matches!(c, '\n' | '\t') || !c.is_control()).collect()
}

/// The timings as Ollama prints them.
fn timings(record: &Value) -> String {
    let number = |field: &str| record[field].as_u64().filter(|n| *n > 0);
    let mut lines = Vec::new();
    let mut put =
        |name: &str, value: String| lines.push(format!("{:<22}{value}", format!("{name}:")));
    for (name, field) in [("total duration", "total_duration"), ("load duration", "load_duration")]
    {
        if let Some(ns) = number(field) {
            put(name, human::nanoseconds(ns));
        }
    }
    for (name, prefix) in [("prompt eval", "prompt_eval"), ("eval", "eval")] {
        let count = number(&format!("{prefix}_count"));
        let ns = number(&format!("{prefix}_duration"));
        if let Some(count) = count {
            put(&format!("{name} count"), format!("{count} token(s)"));
        }
        if let Some(ns) = ns {
            put(&format!("{name} duration"), human::nanoseconds(ns));
            let rate = count.unwrap_or(0) as f64 / (ns as f64 / 1e9);
            put(&format!("{name} rate"), format!("{rate:.2} tokens/s"));
        }
    }
    lines.join("\n")
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

    #[test]
    fn thoughts_are_set_apart_or_hidden() {
        let records = [
            json!({"message": {"content": "", "thinking": "hm"}}),
            json!({"message": {"content": "", "thinking": "m"}}),
            json!({"message": {"content": "Yes"}}),
            json!({"response": "."}),
        ];
        let show = |settings: &Settings| {
            let mut printer = Printer { terminal: false, ..Printer::new(settings) };
            records.iter().map(|record| printer.show(record)).collect::<String>()
        };
        assert_eq!(show(&Settings::default()), "Thinking...\nhmm\n...done thinking.\n\nYes.");
        assert_eq!(show(&Settings { hide_thinking: true, ..Settings::default() }), "Yes.");
    }

    #[test]
    fn escapes_do_not_reach_a_terminal() {
        assert_eq!(printable("a\x1b[31mb\n\tc\r\u{7}"), "a[31mb\n\tc");
    }

    #[test]
    fn timings_have_rates() {
        let record = json!({"total_duration": 2_500_000_000u64, "prompt_eval_count": 26,
            "prompt_eval_duration": 130_000_000, "eval_count": 10, "eval_duration": 1_000_000_000});
        assert_eq!(
            timings(&record),
            "total duration:       2.5s\nprompt eval count:    26 token(s)\nprompt eval duration: 130ms\n\
             prompt eval rate:     200.00 tokens/s\neval count:           10 token(s)\n\
             eval duration:        1s\neval rate:            10.00 tokens/s"
        );
    }
}
