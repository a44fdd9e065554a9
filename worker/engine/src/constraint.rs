//! What an output may be: any JSON object, what a JSON schema describes, or the texts of a grammar.
//!
//! ```text
//! prepare:  format -> schema (what is too much is refused) -> grammars (compiled by `llguidance`) -> Constraint
//! sample:   Constraint::allowed -> Allowed -> sampler: whatever else is out of the question
//! accept:   Constraint::take(token) -> is anything left to say?
//! ```
//!
//! Where a model thinks first, the format holds only behind its thinking (see `thinking`).
//!
//! A constraint is a state that depends on the tokens taken and on nothing else, so replaying them gives it back: on
//! another worker, and between the tokens of a guess. End-of-generation tokens are allowed exactly where the text may
//! end, and never taken. How a text is cut into tokens is left to the model: all that spell it are allowed.

use crate::tokenizer::Tokenizer;
use llguidance::Matcher;
use llguidance::api::StopReason;
use llguidance::toktrie::SimpleVob;
use ollamamax_proto::inference::Tags;
use std::fmt;
use std::sync::Arc;

mod grammars;
mod schema;
mod thinking;

pub use grammars::{ConstraintError, Grammars};
use thinking::{Place, Thinking};

/// A generation that cannot go on: no token may follow, or finding out takes too much work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the output cannot go on as its format wants it after {tokens} tokens: {reason}; a simpler format may do"
)]
pub struct Stuck {
    /// Tokens taken until then.
    pub tokens: usize,
    /// What went wrong.
    pub reason: String,
}

const NOTHING: &str = "no token may follow";

/// Where the output of one sequence stands in what it may be.
pub struct Constraint {
    matcher: Box<Matcher>,
    /// Tokens that end a generation.
    ends: Arc<[u32]>,
    taken: Vec<u32>,
    failed: Option<String>,
    /// What may come before the format holds.
    thinking: Option<Thinking>,
}

impl Constraint {
    fn new(matcher: Matcher, ends: Arc<[u32]>) -> Self {
        let (matcher, taken) = (Box::new(matcher), Vec::new());
        Self { matcher, ends, taken, failed: None, thinking: None }
    }

    /// The same where the model may think first: it does when the prompt has `opened` its thinking, or when its output begins
    /// with the opening tag.
    pub(crate) fn behind(self, tags: &Tags, opened: bool, tokenizer: &Tokenizer) -> Self {
        let thinking = Thinking::new(tags, opened, tokenizer, &self.matcher);
        Self { thinking, ..self }
    }

    /// The tokens that may come next: at least one.
    pub fn allowed(&mut self) -> Result<Allowed, Stuck> {
        if let Some(reason) = &self.failed {
            return Err(self.stuck(reason));
        }
        let Some(thinking) = self.thinking.take() else {
            return match self.format_mask() {
                Ok(mask) if mask.is_zero() => Err(self.stuck(NOTHING)),
                mask => mask.map(Allowed),
            };
        };
        let format = thinking.format_may_hold().then(|| self.format_mask()).transpose();
        let (mut mask, stuck) = match format {
            Ok(mask) => (mask.unwrap_or_else(|| thinking.nothing()), self.stuck(NOTHING)),
            Err(stuck) => (thinking.nothing(), stuck),
        };
        thinking.allow(&mut mask, &self.ends);
        self.thinking = Some(thinking);
        if mask.is_zero() { Err(stuck) } else { Ok(Allowed(mask)) }
    }

    /// What the format allows.
    fn format_mask(&mut self) -> Result<SimpleVob, Stuck> {
        let mut mask = self.matcher.compute_mask().map_err(|error| self.stuck(error))?;
        // A grammar may name these tokens in its midst; here they end the generation wherever they come.
        if !self.matcher.is_accepting().map_err(|error| self.stuck(error))? {
            self.ends.iter().for_each(|&end| mask.disallow_token(end));
        }
        Ok(mask)
    }

    /// Notes a token of the output, which is none that ends it. True when nothing may follow any more. What was not
    /// allowed is told by the next [`Constraint::allowed`].
    pub fn take(&mut self, token: u32) -> bool {
        self.taken.push(token);
        let Some(mut thinking) = self.thinking.take() else { return self.take_for_format(token) };
        let place = match thinking.place {
            Place::Within(matched) => Some(thinking.within(matched, token)),
            Place::Beginning(at, holds) => match thinking.opens(at, token) {
                Some(at) if thinking.is_open(at) => {
                    if let Some(fresh) = thinking.take_fresh() {
                        self.matcher = fresh;
                    }
                    Some(Place::Within(0))
                }
                Some(at) => Some(Place::Beginning(at, holds && self.tries(token))),
                None => None,
            },
            Place::Behind(at) => match thinking.gap(at, token) {
                Some(at) if !self.tries(token) => Some(Place::Behind(at)),
                Some(_) => return self.is_over(),
                None => None,
            },
        };
        let Some(place) = place else { return self.take_for_format(token) };
        thinking.place = place;
        let over = matches!(place, Place::Beginning(_, true)) && self.is_over();
        self.thinking = Some(thinking);
        over
    }

    /// Lets the format take a token, if it can.
    fn tries(&mut self, token: u32) -> bool {
        matches!(self.matcher.try_consume_tokens(&[token]), Ok(1))
    }

    fn take_for_format(&mut self, token: u32) -> bool {
        if let Err(error) = self.matcher.consume_token(token) {
            self.failed.get_or_insert_with(|| grammars::first_line(&error));
        }
        self.is_over()
    }

    /// Whether nothing may follow any more.
    fn is_over(&self) -> bool {
        self.matcher.stop_reason() == StopReason::NoExtension
    }

    fn stuck(&self, reason: impl fmt::Display) -> Stuck {
        let mut reason = grammars::first_line(&reason);
        if reason == StopReason::NoExtensionBias.to_string() {
            reason = NOTHING.to_owned();
        }
        Stuck { tokens: self.taken.len(), reason }
    }
}

impl Clone for Constraint {
    /// Shares nothing that changes.
    fn clone(&self) -> Self {
        Self {
            matcher: Box::new(self.matcher.deep_clone()),
            ends: Arc::clone(&self.ends),
            taken: self.taken.clone(),
            failed: self.failed.clone(),
            thinking: self.thinking.clone(),
        }
    }
}

/// Equal when the same tokens were taken: what it was compiled from stands in the options beside it.
impl PartialEq for Constraint {
    fn eq(&self, other: &Self) -> bool {
        self.taken == other.taken
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").field("taken", &self.taken.len()).finish_non_exhaustive()
    }
}

/// The tokens that may come next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed(SimpleVob);

impl Allowed {
    /// Whether a token is among them.
    pub fn contains(&self, token: u32) -> bool {
        self.0.as_slice().get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
    }

    /// Makes all other tokens impossible, and these ones possible however little the model thinks of them.
    pub fn restrict(&self, logits: &mut [f32]) {
        let words = self.0.as_slice().iter().copied().chain(std::iter::repeat(0));
        for (logits, word) in logits.chunks_mut(32).zip(words) {
            if word == 0 {
                logits.fill(f32::NEG_INFINITY);
                continue;
            }
            for (bit, logit) in logits.iter_mut().enumerate() {
                let allowed = word >> bit & 1 == 1;
                *logit = if allowed { logit.max(f32::MIN) } else { f32::NEG_INFINITY };
            }
        }
    }
}

#[cfg(test)]
mod tests;
