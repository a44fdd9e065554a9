//! Neighbours that merge, best pair first, until none may: what byte-pair encoding and SentencePiece have in common.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A part of a word, in a list of neighbours.
#[derive(Clone, Copy)]
struct Part<T> {
    /// `None` once it has merged into the one before.
    value: Option<T>,
    /// Counts its merges: a pair that was found before one of them is out of date.
    version: u32,
    previous: usize,
    next: usize,
}

/// No neighbour.
const NONE: usize = usize::MAX;

/// Two neighbours that may merge into `merged`.
struct Pair<T, P> {
    priority: P,
    merged: T,
    left: usize,
    right: usize,
    versions: (u32, u32),
}

/// The greatest priority first; of equals, the leftmost.
impl<T, P: Ord> Ord for Pair<T, P> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.priority.cmp(&other.priority).then(other.left.cmp(&self.left))
    }
}

impl<T, P: Ord> PartialOrd for Pair<T, P> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T, P: Ord> PartialEq for Pair<T, P> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T, P: Ord> Eq for Pair<T, P> {}

/// What is left of `parts` when nothing merges any more. `join` tells with which priority two neighbours merge, and into
/// what.
pub(crate) fn merge<T: Copy, P: Ord>(
    parts: impl Iterator<Item = T>,
    join: impl Fn(T, T) -> Option<(P, T)>,
) -> impl Iterator<Item = T> {
    let part = |(index, value): (usize, T)| Part {
        value: Some(value),
        version: 0,
        previous: index.wrapping_sub(1),
        next: index + 1,
    };
    let mut parts: Vec<Part<T>> = parts.enumerate().map(part).collect();
    if let Some(last) = parts.last_mut() {
        last.next = NONE;
    }
    let consider = |parts: &[Part<T>], left: usize, right: usize| {
        let (a, b) = (parts.get(left)?, parts.get(right)?);
        let (priority, merged) = join(a.value?, b.value?)?;
        Some(Pair { priority, merged, left, right, versions: (a.version, b.version) })
    };
    let mut pairs: BinaryHeap<Pair<T, P>> =
        (1..parts.len()).filter_map(|right| consider(&parts, right - 1, right)).collect();
    while let Some(Pair { merged, left, right, versions, .. }) = pairs.pop() {
        let (a, b) = (parts[left], parts[right]);
        if (a.version, b.version) != versions || a.value.is_none() || b.value.is_none() {
            continue;
        }
        let version = a.version + 1;
        parts[left] = Part { value: Some(merged), version, next: b.next, ..a };
        parts[right].value = None;
        if let Some(next) = parts.get_mut(b.next) {
            next.previous = left;
        }
        pairs.extend(consider(&parts, left, b.next));
        pairs.extend(consider(&parts, a.previous, left));
    }
    parts.into_iter().filter_map(|part| part.value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cmp::Reverse;
    use std::collections::HashMap;

    /// By the definition: the pair with the lowest rank, the leftmost of equals, again and again.
    fn slowly(mut parts: Vec<u8>, rules: &HashMap<(u8, u8), (u32, u8)>) -> Vec<u8> {
        loop {
            let best = parts
                .windows(2)
                .enumerate()
                .filter_map(|(at, pair)| rules.get(&(pair[0], pair[1])).map(|rule| (rule.0, at)))
                .min();
            let Some((_, at)) = best else { return parts };
            parts[at] = rules[&(parts[at], parts[at + 1])].1;
            parts.remove(at + 1);
        }
    }

    proptest! {
        #[test]
        fn the_heap_merges_as_the_definition_does(
            parts in prop::collection::vec(0u8..4, 0..40),
            rules in prop::collection::hash_map((0u8..9, 0u8..9), (0u32..12, 0u8..9), 0..40),
        ) {
            let join = |a, b| rules.get(&(a, b)).map(|(rank, into)| (Reverse(*rank), *into));
            let merged: Vec<u8> = merge(parts.iter().copied(), join).collect();
            prop_assert_eq!(merged, slowly(parts, &rules));
        }
    }
}
