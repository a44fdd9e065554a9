//! One token from the logits: biases and penalties change them, cuts leave out the unlikely, temperature flattens what is
//! left, and the coin picks. The order is that of llama.cpp's default chain.
//!
//! ```text
//! logits -> bias -> penalties -> format -> top-k -> tail-free -> typical -> top-p -> min-p -> temperature -> coin
//!                                  |
//!                                  +-----> Mirostat: temperature, one cut by surprise, coin, and its state for the next token
//! ```
//!
//! Everything is a function of its arguments. Candidates are sorted by logit, then by id, and sums
//! run in that order in f64, so equal logits give equal tokens on every machine. A NaN counts as
//! impossible.

use crate::constraint::Allowed;
use crate::penalties::penalise;
use cuts::{keep_min_p, keep_tail_free, keep_top_p, keep_typical};
use ollamamax_proto::inference::Sampling;
use std::collections::BTreeMap;

mod cuts;
pub mod mirostat;

/// A token that may still be chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub id: u32,
    pub logit: f32,
}

/// A token, and Mirostat's state after it: what it was before where Mirostat is off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The token.
    pub token: u32,
    /// The state, in bits.
    pub mu: f64,
}

/// What came before: all there is beside the logits that a choice depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Past<'a> {
    /// The tokens, oldest first.
    pub tokens: &'a [u32],
    /// Mirostat's state after them, in bits; [`mirostat::start`] before the first.
    pub mu: f64,
    /// The tokens that may follow them; `None` for any.
    pub allowed: Option<&'a Allowed>,
}

/// Chooses a token. `logits` is one row of vocabulary size and is changed by biases and penalties; `coin` is in `[0, 1)`.
pub fn sample(logits: &mut [f32], params: &Sampling, past: Past<'_>, coin: f64) -> Choice {
    favour(logits, &params.logit_bias);
    penalise(logits, params, past.tokens);
    for logit in logits.iter_mut() {
        *logit = possible(*logit);
    }
    // After biases and penalties, which could make all that is allowed impossible; before the cuts, which must not use up
    // their room for what is not.
    if let Some(allowed) = past.allowed {
        allowed.restrict(logits);
    }
    let mu = past.mu;
    // A temperature that is not a number gets the safe reading, too.
    if params.temperature.is_nan() || params.temperature <= 0.0 {
        return Choice { token: argmax(logits), mu };
    }
    if let Some(params_of) = &params.mirostat {
        return mirostat::sample(logits, params_of, params.temperature, mu, coin);
    }
    let mut candidates = most_likely(logits, params.top_k);
    keep_tail_free(&mut candidates, params.tfs_z);
    keep_typical(&mut candidates, params.typical_p);
    keep_top_p(&mut candidates, params.top_p);
    keep_min_p(&mut candidates, params.min_p);
    // Where no token is possible at all, 0 is what `argmax` answers, too.
    let token = pick(&candidates, params.temperature, coin).map_or(0, |(id, _)| id);
    Choice { token, mu }
}

/// The logit as it counts: what is not a number is impossible, what is infinite is merely large.
pub(crate) fn possible(logit: f32) -> f32 {
    if logit.is_nan() { f32::NEG_INFINITY } else { logit.min(f32::MAX) }
}

fn favour(logits: &mut [f32], bias: &BTreeMap<u32, f32>) {
    for (&token, bias) in bias {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit += bias;
        }
    }
}

/// Logits looked at together: their maximum often spares looking at each.
const RUN: usize = 64;

/// The id of the largest logit; of equal ones the lowest.
pub fn argmax(logits: &[f32]) -> u32 {
    let most = maximum(logits);
    // Where nothing is a number there is no such logit.
    logits.iter().position(|logit| *logit == most).unwrap_or(0) as u32
}

/// The largest value, in lanes; what is not a number counts as impossible.
pub(crate) fn maximum(logits: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = logits.as_chunks::<16>();
    for chunk in chunks {
        for (most, logit) in lanes.iter_mut().zip(chunk) {
            *most = if *logit > *most { *logit } else { *most };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |most, &l| if l > most { l } else { most })
}

/// The `top_k` largest (all for 0), in falling order, ties by id.
pub(crate) fn most_likely(logits: &[f32], top_k: u32) -> Vec<Candidate> {
    let order = |a: &Candidate, b: &Candidate| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id));
    let keep = top_k as usize;
    let floor = floor_of(logits, keep);
    let mut candidates: Vec<Candidate> = logits
        .iter()
        .enumerate()
        .filter(|(_, logit)| **logit >= floor && **logit > f32::NEG_INFINITY)
        .map(|(id, &logit)| Candidate { id: id as u32, logit })
        .collect();
    if keep > 0 && keep < candidates.len() {
        candidates.select_nth_unstable_by(keep - 1, order);
        candidates.truncate(keep);
    }
    candidates.sort_unstable_by(order);
    candidates
}

/// A value that at least `keep` logits reach: the `keep`-th largest of the maxima of runs. Almost all others are below it.
fn floor_of(logits: &[f32], keep: usize) -> f32 {
    let mut maxima: Vec<f32> = logits.chunks(RUN).map(maximum).collect();
    if keep == 0 || keep > maxima.len() {
        return f32::NEG_INFINITY;
    }
    *maxima.select_nth_unstable_by(keep - 1, |a, b| b.total_cmp(a)).1
}

/// Probabilities of candidates sorted by falling logit.
fn probabilities(candidates: &[Candidate], temperature: f32) -> Vec<f64> {
    let Some(best) = candidates.first() else { return Vec::new() };
    let weight = |candidate: &Candidate| {
        ((f64::from(candidate.logit) - f64::from(best.logit)) / f64::from(temperature)).exp()
    };
    let mut weights: Vec<f64> = candidates.iter().map(weight).collect();
    let total: f64 = weights.iter().sum();
    for weight in &mut weights {
        *weight /= total;
    }
    weights
}

/// The candidate the coin falls on, and its probability among them; none where there are none.
fn pick(candidates: &[Candidate], temperature: f32, coin: f64) -> Option<(u32, f64)> {
    let (mut sum, mut last) = (0.0, None);
    for (candidate, p) in candidates.iter().zip(probabilities(candidates, temperature)) {
        sum += p;
        last = Some((candidate.id, p));
        if coin < sum {
            break;
        }
    }
    // Rounding can leave the sum a hair under the coin: then the last possible token is meant.
    last
}

#[cfg(test)]
mod tests;
