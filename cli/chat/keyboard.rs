//! The keyboard between two lines: what is typed while an answer comes is neither shown in its midst nor lost, but waits for the
//! next line, and Ctrl-C is a signal all the time.

use crate::exit::Failure;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::stdin;

/// The terminal set so; dropping it sets it back.
pub struct Keyboard {
    before: Termios,
}

impl Keyboard {
    /// Sets it.
    pub fn take() -> Result<Self, Failure> {
        let before = tcgetattr(stdin()).map_err(broken)?;
        let keyboard = Self { before };
        keyboard.quiet()?;
        Ok(keyboard)
    }

    /// Lets another program have the terminal as it was.
    pub fn lend<T>(&self, program: impl FnOnce() -> T) -> Result<T, Failure> {
        self.set(&self.before)?;
        let done = program();
        self.quiet()?;
        Ok(done)
    }

    fn quiet(&self) -> Result<(), Failure> {
        let mut quiet = self.before.clone();
        quiet.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        self.set(&quiet)
    }

    fn set(&self, modes: &Termios) -> Result<(), Failure> {
        tcsetattr(stdin(), OptionalActions::Drain, modes).map_err(broken)
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = self.set(&self.before);
    }
}

fn broken(error: rustix::io::Errno) -> Failure {
    Failure::Other(format!("cannot set up the terminal: {error}"))
}
