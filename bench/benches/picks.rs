//! What a pick costs: `cargo bench -p ollamamax-bench --bench picks`. Sixteen candidates with unlike loads,
//! none closed, as on a usual day.

#![forbid(unsafe_code)]

use divan::{Bencher, black_box};
use ollamamax_core::change::Counters;
use ollamamax_core::record::{ModelRecord, Placement, WorkerRecord};
use ollamamax_core::route::affinity::PrefixIndex;
use ollamamax_core::route::chain::Chain;
use ollamamax_core::route::{Candidate, Memory, Policy, Shape, pick};
use ollamamax_core::{Change, State};
use ollamamax_gateway::workers::Workers;
use ollamamax_gateway::workers::route::Ask;
use ollamamax_proto::model::{ModelFacts, ModelVersion};
use ollamamax_proto::placement::{Assignment, Device, Phase, Stage, WorkerStatus};
use ollamamax_proto::{
    AssignmentId, Digest, Generation, Incarnation, Millis, ModelName, Revision, WorkerId,
};
use std::sync::Arc;
use std::time::Duration;

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

/// What the gateway does for each request around the call itself: the way to the model, the pick with its book-keeping, the
/// measures, and what the worker's cache now holds.
#[divan::bench]
fn gateway(bencher: Bencher<'_, '_>) {
    let (state, model) = state();
    let workers = Workers::default();
    let mut chain = Chain::new(1);
    chain.part(&[b'x'; 16 * 1024]);
    let ask = Ask { policy: Policy::Prefix, shape: SHAPE, prefix: Arc::new(chain.finish()) };
    let (mut coin, wait) = (coins(), Duration::from_millis(20));
    bencher.bench_local(|| {
        let now = Millis::now();
        let route = workers.route(black_box(&state), &model);
        route.budget(|budget| budget.deposit(now));
        let (seat, mut work) = route.pick(&ask, now, coin(), |_| false).expect("one is open");
        seat.meter.first_token(wait, wait, 500);
        route.stored(&seat, &ask.prefix.hashes);
        seat.meter.heard();
        seat.meter.gap(wait);
        work.progress(1);
        seat.record(true, now);
    });
}

/// Sixteen ready workers that hold one model.
fn state() -> (State, ModelRecord) {
    let blob = Digest::of(b"blob");
    let name: ModelName = "m".parse().expect("a name");
    let version = ModelVersion {
        digest: Digest::of(b"version"),
        blob,
        blob_bytes: 1 << 30,
        facts: ModelFacts { layers: 32, ..ModelFacts::default() },
        template: None,
        system: None,
        parameters: Default::default(),
        messages: Vec::new(),
        licenses: Vec::new(),
        parent: None,
    };
    let (modified_at, revision) = (Millis(0), Revision(1));
    let model = ModelRecord { name: name.clone(), version, modified_at, revision };
    let mut state = State::default();
    state.evolve(&Change::ModelPut(Box::new(model.clone())));
    for nth in 1..=16 {
        let device =
            Device { kind: "cpu".into(), name: "cpu".into(), memory_bytes: 1 << 34, threads: 8 };
        state.evolve(&Change::WorkerPut(WorkerRecord {
            id: WorkerId(nth),
            incarnation: Incarnation(1),
            name: format!("w{nth}"),
            address: format!("10.0.0.{nth}:7500"),
            device,
            pid: 1,
            status: WorkerStatus::Ready,
            reason: String::new(),
            since: Millis(0),
        }));
        let assignment = Assignment {
            id: AssignmentId(nth as u64),
            generation: Generation(1),
            model: name.clone(),
            blob,
            blob_bytes: 1 << 30,
            stage: Stage::whole(32),
            context_length: 4_096,
            sequences_max: 16,
        };
        state.evolve(&Change::PlacementPut(Placement {
            assignment,
            worker: WorkerId(nth),
            phase: Phase::Ready,
            since: Millis(0),
            resident_bytes: 1,
            load_ns: 1,
        }));
    }
    state.evolve(&Change::Advanced(Counters { revision: Revision(40), ..Counters::default() }));
    (state, model)
}
