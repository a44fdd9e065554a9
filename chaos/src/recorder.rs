//! Where everybody writes down what was seen, by one clock.

use crate::history::History;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The history of a run that is under way.
pub struct Recorder {
    begun: Instant,
    history: Mutex<History>,
}

impl Recorder {
    /// Begins now.
    pub fn new() -> Self {
        Self { begun: Instant::now(), history: Mutex::default() }
    }

    /// Microseconds since the begin.
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Writes something down, or looks at what is written.
    pub fn note<T>(&self, write: impl FnOnce(&mut History) -> T) -> T {
        write(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What there is so far.
    pub fn history(&self) -> History {
        self.note(|history| history.clone())
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

/// Microseconds as a duration.
pub fn us(us: u64) -> Duration {
    Duration::from_micros(us)
}
