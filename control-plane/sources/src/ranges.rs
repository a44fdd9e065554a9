//! Which bytes of a file are there: disjoint half-open ranges, in order. Pure.

use std::ops::Range;

/// A set of bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// Adds `[range.start, range.end)`; what touches or overlaps becomes one.
    pub fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|had| had.end < range.start);
        let after = self.0.partition_point(|had| had.start <= range.end);
        let touched = &self.0[first..after];
        let start = touched.first().map_or(range.start, |had| had.start.min(range.start));
        let end = touched.last().map_or(range.end, |had| had.end.max(range.end));
        self.0.splice(first..after, std::iter::once(start..end));
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// How many there are from the beginning without a gap.
    pub fn prefix(&self) -> u64 {
        self.0.first().filter(|first| first.start == 0).map_or(0, |first| first.end)
    }

    /// What is missing of the first `total` bytes, in pieces of at most `piece`.
    pub fn missing(&self, total: u64, piece: u64) -> Vec<Range<u64>> {
        let mut out = Vec::new();
        let mut at = 0;
        let ends = self.0.iter().cloned().chain(std::iter::once(total..total));
        for had in ends {
            while at < had.start.min(total) {
                let end = had.start.min(total).min(at.saturating_add(piece.max(1)));
                out.push(at..end);
                at = end;
            }
            at = at.max(had.end);
        }
        out
    }

    /// The ranges themselves.
    pub fn iter(&self) -> impl Iterator<Item = &Range<u64>> {
        self.0.iter()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_and_gaps_are_those_of_single_bytes(
            adds in prop::collection::vec((0u64..60, 0u64..12), 0..20), piece in 1u64..20
        ) {
            let mut ranges = Ranges::default();
            let mut bytes = [false; 80];
            for (start, len) in adds {
                ranges.add(start..start + len);
                bytes[start as usize..(start + len) as usize].fill(true);
            }
            prop_assert_eq!(ranges.bytes(), bytes.iter().filter(|had| **had).count() as u64);
            let prefix = bytes.iter().take_while(|had| **had).count() as u64;
            prop_assert_eq!(ranges.prefix(), prefix);
            prop_assert!(ranges.0.windows(2).all(|two| two[0].end < two[1].start));
            let missing = ranges.missing(64, piece);
            let mut found = [true; 64];
            for gap in missing {
                prop_assert!(!gap.is_empty() && gap.end - gap.start <= piece);
                for at in gap {
                    prop_assert!(found[at as usize], "{} twice", at);
                    found[at as usize] = false;
                }
            }
            prop_assert_eq!(&found[..], &bytes[..64]);
        }
    }
}
