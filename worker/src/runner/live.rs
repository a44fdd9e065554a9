//! A request for tokens while it runs, and the times that are told of it.

use super::nanos;
use crate::outbox::Outbox;
use crate::places::Place;
use ollamamax_engine::engine::Finished;
use ollamamax_proto::inference::Done;
use std::time::Instant;

/// What a request brings besides its tokens.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) outbox: Outbox,
    pub(super) submitted: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) _place: Place,
}

/// A sequence from submission to its end.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) call: Call,
    pub(super) admitted: Option<Instant>,
    pub(super) first: Option<Instant>,
    pub(super) last: Instant,
}

impl Live {
    /// What is told at the end.
    pub(super) fn done(&self, finished: Finished, now: Instant) -> Done {
        let first = self.first.unwrap_or(now);
        let admitted = self.admitted.unwrap_or(first);
        Done {
            reason: finished.reason,
            stop: finished.stop,
            prompt_tokens: finished.prompt_tokens,
            output_tokens: finished.output_tokens,
            prompt_ns: nanos(first.saturating_duration_since(admitted)),
            output_ns: nanos(self.last.saturating_duration_since(first)),
            context: finished.context,
        }
    }
}
