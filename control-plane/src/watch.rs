//! What the state machine publishes: the state itself, how far it is, and the changes that led there.
//!
//! Readers take an immutable copy (one pointer, never a lock held); watchers follow the changes by revision from a
//! bounded ring, and start over from a snapshot when they have fallen behind it.

use arc_swap::ArcSwap;
use ollamamax_core::feed::Feed;
use ollamamax_core::{Change, State};
use ollamamax_proto::Revision;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// The meeting point of the state machine, which writes, and everybody else, who reads.
pub struct Published {
    state: ArcSwap<State>,
    revision: watch::Sender<Revision>,
    applied: watch::Sender<u64>,
    feed: Mutex<Feed>,
}

/// What a watcher gets next.
#[derive(Clone, Debug)]
pub enum News {
    /// Everything, as of its revision: what came before is to be forgotten.
    Snapshot(Arc<State>),
    /// What became true after the revision the watcher was at, up to this one.
    Changes {
        /// The revision after the changes.
        revision: Revision,
        /// In order.
        changes: Vec<Change>,
    },
}

impl Default for Published {
    fn default() -> Self {
        Self {
            state: ArcSwap::from_pointee(State::default()),
            revision: watch::Sender::new(Revision(0)),
            applied: watch::Sender::new(0),
            feed: Mutex::new(Feed::new(Revision(0))),
        }
    }
}

impl Published {
    /// The state as last applied on this node.
    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Wakes when the state has moved on.
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// The log index applied last.
    pub fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Waits until log index `index` is applied here; `false` when `wait` ran out first.
    pub async fn wait_applied(&self, index: u64, wait: Duration) -> bool {
        let mut applied = self.applied.subscribe();
        let reached = applied.wait_for(|applied| *applied >= index);
        tokio::time::timeout(wait, reached).await.is_ok_and(|reached| reached.is_ok())
    }

    /// One apply round: its changes, the state after them, the last log index.
    pub fn advance(&self, state: State, changes: Vec<(Revision, Vec<Change>)>, index: u64) {
        let revision = state.revision();
        self.state.store(Arc::new(state));
        let mut feed = self.feed();
        for (revision, changes) in changes {
            feed.push(revision, changes);
        }
        drop(feed);
        self.applied.send_replace(index);
        self.revision.send_if_modified(|current| {
            let moved = *current != revision;
            *current = revision;
            moved
        });
    }

    /// The state was replaced as a whole: watchers start over.
    pub fn replace(&self, state: State, index: u64) {
        *self.feed() = Feed::new(state.revision());
        self.advance(state, Vec::new(), index);
    }

    /// What a watcher that is at `from` gets next: `None` when nothing has happened since.
    pub fn since(&self, from: Option<Revision>) -> Option<News> {
        let state = self.state();
        let Some(from) = from else { return Some(News::Snapshot(state)) };
        // A watcher that comes from a node further ahead waits for this one: nothing may go back in time.
        if from >= state.revision() {
            return None;
        }
        let events = self.feed().since(from).unwrap_or_default();
        let Some(last) = events.last() else { return Some(News::Snapshot(state)) };
        let revision = last.revision;
        let changes = events.iter().flat_map(|event| event.changes.iter().cloned()).collect();
        Some(News::Changes { revision, changes })
    }

    fn feed(&self) -> MutexGuard<'_, Feed> {
        // The feed is valid after every single push, so a panic elsewhere leaves nothing half done.
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
