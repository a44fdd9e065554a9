//! `--watch`: an answer asked for again and again, shown whenever it has changed, until Ctrl-C.
//!
//! On a terminal each answer takes the place of the one before; elsewhere they follow each other, with an empty line
//! between. The first question may fail like any other; later ones say so and are asked again, so that a watcher outlives
//! the node it talks to.

use crate::exit::Failure;
use crate::out;
use ollamamax_proto::limits;
use serde_json::Value;
use std::io::IsTerminal;
use std::time::Duration;

/// Clears the screen and goes to its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// What `--json` shows instead of `render`.
pub fn or_json(json: bool, render: impl Fn(&Value) -> String) -> impl Fn(&Value) -> String {
    move |answer| if json { format!("{answer:#}\n") } else { render(answer) }
}

/// Shows the answer of `ask` as `render` has it, once or until Ctrl-C.
pub async fn show(
    watch: bool,
    ask: impl AsyncFn() -> Result<Value, Failure>,
    render: impl Fn(&Value) -> String,
) -> Result<(), Failure> {
    let first = render(&ask().await?);
    if !watch {
        out::text(&first);
        return Ok(());
    }
    let mut screen = Screen { terminal: std::io::stdout().is_terminal(), last: None };
    screen.show(first);
    let again = async {
        loop {
            tokio::time::sleep(Duration::from_millis(limits::WATCH_PERIOD_MS)).await;
            screen.show(match ask().await {
                Ok(answer) => render(&answer),
                Err(failure) => format!("{failure}\n"),
            });
        }
    };
    tokio::select! {
        never = again => never,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// What was shown last, and where.
struct Screen {
    terminal: bool,
    last: Option<String>,
}

impl Screen {
    fn show(&mut self, text: String) {
        if let Some(shown) = self.next(text) {
            out::text(&shown);
        }
    }

    /// What to write so that `text` is shown; `None`: it is shown already.
    fn next(&mut self, text: String) -> Option<String> {
        if self.last.as_deref() == Some(&text) {
            return None;
        }
        let shown = match (self.terminal, &self.last) {
            (true, _) => format!("{CLEAR}{text}"),
            (false, None) => text.clone(),
            (false, Some(_)) => format!("\n{text}"),
        };
        self.last = Some(text);
        Some(shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(terminal: bool) -> Vec<Option<String>> {
        let mut screen = Screen { terminal, last: None };
        ["a\n", "a\n", "b\n"].map(|text| screen.next(text.to_owned())).to_vec()
    }

    #[test]
    fn what_has_not_changed_is_not_shown_again() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(shown(false), [text("a\n"), None, text("\nb\n")]);
        assert_eq!(shown(true), [text("\x1b[2J\x1b[Ha\n"), None, text("\x1b[2J\x1b[Hb\n")]);
    }
}
