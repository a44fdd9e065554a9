//! Every objective against brute force, on cases small enough for it.

use super::chain::{Objective, cut};
use super::heads::Attention;
use super::load::Load;
use super::map::{Map, Part};
use super::misfit::Misfit;
use super::orders::{Aim, best};
use super::shards::Run;
use super::site::Site;
use super::{Choice, Wish, choose};
use crate::deployment::{Policy, Strategy};
use crate::testing::config;
use ollamamax_proto::WorkerId;
use proptest::prelude::*;

fn load() -> impl Strategy_<Value = Load> {
    let layers = prop::collection::vec((1..30u64, 1..20u64), 1..7);
    (layers, 0..20u64, 1..20u64, any::<bool>()).prop_map(|(layers, embedding, head, tied)| {
        let layers = layers.into_iter().map(|(read, kv)| (read + kv, read));
        let head = if tied { embedding } else { head };
        Load::from_parts(layers, embedding, head, tied)
    })
}

use proptest::strategy::Strategy as Strategy_;

fn sites(most: usize) -> impl Strategy_<Value = Vec<Site>> {
    let one = (5..150u64, prop_oneof![Just(10u64), 1..60u64], 0..40u64, 0..2u32);
    prop::collection::vec(one, 1..=most).prop_map(|all| {
        let site = |(nth, (free_bytes, ns_per_mib, hop, place)): (usize, (u64, u64, u64, u32))| {
            let worker = WorkerId(nth as u128 + 1);
            // Some hops are as long as a layer, some are nothing beside it.
            Site { worker, free_bytes, ns_per_mib, near_ns: 0, far_ns: hop / 20, place }
        };
        all.into_iter().enumerate().map(site).collect()
    })
}

/// Every way to give the layers to `sites` in this order, each worker some or, unless `all`, none.
fn cuts(load: &Load, sites: &[Site], all: bool) -> Vec<Vec<usize>> {
    fn go(
        load: &Load,
        sites: &[Site],
        all: bool,
        first: usize,
        ends: &mut Vec<usize>,
        found: &mut Vec<Vec<usize>>,
    ) {
        if ends.len() == sites.len() {
            if first == load.layers() {
                found.push(ends.clone());
            }
            return;
        }
        let site = &sites[ends.len()];
        for end in first + usize::from(all)..=load.layers() {
            if end == first || load.memory(first, end) <= site.free_bytes {
                ends.push(end);
                go(load, sites, all, end, ends, found);
                ends.pop();
            }
        }
    }
    let mut found = Vec::new();
    go(load, sites, all, 0, &mut Vec::new(), &mut found);
    found
}

fn value(load: &Load, sites: &[Site], ends: &[usize], objective: Objective) -> u64 {
    let (mut first, mut value) = (0, 0u64);
    for (site, &end) in sites.iter().zip(ends) {
        if end > first {
            let time = site.time(load, first, end);
            value = if objective == Objective::Pace { value.max(time) } else { value + time };
        }
        first = end;
    }
    value
}

fn orders(count: usize) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for _ in 0..count {
        let longer = all.iter().flat_map(|order: &Vec<usize>| {
            let rest = (0..count).filter(|nth| !order.contains(nth));
            rest.map(|nth| [order.as_slice(), &[nth]].concat()).collect::<Vec<_>>()
        });
        all.extend(longer.collect::<Vec<_>>());
        all.sort();
        all.dedup();
    }
    all
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn a_cut_in_order_is_the_best_there_is(load in load(), sites in sites(4), all in any::<bool>()) {
        for objective in [Objective::Pace, Objective::Sum] {
            let known = cuts(&load, &sites, all);
            let least = known.iter().map(|ends| value(&load, &sites, ends, objective)).min();
            let got = cut(&load, &sites, objective, all);
            if let Some(ends) = &got {
                prop_assert!(known.contains(ends), "{ends:?} is no cut");
            }
            prop_assert_eq!(got.map(|ends| value(&load, &sites, &ends, objective)), least);
        }
    }

    #[test]
    fn a_ring_is_the_best_of_all_orders(load in load(), sites in sites(4), stages in 0..4usize) {
        let stages = (stages >= 2).then_some(stages);
        for aim in [Aim::Fewest, Aim::Best(Objective::Pace), Aim::Best(Objective::Sum)] {
            let objective = if let Aim::Best(objective) = aim { objective } else { Objective::Sum };
            let rank = |order: &[usize], ends: &[usize]| {
                let listed: Vec<Site> = order.iter().map(|nth| sites[*nth]).collect();
                let (count, time) = (order.len() as u64, value(&load, &listed, ends, objective));
                if aim == Aim::Fewest { (count, time) } else { (time, count) }
            };
            let mut least = None;
            for order in orders(sites.len()) {
                if stages.map_or(order.len() < 2, |stages| order.len() != stages) {
                    continue;
                }
                let listed: Vec<Site> = order.iter().map(|nth| sites[*nth]).collect();
                for ends in cuts(&load, &listed, true) {
                    let this = rank(&order, &ends);
                    least = Some(least.map_or(this, |least: (u64, u64)| least.min(this)));
                }
            }
            let got = best(&load, &sites, aim, stages);
            prop_assert_eq!(got.map(|ring| rank(&ring.order, &ring.ends)), least);
        }
    }

    #[test]
    fn heads_are_dealt_the_best_way(
        load in load(), sites in sites(3), units in 1..9u32, unit in 1..3u32,
    ) {
        let attention = Attention { heads: units * unit, unit };
        let run = Run { load: &load, first: 0, end: load.layers(), attention };
        let slowest = |heads: &[u32]| {
            sites.iter().zip(heads).enumerate().map(|(n, (s, h))| run.time(s, n, *h)).max()
        };
        let mut least = None;
        let mut open = vec![vec![]];
        for _ in 0..sites.len() {
            open = open.iter().flat_map(|dealt: &Vec<u32>| {
                (1..=units).map(|n| [dealt.as_slice(), &[n * unit]].concat()).collect::<Vec<_>>()
            }).collect();
        }
        for heads in open {
            let whole = heads.iter().sum::<u32>() == attention.heads;
            let fits = || (0..sites.len()).all(|n| run.bytes(n, heads[n]) <= sites[n].free_bytes);
            if whole && fits() {
                let this = slowest(&heads);
                least = if least.is_none() { this } else { least.min(this) };
            }
        }
        let got = run.allot(&sites);
        if let Some(heads) = &got {
            prop_assert_eq!(heads.iter().sum::<u32>(), attention.heads);
        }
        prop_assert_eq!(got.and_then(|heads| slowest(&heads)), least);
    }

    #[test]
    fn every_map_covers_the_model_once_and_fits(
        load in load(), sites in prop_oneof![sites(6), sites(14)], asked in 0..5usize, stages in 0..4u32, shards in 0..3u32,
        heads in 1..9u32, throughput in any::<bool>(),
    ) {
        let policy = if throughput { Policy::Throughput } else { Policy::Latency };
        let wish = Wish { strategy: Strategy::ALL[asked], stages, shards, policy, replicas: 2 };
        let attention = Ok(Attention { heads, unit: 1 });
        if let Ok(Choice { map, others }) = choose(&load, &attention, &sites, &wish) {
            check_map(&load, &sites, heads, &map);
            for other in others {
                if let Ok(other) = other.map {
                    check_map(&load, &sites, heads, &other);
                    let (ours, theirs) = (map.latency_ns, other.latency_ns);
                    prop_assert!(throughput || ours <= theirs, "{map:?} {other:?}");
                }
            }
        }
    }
}

fn check_map(load: &Load, sites: &[Site], heads: u32, map: &Map) {
    let mut workers: Vec<WorkerId> = map.parts.iter().map(|part| part.worker).collect();
    workers.sort();
    workers.dedup();
    assert_eq!(workers.len(), map.parts.len(), "a worker has two parts");
    let mut at = 0;
    let mut rest = map.parts.as_slice();
    while let Some(first) = rest.first() {
        let (group, behind) = rest.split_at(first.stage.shards as usize);
        assert_eq!(first.stage.first_layer, at);
        let mut head = 0;
        for (shard, part) in (0..).zip(group) {
            let Part { stage, first_head, end_head, .. } = part;
            assert_eq!((stage.first_layer, stage.end_layer), (at, first.stage.end_layer));
            assert_eq!((stage.shard, *first_head), (shard, head));
            assert!(end_head > first_head);
            assert_eq!(stage.embedding, at == 0);
            assert_eq!(stage.head, stage.end_layer as usize == load.layers());
            let site = sites.iter().find(|site| site.worker == part.worker).expect("one of them");
            assert!(part.bytes <= site.free_bytes, "{part:?} in {}", site.free_bytes);
            head = *end_head;
        }
        assert_eq!(head, heads, "the heads are not all there");
        at = first.stage.end_layer;
        rest = behind;
    }
    assert_eq!(at as usize, load.layers());
}

fn equal(count: u128, free_bytes: u64) -> Vec<Site> {
    let site = |worker| Site {
        worker: WorkerId(worker),
        free_bytes,
        ns_per_mib: 1_000,
        near_ns: 10,
        far_ns: 100,
        place: 0,
    };
    (1..=count).map(site).collect()
}

fn refusal(strategy: Strategy, stages: u32, shards: u32) -> String {
    let load = Load::from_parts([(10, 10); 4], 5, 5, false);
    let attention = Ok(Attention { heads: 4, unit: 1 });
    let wish = Wish { strategy, stages, shards, policy: Policy::Latency, replicas: 1 };
    choose(&load, &attention, &equal(3, 12), &wish).expect_err("it cannot be").to_string()
}

#[test]
fn what_cannot_be_is_refused_with_what_could() {
    assert_eq!(
        refusal(Strategy::Tensor, 0, 3),
        "3 shards over 4 key-value heads; 2 or 4 would work"
    );
    assert_eq!(refusal(Strategy::Pipeline, 5, 0), "5 stages over 4 layers; at most 4 stages work");
    assert_eq!(
        refusal(Strategy::Pipeline, 4, 0),
        "4 parts need as many workers, 3 can take one; start 1 more, or ask for at most 3"
    );
    assert_eq!(
        refusal(Strategy::Layer, 0, 0),
        "as `layer` it needs 50 bytes, the 3 workers open to it have 36 left: 14 more are needed"
    );
    let load = Load::from_parts([(10, 10); 4], 5, 5, false);
    let wish = Wish {
        strategy: Strategy::Tensor,
        stages: 0,
        shards: 0,
        policy: Policy::Latency,
        replicas: 1,
    };
    let torn = Err(Misfit::Encoder);
    assert_eq!(choose(&load, &torn, &equal(3, 99), &wish), Err(Misfit::Encoder));
}

#[test]
fn unlike_workers_get_unlike_shards_and_a_pipeline_of_groups_where_one_group_is_too_small() {
    let load = Load::from_parts([(1 << 20, 1 << 20); 8], 0, 1, false);
    let mut sites = equal(4, 3 << 20);
    let wish = Wish {
        strategy: Strategy::Tensor,
        stages: 0,
        shards: 2,
        policy: Policy::Latency,
        replicas: 1,
    };
    let attention = Ok(Attention { heads: 8, unit: 1 });
    let map = choose(&load, &attention, &sites, &wish).expect("two stages of two").map;
    assert_eq!((map.form.stages, map.form.shards, map.parts.len()), (2, 2, 4));
    sites[0].free_bytes = 100 << 20;
    sites[0].ns_per_mib = 200;
    let map = choose(&load, &attention, &sites, &wish).expect("a large and a small one").map;
    let mut shares: Vec<(u128, u32)> =
        map.parts.iter().map(|part| (part.worker.0, part.end_head - part.first_head)).collect();
    shares.sort_unstable();
    assert_eq!(shares, [(1, 7), (2, 1)]);
}
