//! Penalties on tokens that came lately: repetition divides or multiplies, presence and frequency
//! subtract.
//!
//! The formulas are llama.cpp's (`llama_sampler_penalties`): repetition first, then
//! `logit -= count * frequency + presence`.

use ollamamax_proto::inference::Sampling;
use std::collections::BTreeMap;

/// Applies the penalties to the logits of the last `repeat_last` tokens of `recent` (oldest first).
pub fn penalise(logits: &mut [f32], params: &Sampling, recent: &[u32]) {
    let off = params.repeat_penalty == 1.0
        && params.presence_penalty == 0.0
        && params.frequency_penalty == 0.0;
    if off {
        return;
    }
    let start = recent.len().saturating_sub(params.repeat_last as usize);
    let mut counts = BTreeMap::<u32, u32>::new();
    for &token in &recent[start..] {
        *counts.entry(token).or_default() += 1;
    }
    for (token, count) in counts {
        let Some(logit) = logits.get_mut(token as usize) else { continue };
        if *logit <= 0.0 {
            *logit *= params.repeat_penalty;
        } else {
            *logit /= params.repeat_penalty;
        }
        *logit -= count as f32 * params.frequency_penalty + params.presence_penalty;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_penalty_does_its_part() {
        let params = Sampling {
            repeat_last: 3,
            repeat_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            ..Sampling::default()
        };
        let mut logits = [4.0, -4.0, 4.0, 4.0];
        // Token 2 lies outside the window, token 9 outside the vocabulary.
        penalise(&mut logits, &params, &[2, 0, 1, 0]);
        assert_eq!(logits, [4.0 / 2.0 - 1.0, -8.0 - 0.75, 4.0, 4.0]);
        penalise(&mut logits, &params, &[9]);
        assert_eq!(logits[2..], [4.0, 4.0]);
    }

    #[test]
    fn neutral_values_change_nothing() {
        let mut logits = [1.0, -1.0];
        penalise(&mut logits, &Sampling::default(), &[0, 1]);
        assert_eq!(logits, [1.0, -1.0]);
    }
}
