//! Mirostat (Basu et al., *Mirostat: a neural text decoding algorithm that directly controls perplexity*, 2021): a loop that
//! holds the surprise of the output near a target `tau`.
//!
//! Its state `mu` is the surprise the next cut allows. Each token moves it against the error: `mu -= eta * (surprise - tau)`.
//! That surprise depends on the logits, so `mu` cannot be had from tokens alone; a stream that goes on elsewhere brings it
//! along. The arithmetic is that of llama.cpp.

use super::{Candidate, Choice, maximum, most_likely, pick};
use ollamamax_proto::inference::{Mirostat, MirostatVersion};

/// Tokens the first version estimates the tail from.
const ESTIMATED: u32 = 100;
/// Beyond this the state means all tokens, or one, and 2 to its power is still a number.
const MU_BITS: f64 = 1_000.0;

/// The state before the first token to be chosen: twice the target, unless the stream began elsewhere.
pub fn start(params: &Mirostat) -> f64 {
    params.mu.unwrap_or(2.0 * f64::from(params.tau))
}

/// Chooses a token and moves the state.
pub fn sample(logits: &[f32], params: &Mirostat, temperature: f32, mu: f64, coin: f64) -> Choice {
    let candidates = match params.version {
        MirostatVersion::One => most_likely(logits, fitting(logits, temperature, mu)),
        MirostatVersion::Two => unsurprising(logits, temperature, mu),
    };
    let Some((token, p)) = pick(&candidates, temperature, coin) else {
        return Choice { token: 0, mu };
    };
    let error = -p.log2() - f64::from(params.tau);
    let moved = mu - f64::from(params.eta) * error;
    // A probability of zero surprises without bound; the state stays a number.
    Choice { token, mu: moved.clamp(-MU_BITS, MU_BITS) }
}

/// How many tokens the target allows, if the probabilities fall as Zipf has it: `p(i) ~ i^-s`.
fn fitting(logits: &[f32], temperature: f32, mu: f64) -> u32 {
    let best = most_likely(logits, ESTIMATED);
    let (mut products, mut squares) = (0.0, 0.0);
    for (index, pair) in best.windows(2).enumerate() {
        let rank = ((index + 2) as f64 / (index + 1) as f64).ln();
        let fall = (f64::from(pair[0].logit) - f64::from(pair[1].logit)) / f64::from(temperature);
        products += rank * fall;
        squares += rank * rank;
    }
    if squares == 0.0 {
        return 1;
    }
    let s = products / squares;
    let epsilon = s - 1.0;
    let vocabulary = logits.len() as f64;
    let tail = (1.0 - vocabulary.powf(-epsilon)) / epsilon;
    // At `s = 1` the quotient above has a limit and no value.
    let tail = if tail.is_finite() { tail } else { vocabulary.ln() };
    let count = (mu.exp2() / tail).powf(1.0 / s);
    (count.min(vocabulary) as u32).max(1)
}

/// The tokens that surprise no more than `mu`, and at least one.
fn unsurprising(logits: &[f32], temperature: f32, mu: f64) -> Vec<Candidate> {
    let best = f64::from(maximum(logits));
    let temperature = f64::from(temperature);
    let distance = |logit: &f32| (f64::from(*logit) - best) / temperature;
    let total: f64 = logits.iter().map(|logit| distance(logit).exp()).sum();
    let least = total.ln() - mu * std::f64::consts::LN_2;
    let allowed = logits.iter().filter(|logit| distance(logit) >= least).count();
    // The count of the largest is what falls on this side of the cut; 0 would mean all of them.
    most_likely(logits, (allowed as u32).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coin::coin;
    use proptest::prelude::*;

    fn params(version: MirostatVersion, tau: f32) -> Mirostat {
        Mirostat::new(version, Some(tau), Some(0.1))
    }

    /// Probabilities that fall as Zipf has it.
    fn zipf(count: usize, s: f32) -> Vec<f32> {
        (1..=count).map(|rank| -s * (rank as f32).ln()).collect()
    }

    #[test]
    fn the_surprise_of_a_long_text_is_what_was_aimed_at() {
        for version in [MirostatVersion::One, MirostatVersion::Two] {
            for tau in [2.0, 4.0] {
                let (logits, params) = (zipf(2_000, 1.1), params(version, tau));
                let (mut mu, mut sum) = (start(&params), 0.0);
                let tokens = 1_000;
                for position in 0..tokens {
                    let choice = sample(&logits, &params, 1.0, mu, coin(5, position));
                    // The step of the state tells what the loop saw.
                    sum += (mu - choice.mu) / f64::from(params.eta) + f64::from(tau);
                    mu = choice.mu;
                }
                let mean = sum / tokens as f64;
                assert!((mean - f64::from(tau)).abs() < 0.1, "{version:?} {tau}: {mean}");
            }
        }
    }

    #[test]
    fn a_zipf_tail_is_estimated_from_its_head() {
        // With exact Zipf data the estimate of `s` is exact: k = (2^mu * (s - 1) / (1 - n^(1 - s)))^(1 / s).
        let (n, s, mu) = (5_000f64, 1.5f64, 6.0f64);
        let expected = (mu.exp2() * (s - 1.0) / (1.0 - n.powf(1.0 - s))).powf(1.0 / s) as u32;
        let found = fitting(&zipf(5_000, 1.5), 1.0, mu);
        assert!(found.abs_diff(expected) <= 1, "{found}, expected {expected}");
        // At s = 1 the formula has no value and its limit is meant.
        let limit = (mu.exp2() / n.ln()) as u32;
        assert!(fitting(&zipf(5_000, 1.0), 1.0, mu).abs_diff(limit) <= 1);
    }

    proptest! {
        #[test]
        fn nothing_that_surprises_more_than_allowed_is_kept(
            logits in prop::collection::vec(-9.0f32..9.0, 1..200),
            temperature in 0.2f32..3.0,
            mu in -1.0f64..12.0,
        ) {
            let weight = |logit: f32| (f64::from(logit) / f64::from(temperature)).exp();
            let total: f64 = logits.iter().map(|&logit| weight(logit)).sum();
            let surprise = |logit: f32| -(weight(logit) / total).log2();
            let kept = unsurprising(&logits, temperature, mu);
            let allowed = logits.iter().filter(|&&logit| surprise(logit) < mu - 1e-9).count();
            let possible = logits.iter().filter(|&&logit| surprise(logit) < mu + 1e-9).count();
            prop_assert!((allowed.max(1)..=possible.max(1)).contains(&kept.len()));
            prop_assert!(kept[1..].iter().all(|c| surprise(c.logit) < mu + 1e-9));
        }
    }
}
