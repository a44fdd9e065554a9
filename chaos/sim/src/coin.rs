//! Chance as a function of a seed and of what the chance is for, never drawn from shared state: taking one thing out of a
//! run leaves the coins of all others as they were, which is what makes schedules shrink.

use std::ops::Range;

/// All coins of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coin(u64);

impl Coin {
    /// The coins of a seed.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed ^ 0x6f6c_6c61_6d61_6d78))
    }

    /// Sixty-four bits for `what`: the same for the same numbers in the same order.
    pub fn bits(self, what: &[u64]) -> u64 {
        what.iter().fold(self.0, |state, part| mix(state ^ part).rotate_left(23))
    }

    /// A number below `bound`; 0 where that is 0.
    pub fn below(self, what: &[u64], bound: u64) -> u64 {
        // The high half of a product: no bias worth the name for the small bounds used here.
        ((u128::from(self.bits(what)) * u128::from(bound)) >> 64) as u64
    }

    /// A number of `range`.
    pub fn within(self, what: &[u64], range: Range<u64>) -> u64 {
        range.start + self.below(what, range.end - range.start)
    }

    /// A number in `[0, 1)`.
    pub fn unit(self, what: &[u64]) -> f64 {
        (self.bits(what) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Whether one of `percent` in a hundred.
    pub fn percent(self, what: &[u64], percent: u64) -> bool {
        self.below(what, 100) < percent
    }
}

/// The finaliser of splitmix64.
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coin_depends_on_its_purpose_alone_and_falls_evenly() {
        let coin = Coin::new(7);
        assert_eq!(coin.bits(&[1, 2]), Coin::new(7).bits(&[1, 2]));
        assert_ne!(coin.bits(&[1, 2]), coin.bits(&[2, 1]));
        assert_ne!(coin.bits(&[1]), Coin::new(8).bits(&[1]));
        let mut counts = [0u32; 10];
        (0..10_000).for_each(|nth| counts[coin.below(&[nth], 10) as usize] += 1);
        assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
        assert_eq!(coin.below(&[1], 0), 0);
        assert!((0..1_000).all(|nth| (5..8).contains(&coin.within(&[nth], 5..8))));
    }
}
