//! Contiguous layers over workers in a given order, exactly.
//!
//! Smallest largest stage: search on the bound. A probe lets each worker in turn take as many layers as the bound and its
//! memory allow (binary search over the prefix sums); taking more never hurts those behind it. A probe that succeeds
//! lowers the bound to what it used, one that fails raises it to the least time at which any worker could have taken one
//! layer more: the search ends at a time that some stage really has.
//!
//! Smallest sum: dynamic programming over cuts. The time is linear in the prefix sums, so the best beginning of a stage
//! that ends at `j` is the least of a window that only moves forward: a queue of candidates makes it linear.

use super::load::Load;
use super::site::{Site, Time};
use std::collections::VecDeque;

/// What a cut shall be best at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// The least time of the slowest stage: most tokens per second.
    Pace,
    /// The least sum of all stages: the first token and each next one soonest.
    Sum,
}

/// The ends of the layers that each of `sites` takes, in their order; equal to the end before it where a worker takes
/// none, which is not allowed `all` of them are asked for. `None`: it does not fit.
pub fn cut(load: &Load, sites: &[Site], objective: Objective, all: bool) -> Option<Vec<usize>> {
    match objective {
        Objective::Pace if !all => pace(load, sites),
        Objective::Pace => table(load, sites, |time, before| time.max(before)),
        Objective::Sum => sum(load, sites, all),
    }
}

/// One past the last layer that `site` can take from `first` on within `bound`.
fn reach(load: &Load, site: &Site, first: usize, bound: Time) -> usize {
    let Some(left) = bound.checked_sub(site.hop()) else { return first };
    let begin = load.before[first];
    let read = begin.read.saturating_add(left / site.speed());
    let memory = begin.memory.saturating_add(site.free_bytes);
    let rest = &load.before[first + 1..];
    let end = first + rest.partition_point(|at| at.read <= read && at.memory <= memory);
    let layers = load.layers();
    let whole = first == 0 && end < layers && load.memory(0, layers) <= site.free_bytes;
    if whole && load.before[layers].read <= read { layers } else { end }
}

fn pace(load: &Load, sites: &[Site]) -> Option<Vec<usize>> {
    let layers = load.layers();
    let mut best = vec![0; sites.len()];
    let mut ends = vec![0; sites.len()];
    // The largest time of a stage and the least that would have let one take more.
    let probe = |bound: Time, ends: &mut [usize]| -> (usize, Time, Time) {
        let (mut at, mut used, mut next) = (0, 0, Time::MAX);
        for (site, end) in sites.iter().zip(ends.iter_mut()) {
            let first = at;
            at = if first < layers { reach(load, site, first, bound) } else { first };
            *end = at;
            if at > first {
                used = used.max(site.time(load, first, at));
            }
            if at < layers && load.memory(first, at + 1) <= site.free_bytes {
                next = next.min(site.time(load, first, at + 1));
            }
            if first == 0 && at < layers && load.memory(0, layers) <= site.free_bytes {
                next = next.min(site.time(load, 0, layers));
            }
        }
        (at, used, next)
    };
    let (at, used, _) = probe(Time::MAX, &mut best);
    if at < layers {
        return None;
    }
    let total = load.read(0, layers);
    let share: u64 = sites.iter().map(|site| (1 << 40) / site.speed()).sum();
    // All workers busy to the end, hops forgotten: no cut is faster.
    let ideal = u128::from(total) * (1 << 40) / u128::from(share.max(1) + sites.len() as u64);
    let (mut low, mut high) = (u64::try_from(ideal).unwrap_or(Time::MAX), used);
    let mut bound = low;
    while low < high {
        let (at, used, next) = probe(bound, &mut ends);
        if at == layers {
            high = used;
            best.copy_from_slice(&ends);
        } else {
            low = next.max(bound + 1);
        }
        // Cuts lie near the ideal: look there first, then halve.
        bound = low + (high.saturating_sub(low)) / 2;
    }
    Some(best)
}

fn sum(load: &Load, sites: &[Site], all: bool) -> Option<Vec<usize>> {
    const FAR: i64 = i64::MAX;
    let layers = load.layers();
    let width = layers + 1;
    let mut least = vec![FAR; width];
    least[0] = 0;
    let mut from = vec![u32::MAX; width * sites.len()];
    let mut window: VecDeque<(i64, usize)> = VecDeque::with_capacity(width);
    let signed = |time: Time| i64::try_from(time).unwrap_or(FAR);
    for (site, from) in sites.iter().zip(from.chunks_mut(width)) {
        let (speed, hop) = (site.speed(), signed(site.hop()));
        let before = least.clone();
        if all {
            least.fill(FAR);
        }
        window.clear();
        for end in 1..width {
            let begin = end - 1;
            if before[begin] < FAR {
                let key = before[begin] - signed(load.before[begin].read * speed);
                while window.back().is_some_and(|(last, _)| *last >= key) {
                    window.pop_back();
                }
                window.push_back((key, begin));
            }
            let held = load.before[end].memory;
            while window
                .front()
                .is_some_and(|(_, begin)| held - load.before[*begin].memory > site.free_bytes)
            {
                window.pop_front();
            }
            let mut best = window.front().copied();
            let whole = end == layers && before[0] == 0;
            if whole && load.memory(0, layers) <= site.free_bytes {
                best = best.into_iter().chain([(0, 0)]).min();
            }
            if let Some((key, begin)) = best {
                let time = key + signed(load.before[end].read * speed) + hop;
                if time < least[end] {
                    least[end] = time;
                    from[end] = u32::try_from(begin).unwrap_or(u32::MAX);
                }
            }
        }
    }
    (least[layers] < FAR).then(|| back(&from, width, sites.len()))
}

/// Every beginning of every stage: for the rare wish that each worker takes some layers, where taking less may help those
/// behind it.
fn table(load: &Load, sites: &[Site], join: fn(Time, Time) -> Time) -> Option<Vec<usize>> {
    let layers = load.layers();
    let width = layers + 1;
    let mut least = vec![Time::MAX; width];
    least[0] = 0;
    let mut from = vec![u32::MAX; width * sites.len()];
    for (site, from) in sites.iter().zip(from.chunks_mut(width)) {
        let before = std::mem::replace(&mut least, vec![Time::MAX; width]);
        for end in 1..width {
            for begin in (0..end).filter(|begin| before[*begin] < Time::MAX) {
                if load.memory(begin, end) <= site.free_bytes {
                    let time = join(site.time(load, begin, end), before[begin]);
                    if time < least[end] {
                        least[end] = time;
                        from[end] = u32::try_from(begin).unwrap_or(u32::MAX);
                    }
                }
            }
        }
    }
    (least[layers] < Time::MAX).then(|| back(&from, width, sites.len()))
}

/// The ends of all stages from the beginnings that were best.
fn back(from: &[u32], width: usize, sites: usize) -> Vec<usize> {
    let mut ends = vec![0; sites];
    let mut end = width - 1;
    for nth in (0..sites).rev() {
        ends[nth] = end;
        let begin = from[nth * width + end];
        if begin != u32::MAX {
            end = begin as usize;
        }
    }
    ends
}
