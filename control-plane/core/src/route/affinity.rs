//! Which worker has which beginnings cached: a bounded set of hashes for each, fed by what workers
//! report and by what a gateway has sent them itself.
//!
//! ```text
//! hash of a block -> set of seats that hold it (one bit each)      chain [h0 h1 h2 ..]
//!                                                                      |   |   +- nobody
//! matched: walk the chain while any seat is left                       all A B   +- A only
//! ```
//!
//! A seat is a place in the list of candidates. It is a hint, never the truth: what is wrong costs a
//! detour.

use hashbrown::HashTable;
use ollamamax_proto::limits;
use std::collections::VecDeque;

/// How many seats there may be: one bit each.
pub const SEATS_COUNT: usize = 64;

/// The sets of all seats.
#[derive(Clone, Debug, Default)]
pub struct PrefixIndex {
    /// Found by hash, never walked: its order means nothing.
    holders: HashTable<Holders>,
    /// For each seat the hashes in the order they came, so that the oldest go first. One that was
    /// evicted since may still stand here.
    order: Vec<VecDeque<u64>>,
}

#[derive(Clone, Copy, Debug)]
struct Holders {
    hash: u64,
    seats: u64,
}

impl PrefixIndex {
    /// Notes that a seat holds a block; seats beyond [`SEATS_COUNT`] are not followed. The oldest
    /// hash of a seat with more than [`limits::PREFIX_HASHES_COUNT`] is forgotten.
    pub fn stored(&mut self, seat: usize, hash: u64) {
        let Some(bit) = bit(seat) else { return };
        match self.holders.find_mut(hash, |holders| holders.hash == hash) {
            Some(holders) if holders.seats & bit != 0 => return,
            Some(holders) => holders.seats |= bit,
            None => {
                let holders = Holders { hash, seats: bit };
                self.holders.insert_unique(hash, holders, |holders| holders.hash);
            }
        }
        if self.order.len() <= seat {
            self.order.resize_with(seat + 1, VecDeque::new);
        }
        self.order[seat].push_back(hash);
        if self.order[seat].len() > limits::PREFIX_HASHES_COUNT
            && let Some(oldest) = self.order[seat].pop_front()
        {
            self.evicted(seat, oldest);
        }
    }

    /// Notes that a seat holds a block no longer.
    pub fn evicted(&mut self, seat: usize, hash: u64) {
        let Some(bit) = bit(seat) else { return };
        if let Ok(mut entry) = self.holders.find_entry(hash, |holders| holders.hash == hash) {
            entry.get_mut().seats &= !bit;
            if entry.get().seats == 0 {
                entry.remove();
            }
        }
    }

    /// Forgets all a seat holds: it was restarted, or somebody else sits there.
    pub fn cleared(&mut self, seat: usize) {
        let order = self.order.get_mut(seat).map(std::mem::take).unwrap_or_default();
        order.into_iter().for_each(|hash| self.evicted(seat, hash));
    }

    /// How many blocks of a chain each seat holds from its beginning on; `matched` is overwritten,
    /// one number for each seat.
    pub fn matched(&self, chain: &[u64], matched: &mut [u32]) {
        matched.fill(0);
        let mut left = u64::MAX;
        for (&hash, blocks) in chain.iter().zip(1u32..) {
            let holders = self.holders.find(hash, |holders| holders.hash == hash);
            left &= holders.map_or(0, |holders| holders.seats);
            if left == 0 {
                return;
            }
            let mut seats = left;
            while seats != 0 {
                let seat = seats.trailing_zeros() as usize;
                seats &= seats - 1;
                if let Some(matched) = matched.get_mut(seat) {
                    *matched = blocks;
                }
            }
        }
    }

    /// Hashes that anybody holds.
    pub fn len(&self) -> usize {
        self.holders.len()
    }

    /// Whether nobody holds anything.
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }
}

fn bit(seat: usize) -> Option<u64> {
    (seat < SEATS_COUNT).then(|| 1 << seat)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_set_is_bounded_and_the_oldest_goes_first() {
        let mut index = PrefixIndex::default();
        let count = limits::PREFIX_HASHES_COUNT as u64;
        (0..count + 3).for_each(|hash| index.stored(5, hash));
        index.stored(SEATS_COUNT, 1);
        assert_eq!(index.len(), limits::PREFIX_HASHES_COUNT);
        let mut matched = [9; 7];
        index.matched(&[2], &mut matched);
        assert_eq!(matched, [0; 7]);
        index.matched(&[3, 4, 0], &mut matched);
        assert_eq!(matched[5], 2);
        index.cleared(5);
        assert!(index.is_empty());
    }

    proptest! {
        #![proptest_config(config(256))]

        #[test]
        fn it_matches_what_plain_sets_match(
            events in prop::collection::vec((0usize..4, 0u64..12, 0u8..8), 0..200),
            chain in prop::collection::vec(0u64..12, 0..6),
        ) {
            let mut index = PrefixIndex::default();
            let mut sets = vec![BTreeSet::new(); 4];
            for (seat, hash, event) in events {
                match event {
                    0 => { index.cleared(seat); sets[seat].clear(); }
                    1 | 2 => { index.evicted(seat, hash); sets[seat].remove(&hash); }
                    _ => { index.stored(seat, hash); sets[seat].insert(hash); }
                }
            }
            let mut matched = [7; 4];
            index.matched(&chain, &mut matched);
            for (set, matched) in sets.iter().zip(matched) {
                let expected = chain.iter().take_while(|hash| set.contains(hash)).count();
                prop_assert_eq!(matched as usize, expected);
            }
        }
    }
}
