//! What cached blocks stand for: hashes of how conversations begin, given by whoever sends requests, and a
//! ledger of which of them the cache holds.
//!
//! ```text
//! request: hash h ends at token 60 --> Marks --(block of token 60 is committed)--> block carries h, ledger: + h
//!                                              (that block is evicted)-----------> ledger: - h
//! ```
//!
//! The hashes say where requests should go, nothing more: what is reused is decided by tokens alone.

use ollamamax_proto::limits;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where in a prompt each hash of its beginning ends; those to come.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    at: VecDeque<(u32, u64)>,
    ledger: Option<Arc<Ledger>>,
}

impl PartialEq for Marks {
    /// Whose ledger it is makes no difference.
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Marks {
    /// Hashes with the number of tokens up to which each reaches, in order, to be noted in `ledger`.
    pub fn new(at: impl IntoIterator<Item = (u32, u64)>, ledger: Arc<Ledger>) -> Self {
        Self { at: at.into_iter().collect(), ledger: Some(ledger) }
    }

    /// Where they are noted.
    pub(crate) fn ledger(&self) -> Option<&Arc<Ledger>> {
        self.ledger.as_ref()
    }

    /// Takes the next hash out when so many full blocks reach it: its block, and the hash.
    pub(crate) fn next_within(&mut self, blocks: usize, tokens: usize) -> Option<(usize, u64)> {
        let &(position, hash) = self.at.front()?;
        let reached = (position as usize / tokens.max(1)).max(1);
        if reached > blocks {
            return None;
        }
        self.at.pop_front();
        Some((reached - 1, hash))
    }
}

/// Which hashes a cache holds, and the latest changes of that, for readers that come by now and then.
#[derive(Debug, Default)]
pub struct Ledger {
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    /// How many blocks stand for a hash.
    held: BTreeMap<u64, u32>,
    /// The hashes that came or went last, the newest at the end.
    latest: VecDeque<u64>,
    /// How many have come or gone in all.
    count: u64,
}

/// What a reader does not know yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Whether it shall forget all it knew.
    pub reset: bool,
    /// Hashes that are held now.
    pub stored: Vec<u64>,
    /// Hashes that are held no more.
    pub evicted: Vec<u64>,
    /// What it knows then.
    pub cursor: u64,
}

impl News {
    /// Whether there is nothing new.
    pub fn is_empty(&self) -> bool {
        !self.reset && self.stored.is_empty() && self.evicted.is_empty()
    }
}

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stored(&self, hash: u64) {
        let mut book = self.book();
        *book.held.entry(hash).or_default() += 1;
        book.note(hash);
    }

    pub(crate) fn evicted(&self, hash: u64) {
        let mut book = self.book();
        if let Some(count) = book.held.get_mut(&hash) {
            *count -= 1;
            if *count == 0 {
                book.held.remove(&hash);
                book.note(hash);
            }
        }
    }

    /// What is new since `cursor`; everything for a reader that has none, or has been away too long.
    pub fn since(&self, cursor: Option<u64>) -> News {
        let book = self.book();
        let missed = cursor.and_then(|cursor| book.count.checked_sub(cursor));
        let missed = missed.and_then(|missed| usize::try_from(missed).ok());
        let missed = missed.filter(|missed| *missed <= book.latest.len());
        let Some(missed) = missed else {
            let stored = book.held.keys().copied().take(limits::PREFIX_HASHES_COUNT).collect();
            return News { reset: true, stored, evicted: Vec::new(), cursor: book.count };
        };
        let mut changed: Vec<u64> = book.latest.iter().rev().take(missed).copied().collect();
        changed.sort_unstable();
        changed.dedup();
        let (stored, evicted) = changed.into_iter().partition(|hash| book.held.contains_key(hash));
        News { reset: false, stored, evicted, cursor: book.count }
    }
}

impl Book {
    fn note(&mut self, hash: u64) {
        if self.latest.len() >= limits::CACHE_NEWS_COUNT {
            self.latest.pop_front();
        }
        self.latest.push_back(hash);
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_reader_that_comes_by_knows_what_is_held(
            steps in prop::collection::vec((0u64..20, 0u8..3), 0..300),
        ) {
            let ledger = Ledger::default();
            let (mut known, mut cursor) = (BTreeSet::new(), None);
            for (hash, step) in steps {
                match step {
                    0 => ledger.stored(hash),
                    1 => ledger.evicted(hash),
                    _ => {
                        let news = ledger.since(cursor);
                        if news.reset { known.clear(); }
                        known.extend(news.stored.iter().copied());
                        news.evicted.iter().for_each(|hash| { known.remove(hash); });
                        cursor = Some(news.cursor);
                        let held: BTreeSet<u64> = ledger.book().held.keys().copied().collect();
                        prop_assert_eq!(&known, &held);
                    }
                }
            }
            let cursor = ledger.since(None).cursor;
            prop_assert!(ledger.since(Some(cursor)).is_empty());
        }
    }

    #[test]
    fn who_was_away_too_long_begins_anew() {
        let ledger = Ledger::default();
        let cursor = ledger.since(None).cursor;
        (0..=limits::CACHE_NEWS_COUNT as u64).for_each(|hash| ledger.stored(hash));
        let news = ledger.since(Some(cursor));
        assert!(news.reset);
        assert!(ledger.since(Some(u64::MAX)).reset, "a cursor of another life");
    }
}
