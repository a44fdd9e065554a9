//! How likely the model thought a token and its rivals, whatever sampling makes of the logits.

use crate::sampler::{maximum, most_likely, possible};
use crate::tokenizer::Tokenizer;
use ollamamax_proto::inference::{Logprob, TokenLogprob};

/// The log-probability of `token` and of the `top` likeliest ones in the softmax of `logits`.
pub fn of(logits: &[f32], token: u32, top: u32, tokenizer: &Tokenizer) -> TokenLogprob {
    let logits: Vec<f32> = logits.iter().copied().map(possible).collect();
    let best = f64::from(maximum(&logits));
    let total: f64 = logits.iter().map(|&logit| (f64::from(logit) - best).exp()).sum();
    let logprob = |token: u32, logit: f32| {
        let logprob = (f64::from(logit) - best - total.ln()) as f32;
        // Where nothing is possible it is no number, and no number is at least anything.
        let likely = logprob >= Logprob::LEAST;
        let logprob = if likely { logprob.min(0.0) } else { Logprob::LEAST };
        Logprob { token, logprob, bytes: tokenizer.shown(token).to_vec() }
    };
    let chosen = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    let likeliest = if top == 0 { Vec::new() } else { most_likely(&logits, top) };
    TokenLogprob {
        chosen: logprob(token, chosen),
        top: likeliest.iter().map(|rival| logprob(rival.id, rival.logit)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::{TokenKind, Vocabulary};
    use proptest::prelude::*;

    fn tokenizer() -> Tokenizer {
        let tokens = ["a", "b", "\u{c3}", "<end>"].into_iter().collect();
        let mut kinds = vec![TokenKind::Normal; 4];
        kinds[3] = TokenKind::Control;
        let vocabulary = Vocabulary {
            model: "gpt2".into(),
            pre: "gpt-2".into(),
            tokens,
            kinds,
            ..Vocabulary::default()
        };
        Tokenizer::new(vocabulary).expect("a sound vocabulary")
    }

    #[test]
    fn shares_are_those_of_the_softmax_and_tokens_are_spelt() {
        let logits = [0.25f32.ln() + 3.0, 0.5f32.ln() + 3.0, f32::NAN, 0.25f32.ln() + 3.0];
        let told = of(&logits, 0, 3, &tokenizer());
        assert!((told.chosen.logprob - 0.25f32.ln()).abs() < 1e-6);
        let top: Vec<(u32, &[u8])> = told.top.iter().map(|l| (l.token, &*l.bytes)).collect();
        assert_eq!(top, [(1, &b"b"[..]), (0, b"a"), (3, b"<end>")]);
        assert_eq!(of(&logits, 0, 0, &tokenizer()).top, []);
    }

    #[test]
    fn what_is_impossible_is_next_to_impossible() {
        let told = of(&[0.0, f32::NEG_INFINITY, f32::NAN, -20_000.0], 2, 4, &tokenizer());
        assert_eq!(told.chosen.logprob, Logprob::LEAST);
        assert_eq!(told.chosen.bytes, b"\xc3", "a part of a character is no text, and has bytes");
        assert_eq!(told.top.len(), 2);
        assert_eq!(of(&[f32::NAN; 4], 0, 20, &tokenizer()).chosen.logprob, Logprob::LEAST);
    }

    proptest! {
        #[test]
        fn the_shares_of_all_tokens_are_one(logits in prop::array::uniform4(-30.0f32..30.0)) {
            let told = of(&logits, 0, 4, &tokenizer());
            let sum: f64 = told.top.iter().map(|l| f64::from(l.logprob).exp()).sum();
            prop_assert!((sum - 1.0).abs() < 1e-5);
            prop_assert!(told.top.is_sorted_by(|a, b| a.logprob >= b.logprob));
            prop_assert!(told.top.contains(&told.chosen));
        }
    }
}
