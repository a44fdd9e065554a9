//! How a conversation begins, as a chain of hashes, one for each block of its bytes. The gateway that
//! renders it makes the chain; the worker remembers which of its cached blocks stand for which hash.

use crate::{Digest, limits};

/// Among whom cached beginnings are shared: requests with the same salt. Whoever has another finds nothing of theirs, so that how
/// fast a first token comes tells nothing of what others asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Salt(pub u128);

impl Salt {
    /// All that are not told apart share.
    pub const SHARED: Self = Self(0);

    /// That of one of many, by a name that nobody else has.
    pub fn of(name: &str) -> Self {
        let hash = Digest::of(["prefixes of ", name].concat().as_bytes()).0;
        let salt = hash.iter().take(16).fold(0u128, |salt, byte| salt << 8 | u128::from(*byte));
        // Whoever has a name is told apart from those that have none.
        Self(salt.max(1))
    }
}

/// The hashes of a beginning. Whoever has what hash `n` stands for has all before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    /// One for each full block of [`limits::PREFIX_BLOCK_BYTES`], in order; at most
    /// [`limits::PREFIX_BLOCKS_COUNT`].
    pub hashes: Vec<u64>,
    /// Bytes of the whole conversation, those behind the last full block included.
    pub bytes: u64,
}

impl Prefix {
    /// What stands for the beginning where nobody has it cached: the hash of at most the first
    /// [`limits::PREFIX_HOME_BLOCKS_COUNT`] blocks, 0 without any.
    pub fn home(&self) -> u64 {
        let last = self.hashes.len().min(limits::PREFIX_HOME_BLOCKS_COUNT);
        last.checked_sub(1).and_then(|last| self.hashes.get(last)).copied().unwrap_or_default()
    }

    /// How many of all `tokens` the first `blocks` blocks are likely to be.
    pub fn tokens(&self, blocks: u32, tokens: u32) -> u32 {
        let covered = u64::from(blocks) * limits::PREFIX_BLOCK_BYTES as u64;
        let share = covered.saturating_mul(tokens.into()).checked_div(self.bytes);
        share.map_or(0, |share| share.min(tokens.into()) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_a_name_shares_with_nobody_else() {
        assert_eq!(Salt::of("user:alice"), Salt::of("user:alice"));
        let salts = ["user:alice", "user:bob", ""].map(Salt::of);
        assert!(salts[0] != salts[1] && !salts.contains(&Salt::SHARED), "{salts:?}");
    }

    #[test]
    fn blocks_stand_for_their_share_of_the_tokens() {
        let bytes = 8 * limits::PREFIX_BLOCK_BYTES as u64;
        let prefix = Prefix { hashes: (1..=8).collect(), bytes };
        assert_eq!([0, 4, 8, 9].map(|blocks| prefix.tokens(blocks, 400)), [0, 200, 400, 400]);
        assert_eq!(prefix.home(), limits::PREFIX_HOME_BLOCKS_COUNT as u64);
        assert_eq!((Prefix::default().home(), Prefix::default().tokens(3, 9)), (0, 0));
    }
}
