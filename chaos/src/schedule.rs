//! When what goes wrong: a list made from a scenario and a seed, and from nothing else.
//!
//! Whom a fault hits can often be said only when it comes (who leads then?). So each has a coin of its own: given who there is,
//! [`choose`] gives the same members for the same coin, whatever happened to other faults meanwhile.

use crate::scenario::{Scenario, Target};
use ollamamax_tests::Member;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

/// A fault that will come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// When, in milliseconds after the calm part.
    pub at_ms: u64,
    /// For how long.
    pub lasts_ms: u64,
    /// Which of the scenario's faults.
    pub fault: usize,
    /// Decides whom it hits.
    pub coin: u64,
}

/// What will go wrong, in order.
pub fn schedule(scenario: &Scenario, seed: u64) -> Vec<Planned> {
    let mut planned = Vec::new();
    for (index, fault) in scenario.fault.iter().enumerate() {
        // Of its own, so that one fault more changes none of the others.
        let mut coin = StdRng::seed_from_u64(seed ^ ((index as u64 + 1) << 48));
        let end = scenario.seconds as f64;
        let mut at = fault.first_s;
        while at < end {
            let shift = match fault.jitter_s > 0.0 {
                true => coin.random_range(-fault.jitter_s..=fault.jitter_s),
                false => 0.0,
            };
            let lasts = coin.random_range(fault.lasts_s[0]..=fault.lasts_s[1]);
            let ms = |seconds: f64| (seconds.max(0.0) * 1_000.0) as u64;
            let (at_ms, lasts_ms) = (ms(at + shift), ms(lasts));
            planned.push(Planned { at_ms, lasts_ms, fault: index, coin: coin.random() });
            if fault.every_s <= 0.0 {
                break;
            }
            at += fault.every_s;
        }
    }
    planned.sort_by_key(|planned| (planned.at_ms, planned.fault));
    planned
}

/// Who there is when a fault comes.
#[derive(Clone, Debug, Default)]
pub struct Present {
    /// Nodes that nothing has been done to.
    pub nodes: Vec<usize>,
    /// Workers that nothing has been done to.
    pub workers: Vec<usize>,
    /// The one that leads, if that is known.
    pub leader: Option<usize>,
    /// Voters, dead ones included.
    pub voters: usize,
}

/// Whom a fault hits; nobody when there is nobody of that kind.
pub fn choose(target: Target, present: &Present, coin: u64) -> Vec<Member> {
    let mut coin = StdRng::seed_from_u64(coin);
    let followers =
        present.nodes.iter().copied().filter(|node| Some(*node) != present.leader).collect();
    let leader: Vec<usize> =
        present.leader.into_iter().filter(|leader| present.nodes.contains(leader)).collect();
    let minority = (present.voters.max(1) - 1) / 2;
    let nodes = |of: Vec<usize>| of.into_iter().map(Member::Node).collect();
    let workers = |of: Vec<usize>| of.into_iter().map(Member::Worker).collect();
    let mut some = |of: &[usize], count: usize| {
        let mut left = of.to_vec();
        let mut chosen = Vec::new();
        while chosen.len() < count && !left.is_empty() {
            chosen.push(left.remove(coin.random_range(0..left.len())));
        }
        chosen
    };
    let (all_nodes, all_workers) = (&present.nodes, &present.workers);
    match target {
        Target::Leader => nodes(leader),
        Target::Follower => {
            let followers: Vec<usize> = followers;
            nodes(some(&followers, 1))
        }
        Target::Node => nodes(some(all_nodes, 1)),
        Target::Minority => nodes(some(all_nodes, minority)),
        Target::Majority => nodes(some(all_nodes, present.voters - minority)),
        Target::Nodes => nodes(all_nodes.clone()),
        Target::Worker => workers(some(all_workers, 1)),
        Target::MostWorkers => workers(some(all_workers, all_workers.len().saturating_sub(1))),
        Target::All => {
            let mut all: Vec<Member> = nodes(all_nodes.clone());
            all.extend(all_workers.iter().copied().map(Member::Worker));
            all
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::shipped;
    use std::collections::BTreeSet;

    #[test]
    fn the_same_seed_gives_the_same_schedule_and_another_one_another() {
        let mut differ = 0;
        for scenario in shipped().expect("scenarios") {
            for seed in 0..20 {
                let planned = schedule(&scenario, seed);
                assert_eq!(planned, schedule(&scenario, seed), "{} {seed}", scenario.name);
                assert!(!planned.is_empty());
                assert!(planned.is_sorted_by_key(|planned| planned.at_ms));
                differ += usize::from(planned != schedule(&scenario, seed + 1_000));
            }
        }
        assert!(differ > 100, "{differ}");
    }

    #[test]
    fn one_fault_more_changes_none_of_the_others() {
        let mut scenario = shipped().expect("scenarios").swap_remove(0);
        let before = schedule(&scenario, 7);
        scenario.fault.push(scenario.fault[0].clone());
        let after = schedule(&scenario, 7);
        assert!(before.iter().all(|planned| after.contains(planned)));
    }

    fn present() -> Present {
        Present { nodes: vec![0, 1, 2, 3, 4], workers: vec![0, 1, 2], leader: Some(3), voters: 5 }
    }

    #[test]
    fn each_target_gives_whom_it_says() {
        let present = present();
        for coin in 0..50 {
            let chosen = |target| choose(target, &present, coin);
            assert_eq!(chosen(Target::Leader), [Member::Node(3)]);
            assert!(!chosen(Target::Follower).contains(&Member::Node(3)));
            for (target, count) in [
                (Target::Follower, 1),
                (Target::Node, 1),
                (Target::Minority, 2),
                (Target::Majority, 3),
                (Target::Nodes, 5),
                (Target::Worker, 1),
                (Target::MostWorkers, 2),
                (Target::All, 8),
            ] {
                let distinct: BTreeSet<_> = chosen(target).into_iter().collect();
                assert_eq!(distinct.len(), count, "{target:?}");
                assert_eq!(chosen(target), choose(target, &present, coin));
            }
        }
        let coins: BTreeSet<_> =
            (0..50).flat_map(|coin| choose(Target::Node, &present, coin)).collect();
        assert_eq!(coins.len(), 5, "each is chosen some time");
    }

    #[test]
    fn where_nobody_is_nobody_is_hit() {
        let nobody = Present { voters: 3, ..Present::default() };
        assert!(choose(Target::Leader, &nobody, 1).is_empty());
        assert!(choose(Target::MostWorkers, &nobody, 1).is_empty());
        let led_by_a_victim = Present { nodes: vec![0], leader: Some(1), ..nobody };
        assert!(choose(Target::Leader, &led_by_a_victim, 1).is_empty());
    }
}
