//! The beginning of a conversation as a chain of hashes, one for each block of bytes: two
//! conversations that begin alike have the same first hashes, and the first that differs tells
//! where they part.
//!
//! Whoever holds hash `n` of a chain holds all before it, so one set of hashes describes a whole
//! cache. A collision costs a detour, never a wrong answer: what a worker reuses is decided by its
//! tokens.

use ollamamax_proto::limits;
pub use ollamamax_proto::prefix::Prefix;

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const MULTIPLIER: u64 = 0xff51_afd7_ed55_8ccd;

/// Hashes a conversation while it is written out.
#[derive(Clone, Debug)]
pub struct Chain {
    hashes: Vec<u64>,
    state: u64,
    /// Bytes of the block that is open.
    filled: usize,
    /// All bytes seen.
    bytes: u64,
}

impl Chain {
    /// A chain of one model's conversations: other models' caches hold nothing for them.
    pub fn new(model: u64) -> Self {
        Self { hashes: Vec::new(), state: mix(SEED ^ model), filled: 0, bytes: 0 }
    }

    /// Goes on with a part. Its length counts at its end, so that no two lists of parts are one text
    /// and a part still begins like a longer one.
    pub fn part(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        let mut rest = bytes;
        while self.hashes.len() < limits::PREFIX_BLOCKS_COUNT && !rest.is_empty() {
            let room = limits::PREFIX_BLOCK_BYTES - self.filled;
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.take(now);
            rest = later;
            if self.filled == limits::PREFIX_BLOCK_BYTES {
                self.state = mix(self.state);
                self.hashes.push(self.state);
                self.filled = 0;
            }
        }
        self.state = mix(self.state ^ bytes.len() as u64);
    }

    /// What was written so far.
    pub fn finish(self) -> Prefix {
        Prefix { hashes: self.hashes, bytes: self.bytes }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.filled += bytes.len();
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.state = step(self.state, u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let first = rest.len() as u64;
            let word = rest.iter().fold(first, |word, byte| (word << 8) | u64::from(*byte));
            self.state = step(self.state, word);
        }
    }
}

fn step(state: u64, word: u64) -> u64 {
    (state ^ word).wrapping_mul(MULTIPLIER).rotate_left(29)
}

/// The finaliser of splitmix64.
pub(super) fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config;
    use proptest::prelude::*;

    fn prefix(parts: &[&[u8]]) -> Prefix {
        let mut chain = Chain::new(7);
        parts.iter().for_each(|part| chain.part(part));
        chain.finish()
    }

    #[test]
    fn the_chain_is_bounded_and_knows_what_it_stands_for() {
        let long = vec![b'x'; 2 * limits::PREFIX_BLOCKS_COUNT * limits::PREFIX_BLOCK_BYTES];
        let prefix = prefix(&[&long]);
        assert_eq!(prefix.hashes.len(), limits::PREFIX_BLOCKS_COUNT);
        assert_eq!(prefix.bytes, long.len() as u64);
        assert_eq!(prefix.tokens(limits::PREFIX_BLOCKS_COUNT as u32, 4_000), 2_000);
        let other = Chain::new(8);
        assert_ne!(other.state, Chain::new(7).state);
    }

    #[test]
    fn parts_are_not_their_sum() {
        let block = [b'y'; limits::PREFIX_BLOCK_BYTES];
        let (ab, c) = block.split_at(9);
        let (a, bc) = block.split_at(4);
        assert_ne!(prefix(&[ab, c]).hashes, prefix(&[a, bc]).hashes);
    }

    proptest! {
        #![proptest_config(config(64))]

        #[test]
        fn texts_share_hashes_as_far_as_they_are_alike(
            common in prop::collection::vec(any::<u8>(), 0..2_000),
            left in any::<u8>(),
            right in any::<u8>(),
        ) {
            prop_assume!(left != right);
            let tail = |byte| vec![byte; 600 + usize::from(byte)];
            let whole = |byte| [common.clone(), tail(byte)].concat();
            let (a, b) = (prefix(&[&whole(left)]).hashes, prefix(&[&whole(right)]).hashes);
            let alike = common.len() / limits::PREFIX_BLOCK_BYTES;
            prop_assert_eq!(&a[..alike], &b[..alike]);
            prop_assert!(a[alike..].iter().zip(&b[alike..]).all(|(a, b)| a != b));
        }
    }
}
