//! The writer thread: group commit, and the background sync of the high-water record.

use super::{Inner, Job};
use crate::error::StorageError;
use crate::highwater::HighWater;
use crate::wal::Wal;
use crate::wal::record::Record;
use crate::wal::view::Place;
use ollamamax_proto::limits;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

/// How often the high-water record is made durable while entries flow: it is a lower bound, so it may lag.
const HIGHWATER_SYNC_PERIOD: Duration = Duration::from_millis(200);

/// Writes until the log is closed or fails.
pub(super) fn write_until_closed(inner: &Inner, wal: Wal, nudge: mpsc::SyncSender<()>) {
    let run = AssertUnwindSafe(|| Writer { inner, wal, nudge }.run());
    if catch_unwind(run).is_err() {
        inner.lock().closing = true;
        inner.fail(&StorageError::Stopped { reason: "the log writer panicked".into() });
    }
}

struct Writer<'a> {
    inner: &'a Inner,
    wal: Wal,
    nudge: mpsc::SyncSender<()>,
}

impl Writer<'_> {
    fn run(&mut self) {
        while let Some((jobs, committed)) = self.next_batch() {
            if let Err(error) = self.write(jobs, committed) {
                self.inner.fail(&error);
                // Closing refuses what comes; what slipped in before is failed here.
                self.inner.lock().closing = true;
                self.inner.fail(&error);
                return;
            }
        }
    }

    /// Waits for work; `None` once the log is closed and everything was taken.
    fn next_batch(&self) -> Option<(Vec<Job>, Option<Record>)> {
        let mut state = self.inner.lock();
        let delay = Duration::from_millis(limits::WAL_COMMITTED_DELAY_MS);
        loop {
            if !state.queue.is_empty() {
                break;
            }
            if state.closing && !state.committed_dirty {
                return None;
            }
            if state.closing {
                break;
            }
            if state.committed_dirty {
                let waited = self.inner.work.wait_timeout(state, delay);
                let timed_out;
                (state, timed_out) = waited.expect("nothing panics while holding the log lock");
                if timed_out.timed_out() {
                    break;
                }
            } else {
                let waited = self.inner.work.wait(state);
                state = waited.expect("nothing panics while holding the log lock");
            }
        }
        let mut jobs = Vec::new();
        let mut bytes = 0;
        while let Some(job) = state.queue.front() {
            if !jobs.is_empty() && bytes + job.bytes > limits::WAL_BATCH_BYTES {
                break;
            }
            bytes += job.bytes;
            jobs.extend(state.queue.pop_front());
        }
        state.queued_bytes = state.queued_bytes.saturating_sub(bytes);
        // It may speak of an entry that still waits in the queue, and must not be durable before it.
        let ready = state.committed_dirty && state.queue.is_empty();
        state.committed_dirty &= !ready;
        let committed = ready.then(|| Record::Committed(state.view.summary().committed));
        Some((jobs, committed))
    }

    fn write(&mut self, jobs: Vec<Job>, committed: Option<Record>) -> Result<(), StorageError> {
        let mut records: Vec<&Record> = jobs.iter().flat_map(|job| &job.records).collect();
        records.extend(&committed);
        let written = if records.is_empty() { Ok(Vec::new()) } else { self.wal.commit(&records) };
        let places = match written {
            Ok(places) => places,
            Err(error) => {
                let reason = error.to_string();
                for job in jobs {
                    let stopped = StorageError::Stopped { reason: reason.clone() };
                    job.done.complete(Err(stopped.into()));
                }
                return Err(error);
            }
        };
        let purged = records.iter().any(|record| matches!(record, Record::Purge(_)));
        let oldest = self.note(&records, &places);
        drop(records);
        self.inner.room.notify_waiters();
        // A full channel means that a sync is due anyway.
        let _ = self.nudge.try_send(());
        for job in jobs {
            job.done.complete(Ok(()));
        }
        if purged { self.wal.collect(oldest) } else { Ok(()) }
    }

    /// Tells the view what is durable now; returns the oldest segment still needed.
    fn note(&self, records: &[&Record], places: &[Place]) -> Option<u64> {
        let mut state = self.inner.lock();
        for (record, place) in records.iter().zip(places) {
            match record {
                Record::Entry { log_id, .. } => state.view.place(log_id, *place),
                Record::Vote(_) => state.view.fold(record),
                _ => {}
            }
        }
        state.view.evict(self.inner.cache_bytes);
        state.view.oldest_segment()
    }
}

/// Makes the high-water record durable from time to time, for as long as somebody nudges.
pub(super) fn keep_high_water(inner: &Inner, high: &HighWater, nudged: &mpsc::Receiver<()>) {
    while nudged.recv().is_ok() {
        if let Err(error) = high.sync() {
            inner.lock().closing = true;
            inner.fail(&error);
            inner.work.notify_all();
            return;
        }
        std::thread::sleep(HIGHWATER_SYNC_PERIOD);
    }
}
