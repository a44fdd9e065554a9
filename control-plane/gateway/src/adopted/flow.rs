//! An answer that has begun, on its way from an adopted server: its bytes as they come, until it ends, breaks, falls silent, or
//! is ended. Dropping it ends the request at the server.

use super::place::cause;
use super::server::{InFlight, Server};
use super::tally::Tally;
use crate::Gateway;
use crate::dispatch::lateness;
use crate::error::Failure;
use crate::history::Running;
use crate::quotas::Charge;
use crate::request::Deadline;
use crate::telemetry;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use ollamamax_proto::{Millis, limits};
use std::sync::Arc;
use tokio::time::{Duration, Instant};

/// What a server sends.
pub(super) type Pieces = BoxStream<'static, Result<Bytes, reqwest::Error>>;

/// What is asked of whom, and what is remembered of it.
pub(super) struct Trip {
    pub gateway: Arc<Gateway>,
    pub running: Running,
    pub charge: Charge,
    pub deadline: Option<Deadline>,
    pub model: String,
    pub started: Instant,
    pub _in_flight: telemetry::InFlight,
}

/// An answer on its way.
pub(super) struct Flow {
    pub trip: Trip,
    pub tally: Tally,
    server: Arc<Server>,
    _work: InFlight,
    first: Option<Bytes>,
    rest: Pieces,
    bytes: u64,
    /// Since when it waits for what comes next; a client that reads slowly is no silence of the server.
    waits_since: Option<Instant>,
    begun: bool,
    over: bool,
}

impl Flow {
    pub fn new(
        trip: Trip,
        tally: Tally,
        (server, work): (Arc<Server>, InFlight),
        (first, rest): (Bytes, Pieces),
    ) -> Self {
        Self {
            trip,
            tally,
            server,
            _work: work,
            first: Some(first),
            rest,
            bytes: 0,
            waits_since: None,
            begun: false,
            over: false,
        }
    }

    /// What comes next; `None` when it is over.
    pub async fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        if self.over {
            return None;
        }
        let next = match self.first.take() {
            Some(first) => Some(Ok(first)),
            None => match self.rest.next().now_or_never() {
                Some(ready) => ready,
                None => match self.wait().await {
                    Ok(next) => next,
                    Err(failure) => return Some(Err(self.broken(failure))),
                },
            },
        };
        match next {
            Some(Ok(bytes)) => {
                self.bytes += bytes.len() as u64;
                self.waits_since = None;
                if self.bytes > limits::ADOPTED_ANSWER_BYTES as u64 {
                    let limit = limits::ADOPTED_ANSWER_BYTES;
                    return Some(Err(
                        self.breaks(&format!("its answer has more than {limit} bytes"))
                    ));
                }
                if !std::mem::replace(&mut self.begun, true) {
                    self.trip.running.first_text();
                    let waited = self.trip.started.elapsed();
                    telemetry::first_token(&self.trip.model, waited);
                    self.server.meter.first_token(waited, waited, 1);
                }
                Some(Ok(bytes))
            }
            Some(Err(error)) => Some(Err(self.breaks(&cause(&error)))),
            None => None,
        }
    }

    /// The next piece, or why there is none to wait for.
    async fn wait(&mut self) -> Result<Option<Result<Bytes, reqwest::Error>>, Failure> {
        /// How long a server that is down may take to show that it is not.
        const GRACE: Duration = Duration::from_secs(1);
        let since = *self.waits_since.get_or_insert_with(Instant::now);
        let told = self.trip.running.entry();
        let silence = self.trip.gateway.adopted.pace.silence;
        let server = Arc::clone(&self.server);
        let lost = async {
            server.gone().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            next = self.rest.next() => Ok(next),
            failure = told.ended() => {
                self.trip.running.ended();
                Err(failure)
            }
            failure = lateness(self.trip.deadline) => Err(failure),
            () = tokio::time::sleep_until(since + silence) => {
                let ms = silence.as_millis();
                Err(named(&self.server, &format!("it was silent for {ms} ms")))
            }
            () = lost => Err(named(&self.server, &self.server.seen().reason)),
        }
    }

    fn named(&self, why: &str) -> Failure {
        named(&self.server, why)
    }

    /// Gives it up for what the server sent.
    pub fn breaks(&mut self, why: &str) -> Failure {
        let failure = self.named(why);
        self.broken(failure)
    }

    /// Notes that it broke, and why.
    pub fn broken(&mut self, failure: Failure) -> Failure {
        self.over = true;
        self.pays();
        // What a client or an administrator ended says nothing of the server.
        if matches!(failure, Failure::Unavailable { .. }) && !self.trip.running.is_over() {
            self.server.tried(false, Millis::now());
            telemetry::attempt("broken");
            let server = &self.server.record.name;
            tracing::warn!(server, error = failure.to_string(), "an answer broke off");
        }
        self.trip.running.failed(&failure);
        failure
    }

    /// Notes that it is over, well or not: an answer that ends without saying so is broken.
    pub fn ends(&mut self) -> Result<(), Failure> {
        if !self.tally.finished {
            return Err(self.breaks("its answer ended early"));
        }
        self.over = true;
        self.pays();
        self.server.tried(true, Millis::now());
        telemetry::attempt("done");
        let (prompt, output) = self.tokens();
        telemetry::tokens(&self.trip.model, prompt, output);
        self.trip.running.done(self.tally.reason.as_deref().unwrap_or("stop"));
        Ok(())
    }

    /// Charges what has come so far.
    pub fn pays(&mut self) {
        let (prompt, output) = self.tokens();
        let prompt = if self.tally.prompt_tokens.is_some() {
            u64::from(prompt)
        } else {
            self.trip.charge.prompt()
        };
        self.trip.charge.reaches(prompt, output.into());
        let cached = count(self.tally.cached_tokens);
        self.trip.running.note(|record| {
            record.prompt_tokens = u32::try_from(prompt).unwrap_or(u32::MAX);
            (record.output_tokens, record.cached_tokens) = (output, cached);
        });
    }

    fn tokens(&self) -> (u32, u32) {
        (count(self.tally.prompt_tokens.unwrap_or(0)), count(self.tally.output_tokens))
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        if !self.over {
            // The client went: what it got is paid for.
            self.pays();
            telemetry::attempt("cancelled");
        }
    }
}

fn count(tokens: u64) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

/// What failed at which server.
pub(super) fn named(server: &Server, why: &str) -> Failure {
    Failure::unavailable(format!("adopted server `{}` failed: {why}", server.record.name))
}
