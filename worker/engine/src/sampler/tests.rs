//! The sampler against exact probabilities and hostile logits.

use super::*;
use crate::coin::coin;
use ollamamax_proto::inference::{Mirostat, MirostatVersion};
use proptest::prelude::*;

fn choose(logits: &mut [f32], params: &Sampling, tokens: &[u32], coin: f64) -> u32 {
    sample(logits, params, Past { tokens, mu: 10.0, allowed: None }, coin).token
}

fn plain() -> Sampling {
    Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, ..Sampling::default() }
}

#[test]
fn zero_temperature_takes_the_best_and_the_lowest_of_equals() {
    let params = Sampling { temperature: 0.0, ..Sampling::default() };
    assert_eq!(choose(&mut [1.0, 3.0, 3.0, 2.0], &params, &[], 0.99), 1);
    assert_eq!(choose(&mut [f32::NAN, -5.0, f32::NAN], &params, &[], 0.0), 1);
    assert_eq!(choose(&mut [f32::NAN; 3], &params, &[], 0.5), 0);
    assert_eq!(choose(&mut [f32::NEG_INFINITY; 3], &params, &[], 0.5), 0);
}

#[test]
fn penalties_reach_the_greedy_choice() {
    let params = Sampling { temperature: 0.0, repeat_penalty: 4.0, ..Sampling::default() };
    assert_eq!(choose(&mut [3.0, 2.0], &params, &[0], 0.0), 1);
}

#[test]
fn each_cut_keeps_what_it_promises() {
    let logits = [0.5f32.ln(), 0.3f32.ln(), 0.15f32.ln(), 0.05f32.ln()];
    let reached = |params: &Sampling| -> Vec<u32> {
        let mut ids: Vec<u32> = (0..1000)
            .map(|n| choose(&mut logits.clone(), params, &[], f64::from(n) / 1000.0))
            .collect();
        ids.dedup();
        ids
    };
    assert_eq!(reached(&plain()), [0, 1, 2, 3]);
    assert_eq!(reached(&Sampling { top_k: 2, ..plain() }), [0, 1]);
    assert_eq!(reached(&Sampling { top_p: 0.7, ..plain() }), [0, 1]);
    assert_eq!(reached(&Sampling { top_p: 0.0, ..plain() }), [0]);
    assert_eq!(reached(&Sampling { min_p: 0.2, ..plain() }), [0, 1, 2]);
    assert_eq!(reached(&Sampling { min_p: 9.0, ..plain() }), [0]);
    // Entropy is 1.14 nats: the surprise of 0.3 (1.20) is nearest, then that of 0.5 (0.69).
    assert_eq!(reached(&Sampling { typical_p: 0.25, ..plain() }), [1]);
    assert_eq!(reached(&Sampling { typical_p: 0.6, ..plain() }), [0, 1]);
}

#[test]
fn a_flat_tail_is_cut_by_its_share() {
    let logits = [0.9f32.ln(), 0.05f32.ln(), 0.03f32.ln(), 0.02f32.ln()];
    let kept = |tfs_z: f32| {
        let mut candidates = most_likely(&logits, 0);
        keep_tail_free(&mut candidates, tfs_z);
        candidates.len()
    };
    // The bends are 0.83 and 0.01: the first has 98.8 % of them.
    assert_eq!([kept(0.0), kept(0.5), kept(0.999), kept(1.0), kept(2.0)], [1, 1, 1, 4, 4]);
    assert_eq!(kept(f32::NAN), 4);
}

#[test]
fn a_bias_forbids_and_forces_even_the_greedy_choice() {
    let biased = |token: u32, bias: f32| {
        let logit_bias = BTreeMap::from([(token, bias), (77, 100.0)]);
        let params = Sampling { temperature: 0.0, logit_bias, ..Sampling::default() };
        choose(&mut [3.0, 2.0, 1.0], &params, &[], 0.0)
    };
    assert_eq!([biased(0, -100.0), biased(2, 100.0), biased(1, 0.5)], [1, 2, 0]);
}

#[test]
fn frequencies_follow_the_exact_probabilities() {
    let logits = [1.0f32, 0.0, -1.0, 2.0, 0.5];
    let params = Sampling { temperature: 0.7, ..plain() };
    let weights: Vec<f64> = logits.iter().map(|&l| (f64::from(l) / 0.7f32 as f64).exp()).collect();
    let total: f64 = weights.iter().sum();
    let throws = 50_000u64;
    let mut counts = [0u32; 5];
    for position in 0..throws {
        counts[choose(&mut logits.clone(), &params, &[], coin(11, position)) as usize] += 1;
    }
    let chi2: f64 = counts
        .iter()
        .zip(&weights)
        .map(|(&count, weight)| {
            let expected = throws as f64 * weight / total;
            (f64::from(count) - expected).powi(2) / expected
        })
        .sum();
    // 4 degrees of freedom: 23.5 is exceeded once in ten thousand; the seed is fixed.
    assert!(chi2 < 23.5, "chi2 {chi2}, counts {counts:?}");
}

fn any_float() -> impl Strategy<Value = f32> {
    prop_oneof![
        any::<f32>(),
        -20.0f32..20.0,
        prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, f32::MAX]),
    ]
}

fn mirostat() -> impl Strategy<Value = Mirostat> {
    let version = prop::sample::select(vec![MirostatVersion::One, MirostatVersion::Two]);
    (version, 0.001f32..100.0, 0.001f32..10.0)
        .prop_map(|(version, tau, eta)| Mirostat::new(version, Some(tau), Some(eta)))
}

/// Tail-free sampling as its author wrote it: how many of the sorted probabilities stay.
fn tail_free(probs: &[f64], tfs_z: f64) -> usize {
    let first: Vec<f64> = (0..probs.len() - 1).map(|i| probs[i] - probs[i + 1]).collect();
    let second: Vec<f64> = (0..first.len() - 1).map(|i| (first[i] - first[i + 1]).abs()).collect();
    let total: f64 = second.iter().sum();
    let mut sum = 0.0;
    for (index, bend) in second.iter().enumerate() {
        sum += if total > 1e-6 { bend / total } else { 1.0 / second.len() as f64 };
        if sum > tfs_z && index >= 1 {
            return index;
        }
    }
    probs.len()
}

proptest! {
    #[test]
    fn the_tail_is_cut_where_its_author_cuts_it(
        logits in prop::collection::vec(-8.0f32..8.0, 3..60),
        tfs_z in 0.0f32..0.999,
    ) {
        let mut candidates = most_likely(&logits, 0);
        let expected = tail_free(&probabilities(&candidates, 1.0), f64::from(tfs_z));
        keep_tail_free(&mut candidates, tfs_z);
        prop_assert_eq!(candidates.len(), expected);
    }

    #[test]
    fn a_bias_moves_a_logit_and_nothing_else(
        logits in prop::collection::vec(-20.0f32..20.0, 1..40),
        bias in prop::collection::btree_map(0u32..50, -100.0f32..=100.0, 0..6),
        coin in 0.0f64..1.0,
    ) {
        let mut moved = logits.clone();
        for (&token, bias) in &bias {
            if let Some(logit) = moved.get_mut(token as usize) {
                *logit += bias;
            }
        }
        let with = Sampling { logit_bias: bias, ..Sampling::default() };
        let chosen = choose(&mut logits.clone(), &with, &[], coin);
        prop_assert_eq!(chosen, choose(&mut moved, &Sampling::default(), &[], coin));
    }

    #[test]
    fn any_input_gives_a_token_of_the_vocabulary(
        logits in prop::collection::vec(any_float(), 1..40),
        numbers in prop::array::uniform7(any_float()),
        top_k in 0u32..50,
        repeat_last in 0u32..9,
        recent in prop::collection::vec(0u32..50, 0..12),
        coin in 0.0f64..1.0,
        tfs_z in any_float(),
        mirostat in prop::option::of(mirostat()),
        mu in -2e3f64..2e3,
        logit_bias in prop::collection::btree_map(0u32..50, any_float(), 0..4),
    ) {
        let [temperature, top_p, min_p, typical_p, ..] = numbers;
        let [.., repeat_penalty, presence_penalty, frequency_penalty] = numbers;
        let params = Sampling {
            temperature, top_k, top_p, min_p, typical_p, repeat_last, repeat_penalty,
            presence_penalty, frequency_penalty, tfs_z, mirostat, logit_bias, seed: 0,
        };
        let past = Past { tokens: &recent, mu, allowed: None };
        let choice = sample(&mut logits.clone(), &params, past, coin);
        prop_assert_eq!(choice, sample(&mut logits.clone(), &params, past, coin));
        prop_assert!(choice.mu.is_finite());
        let id = choose(&mut logits.clone(), &params, &recent, coin);
        prop_assert!((id as usize) < logits.len());
        prop_assert_eq!(id, choose(&mut logits.clone(), &params, &recent, coin));
    }

    #[test]
    fn the_most_likely_are_those_of_a_full_sort(
        logits in prop::collection::vec(prop_oneof![any_float(), (-9i8..9).prop_map(f32::from)], 1..2000),
        top_k in 0u32..60,
    ) {
        let possible = |l: f32| if l.is_nan() { f32::NEG_INFINITY } else { l.min(f32::MAX) };
        let logits: Vec<f32> = logits.into_iter().map(possible).collect();
        let mut all: Vec<u32> = (0..logits.len() as u32)
            .filter(|&id| logits[id as usize] > f32::NEG_INFINITY)
            .collect();
        all.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        if top_k > 0 {
            all.truncate(top_k as usize);
        }
        let found: Vec<u32> = most_likely(&logits, top_k).iter().map(|c| c.id).collect();
        prop_assert_eq!(found, all);
    }

    #[test]
    fn an_impossible_token_is_never_chosen(
        good in prop::collection::vec(-20.0f32..20.0, 1..20),
        temperature in 0.0f32..3.0,
        coin in 0.0f64..1.0,
    ) {
        let mut logits = vec![f32::NAN; 5];
        logits.extend(&good);
        let params = Sampling { temperature, ..plain() };
        prop_assert!(choose(&mut logits, &params, &[], coin) >= 5);
    }
}
