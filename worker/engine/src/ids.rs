//! From a token's spelling to its id. Only the ids are held: what a token is called stands in the vocabulary already, and
//! a second copy of a hundred thousand strings would cost more than everything else here.

use hashbrown::HashTable;
use ollamamax_gguf::Strings;
use std::hash::{BuildHasher, RandomState};

/// The ids of some spellings; every call takes the spellings it was built from.
pub(crate) struct Ids {
    table: HashTable<u32>,
    hasher: RandomState,
}

impl Ids {
    /// Of two tokens with the same spelling the later one is found.
    pub fn new(tokens: &Strings) -> Self {
        let (mut table, hasher) = (HashTable::with_capacity(tokens.len()), RandomState::new());
        for (id, spelling) in (0u32..).zip(tokens.iter()) {
            let same = |other: &u32| &tokens[*other as usize] == spelling;
            let rehash = |other: &u32| hasher.hash_one(&tokens[*other as usize]);
            table.entry(hasher.hash_one(spelling), same, rehash).insert(id);
        }
        Self { table, hasher }
    }

    /// The token that is spelt so.
    pub fn find(&self, tokens: &Strings, spelling: &str) -> Option<u32> {
        let same = |id: &u32| &tokens[*id as usize] == spelling;
        self.table.find(self.hasher.hash_one(spelling), same).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_found_and_nothing_else() {
        let tokens: Strings = (0..1000).map(|id| format!("t{}", id % 900)).collect();
        let ids = Ids::new(&tokens);
        assert_eq!(ids.find(&tokens, "t50"), Some(950), "the later of two");
        assert_eq!(ids.find(&tokens, "t500"), Some(500));
        assert_eq!(ids.find(&tokens, "t900"), None);
    }
}
