//! The conversation on a terminal: a prompt, several lines between `"""`, commands that start with `/`, and Ctrl-C, which stops
//! the answer and not the program.
//!
//! ```text
//! editor (a line) -> input (message, command) -> session (what it changes) -> server -> answer (how it looks)
//! ```

mod editor;
mod help;
mod input;
mod keyboard;
mod session;

use crate::answer::Printer;
use crate::client::Client;
use crate::exit::Failure;
use crate::generate::{self, Heard, Settings};
use crate::progress::Progress;
use crate::{create, list, out, run, show};
use editor::{Editor, Line};
use input::{Input, Reader};
use serde_json::{Value, json};
use session::{Session, Set};
use tokio::signal::unix::{SignalKind, signal};

/// Talks until the user leaves, or the program is told to. `about` is what `/api/show` says of the model.
pub async fn converse(client: &Client, settings: Settings, about: &Value) -> Result<(), Failure> {
    let terminate = signal(SignalKind::terminate());
    let mut terminate =
        terminate.map_err(|error| Failure::Other(format!("cannot listen to signals: {error}")))?;
    tokio::select! {
        ended = talk(client, settings, about) => ended,
        // The terminal is left as it was.
        _ = terminate.recv() => Ok(()),
    }
}

async fn talk(client: &Client, settings: Settings, about: &Value) -> Result<(), Failure> {
    let session = Session { settings, ..Session::default() };
    let mut talk = Talk { client, session, editor: Editor::new()? };
    talk.begin(about);
    let mut reader = Reader::default();
    loop {
        let line = match talk.editor.read(reader.is_open()).await? {
            Line::Text(line) => line,
            Line::Interrupted => {
                reader.cancel();
                out::line("\nUse Ctrl + d or /bye to exit.");
                continue;
            }
            Line::End => {
                out::line("");
                return Ok(());
            }
        };
        match reader.line(&line) {
            Input::Empty | Input::More => {}
            Input::Message(text) => talk.answer(text).await,
            Input::System(text) => {
                talk.session.system = Some(text);
                out::line("Set system message.");
            }
            Input::Command(name, words) => {
                if !talk.command(&name, &words).await {
                    return Ok(());
                }
            }
        }
    }
}

struct Talk<'a> {
    client: &'a Client,
    session: Session,
    editor: Editor,
}

impl Talk<'_> {
    /// Shows the messages that are part of the model.
    fn begin(&mut self, about: &Value) {
        let seeds = about["messages"].as_array().cloned().unwrap_or_default();
        for seed in &seeds {
            let content = out::printable(&list::text(seed, "content"));
            match seed["role"].as_str() {
                Some("user") => out::line(&format!(">>> {content}")),
                Some("assistant") => {
                    out::text(&Printer::whole(self.session.settings.look, &content));
                }
                _ => {}
            }
        }
        self.session.seeds = seeds;
    }

    /// Sends the conversation and prints the answer. What fails is told, and the talk goes on: the next question may find another
    /// node.
    async fn answer(&mut self, text: String) {
        self.session.ask(text);
        let request = self.session.request();
        let mut heard = Heard::default();
        let settings = &self.session.settings;
        let answering = generate::answer(self.client, "/api/chat", &request, settings, &mut heard);
        let answered = tokio::select! {
            answered = answering => answered,
            // The request ends with its connection; what was heard so far stays part of the talk.
            _ = tokio::signal::ctrl_c() => {
                out::text("\n\n");
                Ok(())
            }
        };
        if answered.is_err() && !heard.text.is_empty() {
            out::text("\n\n");
        }
        self.session.heard(heard.text);
        if let Err(failure) = answered {
            tell(&failure);
        }
    }

    /// Does what a `/command` says; false to leave. What fails is told; Ctrl-C ends the command.
    async fn command(&mut self, name: &str, words: &[String]) -> bool {
        if matches!(name, "bye" | "exit") {
            return false;
        }
        let done = tokio::select! {
            done = self.obey(name, words) => done,
            _ = tokio::signal::ctrl_c() => Err(Failure::Other("interrupted".to_owned())),
        };
        if let Err(failure) = done {
            tell(&failure);
        }
        true
    }

    async fn obey(&mut self, name: &str, words: &[String]) -> Result<(), Failure> {
        match (name, words) {
            ("?" | "help", _) => {
                let topic = words.first().map_or("", String::as_str);
                match help::on(topic) {
                    Some(text) => out::line(text),
                    None => out::line(&format!("There is no help on '{topic}'. Type /? for help")),
                }
            }
            ("clear", _) => {
                self.session.messages.clear();
                out::line("Cleared session context");
            }
            ("set", _) => match self.session.set(words) {
                Set::Said(text) => out::line(&text),
                Set::History(keeps) => self.editor.keep_history(keeps),
            },
            ("show", [part]) => self.show(part).await?,
            ("show", _) => out::line(help::SHOW),
            ("list" | "ls", _) => {
                let args = list::Args::beginning(words.first().cloned());
                list::run(self.client, &args).await?;
            }
            ("load", [model]) => self.load(model).await?,
            ("load", _) => out::line("Usage:\n  /load <modelname>"),
            ("save", [model]) => {
                let request = self.session.save_request(model);
                create::send(self.client, request, &Progress::new()).await?;
                out::line(&format!("Created new model '{model}'"));
            }
            ("save", _) => out::line("Usage:\n  /save <modelname>"),
            _ => out::line(&format!("Unknown command '/{name}'. Type /? for help")),
        }
        Ok(())
    }

    /// Goes on with another model, in a conversation of its own.
    async fn load(&mut self, model: &str) -> Result<(), Failure> {
        let settings = Settings { model: model.to_owned(), ..self.session.settings.clone() };
        out::line(&format!("Loading model '{model}'"));
        let about = match self.client.ask("/api/show", &json!({"model": model})).await {
            Err(Failure::Refused { status: 404, .. }) => {
                out::line(&format!("Couldn't find model '{model}'"));
                return Ok(());
            }
            about => about?,
        };
        run::load(self.client, &settings).await?;
        self.session = Session { settings, ..Session::default() };
        self.begin(&about);
        Ok(())
    }

    async fn show(&self, part: &str) -> Result<(), Failure> {
        let Session { settings, system, .. } = &self.session;
        let request = json!({"model": settings.model});
        let answer = self.client.ask("/api/show", &request).await?;
        let text = |part: &str| list::text(&answer, part);
        let or = |text: String, none: &str| if text.is_empty() { none.to_owned() } else { text };
        match part {
            "info" => out::text(&show::render(&answer, false)),
            "license" => {
                out::line(&or(text("license"), "No license was specified for this model."));
            }
            "modelfile" => out::line(&text("modelfile")),
            "parameters" => out::line(&self.session.parameters(&text("parameters"))),
            "system" => {
                let shown = system.clone().unwrap_or_else(|| text("system"));
                out::line(&or(shown, "No system message was specified for this model."));
            }
            "template" => {
                out::line(&or(
                    text("template"),
                    "No prompt template was specified for this model.",
                ));
            }
            other => out::line(&format!("Unknown command '/show {other}'. Type /? for help")),
        }
        Ok(())
    }
}

fn tell(failure: &Failure) {
    out::line(&format!("Error: {}", out::printable(&failure.to_string())));
}
