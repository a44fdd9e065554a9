//! Chance as a function: the coin for a position is computed from (seed, position), never drawn
//! from shared state.
//!
//! So a sequence that is batched differently, preempted, or resumed on another worker throws
//! exactly the coins it would have thrown. The generator is Philox4x32-10 (Salmon et al., *Parallel
//! random numbers: as easy as 1, 2, 3*, 2011): the seed is the key, the position the counter.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// A number in `[0, 1)`, uniform, fixed by its arguments.
pub fn coin(seed: u64, position: u64) -> f64 {
    let words = philox([low(position), high(position), 0, 0], [low(seed), high(seed)]);
    let bits = (u64::from(words[1]) << 32 | u64::from(words[0])) >> 11;
    // 53 bits fill the mantissa exactly: the largest value is 1 - 2^-53.
    bits as f64 * (1.0 / (1u64 << 53) as f64)
}

fn low(value: u64) -> u32 {
    (value & 0xFFFF_FFFF) as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let left = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let right = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            high(right) ^ counter[1] ^ key[0],
            low(right),
            high(left) ^ counter[3] ^ key[1],
            low(left),
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The known-answer vectors of the Random123 distribution (`kat_vectors`).
    #[test]
    fn philox_matches_its_published_vectors() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]
        );
        assert_eq!(
            philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn coins_are_uniform() {
        let mut buckets = [0u32; 16];
        let throws = 64_000;
        for position in 0..throws {
            buckets[(coin(7, position) * 16.0) as usize] += 1;
        }
        let expected = throws as f64 / 16.0;
        let chi2: f64 = buckets.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
        // 15 degrees of freedom: 44.3 is exceeded once in ten thousand; the seed is fixed.
        assert!(chi2 < 44.3, "chi2 {chi2}");
    }

    proptest! {
        #[test]
        fn coins_stay_in_range_and_repeat(seed: u64, position: u64) {
            let value = coin(seed, position);
            prop_assert!((0.0..1.0).contains(&value));
            prop_assert_eq!(value.to_bits(), coin(seed, position).to_bits());
            prop_assert_ne!(value.to_bits(), coin(seed, position.wrapping_add(1)).to_bits());
            prop_assert_ne!(value.to_bits(), coin(seed.wrapping_add(1), position).to_bits());
        }
    }
}
