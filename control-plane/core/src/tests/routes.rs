//! Picks: none ever picks what is closed, and each does what its name says.

use crate::route::{Candidate, Policy, Shape, pick, prefix};
use crate::testing::config;
use ollamamax_proto::{AssignmentId, Generation, WorkerId};
use proptest::prelude::*;

const ALL: [Policy; 5] = [
    Policy::RoundRobin,
    Policy::Weighted,
    Policy::LeastOutstanding,
    Policy::Latency,
    Policy::Prefix,
];

fn candidate(worker: u128) -> Candidate {
    Candidate {
        worker: WorkerId(worker),
        assignment: AssignmentId(1),
        generation: Generation(1),
        usable: true,
        outstanding_tokens: 0,
        running: 0,
        capacity: 4,
        ewma_latency_us: 100,
        weight: 1,
    }
}

fn any_candidate() -> impl Strategy<Value = Candidate> {
    (1..9u128, any::<bool>(), 0..1_000u64, 0..5u32, 0..5u32, 0..1_000u64, 0..3u32).prop_map(
        |(worker, usable, outstanding_tokens, running, capacity, ewma_latency_us, weight)| {
            Candidate {
                usable,
                outstanding_tokens,
                running,
                capacity,
                ewma_latency_us,
                weight,
                ..candidate(worker)
            }
        },
    )
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn only_open_candidates_are_picked_and_one_is_if_there_is_one(
        candidates in prop::collection::vec(any_candidate(), 0..50),
        turn in any::<u64>(),
        prefix_hash in any::<u64>(),
        coin in prop_oneof![4 => 0.0..1.0f64, 1 => any::<f64>()],
    ) {
        let shape = Shape { turn, prompt_tokens: 10, max_tokens: 10, prefix_hash };
        for policy in ALL {
            let may = |c: &Candidate| {
                let weighs = policy != Policy::Weighted || c.weight > 0;
                c.usable && c.running < c.capacity && weighs
            };
            let some = candidates.iter().any(may);
            let picked = pick(policy, &candidates, &shape, coin);
            prop_assert_eq!(picked.is_some(), some, "{:?}", policy);
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
                let index = pick(Policy::Prefix, candidates, &shape, 0.0).expect("all are open");
                candidates[index].worker
            };
            let (before, after) = (home(&all), home(&fewer));
            prop_assert!(before == after || before == all[gone].worker);
        }
    }
}

#[test]
fn round_robin_visits_each_in_turn() {
    let mut candidates: Vec<Candidate> = (0..4).map(candidate).collect();
    candidates[1].usable = false;
    let turn =
        |turn| pick(Policy::RoundRobin, &candidates, &Shape { turn, ..Shape::default() }, 0.5);
    let picked: Vec<_> = (0..6).filter_map(turn).collect();
    assert_eq!(picked, [0, 2, 3, 0, 2, 3]);
}

#[test]
fn weights_are_shares() {
    let weights = [3, 0, 1];
    let candidates: Vec<Candidate> =
        weights.iter().map(|&weight| Candidate { weight, ..candidate(1) }).collect();
    let mut counts = [0; 3];
    for nth in 0..400 {
        let coin = f64::from(nth) / 400.0;
        let index = pick(Policy::Weighted, &candidates, &Shape::default(), coin);
        counts[index.expect("some have weight")] += 1;
    }
    assert_eq!(counts, [300, 0, 100]);
}

#[test]
fn the_fewest_outstanding_tokens_win() {
    let load = [30, 10, 20];
    let candidates: Vec<Candidate> = load
        .iter()
        .map(|&outstanding_tokens| Candidate { outstanding_tokens, ..candidate(1) })
        .collect();
    for coin in [0.0, 0.4, 0.9] {
        let index = pick(Policy::LeastOutstanding, &candidates, &Shape::default(), coin);
        assert_eq!(index, Some(1));
    }
    let equal: Vec<Candidate> = (0..3).map(candidate).collect();
    let index = |coin| pick(Policy::LeastOutstanding, &equal, &Shape::default(), coin);
    assert_eq!([index(0.0), index(0.5), index(0.9)], [Some(0), Some(1), Some(2)], "coins spread");
}

#[test]
fn of_two_drawn_the_faster_wins_and_the_slowest_never_does() {
    let latency = [100, 900, 500];
    let candidates: Vec<Candidate> = latency
        .iter()
        .map(|&ewma_latency_us| Candidate { ewma_latency_us, ..candidate(1) })
        .collect();
    let mut counts = [0; 3];
    for nth in 0..600 {
        let coin = f64::from(nth) / 600.0;
        let index = pick(Policy::Latency, &candidates, &Shape::default(), coin);
        counts[index.expect("all are open")] += 1;
    }
    assert_eq!(counts, [400, 0, 200]);
}

#[test]
fn a_prefix_sticks_to_its_worker_until_that_one_is_loaded_beyond_the_bound() {
    let mut candidates: Vec<Candidate> = (1..=4).map(candidate).collect();
    let prefix_hash = prefix::hash(prefix::hash(0, b"you are"), b" helpful");
    let shape = Shape { prefix_hash, prompt_tokens: 50, max_tokens: 50, ..Shape::default() };
    let home = pick(Policy::Prefix, &candidates, &shape, 0.0).expect("all are open");
    for coin in [0.1, 0.5, 0.99] {
        assert_eq!(pick(Policy::Prefix, &candidates, &shape, coin), Some(home));
    }
    for candidate in &mut candidates {
        candidate.outstanding_tokens = 1_000;
    }
    assert_eq!(pick(Policy::Prefix, &candidates, &shape, 0.0), Some(home));
    candidates[home].outstanding_tokens = 2_000;
    assert_ne!(pick(Policy::Prefix, &candidates, &shape, 0.0), Some(home));
}

#[test]
fn prefixes_spread_over_workers() {
    let candidates: Vec<Candidate> = (1..=4).map(candidate).collect();
    let mut counts = [0; 4];
    for nth in 0..4_000u64 {
        let shape = Shape { prefix_hash: prefix::hash(0, &nth.to_le_bytes()), ..Shape::default() };
        counts[pick(Policy::Prefix, &candidates, &shape, 0.0).expect("all are open")] += 1;
    }
    assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
}
