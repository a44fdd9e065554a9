//! The high-water record: who this directory belongs to, and how much of the log must be there.
//!
//! After each sync of the log, and before the acknowledgement, the reached position is written here (into the page
//! cache, which survives the death of the process); a background sync makes it durable soon after, and a change of
//! vote makes it durable at once. So it is a lower bound of what this node has acknowledged. A log that holds less has
//! forgotten promises, and the node must not vote.
//!
//! Three slots of one sector each take turns. The slot of the last durable record, and the slot a running sync covers,
//! are never written, so whatever a power cut tears, one intact slot remains.

use crate::disk::{Disk, DiskFile, OpenMode, read_to_end};
use crate::error::{Context, StorageError};
use crate::format::{self, HeadError};
use crate::types::{Identity, LogId, Vote};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

const MAGIC: &[u8; 8] = b"OMXHIGH\0";
const SLOTS: usize = 3;
/// Distance of the slots: a page each, so that one bad sector takes one slot.
const SLOT_STRIDE: u64 = 4096;
/// A slot fits one sector, the unit a disk writes whole.
const SLOT_BYTES: usize = 512;
/// Name of the file in the data directory.
pub(crate) const FILE: &str = "highwater";

/// How far the log is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// The segment.
    pub segment: u64,
    /// The end of the last durable batch in it, in bytes.
    pub offset: u64,
    /// The number of that batch.
    pub batch: u64,
}

/// The high-water record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Whose directory it is.
    pub identity: Identity,
    /// How far the log is durable, at least.
    pub position: Position,
    /// The last durable promise.
    pub vote: Option<Vote>,
    /// The last durable entry.
    pub last: Option<LogId>,
    /// The last entry durably purged.
    pub purged: Option<LogId>,
}

#[derive(Serialize, Deserialize)]
struct Slot {
    counter: u64,
    mark: Mark,
}

#[derive(Debug)]
struct Inner {
    counter: u64,
    /// Slot and counter of the newest record, and whether it was synced.
    newest: usize,
    synced: (usize, u64),
    syncing: Option<usize>,
}

/// The open high-water file.
#[derive(Debug)]
pub(crate) struct HighWater {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    inner: Mutex<Inner>,
}

impl HighWater {
    /// Makes the file with its first record, durably; the directory knows either all of it or nothing.
    pub fn create(disk: &dyn Disk, dir: &Path, mark: &Mark) -> Result<(), StorageError> {
        let path = dir.join(FILE);
        let temporary = dir.join(format!("{FILE}.tmp"));
        let file = disk.open(&temporary, OpenMode::Create).context("create", &temporary)?;
        for slot in 0..SLOTS {
            let bytes = slot_bytes(slot as u64, mark);
            file.write_at(slot as u64 * SLOT_STRIDE, &bytes).context("write", &temporary)?;
        }
        file.sync().context("sync", &temporary)?;
        disk.rename(&temporary, &path).context("rename", &temporary)?;
        disk.sync_dir(dir).context("sync", dir)
    }

    /// Reads the newest intact record without keeping the file; `None` when there is no file.
    pub fn peek(disk: &dyn Disk, dir: &Path) -> Result<Option<Mark>, StorageError> {
        match Self::read(disk, dir, OpenMode::Read) {
            Ok((_, mark)) => Ok(Some(mark)),
            Err(StorageError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens the file and reads the newest intact record.
    pub fn open(disk: &dyn Disk, dir: &Path) -> Result<(Self, Mark), StorageError> {
        let (high, mark) = Self::read(disk, dir, OpenMode::Write)?;
        // What a killed process left in the page cache must be durable before its slot counts as protected.
        high.file.sync().context("sync", &high.path)?;
        Ok((high, mark))
    }

    fn read(disk: &dyn Disk, dir: &Path, mode: OpenMode) -> Result<(Self, Mark), StorageError> {
        let path = dir.join(FILE);
        let file = disk.open(&path, mode).context("open", &path)?;
        let limit = SLOT_STRIDE * SLOTS as u64;
        let bytes = read_to_end(&*file, 0, limit).context("read", &path)?;
        let mut best: Option<(usize, Slot)> = None;
        let mut reason = "the file is empty";
        for slot in 0..SLOTS {
            let start = (slot as u64 * SLOT_STRIDE) as usize;
            let end = (start + SLOT_BYTES).min(bytes.len());
            let Some(sector) = bytes.get(start..end) else { continue };
            match format::read_head::<Slot>(MAGIC, sector) {
                Ok((read, _)) => {
                    if best.as_ref().is_none_or(|(_, old)| old.counter < read.counter) {
                        best = Some((slot, read));
                    }
                }
                Err(HeadError::Version(found)) => {
                    let expected = format::VERSION;
                    return Err(StorageError::Version { file: path, found, expected });
                }
                Err(HeadError::Bad(why)) => reason = why,
            }
        }
        let Some((slot, Slot { counter, mark })) = best else {
            return Err(StorageError::corrupt(&path, 0, format!("no slot is intact: {reason}")));
        };
        let inner = Inner { counter, newest: slot, synced: (slot, counter), syncing: None };
        Ok((Self { path, file, inner: Mutex::new(inner) }, mark))
    }

    /// Writes a record without waiting for the disk.
    pub fn write(&self, mark: &Mark) -> Result<(), StorageError> {
        let mut inner = self.lock();
        self.write_slot(&mut inner, mark)
    }

    /// Writes a record and makes it durable.
    pub fn write_synced(&self, mark: &Mark) -> Result<(), StorageError> {
        let mut inner = self.lock();
        self.write_slot(&mut inner, mark)?;
        self.file.sync().context("sync", &self.path)?;
        inner.synced = (inner.newest, inner.counter);
        Ok(())
    }

    /// Makes the newest record durable; writes may go on meanwhile. Does nothing when it already is.
    pub fn sync(&self) -> Result<(), StorageError> {
        let (slot, counter) = {
            let mut inner = self.lock();
            if inner.synced.1 == inner.counter {
                return Ok(());
            }
            inner.syncing = Some(inner.newest);
            (inner.newest, inner.counter)
        };
        let done = self.file.sync().context("sync", &self.path);
        let mut inner = self.lock();
        inner.syncing = None;
        done?;
        if inner.synced.1 < counter {
            inner.synced = (slot, counter);
        }
        Ok(())
    }

    fn write_slot(&self, inner: &mut Inner, mark: &Mark) -> Result<(), StorageError> {
        let free = (1..=SLOTS)
            .map(|step| (inner.newest + step) % SLOTS)
            .find(|slot| *slot != inner.synced.0 && Some(*slot) != inner.syncing)
            .expect("three slots, at most two of them protected");
        let counter = inner.counter + 1;
        let bytes = slot_bytes(counter, mark);
        self.file.write_at(free as u64 * SLOT_STRIDE, &bytes).context("write", &self.path)?;
        inner.counter = counter;
        inner.newest = free;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while holding the high-water lock")
    }
}

fn slot_bytes(counter: u64, mark: &Mark) -> Vec<u8> {
    let mut bytes = format::head(MAGIC, &Slot { counter, mark: mark.clone() });
    debug_assert!(bytes.len() <= SLOT_BYTES, "a mark fits one sector");
    bytes.resize(SLOT_BYTES, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Coins, FaultDisk};
    use std::time::Duration;

    fn mark(batch: u64) -> Mark {
        let identity = Identity { cluster: "test".into(), node: 1 };
        let position = Position { segment: 1, offset: 4096, batch };
        Mark { identity, position, vote: None, last: None, purged: None }
    }

    #[test]
    fn a_slot_is_left_alone_while_a_sync_covers_it() {
        let dir = Path::new("/node");
        for seed in 0..100 {
            let disk = FaultDisk::new();
            HighWater::create(&disk, dir, &mark(0)).expect("no faults");
            let (high, _) = HighWater::open(&disk, dir).expect("no faults");
            high.write(&mark(1)).expect("no faults");
            disk.slow_syncs(Duration::from_millis(3));
            std::thread::scope(|scope| {
                let sync = scope.spawn(|| high.sync());
                while high.lock().syncing.is_none() && !sync.is_finished() {
                    std::thread::yield_now();
                }
                for batch in 2..5 {
                    high.write(&mark(batch)).expect("no faults");
                    let inner = high.lock();
                    assert_ne!(Some(inner.newest), inner.syncing, "seed {seed}");
                    assert_ne!(inner.newest, inner.synced.0, "seed {seed}");
                }
                sync.join().expect("no panic").expect("no faults");
            });
            for batch in 5..12 {
                high.write(&mark(batch)).expect("no faults");
            }
            let disk = disk.crash(&mut Coins::new(seed));
            let (_, found) = HighWater::open(&disk, dir).expect("an intact slot");
            assert!(found.position.batch >= 1, "seed {seed}: {:?}", found.position);
        }
    }
}
