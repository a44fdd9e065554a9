//! Contiguous layers over workers in whichever order and choice is best.
//!
//! Exact where the workers fall into few kinds: dynamic programming over the sets of workers used so far, where of two
//! alike the first is always used before the second. Else the order is settled by speed or room, and only the cuts are
//! exact.

use super::chain::{Objective, cut};
use super::load::Load;
use super::site::{Site, Time};
use ollamamax_proto::limits;

/// A cut: the workers in ring order, by their place in the list given, and where each one's layers end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ring {
    pub(super) order: Vec<usize>,
    pub(super) ends: Vec<usize>,
}

/// What the ring shall be best at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// Fewest workers, then the least sum of times.
    Fewest,
    /// As [`Objective`]; of equals the one with fewer workers.
    Best(Objective),
}

/// The best ring of at least two, or exactly `stages`, of `sites`; `None`: nothing fits.
pub(super) fn best(load: &Load, sites: &[Site], aim: Aim, stages: Option<usize>) -> Option<Ring> {
    let most = stages.unwrap_or(limits::REPLICA_STAGES_COUNT).min(load.layers());
    let least = stages.unwrap_or(2);
    if sites.len() < least || most < least {
        return None;
    }
    match sets(sites, most, load.layers()) {
        Some(sets) => exact(load, sites, aim, &sets, least),
        None => settled(load, sites, aim, most, stages),
    }
}

/// The sets of at most `most` workers that differ in kind, smaller numbers first; `None`: too many.
fn sets(sites: &[Site], most: usize, layers: usize) -> Option<Vec<u32>> {
    if sites.len() > 16 || layers > limits::PARTITION_EXACT_LAYERS_COUNT {
        return None;
    }
    let before = |nth: usize| (0..nth).rev().find(|other| sites[*other].is_like(&sites[nth]));
    let before: Vec<Option<usize>> = (0..sites.len()).map(before).collect();
    let canonical = |set: &u32| {
        let has = |nth: usize| set & (1 << nth) != 0;
        set.count_ones() as usize <= most
            && (0..sites.len()).all(|nth| !has(nth) || before[nth].is_none_or(has))
    };
    let sets: Vec<u32> = (0..1u32 << sites.len()).filter(canonical).collect();
    (sets.len() <= limits::PARTITION_EXACT_SETS_COUNT).then_some(sets)
}

#[derive(Clone, Copy)]
struct Best {
    time: Time,
    begin: u32,
    site: u32,
}

const NONE: Best = Best { time: Time::MAX, begin: 0, site: 0 };

fn exact(load: &Load, sites: &[Site], aim: Aim, sets: &[u32], least: usize) -> Option<Ring> {
    let layers = load.layers();
    let join: fn(Time, Time) -> Time = match aim {
        Aim::Best(Objective::Pace) => |a, b| a.max(b),
        Aim::Fewest | Aim::Best(Objective::Sum) => |a, b| a + b,
    };
    let mut table = vec![vec![NONE; layers + 1]; sets.len()];
    if let Some(empty) = table.first_mut() {
        empty[0].time = 0;
    }
    for (at, set) in sets.iter().enumerate() {
        // Backwards, so that of equal rings the one in the order given is found.
        for (nth, site) in sites.iter().enumerate().rev().filter(|(nth, _)| set & (1 << nth) != 0) {
            // Without the last of its kind; another of the kind gives a set that is not listed.
            let Ok(rest) = sets.binary_search(&(set & !(1 << nth))) else { continue };
            let (done, open) = table.split_at_mut(at);
            let (from, to) = (&done[rest], &mut open[0]);
            for begin in (0..layers).filter(|begin| from[*begin].time < Time::MAX) {
                let ends = to.iter_mut().enumerate().skip(begin + 1);
                for (end, best) in ends {
                    if load.memory(begin, end) > site.free_bytes {
                        // With a tied embedding the whole may fit where all but the last layer do not.
                        if begin == 0 { continue } else { break }
                    }
                    let time = join(from[begin].time, site.time(load, begin, end));
                    if time < best.time {
                        *best = Best { time, begin: begin as u32, site: nth as u32 };
                    }
                }
            }
        }
    }
    let fits = |at: &usize| {
        sets[*at].count_ones() as usize >= least && table[*at][layers].time < Time::MAX
    };
    let rank = |at: &usize| {
        let (count, time) = (sets[*at].count_ones() as u64, table[*at][layers].time);
        match aim {
            Aim::Fewest => (count, time),
            Aim::Best(_) => (time, count),
        }
    };
    let mut at = (0..sets.len()).filter(fits).min_by_key(rank)?;
    let (mut order, mut ends, mut end) = (Vec::new(), Vec::new(), layers);
    while end > 0 {
        let best = table[at][end];
        order.push(best.site as usize);
        ends.push(end);
        end = best.begin as usize;
        at = sets.binary_search(&(sets[at] & !(1 << best.site))).ok()?;
    }
    order.reverse();
    ends.reverse();
    Some(Ring { order, ends })
}

/// Orders that are likely good, cut exactly.
fn settled(
    load: &Load,
    sites: &[Site],
    aim: Aim,
    most: usize,
    stages: Option<usize>,
) -> Option<Ring> {
    let mut roomy: Vec<usize> = (0..sites.len()).collect();
    let mut fast = roomy.clone();
    let id = |nth: usize| sites[nth].worker;
    roomy.sort_by_key(|nth| (std::cmp::Reverse(sites[*nth].free_bytes), id(*nth)));
    fast.sort_by_key(|nth| (sites[*nth].speed(), sites[*nth].hop(), id(*nth)));
    let objective = match aim {
        Aim::Fewest => Objective::Sum,
        Aim::Best(objective) => objective,
    };
    let of = |order: &[usize], all: bool| -> Option<(Time, Ring)> {
        let listed: Vec<Site> = order.iter().map(|nth| sites[*nth]).collect();
        let ends = cut(load, &listed, objective, all)?;
        let mut ring = Ring { order: Vec::new(), ends: Vec::new() };
        let (mut value, mut first): (Time, usize) = (0, 0);
        for (nth, end) in order.iter().zip(ends).filter(|(_, end)| *end > 0) {
            if end > first {
                let time = sites[*nth].time(load, first, end);
                value = if objective == Objective::Pace { value.max(time) } else { value + time };
                ring.order.push(*nth);
                ring.ends.push(end);
                first = end;
            }
        }
        (ring.order.len() >= 2).then_some((value, ring))
    };
    let count = most.min(sites.len());
    if let Some(stages) = stages {
        let tries = [&roomy, &fast].map(|order| of(&order[..stages], true));
        return tries.into_iter().flatten().min_by_key(|(value, _)| *value).map(|(_, ring)| ring);
    }
    if aim == Aim::Fewest {
        return (2..=count).find_map(|count| of(&roomy[..count], false)).map(|(_, ring)| ring);
    }
    let tries = [&roomy, &fast].map(|order| of(&order[..count], false));
    tries.into_iter().flatten().min_by_key(|(value, _)| *value).map(|(_, ring)| ring)
}
