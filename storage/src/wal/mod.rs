//! The write-ahead log: everything Raft must not forget, in append-only segments.
//!
//! [`Wal`] is the part without threads: [`Wal::commit`] takes the records of one batch, appends them with a seal, syncs
//! once and moves the high-water record. Whoever calls it decides how much goes into a batch; `crate::log` does, with
//! one writer thread. The first failure ends the log: a sync that failed says nothing about what is on the disk, and
//! trying again would only hide it.

pub(crate) mod record;
mod recovery;
pub(crate) mod segment;
#[cfg(test)]
mod tests;
pub(crate) mod view;

use crate::disk::{Disk, DiskFile};
use crate::error::{Context, StorageError};
use crate::highwater::{HighWater, Mark, Position};
use crate::types::Identity;
use record::{Record, Seal};
use segment::{HEAD_PAGE, Head};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use view::{Place, Summary, View};

/// Name of the log's directory in the data directory.
pub(crate) const DIR: &str = "wal";

/// The open segments by number, shared with readers.
pub(crate) type Segments = Arc<Mutex<BTreeMap<u64, Arc<dyn DiskFile>>>>;

/// The sizes a log works with.
#[derive(Clone, Copy, Debug)]
pub struct WalSizes {
    /// Bytes after which a new segment is begun.
    pub segment_bytes: u64,
    /// Bytes of recent entries kept in memory.
    pub cache_bytes: usize,
}

impl Default for WalSizes {
    fn default() -> Self {
        Self {
            segment_bytes: ollamamax_proto::limits::WAL_SEGMENT_BYTES,
            cache_bytes: ollamamax_proto::limits::WAL_CACHE_BYTES,
        }
    }
}

/// The log, opened for writing.
#[derive(Debug)]
pub(crate) struct Wal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    identity: Identity,
    sizes: WalSizes,
    high: Arc<HighWater>,
    segments: Segments,
    file: Arc<dyn DiskFile>,
    end: Position,
    summary: Summary,
    failed: Option<String>,
}

impl Wal {
    /// Makes an empty log in `dir/wal` and returns the mark the high-water record has to start with.
    pub fn create(
        disk: &dyn Disk,
        dir: &Path,
        identity: &Identity,
        sizes: WalSizes,
    ) -> Result<Mark, StorageError> {
        let wal = dir.join(DIR);
        disk.create_dir_all(&wal).context("create", &wal)?;
        disk.sync_dir(dir).context("sync", dir)?;
        let head = Head {
            identity: identity.clone(),
            segment: 1,
            previous_end: 0,
            batch: 0,
            summary: recovery::nothing(),
        };
        segment::create(disk, &wal, &head, sizes.segment_bytes)?;
        Ok(Mark {
            identity: identity.clone(),
            position: Position { segment: 1, offset: HEAD_PAGE, batch: 0 },
            vote: None,
            last: None,
            purged: None,
        })
    }

    /// Opens the log in `dir/wal`, holding it against the high-water record.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        high: Arc<HighWater>,
        mark: &Mark,
        sizes: WalSizes,
    ) -> Result<(Self, View), StorageError> {
        let wal = dir.join(DIR);
        let found = recovery::recover(&*disk, &wal, mark, sizes.cache_bytes)?;
        if let Some(path) = &found.unfinished {
            disk.remove(path).context("remove", path)?;
        }
        let (number, file) = found.segments.last_key_value().expect("recovery finds a segment");
        let (path, file) = (segment::path(&wal, *number), file.clone());
        if found.torn {
            file.set_len(found.end.offset).context("cut", &path)?;
            file.preallocate(sizes.segment_bytes).context("reserve space for", &path)?;
        }
        // Batches above the high-water record may only be in the page cache, marked clean by a sync that failed:
        // written again they are dirty again, and this sync tells the truth about them.
        if !found.unproven.is_empty() {
            let from = found.end.offset - found.unproven.len() as u64;
            file.write_at(from, &found.unproven).context("write", &path)?;
        }
        file.sync().context("sync", &path)?;
        disk.sync_dir(&wal).context("sync", &wal)?;
        let opened = Self {
            disk,
            dir: wal,
            identity: mark.identity.clone(),
            sizes,
            high,
            segments: Arc::new(Mutex::new(found.segments)),
            file,
            end: found.end,
            summary: found.view.summary().clone(),
            failed: None,
        };
        opened.high.write_synced(&opened.mark())?;
        Ok((opened, found.view))
    }

    /// The segments, for readers.
    pub fn segments(&self) -> Segments {
        self.segments.clone()
    }

    /// The directory of the segments.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes one batch durable and says where each of its records is. After an error nothing is accepted any more.
    pub fn commit(&mut self, records: &[&Record]) -> Result<Vec<Place>, StorageError> {
        if let Some(reason) = &self.failed {
            return Err(StorageError::Stopped { reason: reason.clone() });
        }
        let done = self.try_commit(records);
        if let Err(error) = &done {
            self.failed = Some(error.to_string());
        }
        done
    }

    fn try_commit(&mut self, records: &[&Record]) -> Result<Vec<Place>, StorageError> {
        if self.end.offset >= self.sizes.segment_bytes {
            self.rotate()?;
        }
        let mut bytes = Vec::new();
        let mut places = Vec::with_capacity(records.len());
        let Position { segment, offset, batch } = self.end;
        for record in records {
            let at = offset + bytes.len() as u64;
            let size = record.frame(&mut bytes, segment, offset) as u32;
            places.push(Place { segment, offset: at, size });
        }
        let seal = Seal { batch: batch + 1, records: records.len() as u32 };
        Record::Seal(seal).frame(&mut bytes, segment, offset);
        let path = segment::path(&self.dir, segment);
        let is_vote = records.iter().any(|record| matches!(record, Record::Vote(_)));
        if ollamamax_proto::mutant::planted("unwritten-log") && !is_vote {
            self.end = Position { segment, offset: offset + bytes.len() as u64, batch: batch + 1 };
            records.iter().for_each(|record| self.summary.fold(record));
            return Ok(places);
        }
        self.file.write_at(offset, &bytes).context("write", &path)?;
        self.file.sync().context("sync", &path)?;
        self.end = Position { segment, offset: offset + bytes.len() as u64, batch: batch + 1 };
        records.iter().for_each(|record| self.summary.fold(record));
        if records.iter().any(|record| matches!(record, Record::Vote(_))) {
            self.high.write_synced(&self.mark())?;
        } else {
            self.high.write(&self.mark())?;
        }
        Ok(places)
    }

    fn rotate(&mut self) -> Result<(), StorageError> {
        let head = Head {
            identity: self.identity.clone(),
            segment: self.end.segment + 1,
            previous_end: self.end.offset,
            batch: self.end.batch,
            summary: self.summary.clone(),
        };
        self.file = segment::create(&*self.disk, &self.dir, &head, self.sizes.segment_bytes)?;
        self.end.segment = head.segment;
        self.end.offset = HEAD_PAGE;
        self.lock_segments().insert(head.segment, self.file.clone());
        Ok(())
    }

    /// Removes the segments below `oldest`, the one that holds the first live entry (the current one when none does).
    pub fn collect(&mut self, oldest: Option<u64>) -> Result<(), StorageError> {
        let keep = oldest.unwrap_or(self.end.segment).min(self.end.segment);
        loop {
            let Some(number) = self.lock_segments().keys().next().copied() else { break };
            if number >= keep {
                break;
            }
            // One by one, oldest first, each durable: a gap in the middle would look like a loss.
            let path = segment::path(&self.dir, number);
            self.disk.remove(&path).context("remove", &path)?;
            self.disk.sync_dir(&self.dir).context("sync", &self.dir)?;
            self.lock_segments().remove(&number);
        }
        Ok(())
    }

    fn lock_segments(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<dyn DiskFile>>> {
        self.segments.lock().expect("nothing panics while holding the segment lock")
    }

    fn mark(&self) -> Mark {
        Mark {
            identity: self.identity.clone(),
            position: self.end,
            vote: self.summary.vote,
            last: self.summary.last,
            purged: self.summary.purged,
        }
    }
}
