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

    /// The same, once the first is there: what fails before can still have a status.
    pub(crate) async fn begun(
        mut events: mpsc::Receiver<Result<Event, Failure>>,
    ) -> Result<Self, Failure> {
        match events.recv().await {
            Some(Ok(first)) => Ok(Self { first: Some(first), events }),
            Some(Err(failure)) => Err(failure),
            None => Err(Failure::Internal("the generation ended without a result".to_owned())),
        }
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
