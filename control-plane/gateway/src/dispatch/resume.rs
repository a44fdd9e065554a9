//! What a generation goes on from: at another worker its tokens so far, at another gateway these and their text.

use super::{Event, Piece, Run, prefix};
use crate::workers::seat::Seat;
use ollamamax_proto::inference::{GenerateRequest, Prefix};
use ollamamax_proto::{AssignmentId, Generation, mutant, wire};
use std::sync::Arc;
use tokio::time::Instant;

/// A generation that has begun at another gateway.
#[derive(Clone, Debug)]
pub struct Resumed {
    /// Tokens generated there.
    pub tokens: Vec<u32>,
    /// Mirostat's state after them.
    pub mu: Option<f64>,
    /// All that they released.
    pub text: String,
}

impl Run {
    /// Takes up what was generated elsewhere, and begins to keep what comes. False when the client has gone.
    pub(super) async fn take_up(&mut self) -> bool {
        let resumed = self.job.resumed.take();
        let text = resumed.as_ref().map(|resumed| resumed.text.clone()).unwrap_or_default();
        if let Some(Resumed { tokens, mu, .. }) = resumed {
            (self.tokens, self.mu) = (tokens, mu);
        }
        if let Some(kept) = &self.job.kept {
            let request = wire::GenerateRequest::from(&self.bare_request());
            self.recording = Some(self.gateway.keep(kept, request, text.clone()));
        }
        text.is_empty()
            || self
                .send(Event::Text(Piece { text, logprobs: vec![], tokens: self.tokens.len() }))
                .await
    }

    /// Goes over to another version of the model, where nothing of this one was shown. False when there is none.
    pub(super) fn switch(&mut self, ready: bool) -> bool {
        if !self.tokens.is_empty() || self.job.resumed.is_some() {
            return false;
        }
        let Some(other) = self.gateway.other_version(&self.job.model, ready) else { return false };
        tracing::info!(model = %other.name, version = %other.version.digest, "going to the other version");
        self.job.model = other;
        self.ask.prefix = Arc::new(prefix::of(&self.job.model, self.salt, &self.job.prompt));
        self.ask.shape.prefix_hash = self.ask.prefix.home();
        if let Some(recording) = &self.recording {
            recording.switched(wire::GenerateRequest::from(&self.bare_request()));
        }
        true
    }

    /// Whether its version has no worker, and another one has.
    pub(super) fn is_stranded(&self) -> bool {
        let state = self.gateway.control.state();
        self.tokens.is_empty()
            && self.gateway.workers.route(&state, &self.job.model).seats().is_empty()
    }

    /// What any worker would be asked.
    fn bare_request(&self) -> GenerateRequest {
        let job = &self.job;
        let mut options = job.options.clone();
        if let Some(mirostat) = &mut options.sampling.mirostat {
            mirostat.mu = self.mu;
        }
        GenerateRequest {
            request_id: job.request_id.clone(),
            attempt: 0,
            model: job.model.name.clone(),
            blob: job.model.version.blob,
            assignment: AssignmentId(0),
            generation: Generation(0),
            prompt: job.prompt.clone(),
            options,
            resume: self.tokens.clone(),
            caller: job.asker.caller.clone(),
            time_left: None,
            prefix: Prefix::default(),
            salt: self.salt,
        }
    }

    /// What a worker is asked.
    pub(super) fn request(&self, seat: &Seat, attempt: u32) -> GenerateRequest {
        let job = &self.job;
        let assignment = &seat.candidate.placement.assignment;
        let bare = self.bare_request();
        let mut options = bare.options;
        // A wish for more than was placed is met as far as the place goes.
        if !self.tokens.is_empty() && mutant::planted("changed-seed") {
            options.sampling.seed ^= 1;
        }
        options.context_tokens =
            options.context_tokens.map(|tokens| tokens.min(assignment.context_length));
        GenerateRequest {
            attempt,
            blob: assignment.blob,
            assignment: assignment.id,
            generation: assignment.generation,
            options,
            caller: job.asker.caller.clone(),
            time_left: job.asker.deadline.map(|deadline| deadline.at - Instant::now()),
            prefix: Prefix::clone(&self.ask.prefix),
            ..bare
        }
    }
}
