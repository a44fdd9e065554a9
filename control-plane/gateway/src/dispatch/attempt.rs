//! One try at one worker.

use super::tries::within;
use super::{Event, Piece, Run, Summary, nanos};
use crate::error::Failure;
use crate::workers::{Candidate, Outstanding};
use ollamamax_proto::inference::{Done, GenerateRequest, TokenChunk};
use ollamamax_proto::{limits, wire};
use prost::Message;
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

/// One try at one worker, for one request.
pub(super) struct Attempt<'a> {
    pub(super) run: &'a mut Run,
    pub(super) candidate: &'a Candidate,
    pub(super) work: Outstanding,
    pub(super) attempt: u32,
}

/// How a try ended.
#[derive(Debug)]
pub(super) enum End {
    /// The generation is complete.
    Done,
    /// Nobody listens any more.
    ClientGone,
    /// The worker will not do it, and no other would.
    Refused(Failure),
    /// The worker has no room.
    Busy(String),
    /// The worker does not hold the assignment any more, or not yet.
    Stale(String),
    /// The worker failed.
    Broken(String),
}

impl End {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::ClientGone => "cancelled",
            Self::Refused(_) => "refused",
            Self::Busy(_) => "busy",
            Self::Stale(_) => "stale",
            Self::Broken(_) => "broken",
        }
    }
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        let text = status.message().to_owned();
        match status.code() {
            Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => {
                Self::Refused(Failure::Invalid(text))
            }
            Code::DeadlineExceeded => Self::Refused(Failure::Late(text)),
            Code::ResourceExhausted => Self::Busy(text),
            Code::FailedPrecondition | Code::NotFound | Code::Aborted => Self::Stale(text),
            // A torn connection comes as any of the others.
            code => Self::Broken(format!("{code:?}: {text}")),
        }
    }
}

impl Attempt<'_> {
    pub(super) async fn go(mut self) -> End {
        match self.call().await {
            Ok(stream) => self.forward(stream).await,
            Err(end) => end,
        }
    }

    async fn call(&mut self) -> Result<Streaming<wire::TokenChunk>, End> {
        let address = &self.candidate.worker.address;
        let client = self.run.gateway.workers.client(address);
        let mut client = client.map_err(|error| End::Broken(format!("`{address}`: {error}")))?;
        let request = wire::GenerateRequest::from(&self.request());
        if request.encoded_len() > limits::RPC_MESSAGE_BYTES {
            // No worker takes a message that long, and no context a prompt.
            let limit = limits::RPC_MESSAGE_BYTES as u64;
            return Err(End::Refused(Failure::TooLarge { limit }));
        }
        let gateway = &self.run.gateway;
        let patience = gateway.config.load_timeout;
        let call = client.generate(request);
        Ok(within(gateway, self.candidate, patience, call).await??.into_inner())
    }

    fn request(&self) -> GenerateRequest {
        let job = &self.run.job;
        let assignment = &self.candidate.placement.assignment;
        let mut options = job.options.clone();
        // A wish for more than was placed is met as far as the place goes.
        options.context_tokens =
            options.context_tokens.map(|tokens| tokens.min(assignment.context_length));
        if let Some(mirostat) = &mut options.sampling.mirostat {
            mirostat.mu = self.run.mu;
        }
        GenerateRequest {
            request_id: job.request_id.clone(),
            attempt: self.attempt,
            model: job.model.name.clone(),
            blob: assignment.blob,
            assignment: assignment.id,
            generation: assignment.generation,
            prompt: job.prompt.clone(),
            options,
            resume: self.run.tokens.clone(),
            caller: job.asker.caller.clone(),
            time_left: job.asker.deadline.map(|deadline| deadline.at - Instant::now()),
        }
    }

    async fn forward(&mut self, mut stream: Streaming<wire::TokenChunk>) -> End {
        let config = &self.run.gateway.config;
        let (stall, first_token) = (config.stall, config.load_timeout);
        // The prompt, and what is resumed, may take long; between two tokens silence is a bad sign.
        let mut patience = first_token;
        loop {
            let message = stream.message();
            let chunk = match within(&self.run.gateway, self.candidate, patience, message).await {
                Err(end) => return end,
                Ok(Err(status)) => return status.into(),
                Ok(Ok(None)) => return End::Broken("the stream ended early".to_owned()),
                Ok(Ok(Some(chunk))) => chunk,
            };
            let chunk = match TokenChunk::try_from(chunk) {
                Ok(chunk) => chunk,
                Err(error) => return End::Broken(error.to_string()),
            };
            if !chunk.tokens.is_empty() {
                patience = stall;
            }
            if let Err(end) = self.take(chunk).await {
                return end;
            }
        }
    }

    /// Keeps the tokens, passes the text on. Chunks that were seen already are dropped.
    async fn take(&mut self, chunk: TokenChunk) -> Result<(), End> {
        let known = self.run.tokens.len();
        let first = chunk.index as usize;
        let seen = !chunk.tokens.is_empty() && first + chunk.tokens.len() <= known;
        if !chunk.tokens.is_empty() && !seen {
            if first != known {
                return Err(End::Broken(format!("it sent token {first}, expected {known}")));
            }
            self.work.progress(chunk.tokens.len() as u64);
            self.run.tokens.extend_from_slice(&chunk.tokens);
        }
        if !seen {
            self.run.mu = chunk.mu.or(self.run.mu);
            self.run.untold.extend(chunk.logprobs);
        }
        if !seen && !chunk.text.is_empty() {
            let logprobs = std::mem::take(&mut self.run.untold);
            let piece = Piece { text: chunk.text, logprobs };
            if !self.run.send(Event::Text(piece)).await {
                return Err(End::ClientGone);
            }
        }
        match chunk.done {
            None => Ok(()),
            Some(done) => Err(self.finish(done).await),
        }
    }

    async fn finish(&mut self, done: Done) -> End {
        let run = &mut *self.run;
        let model = run.job.model.name.to_string();
        crate::telemetry::tokens(&model, done.prompt_tokens, done.output_tokens);
        let (mut prompt_ns, mut output_ns) = (done.prompt_ns, done.output_ns);
        if let (true, Some(first)) = (run.resumes > 0, run.first_text) {
            // The last worker only knows its own part.
            prompt_ns = nanos(first - run.started).saturating_sub(run.load_ns);
            output_ns = nanos(first.elapsed());
        }
        let summary = Summary {
            reason: done.reason,
            prompt_tokens: done.prompt_tokens,
            output_tokens: done.output_tokens,
            load_ns: run.load_ns,
            prompt_ns,
            output_ns,
            total_ns: nanos(run.started.elapsed()),
            context: done.context,
            resumes: run.resumes,
        };
        if run.send(Event::Done(Box::new(summary))).await { End::Done } else { End::ClientGone }
    }
}
