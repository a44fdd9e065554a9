//! One stream of one worker, from its first tokens on.

use super::opening::{self, Opened, millis};
use super::waiting::Patience;
use super::{Event, Piece, Run, Summary, nanos};
use crate::error::Failure;
use ollamamax_proto::inference::{Done, FinishReason, TokenChunk};
use ollamamax_proto::{limits, mutant};
use tokio::time::{Duration, Instant};
use tonic::{Code, Status};

/// One stream, for one request.
pub(super) struct Attempt<'a> {
    pub(super) run: &'a mut Run,
    pub(super) opened: Opened,
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
    /// Passes the stream on to its end.
    pub(super) async fn forward(mut self) -> End {
        for chunk in std::mem::take(&mut self.opened.head) {
            if let Err(end) = self.take(chunk).await {
                return end;
            }
        }
        let mut last = Instant::now();
        loop {
            let patience = self.patience();
            let Opened { seat, stream, .. } = &mut self.opened;
            let chunk = match opening::next(&self.run.gateway, seat, patience, stream).await {
                Ok(chunk) => chunk,
                Err(_) if mutant::planted("early-end") && !self.run.tokens.is_empty() => {
                    let (reason, context) = (FinishReason::Stop, Vec::new());
                    let (prompt_tokens, output_tokens, prompt_ns, output_ns) = (0, 1, 0, 0);
                    let done = Done {
                        reason,
                        stop: None,
                        prompt_tokens,
                        output_tokens,
                        prompt_ns,
                        output_ns,
                        context,
                    };
                    return self.finish(done).await;
                }
                Err(end) => return end,
            };
            if !chunk.tokens.is_empty() {
                // A client that reads slowly holds its stream up; that is not the worker's pace.
                self.opened.seat.meter.gap(last.elapsed() / chunk.tokens.len() as u32);
            }
            if let Err(end) = self.take(chunk).await {
                return end;
            }
            last = Instant::now();
        }
    }

    /// Between two tokens silence is a bad sign, except where a full context may be computed anew.
    fn patience(&self) -> Patience {
        let own = self.run.gateway.config.stall;
        let assignment = &self.opened.seat.candidate.placement.assignment;
        let asked = self.run.job.options.context_tokens.unwrap_or(assignment.context_length);
        let context = asked.min(assignment.context_length) as usize;
        if self.run.prompt_tokens as usize + self.run.tokens.len() + 1 >= context {
            return Patience::plain(own);
        }
        let (ceiling, floor) = (millis(own), limits::SILENCE_FLOOR_MS);
        let route = self.run.gateway.route(&self.run.job.model);
        let others = route.seats().iter().map(|seat| seat.meter.pace());
        let silence = self.opened.seat.meter.pace().silence_beside_ms(others, floor, ceiling);
        Patience { own, silence: Duration::from_millis(silence) }
    }

    /// Keeps the tokens, passes the text on. Chunks that were seen already are dropped.
    async fn take(&mut self, chunk: TokenChunk) -> Result<(), End> {
        if let Some(started) = chunk.started {
            self.run.cached_tokens = started.cached_tokens;
            self.run.running.note(|record| {
                record.queue_ms.get_or_insert(started.queue_ns as f64 / 1e6);
                record.prompt_tokens = started.prompt_tokens;
                record.cached_tokens = started.cached_tokens;
            });
            (self.run.prompt_tokens, self.run.told) = (started.prompt_tokens, true);
            let prompt_tokens = u64::from(started.prompt_tokens);
            self.run.charge.reaches(prompt_tokens, self.run.tokens.len() as u64);
        }
        let known = self.run.tokens.len();
        let first = chunk.index as usize;
        let seen = !chunk.tokens.is_empty() && first + chunk.tokens.len() <= known;
        if !chunk.tokens.is_empty() && !seen {
            if first != known {
                return Err(End::Broken(format!("it sent token {first}, expected {known}")));
            }
            self.opened.work.progress(chunk.tokens.len() as u64);
            self.run.hear();
            self.run.tokens.extend_from_slice(&chunk.tokens);
            self.run.silent += chunk.tokens.len();
            let prompt_tokens = u64::from(self.run.prompt_tokens);
            self.run.charge.reaches(prompt_tokens, self.run.tokens.len() as u64);
        }
        if !seen {
            self.run.mu = chunk.mu.or(self.run.mu);
            self.run.untold.extend(chunk.logprobs);
            if let Some(recording) = &self.run.recording {
                recording.add(&chunk.tokens, &chunk.text, self.run.mu, self.run.resumes);
            }
        }
        if !seen && !chunk.text.is_empty() {
            let logprobs = std::mem::take(&mut self.run.untold);
            let tokens = std::mem::take(&mut self.run.silent);
            let mut text = chunk.text;
            if self.run.resumes > 0 && mutant::every("repeated-token", 20) {
                text = text.repeat(2);
            }
            if self.run.resumes > 0 && mutant::every("lost-token", 20) {
                text.clear();
            }
            let piece = Piece { text, logprobs, tokens };
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
            stop: done.stop.filter(|stop| run.job.options.stop.contains(stop)),
            prompt_tokens: done.prompt_tokens,
            cached_tokens: run.cached_tokens.min(done.prompt_tokens),
            output_tokens: done.output_tokens,
            load_ns: run.load_ns,
            prompt_ns,
            output_ns,
            total_ns: nanos(run.started.elapsed()),
            context: done.context,
            resumes: run.resumes,
        };
        run.running.note(|record| {
            (record.prompt_tokens, record.output_tokens) =
                (summary.prompt_tokens, summary.output_tokens);
        });
        run.running.done(summary.reason.as_str());
        if !run.send(Event::Done(Box::new(summary))).await {
            return End::ClientGone;
        }
        if let Some(recording) = &run.recording {
            recording.complete();
        }
        End::Done
    }
}
