//! How long the planner's searches for a partition take: `cargo bench -p ollamamax-bench --bench partition`.

use divan::{Bencher, black_box};
use ollamamax_core::deployment::{Policy, Strategy};
use ollamamax_core::plan::partition::{Attention, Load, Objective, Site, Wish, choose, cut};
use ollamamax_proto::WorkerId;

fn main() {
    divan::main();
}

const MIB: u64 = 1 << 20;

/// 80 layers of 480 MiB or so, as of a model of 70 billion weights in four bits.
fn load() -> Load {
    let layers = (0..80u64).map(|nth| {
        let read = (470 + (nth * 7) % 23) * MIB;
        (read + 64 * MIB, read)
    });
    Load::from_parts(layers, 560 * MIB, 820 * MIB, false)
}

/// Workers of which each is unlike the others; together they have room for a third more than the model.
fn sites(count: u128, kinds: u64) -> Vec<Site> {
    let site = |nth: u128| {
        let kind = nth as u64 % kinds;
        Site {
            worker: WorkerId(nth),
            free_bytes: (7_000 + 300 * kind) * MIB * 8 / count as u64,
            ns_per_mib: 1_000 + 130 * kind,
            near_ns: 25_000,
            far_ns: 100_000,
            place: 0,
        }
    };
    (1..=count).map(site).collect()
}

#[divan::bench(args = [2, 4, 8, 16])]
fn pace_in_order(bencher: Bencher<'_, '_>, workers: u128) {
    let (load, sites) = (load(), sites(workers, 8));
    bencher.bench_local(|| cut(black_box(&load), black_box(&sites), Objective::Pace, false));
}

#[divan::bench(args = [2, 4, 8, 16])]
fn sum_in_order(bencher: Bencher<'_, '_>, workers: u128) {
    let (load, sites) = (load(), sites(workers, 8));
    bencher.bench_local(|| cut(black_box(&load), black_box(&sites), Objective::Sum, false));
}

#[divan::bench(args = ["layer", "pipeline", "tensor", "auto"])]
fn chosen_of_eight_workers_of_three_kinds(bencher: Bencher<'_, '_>, strategy: &str) {
    let (load, sites) = (load(), sites(8, 3));
    let strategy: Strategy = strategy.parse().expect("it is one of the four above");
    let wish = Wish { strategy, stages: 0, shards: 0, policy: Policy::Latency, replicas: 1 };
    let attention = Ok(Attention { heads: 8, unit: 1 });
    bencher.bench_local(|| choose(black_box(&load), &attention, black_box(&sites), &wish));
}
