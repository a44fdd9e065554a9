//! A generation as whoever answers the client sees it: events, one after the other or all at once.

use super::{Event, Piece, Summary};
use crate::error::Failure;
use tokio::sync::mpsc;

/// A running generation. Dropping it cancels it.
pub struct Generation {
    pub(super) first: Option<Event>,
    pub(super) events: mpsc::Receiver<Result<Event, Failure>>,
}

impl Generation {
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

    /// Everything at once.
    pub async fn whole(mut self) -> Result<(Piece, Summary), Failure> {
        let mut whole = Piece::default();
        while let Some(event) = self.next().await {
            match event? {
                Event::Text(more) => {
                    whole.text.push_str(&more.text);
                    whole.logprobs.extend(more.logprobs);
                }
                Event::Done(summary) => return Ok((whole, *summary)),
            }
        }
        Err(Failure::Internal("the generation ended without a result".to_owned()))
    }
}
