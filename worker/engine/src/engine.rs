//! The engine of one loaded model: requests in, emissions out, one forward pass per
//! [`Engine::step`].
//!
//! ```text
//! TextModel::prepare (any thread) -> submit -> batch.plan -> Backend::step -> sample -> Emission
//! ```
//!
//! The engine reads no clock and starts no thread: its owner calls [`Engine::step`] while
//! [`Engine::is_idle`] is false, and measures. What a sequence generates depends on its own tokens
//! and options only, not on what runs beside it.

mod steps;
mod texts;

use self::steps::Flight;
use crate::backend::{Backend, BackendError};
use crate::batch::{Batch, BatchLimits, StepPlan};
pub use crate::embed::Embedded;
use crate::embed::Embedder;
use crate::kv::{BlockPool, Usage};
use crate::sequence::Sequence;
pub use crate::sequence::SequenceId;
pub use crate::text::{PrepareError, Prepared, TextModel, TextModelError};
use ollamamax_proto::inference::{FinishReason, TokenLogprob};
use std::collections::VecDeque;
use std::sync::Arc;

/// What bounds an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineLimits {
    /// Tokens a sequence may hold, prompt and output.
    pub context_tokens: u32,
    /// Sequences that run at once.
    pub sequences_max: u32,
    /// Tokens one step may process.
    pub step_tokens: usize,
    /// Sequences that may wait for a place.
    pub waiting_max: usize,
    /// Sequences that may run while any of them guesses ahead; 0 for never.
    pub speculating_max: usize,
}

/// Why a prepared request is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The queue is full.
    #[error("`{waiting}` requests wait already, the limit is {limit}; try again later")]
    Full {
        /// Requests that wait.
        waiting: usize,
        /// How many may.
        limit: usize,
    },
    /// The prompt leaves no room for an output token.
    #[error("the prompt has {tokens} tokens, the context of this worker holds {context_tokens}")]
    TooLong {
        /// Of the prompt.
        tokens: usize,
        /// Tokens the context holds.
        context_tokens: u32,
    },
    /// Nothing to continue.
    #[error("the prompt is empty: there is nothing to continue")]
    Empty,
    /// A token the model does not have.
    #[error("token `{token}` is outside the vocabulary of {vocabulary}")]
    Token {
        /// The id.
        token: u32,
        /// The vocabulary's size.
        vocabulary: u32,
    },
    /// The model embeds texts and cannot continue them.
    #[error("the model is an encoder: it embeds texts and does not generate")]
    Encoder,
}

/// What is known when a sequence is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of these, found in the prefix cache.
    pub cached_tokens: u32,
}

/// How a sequence ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Why.
    pub reason: FinishReason,
    /// The stop text that ended it, if one did.
    pub stop: Option<String>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens generated, resumed ones included.
    pub output_tokens: u32,
    /// Prompt and output tokens, to continue from.
    pub context: Vec<u32>,
}

/// What a step brought for one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Emission {
    /// Which.
    pub sequence: SequenceId,
    /// Index of the first of `tokens`, counted from the start of the generation; resumed tokens
    /// count.
    pub index: u32,
    /// New tokens, the one that ends the generation included. Never resumed ones.
    pub tokens: Vec<u32>,
    /// Text these tokens released. It may lag behind them by a partial character or a possible
    /// stop; after a resume that part comes from here although its tokens came from elsewhere, and
    /// text they released there does not come again.
    pub text: String,
    /// One for each of `tokens` that belongs to the output, when they were asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Mirostat's state after `tokens`; only with Mirostat. A resume brings it in its options.
    pub mu: Option<f64>,
    /// Once, when the sequence is admitted.
    pub started: Option<Admitted>,
    /// Once, in the last emission.
    pub finished: Option<Finished>,
    /// In its place, why the sequence cannot go on: the request's own fault, in words for its client.
    pub failed: Option<String>,
}

impl Emission {
    fn of(sequence: &Sequence) -> Self {
        Self {
            sequence: sequence.id,
            index: sequence.output_tokens() as u32,
            tokens: Vec::new(),
            text: String::new(),
            logprobs: Vec::new(),
            mu: None,
            started: None,
            finished: None,
            failed: None,
        }
    }
}

/// Runs the sequences of one model on one backend.
#[derive(Debug)]
pub struct Engine {
    backend: Box<dyn Backend>,
    text: Arc<TextModel>,
    limits: EngineLimits,
    batch: Batch,
    embedder: Embedder,
    /// What [`Engine::admit`] decided and [`Engine::step`] has not started yet.
    planned: Option<StepPlan>,
    /// Steps that are started and not finished, the oldest first.
    flights: VecDeque<Flight>,
    /// Emissions of sequences that were complete when they were submitted.
    complete: Vec<Emission>,
    next_id: u64,
    failed: Option<BackendError>,
}

impl Engine {
    /// An engine without sequences. The context is cut to what the backend's blocks hold, so that a
    /// single sequence always fits.
    pub fn new(backend: Box<dyn Backend>, text: Arc<TextModel>, limits: EngineLimits) -> Self {
        let (count, tokens) = (backend.blocks_count(), backend.block_tokens());
        let context_tokens = limits.context_tokens.min(count.saturating_mul(tokens));
        let batch_limits = BatchLimits {
            sequences_max: limits.sequences_max as usize,
            step_tokens: limits.step_tokens,
            speculating_max: limits.speculating_max,
        };
        Self {
            batch: Batch::new(batch_limits, BlockPool::new(count, tokens)),
            embedder: Embedder::new(backend.pooling(), backend.is_encoder()),
            limits: EngineLimits { context_tokens, ..limits },
            backend,
            text,
            planned: None,
            flights: VecDeque::new(),
            complete: Vec::new(),
            next_id: 0,
            failed: None,
        }
    }

    /// Takes a request. `resume` are tokens already generated elsewhere: they are replayed into the
    /// sequence's state and never emitted again, and the generation goes on as it would have gone
    /// on there.
    pub fn submit(&mut self, prepared: Prepared, resume: &[u32]) -> Result<SequenceId, Refusal> {
        if self.backend.is_encoder() {
            return Err(Refusal::Encoder);
        }
        self.refuse_when_full()?;
        if prepared.tokens.is_empty() {
            return Err(Refusal::Empty);
        }
        let context_tokens = self.limits.context_tokens.min(prepared.context_tokens);
        if prepared.tokens.len() >= context_tokens as usize {
            return Err(Refusal::TooLong { tokens: prepared.tokens.len(), context_tokens });
        }
        let vocabulary = self.backend.vocabulary();
        if let Some(&token) = prepared.tokens.iter().chain(resume).find(|&&t| t >= vocabulary) {
            return Err(Refusal::Token { token, vocabulary });
        }
        let id = self.next_id();
        let mut sequence = Sequence::new(id, prepared, context_tokens);
        for &token in resume {
            if sequence.finished().is_some() {
                break;
            }
            // Whoever sent these tokens has the text they released.
            let _released = sequence.accept(token, &self.text);
        }
        if sequence.finished().is_some() {
            let prompt_tokens = sequence.prompt_tokens as u32;
            let mut emission = Emission::of(&sequence);
            emission.started = Some(Admitted { prompt_tokens, cached_tokens: 0 });
            emission.finished = finished(sequence);
            self.complete.push(emission);
        } else {
            // Nothing is computed yet that a shift could have displaced.
            sequence.take_shifted();
            self.batch.push(sequence);
        }
        Ok(id)
    }

    fn refuse_when_full(&self) -> Result<(), Refusal> {
        let waiting = self.waiting() + self.embedder.len();
        let limit = self.limits.waiting_max;
        if waiting >= limit { Err(Refusal::Full { waiting, limit }) } else { Ok(()) }
    }

    fn next_id(&mut self) -> SequenceId {
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        id
    }

    /// Forgets a sequence or texts to embed, wherever they are; they give nothing more. False when they have ended already.
    pub fn cancel(&mut self, id: SequenceId) -> bool {
        let complete = self.complete.len();
        self.complete.retain(|emission| emission.sequence != id);
        self.batch.remove(id).is_some()
            || self.complete.len() < complete
            || self.embedder.cancel(id, self.batch.pool_mut())
    }

    /// Decides what the next step computes, and tells who is admitted to it. [`Engine::step`] does
    /// this by itself; calling it before lets the owner note the time at which a sequence's waiting
    /// ended and its prompt began.
    pub fn admit(&mut self) -> Vec<Emission> {
        let mut emissions = std::mem::take(&mut self.complete);
        if self.planned.is_some() {
            return emissions;
        }
        // Beside sequences, texts to embed get half a step: those wait for every token.
        let budget = match self.batch.running() + self.batch.waiting() {
            0 => self.limits.step_tokens,
            _ => self.limits.step_tokens / 2,
        };
        // One step at a time carries texts to embed.
        if self.flights.is_empty() {
            self.embedder.reserve(budget.max(1), self.batch.pool_mut());
        }
        let plan = self.batch.plan(self.backend.steps_in_flight());
        for admission in &plan.admitted {
            let Some(sequence) = self.batch.get_mut(admission.sequence) else { continue };
            let mut emission = Emission::of(sequence);
            emission.started = Some(Admitted {
                prompt_tokens: sequence.prompt_tokens as u32,
                cached_tokens: admission.cached_tokens as u32,
            });
            emissions.push(emission);
        }
        self.planned = Some(plan);
        emissions
    }

    /// One forward pass: at most one emission per sequence. After an error the engine is of no use
    /// any more and repeats it; its sequences can be resumed elsewhere.
    pub fn step(&mut self) -> Result<Vec<Emission>, BackendError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut emissions = Vec::new();
        let computed = self.start(&mut emissions).and_then(|()| match self.flights.pop_front() {
            Some(flight) => self.finish(flight, &mut emissions),
            None => Ok(()),
        });
        computed.inspect_err(|error| self.failed = Some(error.clone()))?;
        Ok(emissions)
    }

    /// Whether there is nothing to do: no sequence waits, runs, or has an emission left, and no text is to be embedded.
    pub fn is_idle(&self) -> bool {
        self.waiting() == 0
            && self.running() == 0
            && self.complete.is_empty()
            && self.embedder.is_idle()
    }

    /// Sequences that run.
    pub fn running(&self) -> usize {
        self.batch.running()
    }

    /// Sequences that wait for a place, new or preempted.
    pub fn waiting(&self) -> usize {
        self.batch.waiting()
    }

    /// KV blocks by state.
    pub fn kv_usage(&self) -> Usage {
        self.batch.usage()
    }

    /// The limits, with the context as it was cut to the backend.
    pub fn limits(&self) -> EngineLimits {
        self.limits
    }

    /// The model's texts, to prepare requests with on another thread.
    pub fn text(&self) -> &Arc<TextModel> {
        &self.text
    }

    /// Bytes the backend holds.
    pub fn resident_bytes(&self) -> u64 {
        self.backend.resident_bytes()
    }
}

fn finished(mut sequence: Sequence) -> Option<Finished> {
    Some(Finished {
        reason: sequence.finished()?,
        stop: sequence.take_stop(),
        prompt_tokens: sequence.prompt_tokens as u32,
        output_tokens: sequence.output_tokens() as u32,
        context: sequence.tokens,
    })
}
