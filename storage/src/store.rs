//! The data directory of a node as a whole: making it, looking at it, opening it.
//!
//! ```text
//! DIR/lock                 held while a process uses the directory
//! DIR/highwater            identity, on-disk version, lower bound of the log
//! DIR/wal/*.wal            the log
//! DIR/snapshots/*.snap     the newest snapshot
//! DIR/state/NNNNNN/        the materialised state (sled), rebuildable
//! DIR/blobs/               model files by digest
//! ```
//!
//! The high-water file appears last when a directory is made, so a directory either has an identity and a log or was
//! never a node's.

use crate::blobs::{self, BlobStore};
use crate::disk::{Disk, RealDisk};
use crate::error::{Context, StorageError};
use crate::highwater::{self, HighWater};
use crate::kv::Kv;
use crate::log::LogStore;
use crate::snapshot::{self, SnapshotFile, SnapshotStore};
use crate::state;
use crate::types::{Identity, Vote};
use crate::wal::{self, Wal, WalSizes};
use ollamamax_proto::limits;
use std::cmp::Ordering;
use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const LOCK_FILE: &str = "lock";
/// Present while a directory is being made, so that a half-made one is told from one that lost its identity.
const CREATING_FILE: &str = "creating";

/// The entrance to a data directory.
#[derive(Debug)]
pub struct Storage;

/// What the caller knows about the directory it opens; what it does not know is not checked.
#[derive(Clone, Debug, Default)]
pub struct Expect {
    /// The cluster it should belong to.
    pub cluster: Option<String>,
    /// The node it should belong to.
    pub node: Option<u64>,
}

/// An open data directory.
#[derive(Debug)]
pub struct Opened {
    /// Whose it is.
    pub identity: Identity,
    /// The log; `failed()` on it tells when the node has to exit.
    pub log: LogStore,
    /// The state, at or behind what is committed; the log replays the rest.
    pub kv: Arc<dyn Kv>,
    /// The snapshots.
    pub snapshots: SnapshotStore,
    /// The newest intact snapshot.
    pub newest: Option<SnapshotFile>,
    /// The model files.
    pub blobs: BlobStore,
    /// What was repaired on the way, for the log of the node.
    pub repaired: Vec<String>,
}

impl Storage {
    /// Whose data `dir` holds, without opening it; `None` when it holds none.
    pub fn identity(dir: &Path) -> Result<Option<Identity>, StorageError> {
        match HighWater::peek(&RealDisk, dir)? {
            Some(mark) => Ok(Some(mark.identity)),
            None if lost_identity(dir) => Err(StorageError::corrupt(
                &dir.join(highwater::FILE),
                0,
                "the file is missing although there is a log",
            )),
            None => Ok(None),
        }
    }

    /// Makes a new, empty store and opens it. The directory may exist, but no store may be in it.
    pub fn create(dir: &Path, identity: &Identity) -> Result<Opened, StorageError> {
        Self::create_with(dir, identity, WalSizes::default())
    }

    /// [`Storage::create`] with other sizes of the log.
    pub fn create_with(
        dir: &Path,
        identity: &Identity,
        sizes: WalSizes,
    ) -> Result<Opened, StorageError> {
        let most = limits::CLUSTER_ID_CHARS;
        if identity.cluster.is_empty() || identity.cluster.len() > most {
            let reason =
                format!("a cluster id has 1 to {most} bytes, not {}", identity.cluster.len());
            return Err(StorageError::invalid(reason));
        }
        fs::create_dir_all(dir).context("create", dir)?;
        let lock = lock(dir)?;
        if let Some(found) = Self::identity(dir)? {
            return Err(StorageError::Exists { dir: dir.to_owned(), node: found.node });
        }
        let disk = RealDisk;
        let creating = dir.join(CREATING_FILE);
        File::create(&creating).context("create", &creating)?;
        disk.sync_dir(dir).context("sync", dir)?;
        let remains = dir.join(wal::DIR);
        if remains.exists() {
            fs::remove_dir_all(&remains).context("remove", &remains)?;
        }
        let mark = Wal::create(&disk, dir, identity, sizes)?;
        HighWater::create(&disk, dir, &mark)?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            disk.sync_dir(parent).context("sync", parent)?;
        }
        Self::open_locked(dir, &Expect::default(), sizes, lock)
    }

    /// Opens the store in `dir`, holding it against what the caller expects and against its own high-water record.
    pub fn open(dir: &Path, expect: &Expect) -> Result<Opened, StorageError> {
        Self::open_with(dir, expect, WalSizes::default())
    }

    /// [`Storage::open`] with other sizes of the log.
    pub fn open_with(dir: &Path, expect: &Expect, sizes: WalSizes) -> Result<Opened, StorageError> {
        if Self::identity(dir)?.is_none() {
            return Err(StorageError::Missing { dir: dir.to_owned() });
        }
        let lock = lock(dir)?;
        Self::open_locked(dir, expect, sizes, lock)
    }

    fn open_locked(
        dir: &Path,
        expect: &Expect,
        sizes: WalSizes,
        lock: File,
    ) -> Result<Opened, StorageError> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let (high, mark) = HighWater::open(&*disk, dir)?;
        expect.check(dir, &mark.identity)?;
        let creating = dir.join(CREATING_FILE);
        if creating.exists() {
            fs::remove_file(&creating).context("remove", &creating)?;
            disk.sync_dir(dir).context("sync", dir)?;
        }
        let high = Arc::new(high);
        let promised = mark.vote;
        let (wal, view) = Wal::open(disk.clone(), dir, high.clone(), &mark, sizes)?;
        check_vote(dir, promised, view.summary().vote)?;
        let identity = mark.identity;
        let snapshots = SnapshotStore::open(disk, dir, identity.clone())?;
        let found = snapshots.newest()?;
        let mut repaired: Vec<String> = found.damaged.iter().map(ToString::to_string).collect();
        let deadline = Duration::from_millis(limits::STATE_VERIFY_TIMEOUT_MS);
        let chosen = state::choose(dir, &view, found.newest.as_ref(), deadline)?;
        if let Some(reason) = chosen.rebuilt {
            repaired.push(format!("the state was rebuilt: {reason}"));
        }
        let blobs = BlobStore::open(&dir.join(blobs::DIR))?;
        let log = LogStore::start(wal, view, high, sizes.cache_bytes, lock)?;
        let newest = found.newest;
        Ok(Opened { identity, log, kv: chosen.kv, snapshots, newest, blobs, repaired })
    }
}

impl Expect {
    /// Exactly this identity.
    pub fn exactly(identity: &Identity) -> Self {
        Self { cluster: Some(identity.cluster.clone()), node: Some(identity.node) }
    }

    fn check(&self, dir: &Path, found: &Identity) -> Result<(), StorageError> {
        if let Some(expected) = self.cluster.as_ref().filter(|cluster| **cluster != found.cluster) {
            return Err(StorageError::WrongCluster {
                dir: dir.to_owned(),
                expected: expected.clone(),
                found: found.cluster.clone(),
            });
        }
        if let Some(expected) = self.node.filter(|node| *node != found.node) {
            let found = found.node;
            return Err(StorageError::WrongNode { dir: dir.to_owned(), expected, found });
        }
        Ok(())
    }
}

fn check_vote(dir: &Path, promised: Option<Vote>, found: Option<Vote>) -> Result<(), StorageError> {
    let show = |vote: Option<Vote>| vote.map_or_else(|| "none".to_owned(), |vote| vote.to_string());
    // Votes are only partly ordered: neither order nor equality means that the promise is gone.
    let kept = found.partial_cmp(&promised).is_some_and(Ordering::is_ge);
    if promised.is_some() && !kept {
        return Err(StorageError::Amnesia {
            dir: dir.to_owned(),
            expected: format!("vote {}", show(promised)),
            found: format!("vote {}", show(found)),
        });
    }
    Ok(())
}

fn lost_identity(dir: &Path) -> bool {
    let remains = [wal::DIR, snapshot::DIR, state::DIR].iter().any(|name| dir.join(name).exists());
    remains && !dir.join(CREATING_FILE).exists()
}

fn lock(dir: &Path) -> Result<File, StorageError> {
    let path = dir.join(LOCK_FILE);
    let file = File::create(&path).context("create", &path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StorageError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(error).context("lock", &path),
    }
}
