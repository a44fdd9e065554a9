//! Policies over simulated workers in virtual time: the shares, waits and prefills that they promise.
//!
//! A worker serves one request after the other, each for its prompt tokens that are not cached and its
//! output; its cache holds blocks, the longest unused go first. Everything is drawn from one seed.

use crate::ewma::PeakEwma;
use crate::route::affinity::PrefixIndex;
use crate::route::chain::{Chain, Prefix};
use crate::route::{Candidate, Memory, Policy, Shape, pick};
use ollamamax_proto::{Millis, WorkerId, limits};
use std::collections::{BTreeMap, VecDeque};

/// A coin that is the same in every run.
struct Coin(u64);

impl Coin {
    fn toss(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, count: u64) -> u64 {
        (self.toss() * count as f64) as u64
    }

    /// A wait between two arrivals that do not know of each other, in microseconds.
    fn wait(&mut self, mean_us: f64) -> u64 {
        (-(1.0 - self.toss()).ln() * mean_us) as u64
    }
}

struct Worker {
    us_per_token: u64,
    free_at_us: u64,
    /// Requests in order: when they end, their tokens, and how long they waited for their end.
    queue: VecDeque<(u64, u64, u64)>,
    ewma: PeakEwma,
    cache: BTreeMap<u64, u64>,
}

struct Simulation {
    workers: Vec<Worker>,
    policy: Policy,
    memory: Memory,
    index: PrefixIndex,
    coin: Coin,
    now_us: u64,
    uses: u64,
    picks: Vec<u64>,
    waits_us: Vec<u64>,
    computed_tokens: u64,
}

/// Blocks one worker's cache holds.
const CACHE_BLOCKS: usize = 600;
/// Tokens of a block of hashes.
const BLOCK_TOKENS: u64 = 64;

impl Simulation {
    fn new(policy: Policy, us_per_token: &[u64]) -> Self {
        let worker = |&us_per_token| Worker {
            us_per_token,
            free_at_us: 0,
            queue: VecDeque::new(),
            ewma: PeakEwma::new(Millis(0)),
            cache: BTreeMap::new(),
        };
        Self {
            workers: us_per_token.iter().map(worker).collect(),
            policy,
            memory: Memory::default(),
            index: PrefixIndex::default(),
            coin: Coin(0x5eed),
            now_us: 0,
            uses: 0,
            picks: vec![0; us_per_token.len()],
            waits_us: Vec::new(),
            computed_tokens: 0,
        }
    }

    fn now(&self) -> Millis {
        Millis(self.now_us / 1_000)
    }

    /// A request that comes some time after the last one.
    fn request(
        &mut self,
        after_us: u64,
        prefix: &Prefix,
        tokens: u64,
        output: u64,
        weights: &[u32],
    ) {
        self.now_us += after_us;
        let (now, now_us) = (self.now(), self.now_us);
        for worker in &mut self.workers {
            while let Some(&(end, _, wait)) =
                worker.queue.front().filter(|(end, ..)| *end <= now_us)
            {
                worker.ewma.observe(Millis(end / 1_000), wait);
                worker.queue.pop_front();
            }
        }
        let shape = Shape {
            prompt_tokens: tokens as u32,
            max_tokens: output as u32,
            prefix_hash: prefix.home(),
        };
        let mut matched = vec![0; self.workers.len()];
        self.index.matched(&prefix.hashes, &mut matched);
        let seen = |(nth, worker): (usize, &Worker)| Candidate {
            worker: WorkerId(nth as u128 + 1),
            outstanding_tokens: worker.queue.iter().map(|(_, tokens, _)| tokens).sum(),
            latency_us: worker.ewma.read_us(now),
            running: worker.queue.len() as u32,
            capacity: u32::MAX,
            weight: weights.get(nth).copied().unwrap_or(1),
            cached_tokens: prefix.tokens(matched[nth], shape.prompt_tokens),
            usable: true,
            ..Candidate::NOBODY
        };
        let candidates: Vec<Candidate> = self.workers.iter().enumerate().map(seen).collect();
        let coin = self.coin.toss();
        let picked = pick(self.policy, &candidates, &shape, &mut self.memory, coin);
        let nth = picked.expect("all are open");
        self.serve(nth, prefix, tokens, output);
    }

    fn serve(&mut self, nth: usize, prefix: &Prefix, tokens: u64, output: u64) {
        let worker = &mut self.workers[nth];
        let known = prefix.hashes.iter().take_while(|hash| worker.cache.contains_key(hash)).count();
        let computed = tokens.saturating_sub(known as u64 * BLOCK_TOKENS).max(1);
        for hash in &prefix.hashes {
            self.uses += 1;
            worker.cache.insert(*hash, self.uses);
            self.index.stored(nth, *hash);
        }
        while worker.cache.len() > CACHE_BLOCKS {
            let oldest = worker.cache.iter().min_by_key(|(_, used)| **used).map(|(hash, _)| *hash);
            let oldest = oldest.expect("it is not empty");
            worker.cache.remove(&oldest);
            self.index.evicted(nth, oldest);
        }
        let work = computed + output;
        worker.free_at_us = worker.free_at_us.max(self.now_us) + work * worker.us_per_token;
        let wait = worker.free_at_us - self.now_us;
        worker.queue.push_back((worker.free_at_us, work, wait));
        self.picks[nth] += 1;
        self.waits_us.push(wait);
        self.computed_tokens += computed;
    }

    fn p95_us(&self) -> u64 {
        let mut waits = self.waits_us.clone();
        waits.sort_unstable();
        waits[waits.len() * 95 / 100]
    }
}

fn within(count: u64, due: f64, percent: f64) -> bool {
    (count as f64 - due).abs() <= due * percent / 100.0
}

#[test]
fn round_robin_spreads_ten_thousand_requests_within_a_percent() {
    let mut simulation = Simulation::new(Policy::RoundRobin, &[10; 7]);
    for _ in 0..10_000 {
        simulation.request(1_000, &Prefix::default(), 100, 50, &[]);
    }
    let due = 10_000.0 / 7.0;
    assert!(
        simulation.picks.iter().all(|count| within(*count, due, 1.0)),
        "{:?}",
        simulation.picks
    );
}

#[test]
fn weights_are_shares_within_two_percent() {
    let weights = [1, 2, 3, 10, 16];
    let mut simulation = Simulation::new(Policy::Weighted, &[10; 5]);
    for _ in 0..10_000 {
        simulation.request(1_000, &Prefix::default(), 100, 50, &weights);
    }
    for (count, weight) in simulation.picks.iter().zip(weights) {
        let due = 10_000.0 * f64::from(weight) / 32.0;
        assert!(within(*count, due, 2.0), "{:?}", simulation.picks);
    }
}

#[test]
fn one_slow_worker_hardly_shows_under_latency_balancing() {
    // The slow one is busy for half of its time under round robin, so that its queue stays short there, too.
    let p95 = |policy| {
        let mut simulation = Simulation::new(policy, &[20, 20, 20, 200, 20, 20, 20, 20]);
        for _ in 0..20_000 {
            let after = simulation.coin.wait(12_500.0);
            let tokens = 150 + simulation.coin.below(100);
            simulation.request(after, &Prefix::default(), tokens, 50, &[]);
        }
        simulation.p95_us()
    };
    let (in_turn, latency) = (p95(Policy::RoundRobin), p95(Policy::Latency));
    assert!(latency * 2 <= in_turn, "p95: {latency} us against {in_turn} us");
}

/// Conversations of several turns over a few dozen system prompts, interleaved.
fn shared_prefixes(policy: Policy) -> Simulation {
    let mut simulation = Simulation::new(policy, &[20; 8]);
    let mut coin = Coin(7);
    let text = |kind: u8, number: u64, blocks: u64| {
        let unit = [&[kind][..], &number.to_le_bytes()].concat();
        let bytes = blocks as usize * limits::PREFIX_BLOCK_BYTES;
        unit.iter().copied().cycle().take(bytes).collect::<Vec<u8>>()
    };
    let mut turns = vec![0u64; 200];
    for _ in 0..4_000 {
        let number = coin.below(turns.len() as u64);
        let turn = &mut turns[number as usize];
        *turn = (*turn + 1) % 8;
        let mut chain = Chain::new(1);
        chain.part(&text(b's', number % 24, 12));
        for past in 0..=*turn {
            chain.part(&text(b'u', number * 8 + past, 2));
        }
        let prefix = chain.finish();
        let tokens = prefix.bytes * BLOCK_TOKENS / limits::PREFIX_BLOCK_BYTES as u64;
        let after = coin.wait(6_000.0);
        simulation.request(after, &prefix, tokens, 60, &[]);
    }
    simulation
}

#[test]
fn prefix_affinity_computes_at_most_half_of_what_round_robin_does() {
    let (in_turn, affinity) =
        (shared_prefixes(Policy::RoundRobin), shared_prefixes(Policy::Prefix));
    let (less, more) = (affinity.computed_tokens, in_turn.computed_tokens);
    assert!(less * 2 <= more, "{less} tokens of prompts against {more}");
    let (fast, slow) = (affinity.p95_us(), in_turn.p95_us());
    assert!(fast <= slow, "nor do requests wait for it: {fast} us against {slow} us");
    assert!(affinity.picks.iter().all(|count| *count > 200), "all work: {:?}", affinity.picks);
}
