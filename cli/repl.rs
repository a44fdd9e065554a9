//! The conversation on a terminal: `>>> `, several lines between `"""`, commands that start with `/`, and Ctrl-C, which stops
//! the answer and not the program.

use crate::client::Client;
use crate::exit::Failure;
use crate::generate::{self, Settings};
use crate::{modelfile, out, show};
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use tokio::sync::mpsc;

const HELP: &str = "\
Available commands:
  /set parameter NAME VALUE    Set an option, e.g. temperature
  /set system TEXT             Set the system prompt
  /set format json|noformat    Ask for JSON, or not
  /set verbose|quiet           Show timings, or not
  /set think|nothink           Think first, or not
  /show [info|license|modelfile|parameters|system|template]
  /clear                       Forget the conversation
  /bye                         Leave
  /?                           This help

Use \"\"\" to begin and end a message of several lines.
Ctrl-C stops an answer, Ctrl-D leaves.";

/// What a line, or several between quotes, asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Nothing.
    Empty,
    /// More lines belong to it.
    More,
    /// Something for the model.
    Message(String),
    /// `/name words`.
    Command(String, Vec<String>),
}

/// Puts lines together.
#[derive(Debug, Default)]
pub struct Reader {
    open: Option<String>,
}

impl Reader {
    /// Takes the next line.
    pub fn line(&mut self, line: &str) -> Input {
        const QUOTE: &str = "\"\"\"";
        if let Some(mut text) = self.open.take() {
            return match line.split_once(QUOTE) {
                Some((last, _)) => {
                    text.push_str(last);
                    Input::Message(text.trim_matches('\n').to_owned())
                }
                None => {
                    text.push_str(line);
                    text.push('\n');
                    self.open = Some(text);
                    Input::More
                }
            };
        }
        let line = line.trim();
        if let Some(rest) = line.strip_prefix(QUOTE) {
            self.open = Some(String::new());
            return self.line(rest);
        }
        if line.is_empty() {
            return Input::Empty;
        }
        match line.strip_prefix('/') {
            // A path is more likely than a command of that name.
            Some(rest) if !rest.starts_with('/') => {
                let mut words = rest.split_whitespace().map(str::to_owned);
                Input::Command(words.next().unwrap_or_default(), words.collect())
            }
            _ => Input::Message(line.to_owned()),
        }
    }

    /// Whether a message of several lines is open.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Forgets an open message.
    pub fn cancel(&mut self) {
        self.open = None;
    }
}

/// Talks until the user leaves.
pub async fn converse(client: &Client, settings: Settings) -> Result<(), Failure> {
    let mut talk = Talk { client, settings, system: None, messages: Vec::new() };
    let mut reader = Reader::default();
    let mut lines = read_lines();
    out::say("Send a message (/? for help)");
    loop {
        prompt(if reader.is_open() { "... " } else { ">>> " });
        let line = tokio::select! {
            line = lines.recv() => line,
            _ = tokio::signal::ctrl_c() => {
                reader.cancel();
                out::say("\nUse Ctrl + d or /bye to exit.");
                continue;
            }
        };
        let Some(line) = line else {
            out::say("");
            return Ok(());
        };
        match reader.line(&line) {
            Input::Empty | Input::More => {}
            Input::Message(text) => talk.answer(text).await?,
            Input::Command(name, words) => {
                if !talk.command(&name, &words).await? {
                    return Ok(());
                }
            }
        }
    }
}

fn prompt(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // A terminal that is gone ends the next read.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Lines of stdin, read on a thread of their own because a terminal cannot be waited for otherwise.
fn read_lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

struct Talk<'a> {
    client: &'a Client,
    settings: Settings,
    system: Option<String>,
    messages: Vec<Value>,
}

impl Talk<'_> {
    /// Sends the conversation and prints the answer. A refusal is told and forgotten; only a lost server ends the talk.
    async fn answer(&mut self, text: String) -> Result<(), Failure> {
        self.messages.push(json!({"role": "user", "content": text}));
        let system = self.system.iter().map(|text| json!({"role": "system", "content": text}));
        let messages: Vec<Value> = system.chain(self.messages.iter().cloned()).collect();
        let request = self.settings.request(json!({"messages": messages}));
        let answered = async {
            let records = self.client.stream("/api/chat", &request).await?;
            generate::print(records, &self.settings).await
        };
        let answered = tokio::select! {
            answered = answered => answered,
            _ = tokio::signal::ctrl_c() => {
                out::say("\n");
                self.messages.pop();
                return Ok(());
            }
        };
        match answered {
            Ok(text) => self.messages.push(json!({"role": "assistant", "content": text})),
            Err(failure @ Failure::Unreachable { .. }) => return Err(failure),
            Err(failure) => {
                self.messages.pop();
                out::say(&format!("Error: {}", out::printable(&failure.to_string())));
            }
        }
        Ok(())
    }

    /// Does what a `/command` says; false to leave.
    async fn command(&mut self, name: &str, words: &[String]) -> Result<bool, Failure> {
        match name {
            "bye" | "exit" => return Ok(false),
            "clear" => {
                self.messages.clear();
                out::say("Cleared session context");
            }
            "?" | "help" => out::say(HELP),
            "set" => self.set(words),
            "show" => self.show(words.first().map_or("info", String::as_str)).await,
            other => out::say(&format!("Unknown command '/{other}'. Type /? for help")),
        }
        Ok(true)
    }

    fn set(&mut self, words: &[String]) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            ["verbose"] => self.settings.verbose = true,
            ["quiet"] => self.settings.verbose = false,
            ["think"] => self.settings.think = Some(json!(true)),
            ["nothink"] => self.settings.think = Some(json!(false)),
            ["noformat"] | ["format", "noformat"] => self.settings.format = None,
            ["format", "json"] => self.settings.format = Some(json!("json")),
            ["system", ref text @ ..] if !text.is_empty() => self.system = Some(text.join(" ")),
            ["parameter", name, ref values @ ..] if !values.is_empty() => {
                match parameter(name, values) {
                    Ok((name, value)) => {
                        self.settings.options.insert(name, value);
                    }
                    Err(error) => {
                        return out::say(&format!("Error: {}", out::printable(&error.to_string())));
                    }
                }
            }
            _ => return out::say("Usage: /set parameter NAME VALUE, see /?"),
        }
        out::say("Set.");
    }

    async fn show(&self, part: &str) {
        let request = json!({"model": self.settings.model});
        match (self.client.ask("/api/show", &request).await, part) {
            (Err(failure), _) => {
                out::say(&format!("Error: {}", out::printable(&failure.to_string())))
            }
            (Ok(answer), "info") => out::text(&show::render(&answer, false)),
            (Ok(answer), part) => match answer[part].as_str() {
                Some(text) => out::line(text),
                None => out::say(&format!("The model has no {part}")),
            },
        }
    }
}

/// Reads an option as a Modelfile's PARAMETER line would.
fn parameter(name: &str, values: &[&str]) -> Result<(String, Value), modelfile::ModelfileError> {
    let parameters = values.iter().map(|value| (name.to_lowercase(), (*value).to_owned()));
    let file = modelfile::Modelfile { parameters: parameters.collect(), ..Default::default() };
    let request = file.to_request("")?;
    Ok((name.to_lowercase(), request["parameters"][&name.to_lowercase()].clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_messages_and_commands() {
        let mut reader = Reader::default();
        let message = |text: &str| Input::Message(text.to_owned());
        assert_eq!(reader.line("  "), Input::Empty);
        assert_eq!(reader.line(" hello there "), message("hello there"));
        assert_eq!(reader.line("/bye"), Input::Command("bye".into(), vec![]));
        assert_eq!(
            reader.line("/set parameter seed 1"),
            Input::Command("set".into(), vec!["parameter".into(), "seed".into(), "1".into()])
        );
        assert_eq!(reader.line("//not a command"), message("//not a command"));
        assert_eq!(reader.line("\"\"\"one line\"\"\""), message("one line"));
        assert_eq!(reader.line("\"\"\"first"), Input::More);
        assert!(reader.is_open());
        assert_eq!(reader.line("  /bye"), Input::More);
        assert_eq!(reader.line("last\"\"\""), message("first\n  /bye\nlast"));
        assert!(!reader.is_open());
    }

    #[test]
    fn options_are_typed() {
        assert_eq!(parameter("Temperature", &["0.5"]).expect("valid").1, json!(0.5));
        assert_eq!(parameter("stop", &["a", "b"]).expect("valid").1, json!(["a", "b"]));
        assert!(parameter("seed", &["x"]).is_err());
    }
}
