//! The log as Raft sees it: entries readable at once, acknowledged after the sync, written by one thread.
//!
//! ```text
//!  append, save_vote, truncate_after, purge
//!        | change the view, queue the records (one lock: memory and disk see the same order)
//!        v
//!  writer thread: take all that waits -> one write, one sync -> high-water record -> callbacks
//! ```
//!
//! Whatever queues up while one sync runs shares the next one. The first failure fails everything queued and
//! everything later, and [`LogStore::failed`] tells the node to exit.

mod writer;

use crate::disk::{Disk, DiskFile};
use crate::error::StorageError;
use crate::highwater::HighWater;
use crate::types::{Entry, Identity, LogId, TypeConfig, Vote};
use crate::wal::record::Record;
use crate::wal::segment;
use crate::wal::view::{Found, Place, View};
use crate::wal::{Segments, Wal, WalSizes};
use ollamamax_proto::limits;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, mpsc};
use tokio::sync::{Notify, oneshot, watch};

/// The log of this node. Clones share it; the last one to go stops the writer after it wrote what was queued.
#[derive(Clone)]
pub struct LogStore {
    inner: Arc<Inner>,
    _handle: Arc<Handle>,
}

struct Inner {
    state: Mutex<State>,
    /// Wakes the writer.
    work: Condvar,
    /// Wakes appends that wait for room in the queue.
    room: Notify,
    failed: watch::Sender<Option<String>>,
    stopped: watch::Sender<bool>,
    segments: Segments,
    dir: PathBuf,
    cache_bytes: usize,
}

struct State {
    view: View,
    queue: VecDeque<Job>,
    queued_bytes: usize,
    committed_dirty: bool,
    closing: bool,
}

struct Job {
    records: Vec<Record>,
    bytes: usize,
    done: Done,
}

enum Done {
    Flushed(IOFlushed<TypeConfig>),
    Signal(oneshot::Sender<io::Result<()>>),
}

impl Done {
    fn complete(self, result: io::Result<()>) {
        match self {
            Self::Flushed(callback) => callback.io_completed(result),
            // A caller that went away needs no answer.
            Self::Signal(sender) => drop(sender.send(result)),
        }
    }
}

struct Handle(Arc<Inner>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lock().closing = true;
        self.0.work.notify_all();
    }
}

impl Debug for LogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogStore").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

impl LogStore {
    /// Starts the writer. `guard` is dropped when the writer has ended: the lock of the directory belongs there.
    pub(crate) fn start(
        wal: Wal,
        view: View,
        high: Arc<HighWater>,
        cache_bytes: usize,
        guard: impl Send + 'static,
    ) -> Result<Self, StorageError> {
        let inner = Arc::new(Inner {
            state: Mutex::new(State {
                view,
                queue: VecDeque::new(),
                queued_bytes: 0,
                committed_dirty: false,
                closing: false,
            }),
            work: Condvar::new(),
            room: Notify::new(),
            failed: watch::Sender::new(None),
            stopped: watch::Sender::new(false),
            segments: wal.segments(),
            dir: wal.dir().to_owned(),
            cache_bytes,
        });
        let handle = Arc::new(Handle(inner.clone()));
        let (nudge, nudged) = mpsc::sync_channel(1);
        let spawned = spawn("highwater", {
            let (inner, high) = (inner.clone(), high.clone());
            move || writer::keep_high_water(&inner, &high, &nudged)
        })
        .and_then(|()| {
            let inner = inner.clone();
            spawn("wal-writer", move || {
                writer::write_until_closed(&inner, wal, nudge);
                if let Err(error) = high.sync() {
                    inner.fail(&error);
                }
                drop(guard);
                inner.stopped.send_replace(true);
            })
        });
        spawned.map_err(|source| StorageError::Io {
            action: "start the writer of",
            path: inner.dir.clone(),
            source,
        })?;
        Ok(Self { inner, _handle: handle })
    }

    /// Makes a log without a data directory around it, on any disk; `dir` must exist.
    pub fn create_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        identity: &Identity,
        sizes: WalSizes,
    ) -> Result<Self, StorageError> {
        let mark = Wal::create(&*disk, dir, identity, sizes)?;
        HighWater::create(&*disk, dir, &mark)?;
        Self::open_on(disk, dir, sizes)
    }

    /// Opens a log that [`LogStore::create_on`] made. It takes no lock: the caller sees to it that nobody else is there.
    pub fn open_on(disk: Arc<dyn Disk>, dir: &Path, sizes: WalSizes) -> Result<Self, StorageError> {
        let (high, mark) = HighWater::open(&*disk, dir)?;
        let high = Arc::new(high);
        let (wal, view) = Wal::open(disk, dir, high.clone(), &mark, sizes)?;
        Self::start(wal, view, high, sizes.cache_bytes, ())
    }

    /// Becomes `Some(reason)` at the first failure; the node has to exit then.
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.inner.failed.subscribe()
    }

    /// Writes what is queued, stops the writer and releases the directory; later writes are refused.
    pub async fn close(&self) {
        self.inner.lock().closing = true;
        self.inner.work.notify_all();
        let mut stopped = self.inner.stopped.subscribe();
        // The sender lives in `inner`, so the wait can only end with the writer.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }

    /// The last entry the log holds, or else the last one it purged.
    pub fn last_log_id(&self) -> Option<LogId> {
        self.inner.lock().view.summary().last
    }

    /// The last purged entry.
    pub fn purged(&self) -> Option<LogId> {
        self.inner.lock().view.summary().purged
    }

    /// The last durable vote.
    pub fn vote(&self) -> Option<Vote> {
        self.inner.lock().view.summary().vote
    }

    /// The id of the entry at `index`, when the log still holds it.
    pub fn log_id_at(&self, index: u64) -> Option<LogId> {
        self.inner.lock().view.log_id_at(index)
    }

    /// Queues `records` after `change` was applied to the view, and waits until they are durable.
    async fn submit(
        &self,
        record: Record,
        change: impl FnOnce(&mut View, &Record),
    ) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.inner.accepting()?;
            change(&mut state.view, &record);
            let done = Done::Signal(sender);
            state.push(Job { records: vec![record], bytes: 64, done });
        }
        self.inner.work.notify_all();
        receiver.await.map_err(|_| io::Error::other("the log writer has ended"))?
    }

    async fn room(&self) {
        loop {
            let room = self.inner.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if self.inner.lock().queued_bytes <= limits::WAL_QUEUE_BYTES {
                return;
            }
            room.await;
        }
    }

    async fn read(&self, start: u64, end: u64, limit: usize) -> io::Result<Vec<Entry>> {
        let found = self.inner.find(start, end, limit);
        let all_here = found.iter().all(|found| matches!(found, Source::Here(_)));
        if all_here {
            return found.into_iter().map(|source| source.load(&self.inner.dir)).collect();
        }
        let dir = self.inner.dir.clone();
        tokio::task::spawn_blocking(move || {
            found.into_iter().map(|source| source.load(&dir)).collect()
        })
        .await
        .map_err(io::Error::other)?
    }
}

/// An entry to hand out, with the file kept open in case its segment is removed meanwhile.
enum Source {
    Here(Arc<Entry>),
    At(LogId, Place, Arc<dyn DiskFile>),
}

impl Source {
    fn load(self, dir: &Path) -> io::Result<Entry> {
        match self {
            Self::Here(entry) => Ok((*entry).clone()),
            Self::At(log_id, place, file) => {
                let path = segment::path(dir, place.segment);
                let entry = segment::read_entry(&*file, &path, place)?;
                if entry.log_id != log_id {
                    let reason = format!("found entry {} instead of {log_id}", entry.log_id);
                    return Err(StorageError::corrupt(&path, place.offset, reason).into());
                }
                Ok(entry)
            }
        }
    }
}

impl State {
    fn push(&mut self, job: Job) {
        self.queued_bytes += job.bytes;
        self.queue.push_back(job);
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while holding the log lock")
    }

    fn accepting(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.lock();
        if let Some(reason) = &*self.failed.borrow() {
            return Err(StorageError::Stopped { reason: reason.clone() }.into());
        }
        if state.closing {
            return Err(StorageError::Stopped { reason: "it was closed".into() }.into());
        }
        Ok(state)
    }

    fn find(&self, start: u64, end: u64, limit: usize) -> Vec<Source> {
        let state = self.lock();
        let Some((first, last)) = state.view.bounds() else { return Vec::new() };
        let segments = self.segments.lock().expect("nothing panics while holding it");
        let mut out = Vec::new();
        let mut total = 0;
        for index in start.max(first)..end.min(last.saturating_add(1)) {
            let Some((found, bytes)) = state.view.get(index) else { break };
            total += bytes;
            if total > limit && !out.is_empty() {
                break;
            }
            out.push(match found {
                Found::Here(entry) => Source::Here(entry),
                Found::At(log_id, place) => match segments.get(&place.segment) {
                    Some(file) => Source::At(log_id, place, file.clone()),
                    None => break,
                },
            });
        }
        out
    }

    fn fail(&self, error: &StorageError) {
        let reason = error.to_string();
        let first = self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            if first {
                *failed = Some(reason.clone());
            }
            first
        });
        if first {
            tracing::error!(%reason, "the log has failed and accepts nothing any more");
        }
        let jobs: Vec<Job> = {
            let mut state = self.lock();
            state.queued_bytes = 0;
            state.queue.drain(..).collect()
        };
        for job in jobs {
            job.done.complete(Err(StorageError::Stopped { reason: reason.clone() }.into()));
        }
        self.room.notify_waiters();
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.vote())
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, limits::WAL_READ_BYTES).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.inner.lock();
        let summary = state.view.summary();
        Ok(LogState { last_purged_log_id: summary.purged, last_log_id: summary.last })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        // The view follows when the vote is durable: a reader must not see a promise that a crash could take back.
        self.submit(Record::Vote(*vote), |_, _| ()).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        {
            let mut state = self.inner.accepting()?;
            if state.view.summary().committed == committed {
                return Ok(());
            }
            state.view.fold(&Record::Committed(committed));
            state.committed_dirty = true;
        }
        // Travels with the next batch, or alone after a moment: losing it costs a little replay, not a promise.
        self.inner.work.notify_all();
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.inner.lock().view.summary().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut records = Vec::new();
        let mut prepared = Vec::new();
        let mut total = 0;
        for entry in entries {
            let bytes = postcard::to_stdvec(&entry).map_err(io::Error::other)?;
            if bytes.len() >= limits::WAL_RECORD_BYTES {
                let reason = format!(
                    "entry {} has {} bytes, the log takes {}",
                    entry.log_id,
                    bytes.len(),
                    limits::WAL_RECORD_BYTES
                );
                return Err(StorageError::invalid(reason).into());
            }
            total += bytes.len();
            prepared.push((bytes.len(), Arc::new(entry)));
            let log_id = prepared[prepared.len() - 1].1.log_id;
            records.push(Record::Entry { log_id, bytes });
        }
        self.room().await;
        {
            let mut state = self.inner.accepting()?;
            let mut next = state.view.next_index();
            for (_, entry) in &prepared {
                let index = entry.log_id.index;
                if next.is_some_and(|next| next != index) {
                    let want = next.unwrap_or_default();
                    let reason = format!("entry {index} was appended where {want} is next");
                    return Err(StorageError::invalid(reason).into());
                }
                next = Some(index + 1);
            }
            for (bytes, entry) in prepared {
                state.view.append(entry, bytes, None);
            }
            state.push(Job { records, bytes: total, done: Done::Flushed(callback) });
        }
        self.inner.work.notify_all();
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.submit(Record::TruncateAfter(last_log_id), View::fold).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.submit(Record::Purge(log_id), View::fold).await
    }
}

#[cfg(test)]
mod tests;
