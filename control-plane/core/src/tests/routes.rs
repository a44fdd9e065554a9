//! Picks: none ever picks what is closed, and each does what its name says.

use crate::route::{Candidate, FULL_SHARE, Memory, Policy, Shape, pick};
use crate::testing::config;
use ollamamax_proto::WorkerId;
use proptest::prelude::*;

fn candidate(worker: u128) -> Candidate {
    Candidate {
        worker: WorkerId(worker),
        latency_us: 100,
        capacity: 4,
        weight: 1,
        usable: true,
        ..Candidate::NOBODY
    }
}

fn any_candidate() -> impl Strategy<Value = Candidate> {
    let load = (0..1_000u64, 0..5u32, 0..5u32, 0..1_000u64);
    let rest = (0..3u32, 0..=FULL_SHARE, 0..2_000u32);
    (1..9u128, any::<bool>(), load, rest).prop_map(
        |(worker, usable, (outstanding_tokens, running, capacity, latency_us), rest)| {
            let (weight, share, cached_tokens) = rest;
            Candidate {
                usable,
                outstanding_tokens,
                running,
                capacity,
                latency_us,
                weight,
                share,
                cached_tokens,
                ..candidate(worker)
            }
        },
    )
}

/// A pick by a policy that remembers nothing.
fn once(policy: Policy, candidates: &[Candidate], shape: &Shape, coin: f64) -> Option<usize> {
    pick(policy, candidates, shape, &mut Memory::default(), coin)
}

/// How often each is picked.
fn counts(policy: Policy, candidates: &[Candidate], picks: u32) -> Vec<u32> {
    let mut counts = vec![0; candidates.len()];
    let mut memory = Memory::default();
    for nth in 0..picks {
        let coin = f64::from(nth) / f64::from(picks);
        let index = pick(policy, candidates, &Shape::default(), &mut memory, coin);
        counts[index.expect("some are open")] += 1;
    }
    counts
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn only_open_candidates_are_picked_and_one_is_if_there_is_one(
        candidates in prop::collection::vec(any_candidate(), 0..50),
        last in any::<usize>(),
        current in prop::collection::vec(any::<i64>(), 0..60),
        prefix_hash in any::<u64>(),
        coin in prop_oneof![4 => 0.0..1.0f64, 1 => any::<f64>()],
    ) {
        let shape = Shape { prompt_tokens: 10, max_tokens: 10, prefix_hash };
        for policy in Policy::ALL {
            let may = |c: &Candidate| {
                let weighs = policy != Policy::Weighted || c.weight > 0;
                c.usable && c.running < c.capacity && weighs
            };
            let some = candidates.iter().any(may);
            let mut memory = Memory { last, current: current.clone() };
            let picked = pick(policy, &candidates, &shape, &mut memory, coin);
            prop_assert_eq!(picked.is_some(), some, "{}", policy);
            if let Some(index) = picked {
                prop_assert!(may(&candidates[index]));
            }
        }
    }

    #[test]
    fn a_worker_that_goes_moves_only_its_own_prefixes(
        prefixes in prop::collection::vec(any::<u64>(), 50),
        gone in 0..5usize,
    ) {
        let all: Vec<Candidate> = (1..=5).map(candidate).collect();
        let mut fewer = all.clone();
        fewer.remove(gone);
        for prefix_hash in prefixes {
            let shape = Shape { prefix_hash, ..Shape::default() };
            let home = |candidates: &[Candidate]| {
                let index = once(Policy::Prefix, candidates, &shape, 0.0).expect("all are open");
                candidates[index].worker
            };
            let (before, after) = (home(&all), home(&fewer));
            prop_assert!(before == after || before == all[gone].worker);
        }
    }

    #[test]
    fn weights_are_shares_at_any_time(
        weights in prop::collection::vec(0..20u32, 1..8),
        picks in 1..200u32,
    ) {
        let total: u32 = weights.iter().sum();
        prop_assume!(total > 0);
        let candidates: Vec<Candidate> =
            weights.iter().map(|&weight| Candidate { weight, ..candidate(1) }).collect();
        for (count, weight) in counts(Policy::Weighted, &candidates, picks).iter().zip(weights) {
            let due = f64::from(picks * weight) / f64::from(total);
            let off = (f64::from(*count) - due).abs();
            prop_assert!(off < candidates.len() as f64, "{count} picks, {due} are due");
        }
    }
}

#[test]
fn round_robin_visits_each_open_one_in_turn() {
    let mut candidates: Vec<Candidate> = (0..4).map(candidate).collect();
    candidates[1].usable = false;
    let mut memory = Memory { last: 3, ..Memory::default() };
    let mut turn = || pick(Policy::RoundRobin, &candidates, &Shape::default(), &mut memory, 0.5);
    let picked: Vec<_> = (0..6).filter_map(|_| turn()).collect();
    assert_eq!(picked, [0, 2, 3, 0, 2, 3]);
    candidates[1].usable = true;
    assert_eq!(counts(Policy::RoundRobin, &candidates, 10_000), [2_500; 4]);
}

#[test]
fn weights_are_spread_smoothly() {
    let weights = [5, 1, 1];
    let candidates: Vec<Candidate> =
        weights.iter().map(|&weight| Candidate { weight, ..candidate(1) }).collect();
    let mut memory = Memory::default();
    let mut next = || pick(Policy::Weighted, &candidates, &Shape::default(), &mut memory, 0.0);
    let picked: Vec<_> = (0..7).filter_map(|_| next()).collect();
    assert_eq!(picked, [0, 0, 1, 0, 2, 0, 0], "as nginx does");
}

#[test]
fn a_fresh_worker_gets_a_small_share_under_every_policy() {
    let mut candidates: Vec<Candidate> = (1..=4).map(candidate).collect();
    candidates[2].share = FULL_SHARE / 10;
    for policy in [Policy::RoundRobin, Policy::Weighted, Policy::Latency] {
        let counts = counts(policy, &candidates, 4_000);
        let fresh = counts[2];
        assert!(fresh < 250, "{policy}: {counts:?}");
        assert!(counts.iter().all(|count| *count == fresh || *count > 900), "{counts:?}");
    }
    let shape = Shape { prompt_tokens: 100, ..Shape::default() };
    for load in [0, 100, 500, 1_000] {
        candidates.iter_mut().for_each(|c| c.outstanding_tokens = load);
        candidates[2].outstanding_tokens = 0;
        let picked = once(Policy::LeastTokens, &candidates, &shape, 0.6);
        assert_eq!(picked == Some(2), load > 900, "{load}: ten times its load stands for it");
    }
}

#[test]
fn the_fewest_outstanding_tokens_win() {
    let load = [30, 10, 20];
    let candidates: Vec<Candidate> = load
        .iter()
        .map(|&outstanding_tokens| Candidate { outstanding_tokens, ..candidate(1) })
        .collect();
    for coin in [0.0, 0.4, 0.9] {
        let index = once(Policy::LeastTokens, &candidates, &Shape::default(), coin);
        assert_eq!(index, Some(1));
    }
    let equal: Vec<Candidate> = (0..3).map(candidate).collect();
    let index = |coin| once(Policy::LeastTokens, &equal, &Shape::default(), coin);
    assert_eq!([index(0.0), index(0.5), index(0.9)], [Some(0), Some(1), Some(2)], "coins spread");
}

#[test]
fn of_two_drawn_the_faster_wins_and_the_slowest_never_does() {
    let latency = [100, 900, 500];
    let candidates: Vec<Candidate> =
        latency.iter().map(|&latency_us| Candidate { latency_us, ..candidate(1) }).collect();
    assert_eq!(counts(Policy::Latency, &candidates, 600), [400, 0, 200]);
}

#[test]
fn an_unknown_worker_counts_as_fast_but_not_without_end() {
    let mut candidates = [candidate(1), Candidate { latency_us: 0, ..candidate(2) }];
    assert_eq!(counts(Policy::Latency, &candidates, 10), [0, 10], "it is tried");
    candidates[1].running = 1;
    assert_eq!(counts(Policy::Latency, &candidates, 10), [10, 0], "with one request at first");
}

#[test]
fn what_is_cached_wins_until_the_queue_costs_more() {
    let shape = Shape { prompt_tokens: 500, max_tokens: 100, prefix_hash: 7 };
    let mut candidates: Vec<Candidate> = (1..=4).map(candidate).collect();
    candidates[0].cached_tokens = 300;
    candidates[3].cached_tokens = 400;
    let home = |candidates: &[Candidate]| once(Policy::Prefix, candidates, &shape, 0.0);
    assert_eq!(home(&candidates), Some(3));
    candidates[3].running = 4;
    assert_eq!(home(&candidates), Some(0), "full");
    candidates[3].running = 1;
    candidates[3].outstanding_tokens = 500;
    assert_eq!(home(&candidates), Some(0), "the shorter cache, without a queue");
    candidates[0].outstanding_tokens = 600;
    let cold = home(&candidates);
    assert!(matches!(cold, Some(1 | 2)), "the queues cost more than both save: {cold:?}");
    candidates.iter_mut().for_each(|c| c.outstanding_tokens = 5_000);
    assert_eq!(home(&candidates), Some(3), "where all are busy it still saves");
}

#[test]
fn a_prefix_sticks_to_its_worker_until_that_one_is_loaded_beyond_the_bound() {
    let mut candidates: Vec<Candidate> = (1..=4).map(candidate).collect();
    let shape = Shape { prefix_hash: 0xfeed, prompt_tokens: 50, max_tokens: 50 };
    let home = once(Policy::Prefix, &candidates, &shape, 0.0).expect("all are open");
    for coin in [0.1, 0.5, 0.99] {
        assert_eq!(once(Policy::Prefix, &candidates, &shape, coin), Some(home));
    }
    for candidate in &mut candidates {
        candidate.outstanding_tokens = 1_000;
    }
    assert_eq!(once(Policy::Prefix, &candidates, &shape, 0.0), Some(home));
    candidates[home].outstanding_tokens = 2_000;
    assert_ne!(once(Policy::Prefix, &candidates, &shape, 0.0), Some(home));
}

#[test]
fn prefixes_spread_over_workers() {
    let candidates: Vec<Candidate> = (1..=4).map(candidate).collect();
    let mut counts = [0; 4];
    for nth in 0..4_000u64 {
        let shape = Shape { prefix_hash: nth, ..Shape::default() };
        counts[once(Policy::Prefix, &candidates, &shape, 0.0).expect("all are open")] += 1;
    }
    assert!(counts.iter().all(|count| (900..1_100).contains(count)), "{counts:?}");
}
