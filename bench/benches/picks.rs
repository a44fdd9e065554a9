//! What a pick costs: `cargo bench -p ollamamax-bench --bench picks`. Sixteen candidates with unlike loads,
//! none closed, as on a usual day.

#![forbid(unsafe_code)]

use divan::{Bencher, black_box};
use ollamamax_core::route::affinity::PrefixIndex;
use ollamamax_core::route::chain::Chain;
use ollamamax_core::route::{Candidate, Memory, Policy, Shape, pick};
use ollamamax_proto::WorkerId;

const SHAPE: Shape = Shape { prompt_tokens: 500, max_tokens: 256, prefix_hash: 0xfeed };

fn main() {
    divan::main();
}

fn candidates() -> Vec<Candidate> {
    let candidate = |nth: u64| Candidate {
        worker: WorkerId(u128::from(nth) << 70 | u128::from(nth)),
        outstanding_tokens: 1_000 + nth * 37 % 11 * 100,
        latency_us: 20_000 + nth * 7_919 % 13_000,
        running: (nth % 5) as u32,
        capacity: 272,
        weight: 1 + (nth % 3) as u32,
        usable: true,
        ..Candidate::NOBODY
    };
    (0..16).map(candidate).collect()
}

/// Coins that a branch predictor cannot learn.
fn coins() -> impl FnMut() -> f64 {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn policy(bencher: Bencher<'_, '_>, policy: Policy) {
    let (candidates, mut memory, mut coin) = (candidates(), Memory::default(), coins());
    bencher.bench_local(|| pick(policy, black_box(&candidates), &SHAPE, &mut memory, coin()));
}

#[divan::bench]
fn round_robin(bencher: Bencher<'_, '_>) {
    policy(bencher, Policy::RoundRobin);
}

#[divan::bench]
fn weighted(bencher: Bencher<'_, '_>) {
    policy(bencher, Policy::Weighted);
}

#[divan::bench]
fn least_tokens(bencher: Bencher<'_, '_>) {
    policy(bencher, Policy::LeastTokens);
}

#[divan::bench]
fn latency(bencher: Bencher<'_, '_>) {
    policy(bencher, Policy::Latency);
}

/// A conversation of sixteen kilobytes whose first half two workers have cached: the match and the pick.
#[divan::bench]
fn prefix(bencher: Bencher<'_, '_>) {
    let mut chain = Chain::new(1);
    chain.part(&[b'x'; 16 * 1024]);
    let prefix = chain.finish();
    let mut index = PrefixIndex::default();
    for hash in &prefix.hashes[..prefix.hashes.len() / 2] {
        index.stored(3, *hash);
        index.stored(11, *hash);
    }
    // What others have cached, so that the table is as large as it gets.
    for seat in 0..16 {
        (0..10_000u64).for_each(|nth| index.stored(seat, nth.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    }
    let (mut candidates, mut memory, mut coin) = (candidates(), Memory::default(), coins());
    let mut matched = [0; 16];
    bencher.bench_local(|| {
        index.matched(black_box(&prefix.hashes), &mut matched);
        for (candidate, blocks) in candidates.iter_mut().zip(matched) {
            candidate.cached_tokens = prefix.tokens(blocks, SHAPE.prompt_tokens);
        }
        pick(Policy::Prefix, black_box(&candidates), &SHAPE, &mut memory, coin())
    });
}

/// The chain of a conversation of sixteen kilobytes.
#[divan::bench]
fn chain() -> usize {
    let mut chain = Chain::new(1);
    for message in [[b'x'; 2_048]; 8] {
        chain.part(black_box(&message));
    }
    chain.finish().hashes.len()
}
