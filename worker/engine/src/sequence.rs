//! One running request: its tokens, how far they are computed, and what of its text is already out.
//!
//! A sequence does not know whether it is a prompt, a decode, a recomputation after preemption, or
//! a stream resumed from another worker: all of these are "tokens from `computed` on are not in the
//! KV cache yet", and when the last one is, the next is sampled.

use crate::constraint::{Constraint, Stuck};
use crate::detok::Detokenizer;
use crate::kv::BlockTable;
use crate::marks::Marks;
use crate::output::Output;
use crate::sampler::{self, Past, mirostat};
use crate::speculation::Speculation;
use crate::stop::StopFilter;
use crate::text::{Prepared, TextModel};
use crate::{coin, logprobs};
use ollamamax_proto::inference::{FinishReason, Options, Predict, TokenLogprob};
use ollamamax_proto::prefix::Salt;

/// Names a sequence for as long as its engine lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u64);

/// The state of one sequence.
#[derive(Debug)]
pub struct Sequence {
    /// Its name.
    pub id: SequenceId,
    /// Prompt, then everything generated.
    pub tokens: Vec<u32>,
    /// What of these the model sees: all, until the context was full and shifted.
    pub context: Vec<u32>,
    /// How many of `tokens` are the prompt.
    pub prompt_tokens: usize,
    /// How many of `context` have their keys and values in `table`.
    pub computed: usize,
    /// How many after these are on their way.
    pub in_flight: usize,
    /// Counts the times it began to compute its context anew: what was on its way before is not for it any more.
    pub run: u32,
    /// Where they are.
    pub table: BlockTable,
    /// What the blocks of its prompt stand for; those not noted yet.
    pub marks: Marks,
    /// Whether its start was reported.
    pub started: bool,
    /// Tokens that are guessed to come next, computed beside the last one in the step that is planned.
    pub guess: Vec<u32>,
    speculation: Speculation,
    caller: String,
    salt: Salt,
    options: Options,
    /// Whether the context has shifted since [`Sequence::take_shifted`].
    shifted: bool,
    /// Most tokens the context may come to.
    context_tokens: usize,
    /// What may follow `tokens`, where the output has a format.
    constraint: Option<Constraint>,
    /// Mirostat's state after `tokens`; 0 without it.
    mu: f64,
    /// Most tokens, prompt included, it may come to.
    limit: usize,
    /// What of its tokens is text, and what comes before the first.
    output: Output,
    detok: Detokenizer,
    stop: StopFilter,
    finished: Option<FinishReason>,
    /// The stop text that ended it.
    stopped_by: Option<String>,
}

impl Sequence {
    /// A sequence at the end of its prompt. `context_tokens` bounds prompt and output.
    pub fn new(id: SequenceId, prepared: Prepared, context_tokens: u32) -> Self {
        let context = prepared.context_tokens.min(context_tokens);
        let prompt_tokens = prepared.tokens.len();
        let output = output_limit(&prepared.options, context);
        let limit = prompt_tokens.saturating_add(output);
        let shifts = prepared.options.shift && prepared.options.predict != Predict::FillContext;
        let mut sequence = Self {
            id,
            prompt_tokens,
            computed: 0,
            in_flight: 0,
            run: 0,
            table: BlockTable::default(),
            marks: prepared.marks,
            started: false,
            guess: Vec::new(),
            speculation: Speculation::default(),
            limit: if shifts { limit } else { limit.min(context as usize) },
            context_tokens: context as usize,
            shifted: false,
            caller: prepared.caller,
            salt: prepared.salt,
            context: prepared.tokens.clone(),
            output: prepared.output,
            detok: Detokenizer::default(),
            stop: StopFilter::new(&prepared.options.stop),
            mu: prepared.options.sampling.mirostat.as_ref().map_or(0.0, mirostat::start),
            finished: None,
            stopped_by: None,
            constraint: prepared.constraint,
            tokens: prepared.tokens,
            options: prepared.options,
        };
        sequence.end_when_full();
        sequence
    }

    /// Tokens generated so far, resumed ones included.
    pub fn output_tokens(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    /// Tokens neither in the KV cache nor on their way there.
    pub fn remaining(&self) -> usize {
        self.context.len() - self.computed - self.in_flight
    }

    /// Notes that its next `count` tokens, guesses included, are on their way. The position of the first.
    pub fn depart(&mut self, count: usize) -> usize {
        let start = self.computed + self.in_flight;
        self.in_flight += count.min(self.remaining());
        start
    }

    /// Notes that `count` tokens from `start` are computed, apart from those that were guessed. Whether the next token is to
    /// be sampled.
    pub fn arrive(&mut self, start: usize, count: usize) -> bool {
        let known = count.min(self.context.len().saturating_sub(start));
        self.in_flight = self.in_flight.saturating_sub(known);
        self.computed += known;
        self.computed == self.context.len()
    }

    /// Guesses what comes next, at most `room` tokens, and fewer than it may still generate.
    pub fn speculate(&mut self, room: usize) {
        let left = self.limit.saturating_sub(self.tokens.len() + 1);
        let held = self.context_tokens.saturating_sub(self.context.len() + 1);
        self.guess = self.speculation.guess(&self.tokens, room.min(left).min(held));
    }

    /// Notes how many tokens of the guess were right, and forgets it.
    pub fn guessed(&mut self, right: usize) {
        if !std::mem::take(&mut self.guess).is_empty() {
            self.speculation.learn(right);
        }
    }

    /// Who sent it.
    pub fn caller(&self) -> &str {
        &self.caller
    }

    /// With whom it shares what is cached.
    pub fn salt(&self) -> Salt {
        self.salt
    }

    /// Whether the context has shifted since the last time this was asked: keys and values are then those of other positions.
    pub fn take_shifted(&mut self) -> bool {
        std::mem::take(&mut self.shifted)
    }

    /// Why it ended, once it has.
    pub fn finished(&self) -> Option<FinishReason> {
        self.finished
    }

    /// The stop text that ended it, if one did; told once.
    pub fn take_stop(&mut self) -> Option<String> {
        self.stopped_by.take()
    }

    /// The token after the last one; it is to be accepted next. The coin belongs to the token's position, so it is the same
    /// wherever and whenever the token is sampled. The log-probabilities come when they were asked for, and not for a token
    /// that ends the sequence and shows nothing. An error ends the sequence, and is the request's own fault.
    pub fn sample(
        &mut self,
        logits: &mut [f32],
        text: &TextModel,
    ) -> Result<(u32, Option<TokenLogprob>), Stuck> {
        let allowed = self.constraint.as_mut().map(Constraint::allowed).transpose()?;
        let sampling = &self.options.sampling;
        let coin = coin::coin(sampling.seed, self.tokens.len() as u64);
        // Sampling changes the logits; what the model thought is told as it was.
        let asked = self.options.logprobs.map(|top| (top, logits.to_vec()));
        let past = Past { tokens: &self.tokens, mu: self.mu, allowed: allowed.as_ref() };
        let choice = sampler::sample(logits, sampling, past, coin);
        self.mu = choice.mu;
        let told = asked
            .filter(|_| !self.ends_with(choice.token, text))
            .map(|(top, row)| logprobs::of(&row, choice.token, top, text.tokenizer()));
        Ok((choice.token, told))
    }

    /// Mirostat's state, to go on from elsewhere; only where it is used.
    pub fn mu(&self) -> Option<f64> {
        self.options.sampling.mirostat.map(|_| self.mu)
    }

    /// A format has the last word on where the output ends: beside one, `ignore_end` means nothing.
    fn ends_with(&self, token: u32, text: &TextModel) -> bool {
        let ignored = self.options.ignore_end && self.constraint.is_none();
        text.tokenizer().is_end(token) && !ignored
    }

    /// Appends a token that was generated, here or elsewhere, and returns the text it releases: with the first one, what the
    /// text begins with.
    pub fn accept(&mut self, token: u32, text: &TextModel) -> String {
        let opening = std::mem::take(&mut self.output.opening);
        opening + &self.append(token, text)
    }

    fn append(&mut self, token: u32, text: &TextModel) -> String {
        self.tokens.push(token);
        self.context.push(token);
        if self.ends_with(token, text) {
            return self.end(FinishReason::Stop);
        }
        let piece = self.detok.push(self.output.bytes(text.tokenizer(), token));
        let released = self.stop.push(&piece);
        if released.stop.is_some() {
            (self.finished, self.stopped_by) = (Some(FinishReason::Stop), released.stop);
            return released.text;
        }
        if self.constraint.as_mut().is_some_and(|constraint| constraint.take(token)) {
            return released.text + &self.end(FinishReason::Stop);
        }
        released.text + &self.end_when_full()
    }

    fn end_when_full(&mut self) -> String {
        if self.tokens.len() >= self.limit {
            return self.end(FinishReason::Length);
        }
        if self.context.len() >= self.context_tokens {
            self.shift();
        }
        String::new()
    }

    /// Drops the older half of a full context, without its first tokens, as Ollama does. When and what depends on the tokens
    /// alone, so a resumed stream shifts where the first one would have.
    fn shift(&mut self) {
        let full = self.context.len();
        let keep = (self.options.keep_tokens as usize).min(full.saturating_sub(2));
        let dropped = ((full - keep) / 2).max(1);
        self.context.drain(keep..(keep + dropped).min(full));
        self.shifted = true;
    }

    /// Ends it, and releases what was held back: it did not become a character or a stop. A stop
    /// completed by the unfinished character's U+FFFD still counts.
    fn end(&mut self, reason: FinishReason) -> String {
        let rest = self.detok.finish();
        let released = self.stop.push(&rest);
        let stopped = released.stop.is_some();
        self.finished = Some(if stopped { FinishReason::Stop } else { reason });
        self.stopped_by = released.stop;
        released.text + &self.stop.finish()
    }
}

/// How many tokens may be generated at most; the context bounds it further.
fn output_limit(options: &Options, context_tokens: u32) -> usize {
    match options.predict {
        Predict::UntilDone => (context_tokens as usize).saturating_mul(10),
        Predict::FillContext => context_tokens as usize,
        Predict::AtMost(count) => count as usize,
    }
}
