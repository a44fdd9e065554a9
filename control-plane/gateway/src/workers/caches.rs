//! What the caches of one model's workers hold, as far as this gateway knows.

use super::Candidate;
use ollamamax_core::route::affinity::{PrefixIndex, SEATS_COUNT};
use ollamamax_proto::{Incarnation, WorkerId, wire};

/// What makes a cache the same cache: worker, life, assignment, generation.
pub(super) type Identity = (WorkerId, Incarnation, u64, u64);

/// The index and who stands where in it. Places are kept while their owner is there, whatever the order of candidates.
#[derive(Debug, Default)]
pub struct Caches {
    index: PrefixIndex,
    owners: Vec<Option<Identity>>,
}

impl Caches {
    /// The place of each candidate in turn; the places of all others are emptied.
    pub fn seat(&mut self, candidates: &[Candidate]) -> Vec<usize> {
        let wanted: Vec<Identity> = candidates.iter().map(identity).collect();
        for (place, owner) in self.owners.iter_mut().enumerate() {
            if owner.is_some_and(|owner| !wanted.contains(&owner)) {
                *owner = None;
                self.index.cleared(place);
            }
        }
        wanted.into_iter().map(|identity| self.place(identity)).collect()
    }

    fn place(&mut self, identity: Identity) -> usize {
        let owner = Some(identity);
        if let Some(place) = self.owners.iter().position(|other| *other == owner) {
            return place;
        }
        match self.owners.iter().position(Option::is_none) {
            Some(free) => {
                self.owners[free] = owner;
                free
            }
            // Beyond the last place nothing is noted.
            None if self.owners.len() < SEATS_COUNT => {
                self.owners.push(owner);
                self.owners.len() - 1
            }
            None => SEATS_COUNT,
        }
    }

    /// How many blocks of a chain each place holds.
    pub fn matched(&self, chain: &[u64], matched: &mut [u32; SEATS_COUNT]) {
        self.index.matched(chain, matched);
    }

    /// Takes in that blocks were stored in a cache.
    pub fn stored(&mut self, place: usize, hashes: &[u64]) {
        hashes.iter().for_each(|hash| self.index.stored(place, *hash));
    }

    /// Takes in what an owner says of its cache; nothing when it has left.
    pub(super) fn heard(&mut self, owner: Identity, news: &wire::CacheNews) {
        let Some(place) = self.owners.iter().position(|other| *other == Some(owner)) else {
            return;
        };
        if news.reset {
            self.index.cleared(place);
        }
        news.evicted.iter().for_each(|hash| self.index.evicted(place, *hash));
        self.stored(place, &news.stored);
    }
}

pub(super) fn identity(candidate: &Candidate) -> Identity {
    let (worker, incarnation, generation) = candidate.identity();
    (worker, incarnation, candidate.placement.assignment.id.0, generation)
}
