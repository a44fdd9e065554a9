//! The keyboard between two lines: what is typed while an answer comes is neither shown in its midst nor lost, but waits for the
//! next line, and Ctrl-C is a signal all the time.

use crate::exit::Failure;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::stdin;

/// Terminals on which lines are edited by the terminal itself, as `rustyline` has them; they stay as they are.
const PLAIN: [&str; 3] = ["dumb", "cons25", "emacs"];

/// The terminal set so; dropping it sets it back.
pub struct Keyboard {
    /// How it was; `None`: it was left alone.
    before: Option<Termios>,
}

impl Keyboard {
    /// Sets it.
    pub fn take() -> Result<Self, Failure> {
        let term = std::env::var("TERM").unwrap_or_default();
        if PLAIN.iter().any(|plain| term.eq_ignore_ascii_case(plain)) {
            return Ok(Self { before: None });
        }
        let keyboard = Self { before: Some(tcgetattr(stdin()).map_err(broken)?) };
        keyboard.quiet()?;
        Ok(keyboard)
    }

    /// Lets another program have the terminal as it was.
    pub fn lend<T>(&self, program: impl FnOnce() -> T) -> Result<T, Failure> {
        self.restore()?;
        let done = program();
        self.quiet()?;
        Ok(done)
    }

    fn quiet(&self) -> Result<(), Failure> {
        let Some(mut quiet) = self.before.clone() else { return Ok(()) };
        quiet.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        tcsetattr(stdin(), OptionalActions::Drain, &quiet).map_err(broken)
    }

    fn restore(&self) -> Result<(), Failure> {
        let Some(before) = &self.before else { return Ok(()) };
        tcsetattr(stdin(), OptionalActions::Drain, before).map_err(broken)
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = self.restore();
    }
}

fn broken(error: rustix::io::Errno) -> Failure {
    Failure::Other(format!("cannot set up the terminal: {error}"))
}
