//! The way of texts to embed: like that of a generation, but with nothing to go on from. What a worker breaks off, another does
//! again.
//!
//! A request with many inputs goes in parts, one after the other: so it takes turns with others at the workers, and no message
//! grows with it.

use super::attempt::End;
use super::tries::{self, Tries};
use super::waiting::{Patience, within};
use super::{lateness, nanos};
use crate::Gateway;
use crate::demand::Want;
use crate::error::Failure;
use crate::history::{Running, ms};
use crate::request::Asker;
use crate::telemetry;
use crate::workers::route::Ask;
use crate::workers::seat::Seat;
use ollamamax_core::record::ModelRecord;
use ollamamax_core::route::{Policy, Shape};
use ollamamax_proto::inference::{EmbedInput, EmbedRequest, Embedding};
use ollamamax_proto::{Millis, limits, wire};
use prost::Message;
use std::sync::Arc;
use tokio::time::Instant;

/// What is to be embedded.
#[derive(Clone, Debug)]
pub struct EmbedJob {
    /// For logs, here and at the worker.
    pub request_id: String,
    /// Who asks, and until when.
    pub asker: Asker,
    /// The model as resolved.
    pub model: ModelRecord,
    /// The inputs.
    pub inputs: Vec<EmbedInput>,
    /// Cut an input that does not fit the context, instead of refusing it.
    pub truncate: bool,
    /// What the request asks about its model.
    pub want: Want,
}

/// The vectors of all inputs, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vectors {
    /// One per input.
    pub embeddings: Vec<Embedding>,
    /// From the request to a worker that has the model, in nanoseconds.
    pub load_ns: u64,
    /// From the request to the end, in nanoseconds.
    pub total_ns: u64,
}

impl Vectors {
    /// Tokens of all inputs.
    pub fn tokens(&self) -> u64 {
        self.embeddings.iter().map(|embedding| u64::from(embedding.tokens)).sum()
    }
}

impl Gateway {
    /// Embeds inputs; without any, the model is only loaded. Dropping the future cancels it.
    pub(crate) async fn embed(self: &Arc<Self>, job: EmbedJob) -> Result<Vectors, Failure> {
        let running = self.remember(&job.asker, &job.model);
        let entry = running.entry();
        let vectors = tokio::select! {
            vectors = self.embed_all(&job, &running) => vectors,
            failure = lateness(job.asker.deadline) => Err(failure),
            failure = entry.ended() => Err(failure),
        };
        match &vectors {
            Ok(_) => running.done("stop"),
            Err(failure) => running.failed(failure),
        }
        vectors
    }

    async fn embed_all(
        self: &Arc<Self>,
        job: &EmbedJob,
        running: &Running,
    ) -> Result<Vectors, Failure> {
        let (started, limit) = (Instant::now(), limits::EMBED_INPUTS_COUNT);
        if job.inputs.len() > limit {
            let count = job.inputs.len();
            let reason = format!(
                "`input` has {count} entries, expected at most {limit}; send fewer at once"
            );
            return Err(Failure::Invalid(reason));
        }
        let mut charge = self.let_in(&job.asker, &job.model.name, 0)?;
        let mut entry = self.enter(&job.model.name, &job.asker, job.want)?;
        let _in_flight = telemetry::InFlight::new();
        let mut model = job.model.clone();
        if let Err(failure) = self.ensure_loaded(&job.asker, &model, job.want).await {
            model = self.other_version(&model, false).ok_or(failure)?;
            self.ensure_loaded(&job.asker, &model, job.want).await?;
        }
        let loaded = ms(started.elapsed());
        running.note(|record| record.load_ms = Some(loaded));
        let mut vectors = Vectors { load_ns: nanos(started.elapsed()), ..Vectors::default() };
        for part in parts(&job.inputs) {
            charge.sent(vectors.tokens() + u64::from(estimate(part)));
            let found = match self.embed_part(job, &model, part, running).await {
                // All vectors of a request are of one version.
                Err(failure) if vectors.embeddings.is_empty() => {
                    model = self.other_version(&model, true).ok_or(failure)?;
                    self.embed_part(job, &model, part, running).await
                }
                found => found,
            };
            vectors.embeddings.extend(found.iter().flatten().cloned());
            charge.reaches(vectors.tokens(), 0);
            found?;
            entry.started();
            self.touch(&job.model.name);
        }
        let tokens = u32::try_from(vectors.tokens()).unwrap_or(u32::MAX);
        telemetry::tokens(&job.model.name.to_string(), tokens, 0);
        running.note(|record| record.prompt_tokens = tokens);
        vectors.total_ns = nanos(started.elapsed());
        Ok(vectors)
    }

    async fn embed_part(
        &self,
        job: &EmbedJob,
        model: &ModelRecord,
        inputs: &[EmbedInput],
        running: &Running,
    ) -> Result<Vec<Embedding>, Failure> {
        let shape = Shape { prompt_tokens: estimate(inputs), ..Shape::default() };
        // Texts leave nothing behind that the next ones could use.
        let policy = match self.policy_of(&job.model.name) {
            Policy::Prefix => Policy::LeastTokens,
            policy => policy,
        };
        let ask = Ask { policy, shape, prefix: Arc::default() };
        let mut tries = Tries::new();
        let mut last: Option<Failure> = None;
        loop {
            let next = tries.next(self, model, &ask, false).await;
            let Some((seat, _work)) = next else {
                return Err(last.unwrap_or_else(tries::nobody));
            };
            let attempt = tries.begin();
            match self.try_embed(job, inputs, &seat, attempt).await {
                Ok(embeddings) => {
                    running.goes_on_at(&seat, policy, 0);
                    telemetry::attempt(End::Done.name());
                    seat.record(true, Millis::now());
                    self.note_attempt(&seat.candidate.placement.assignment, true);
                    return Ok(embeddings);
                }
                Err(end) => last = Some(tries.failed(self, &seat, end)?),
            }
        }
    }

    async fn try_embed(
        &self,
        job: &EmbedJob,
        inputs: &[EmbedInput],
        seat: &Seat,
        attempt: u32,
    ) -> Result<Vec<Embedding>, End> {
        let worker = &seat.candidate.worker;
        let (client, address) = (self.workers.client(worker), &worker.address);
        let mut client = client.map_err(|error| End::Broken(format!("`{address}`: {error}")))?;
        let assignment = &seat.candidate.placement.assignment;
        let request = wire::EmbedRequest::from(&EmbedRequest {
            request_id: job.request_id.clone(),
            attempt,
            blob: assignment.blob,
            assignment: assignment.id,
            generation: assignment.generation,
            inputs: inputs.to_vec(),
            truncate: job.truncate,
            caller: job.asker.caller.clone(),
            time_left: job.asker.deadline.map(|deadline| deadline.at - Instant::now()),
        });
        if request.encoded_len() > limits::RPC_MESSAGE_BYTES {
            let limit = limits::RPC_MESSAGE_BYTES as u64;
            return Err(End::Refused(Failure::TooLarge { limit }));
        }
        let patience = Patience::plain(self.config.load_timeout);
        let reply = within(self, seat, patience, client.embed(request)).await??.into_inner();
        let (count, expected) = (reply.embeddings.len(), inputs.len());
        if count != expected {
            return Err(End::Broken(format!("it sent {count} vectors, expected {expected}")));
        }
        let embeddings = reply.embeddings.into_iter().map(Embedding::try_from);
        embeddings.collect::<Result<_, _>>().map_err(|error| End::Broken(error.to_string()))
    }
}

/// How many tokens inputs are thought to have.
fn estimate(inputs: &[EmbedInput]) -> u32 {
    let tokens: usize = inputs.iter().map(|input| bytes(input) / 4 + 1).sum();
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

fn bytes(input: &EmbedInput) -> usize {
    match input {
        EmbedInput::Text(text) => text.len(),
        EmbedInput::Tokens(tokens) => size_of_val(&**tokens),
    }
}

/// The inputs in parts: each as many as a worker takes, or fewer where they are long.
fn parts(mut inputs: &[EmbedInput]) -> impl Iterator<Item = &[EmbedInput]> {
    std::iter::from_fn(move || {
        let mut size = 0;
        let fits = |input: &&EmbedInput| {
            let first = size == 0;
            size += bytes(input).max(1);
            first || size <= limits::EMBED_PART_BYTES
        };
        let count = inputs.iter().take(limits::EMBED_PART_COUNT).take_while(fits).count();
        let part;
        (part, inputs) = inputs.split_at(count);
        (!part.is_empty()).then_some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_bounded_and_lose_nothing() {
        let text = |len: usize| EmbedInput::Text("x".repeat(len));
        let long = limits::EMBED_PART_BYTES;
        let lens = |inputs: &[EmbedInput]| parts(inputs).map(<[_]>::len).collect::<Vec<_>>();
        assert_eq!(lens(&[]), Vec::<usize>::new());
        assert_eq!(lens(&vec![text(3); 2 * limits::EMBED_PART_COUNT + 1]), [64, 64, 1]);
        assert_eq!(lens(&vec![text(0); 65]), [64, 1]);
        assert_eq!(lens(&[text(3 * long), text(long - 1), text(1), text(1)]), [1, 2, 1]);
        let tokens = EmbedInput::Tokens(vec![7; long / 4]);
        assert_eq!(lens(&[tokens.clone(), tokens, text(0)]), [1, 1, 1]);
    }
}
