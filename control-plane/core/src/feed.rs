//! The latest changes, by revision, for watchers that come back: a bounded ring. Whoever is too far
//! behind starts anew from a snapshot.

use crate::change::Change;
use ollamamax_proto::{Revision, limits};
use std::collections::VecDeque;
use std::sync::Arc;

/// The changes of one command and the revision after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The revision after the command.
    pub revision: Revision,
    /// What it changed.
    pub changes: Arc<[Change]>,
}

/// The ring.
#[derive(Clone, Debug)]
pub struct Feed {
    /// The revision before the first event kept.
    base: Revision,
    events: VecDeque<Event>,
    changes: usize,
    limit: usize,
}

impl Feed {
    /// Starts after `revision`, keeping [`limits::WATCH_RING_CHANGES`] changes.
    pub fn new(revision: Revision) -> Self {
        Self::with_limit(revision, limits::WATCH_RING_CHANGES)
    }

    /// Starts after `revision`, keeping at most `limit` changes.
    pub fn with_limit(revision: Revision, limit: usize) -> Self {
        Self { base: revision, events: VecDeque::new(), changes: 0, limit }
    }

    /// Adds what the command that led to `revision` changed. Anything but the next revision, as
    /// after a snapshot was installed, empties the ring: no watcher may miss what lies between.
    pub fn push(&mut self, revision: Revision, changes: impl Into<Arc<[Change]>>) {
        if revision != self.revision().next() {
            *self = Self::with_limit(revision, self.limit);
            return;
        }
        let changes = changes.into();
        self.changes += changes.len();
        self.events.push_back(Event { revision, changes });
        while self.changes > self.limit {
            let Some(oldest) = self.events.pop_front() else { break };
            self.changes -= oldest.changes.len();
            self.base = oldest.revision;
        }
    }

    /// The latest revision known.
    pub fn revision(&self) -> Revision {
        self.events.back().map_or(self.base, |event| event.revision)
    }

    /// What came after `revision`, in order; `None` when that is no longer, or not yet, known.
    pub fn since(&self, revision: Revision) -> Option<Vec<Event>> {
        if revision < self.base || revision > self.revision() {
            return None;
        }
        let known = usize::try_from(revision.0 - self.base.0).ok()?;
        Some(self.events.iter().skip(known).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config;
    use ollamamax_proto::NodeId;
    use proptest::prelude::*;

    fn changes(count: usize) -> Vec<Change> {
        vec![Change::NodeRemoved(NodeId(1)); count]
    }

    #[test]
    fn a_gap_empties_the_ring() {
        let mut feed = Feed::with_limit(Revision(4), 10);
        feed.push(Revision(5), changes(1));
        feed.push(Revision(9), changes(1));
        assert_eq!(feed.revision(), Revision(9));
        assert_eq!(feed.since(Revision(5)), None);
        assert_eq!(feed.since(Revision(9)), Some(Vec::new()));
        assert_eq!(feed.since(Revision(10)), None);
    }

    proptest! {
        #![proptest_config(config(256))]

        #[test]
        fn a_watcher_misses_nothing_or_is_told(
            sizes in prop::collection::vec(1usize..6, 0..60),
            from in 0u64..70,
        ) {
            let mut feed = Feed::with_limit(Revision(3), 20);
            for (nth, size) in sizes.iter().enumerate() {
                feed.push(Revision(4 + nth as u64), changes(*size));
            }
            let last = 3 + sizes.len() as u64;
            prop_assert_eq!(feed.revision(), Revision(last));
            prop_assert!(feed.changes <= 20);
            match feed.since(Revision(from)) {
                Some(events) => {
                    let got: Vec<u64> = events.iter().map(|event| event.revision.0).collect();
                    prop_assert_eq!(got, (from + 1..=last).collect::<Vec<_>>());
                }
                // Any four commands fit, so the last four are known, as far as there are that many.
                None => prop_assert!(from > last || from < 3.max(last.saturating_sub(4))),
            }
        }
    }
}
