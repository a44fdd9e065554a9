//! One token from the logits: penalties, then top-k, typical, top-p and min-p cut the candidates,
//! temperature flattens what is left, and the coin picks. The order is that of llama.cpp's default
//! chain.
//!
//! Everything is a function of its arguments. Candidates are sorted by logit, then by id, and sums
//! run in that order in f64, so equal logits give equal tokens on every machine. A NaN counts as
//! impossible.

use crate::penalties::penalise;
use ollamamax_proto::inference::Sampling;

/// A token that may still be chosen.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    logit: f32,
}

/// Chooses a token. `logits` is one row of vocabulary size and is changed by the penalties;
/// `recent` holds the tokens before it, oldest first; `coin` is in `[0, 1)`.
pub fn sample(logits: &mut [f32], params: &Sampling, recent: &[u32], coin: f64) -> u32 {
    penalise(logits, params, recent);
    for logit in logits.iter_mut() {
        *logit = if logit.is_nan() { f32::NEG_INFINITY } else { logit.min(f32::MAX) };
    }
    // A temperature that is not a number gets the safe reading, too.
    if params.temperature.is_nan() || params.temperature <= 0.0 {
        return argmax(logits);
    }
    let mut candidates = most_likely(logits, params.top_k);
    keep_typical(&mut candidates, params.typical_p);
    keep_top_p(&mut candidates, params.top_p);
    keep_min_p(&mut candidates, params.min_p);
    pick(&candidates, params.temperature, coin)
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
fn maximum(logits: &[f32]) -> f32 {
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
fn most_likely(logits: &[f32], top_k: u32) -> Vec<Candidate> {
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

/// Probabilities of candidates sorted by falling logit, at temperature 1.
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

/// Locally typical sampling (Meister et al., 2022): keeps the tokens whose surprise is closest to
/// the expected one.
fn keep_typical(candidates: &mut Vec<Candidate>, typical_p: f32) {
    if !(0.0..1.0).contains(&typical_p) {
        return;
    }
    let probs = probabilities(candidates, 1.0);
    let surprise = |p: f64| if p > 0.0 { -p.ln() } else { f64::MAX };
    let entropy: f64 = probs.iter().filter(|&&p| p > 0.0).map(|&p| p * surprise(p)).sum();
    let mut order: Vec<usize> = (0..probs.len()).collect();
    order.sort_by(|&a, &b| {
        let distance = |index: usize| (surprise(probs[index]) - entropy).abs();
        distance(a).total_cmp(&distance(b)).then(a.cmp(&b))
    });
    let mut kept = prefix_reaching(order.iter().map(|&index| probs[index]), typical_p);
    kept = kept.min(order.len());
    order.truncate(kept);
    order.sort_unstable();
    *candidates = order.into_iter().map(|index| candidates[index]).collect();
}

/// Nucleus sampling (Holtzman et al., 2020).
fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f32) {
    if !(0.0..1.0).contains(&top_p) {
        return;
    }
    let kept = prefix_reaching(probabilities(candidates, 1.0).into_iter(), top_p);
    candidates.truncate(kept);
}

/// How many leading probabilities it takes to reach `goal`: at least one.
fn prefix_reaching(probs: impl Iterator<Item = f64>, goal: f32) -> usize {
    let (mut sum, mut count) = (0.0, 0);
    for p in probs {
        sum += p;
        count += 1;
        if sum >= f64::from(goal) {
            break;
        }
    }
    count.max(1)
}

/// Keeps what is at least `min_p` times as likely as the best.
fn keep_min_p(candidates: &mut Vec<Candidate>, min_p: f32) {
    if min_p.is_nan() || min_p <= 0.0 {
        return;
    }
    let Some(best) = candidates.first() else { return };
    let least = f64::from(best.logit) + f64::from(min_p.min(1.0)).ln();
    let kept = candidates.partition_point(|candidate| f64::from(candidate.logit) >= least);
    candidates.truncate(kept.max(1));
}

fn pick(candidates: &[Candidate], temperature: f32, coin: f64) -> u32 {
    let mut sum = 0.0;
    for (candidate, p) in candidates.iter().zip(probabilities(candidates, temperature)) {
        sum += p;
        if coin < sum {
            return candidate.id;
        }
    }
    // Rounding can leave the sum a hair under the coin: then the last possible token is meant.
    // Where no token is possible at all, 0 is what `argmax` answers, too.
    candidates.last().map_or(0, |candidate| candidate.id)
}

#[cfg(test)]
mod tests;
