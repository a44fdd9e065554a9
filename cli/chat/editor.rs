//! The line that is being typed: editing, history, the placeholder of an empty line, and Ctrl-G, which opens an editor.
//!
//! `rustyline` reads on a thread of its own, because a terminal cannot be waited for otherwise; it has the terminal only while
//! a line is read, so that Ctrl-C in the middle of an answer is a signal; between lines the terminal is as [`Keyboard`] sets it.

use super::keyboard::Keyboard;
use crate::exit::Failure;
use crate::known_nodes::user_directory;
use crate::out;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::{Hint, Hinter};
use rustyline::history::FileHistory;
use rustyline::{
    Cmd, ConditionalEventHandler, Config, Context, Event, EventContext, EventHandler, KeyEvent,
    RepeatCount,
};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Lines kept of former conversations.
const HISTORY_LINES: usize = 1_000;
const PROMPT: &str = ">>> ";
const PROMPT_OPEN: &str = "... ";

/// What came of reading a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A line.
    Text(String),
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D, or the terminal is gone.
    End,
}

/// Reads lines.
pub struct Editor {
    /// `None` while a line is read.
    inner: Option<rustyline::Editor<Placeholder, FileHistory>>,
    history: Option<PathBuf>,
    keeps_history: bool,
    edit: Arc<AtomicBool>,
    keyboard: Arc<Keyboard>,
}

impl Editor {
    /// With the history of the user's other conversations, unless `OLLAMA_NOHISTORY` is set.
    pub fn new() -> Result<Self, Failure> {
        let history = user_directory("XDG_CONFIG_HOME", ".config").map(|at| at.join("history"));
        let config = Config::builder()
            .max_history_size(HISTORY_LINES)
            .and_then(|config| config.history_ignore_dups(true))
            .map_err(broken)?
            .build();
        let mut inner = rustyline::Editor::with_config(config).map_err(broken)?;
        inner.set_helper(Some(Placeholder { is_open: false, colour: out::colours() }));
        let edit = Arc::new(AtomicBool::new(false));
        let key = EventHandler::Conditional(Box::new(EditKey(edit.clone())));
        inner.bind_sequence(KeyEvent::ctrl('G'), key);
        let keeps_history = !crate::environment::is_on("OLLAMA_NOHISTORY");
        if let (true, Some(path)) = (keeps_history, &history)
            && path.exists()
            && let Err(error) = inner.load_history(path)
        {
            out::say(&format!("Warning: cannot read `{}`: {error}", path.display()));
        }
        let keyboard = Arc::new(Keyboard::take()?);
        Ok(Self { inner: Some(inner), history, keeps_history, edit, keyboard })
    }

    /// Keeps what is typed from now on, or does not.
    pub fn keep_history(&mut self, keeps: bool) {
        self.keeps_history = keeps;
    }

    /// Reads the next line. `is_open`: it goes on with what was begun.
    pub async fn read(&mut self, is_open: bool) -> Result<Line, Failure> {
        let mut initial = String::new();
        loop {
            let read = self.read_once(is_open, initial).await?;
            if !self.edit.swap(false, Ordering::Relaxed) {
                return Ok(read);
            }
            let Line::Text(text) = read else { return Ok(read) };
            let keyboard = self.keyboard.clone();
            let editing = tokio::task::spawn_blocking(move || keyboard.lend(|| edit(&text)));
            let failed = |error| Failure::Other(format!("the editor failed: {error}"));
            initial = editing.await.map_err(failed)??.unwrap_or_else(|failure| {
                out::line(&format!("error: {failure}"));
                String::new()
            });
        }
    }

    async fn read_once(&mut self, is_open: bool, initial: String) -> Result<Line, Failure> {
        let gone = || Failure::Other("the line editor is gone".to_owned());
        let mut inner = self.inner.take().ok_or_else(gone)?;
        let reading = tokio::task::spawn_blocking(move || {
            if let Some(helper) = inner.helper_mut() {
                helper.is_open = is_open;
            }
            let prompt = if is_open { PROMPT_OPEN } else { PROMPT };
            let read = inner.readline_with_initial(prompt, (&initial, ""));
            (inner, read)
        });
        let (inner, read) = reading.await.map_err(|_| gone())?;
        self.inner = Some(inner);
        match read {
            Ok(text) => {
                self.remember(&text);
                Ok(Line::Text(text))
            }
            Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(error) => Err(broken(error)),
        }
    }

    /// Appends to the history at once: a conversation may end by a closed window.
    fn remember(&mut self, text: &str) {
        let (true, Some(path), Some(inner)) = (self.keeps_history, &self.history, &mut self.inner)
        else {
            return;
        };
        if text.trim().is_empty() || self.edit.load(Ordering::Relaxed) {
            return;
        }
        let directory = path.parent().unwrap_or(Path::new("."));
        let kept = std::fs::create_dir_all(directory)
            .map_err(ReadlineError::from)
            .and_then(|()| inner.add_history_entry(text))
            .and_then(|_| inner.append_history(path));
        if let Err(error) = kept {
            out::say(&format!("Warning: cannot write `{}`: {error}", path.display()));
            self.keeps_history = false;
        }
    }
}

fn broken(error: ReadlineError) -> Failure {
    Failure::Other(format!("cannot read from the terminal: {error}"))
}

/// Has the user's editor change a text.
fn edit(text: &str) -> Result<String, Failure> {
    let set = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let editor = ["OLLAMA_EDITOR", "VISUAL", "EDITOR"].into_iter().find_map(set);
    let editor = editor.unwrap_or_else(|| "vi".to_owned());
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let directory = tempfile::tempdir().map_err(Failure::file("create", std::env::temp_dir()))?;
    let path = directory.path().join("prompt.txt");
    std::fs::write(&path, text).map_err(Failure::file("write", &path))?;
    let status = Command::new(program).args(words).arg(&path).status().map_err(|error| {
        let hint = "set OLLAMA_EDITOR to the editor you prefer";
        Failure::Other(format!("cannot start the editor `{program}`: {error}; {hint}"))
    })?;
    if !status.success() {
        return Err(Failure::Other(format!("the editor `{program}` ended with {status}")));
    }
    let edited = std::fs::read_to_string(&path).map_err(Failure::file("read", &path))?;
    Ok(edited.trim_end_matches('\n').to_owned())
}

/// Ends the line and says that it shall be edited elsewhere.
struct EditKey(Arc<AtomicBool>);

impl ConditionalEventHandler for EditKey {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, _: &EventContext<'_>) -> Option<Cmd> {
        self.0.store(true, Ordering::Relaxed);
        Some(Cmd::AcceptLine)
    }
}

/// What stands in grey where nothing is typed yet.
struct Placeholder {
    is_open: bool,
    colour: bool,
}

struct Grey(&'static str);

impl Hint for Grey {
    fn display(&self) -> &str {
        self.0
    }

    fn completion(&self) -> Option<&str> {
        None
    }
}

impl Hinter for Placeholder {
    type Hint = Grey;

    fn hint(&self, line: &str, _: usize, _: &Context<'_>) -> Option<Grey> {
        let text =
            if self.is_open { "Press Enter to send" } else { "Send a message (/? for help)" };
        (line.is_empty() && self.colour).then_some(Grey(text))
    }
}

impl Highlighter for Placeholder {
    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(format!("\x1b[38;5;245m{hint}\x1b[0m"))
    }
}

impl rustyline::completion::Completer for Placeholder {
    type Candidate = String;
}
impl rustyline::validate::Validator for Placeholder {}
impl rustyline::Helper for Placeholder {}
