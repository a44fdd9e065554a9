//! A generation as whoever reads it sees it: events, one after the other.

use super::Event;
use crate::error::Failure;
use tokio::sync::mpsc;

/// A running generation. Dropping it cancels it.
pub struct Generation {
    pub(super) first: Option<Event>,
    pub(super) events: mpsc::Receiver<Result<Event, Failure>>,
}

impl Generation {
    /// Of events that a test sends.
    #[cfg(test)]
    pub(crate) fn of(events: mpsc::Receiver<Result<Event, Failure>>) -> Self {
        Self { first: None, events }
    }

    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Event, Failure>> {
        match self.first.take() {
            Some(event) => Some(Ok(event)),
            None => self.events.recv().await,
        }
    }

    /// The next event, if it is there already.
    pub fn try_next(&mut self) -> Option<Result<Event, Failure>> {
        self.first.take().map(Ok).or_else(|| self.events.try_recv().ok())
    }
}
