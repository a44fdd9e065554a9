//! What the log holds, in memory: where each entry is, and the recent ones themselves.
//!
//! The view runs ahead of the disk: an entry can be read as soon as it was handed over, because Raft asks for it before
//! the sync is done. Until the writer has placed an entry, the view is its only home, so such entries are never
//! evicted.

use super::record::Record;
use crate::types::{Entry, LogId, Vote};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub segment: u64,
    pub offset: u64,
    pub size: u32,
}

#[derive(Clone, Debug)]
struct Slot {
    log_id: LogId,
    place: Option<Place>,
    entry: Option<Arc<Entry>>,
    bytes: usize,
}

/// The facts that outlive single entries; each segment head carries them, so that older segments can go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// The last promise.
    pub vote: Option<Vote>,
    /// How far the log is known to be committed.
    pub committed: Option<LogId>,
    /// Last entry that is gone.
    pub purged: Option<LogId>,
    /// Last entry that is there, or else the last one gone.
    pub last: Option<LogId>,
}

impl Summary {
    pub fn fold(&mut self, record: &Record) {
        match record {
            Record::Entry { log_id, .. } => self.last = Some(*log_id),
            Record::Vote(vote) => self.vote = Some(*vote),
            Record::Committed(committed) => self.committed = *committed,
            Record::TruncateAfter(kept) => {
                if index_of(kept) < index_of(&self.last) {
                    self.last =
                        if index_of(kept) <= index_of(&self.purged) { self.purged } else { *kept };
                }
            }
            Record::Purge(log_id) => {
                if Some(log_id.index) > index_of(&self.purged) {
                    self.purged = Some(*log_id);
                }
                if Some(log_id.index) >= index_of(&self.last) {
                    self.last = self.purged;
                }
            }
            Record::Seal(_) => {}
        }
    }
}

fn index_of(log_id: &Option<LogId>) -> Option<u64> {
    log_id.as_ref().map(|id| id.index)
}

/// The log in memory.
#[derive(Debug, Default)]
pub(crate) struct View {
    summary: Summary,
    slots: VecDeque<Slot>,
    /// Last index that an older, missing segment held; harmless only when it was purged.
    lost: Option<u64>,
    /// Slots from the front that hold no entry any more.
    evicted: usize,
    cached_bytes: usize,
}

/// One entry, or where to read it.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    Here(Arc<Entry>),
    At(LogId, Place),
}

impl View {
    /// The view at the start of a segment with this summary.
    pub fn starting(summary: Summary) -> Self {
        let lost = match (&summary.last, &summary.purged) {
            (Some(last), purged) if Some(last.index) > index_of(purged) => Some(last.index),
            _ => None,
        };
        Self { summary, lost, ..Self::default() }
    }

    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Entries that were there but cannot be located, if that matters.
    pub fn missing(&self) -> Option<u64> {
        self.lost.filter(|lost| Some(*lost) > index_of(&self.summary.purged))
    }

    /// The index the next entry must have; any when the log never held one.
    pub fn next_index(&self) -> Option<u64> {
        self.summary.last.as_ref().map(|last| last.index + 1)
    }

    /// First and last index that can be read.
    pub fn bounds(&self) -> Option<(u64, u64)> {
        Some((self.slots.front()?.log_id.index, self.slots.back()?.log_id.index))
    }

    /// Adds an entry whose `bytes` the caller counted.
    pub fn append(&mut self, entry: Arc<Entry>, bytes: usize, place: Option<Place>) {
        let log_id = entry.log_id;
        self.slots.push_back(Slot { log_id, place, entry: Some(entry), bytes });
        self.cached_bytes += bytes;
        self.summary.last = Some(log_id);
    }

    /// Follows a record that is no entry.
    pub fn fold(&mut self, record: &Record) {
        self.summary.fold(record);
        match record {
            Record::TruncateAfter(kept) => {
                let kept = index_of(kept);
                while self.slots.back().is_some_and(|slot| Some(slot.log_id.index) > kept) {
                    let slot = self.slots.pop_back();
                    self.forget(slot);
                }
                self.lost = self.lost.min(kept);
                self.evicted = self.evicted.min(self.slots.len());
            }
            Record::Purge(log_id) => {
                while self.slots.front().is_some_and(|slot| slot.log_id.index <= log_id.index) {
                    let slot = self.slots.pop_front();
                    self.forget(slot);
                    self.evicted = self.evicted.saturating_sub(1);
                }
            }
            _ => {}
        }
    }

    fn forget(&mut self, slot: Option<Slot>) {
        if let Some(Slot { entry: Some(_), bytes, .. }) = slot {
            self.cached_bytes -= bytes;
        }
    }

    /// Notes where an entry was written, unless it was replaced meanwhile.
    pub fn place(&mut self, log_id: &LogId, place: Place) {
        if let Some(slot) = self.slot_mut(log_id.index)
            && slot.log_id == *log_id
        {
            slot.place = Some(place);
        }
    }

    /// Drops the oldest placed entries until at most `limit` bytes are kept.
    pub fn evict(&mut self, limit: usize) {
        while self.cached_bytes > limit
            && let Some(slot) = self.slots.get_mut(self.evicted)
            && slot.place.is_some()
        {
            if slot.entry.take().is_some() {
                self.cached_bytes -= slot.bytes;
            }
            self.evicted += 1;
        }
    }

    /// The oldest segment that still holds a live entry.
    pub fn oldest_segment(&self) -> Option<u64> {
        self.slots.front().and_then(|slot| slot.place).map(|place| place.segment)
    }

    pub fn get(&self, index: u64) -> Option<(Found, usize)> {
        let first = self.slots.front()?.log_id.index;
        let slot = self.slots.get(usize::try_from(index.checked_sub(first)?).ok()?)?;
        let found = match (&slot.entry, slot.place) {
            (Some(entry), _) => Found::Here(entry.clone()),
            (None, Some(place)) => Found::At(slot.log_id, place),
            (None, None) => unreachable!("only placed entries are evicted"),
        };
        Some((found, slot.bytes))
    }

    /// The id of the entry at `index`.
    pub fn log_id_at(&self, index: u64) -> Option<LogId> {
        let first = self.slots.front()?.log_id.index;
        let at = usize::try_from(index.checked_sub(first)?).ok()?;
        self.slots.get(at).map(|slot| slot.log_id)
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        let first = self.slots.front()?.log_id.index;
        self.slots.get_mut(usize::try_from(index.checked_sub(first)?).ok()?)
    }
}
