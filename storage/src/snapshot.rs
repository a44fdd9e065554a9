//! Snapshots: the whole state at one log entry, each in a file of its own.
//!
//! ```text
//! [head: identity, meta] [chunk]* [end]
//! chunk: [len u32][crc32c u32] records: ([key len u32][value len u32][key][value])*
//! end:   [0 u32][crc32c u32] [records u64][sha256 of everything before]
//! ```
//!
//! A snapshot is written aside, synced, renamed and its directory synced before anything relies on it, and older ones
//! go only after that. What a peer sends is bytes of the same file, verified as a whole before it gets a name.

mod file;

use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::{Context, StorageError};
use crate::format;
use crate::kv::Pair;
use crate::types::{Identity, SnapshotMeta};
pub use file::{Records, SnapshotFile};
use ollamamax_proto::limits;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const MAGIC: &[u8; 8] = b"OMXSNAP\0";
const CHUNK_HEAD_BYTES: usize = 8;
const END_BYTES: usize = CHUNK_HEAD_BYTES + 8 + 32;
/// Largest head: a membership of nine nodes with long addresses fits many times.
const HEAD_LIMIT_BYTES: usize = 64 * 1024;
/// Largest chunk: one record travels alone when it is bigger than the usual chunk.
const CHUNK_LIMIT_BYTES: usize = limits::WAL_RECORD_BYTES;
/// Name of the snapshots' directory in the data directory.
pub(crate) const DIR: &str = "snapshots";

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    identity: Identity,
    meta: SnapshotMeta,
}

/// The snapshots of one node.
#[derive(Clone, Debug)]
pub struct SnapshotStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    identity: Identity,
    counter: Arc<AtomicU64>,
}

/// What is left of the snapshots after a start.
#[derive(Debug, Default)]
pub struct Snapshots {
    /// The newest intact one.
    pub newest: Option<SnapshotFile>,
    /// Why newer files were passed over.
    pub damaged: Vec<StorageError>,
}

impl SnapshotStore {
    /// The store in `dir/snapshots`; removes what an interrupted writer or transfer left.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        identity: Identity,
    ) -> Result<Self, StorageError> {
        let own = dir.join(DIR);
        disk.create_dir_all(&own).context("create", &own)?;
        disk.sync_dir(dir).context("sync", dir)?;
        for name in disk.list(&own).context("list", &own)? {
            if name.ends_with(".tmp") {
                let path = own.join(name);
                disk.remove(&path).context("remove", &path)?;
            }
        }
        Ok(Self { disk, dir: own, identity, counter: Arc::default() })
    }

    /// Writes a snapshot durably and removes the older ones. Records come in the order of their keys: others would be
    /// refused wherever the snapshot is taken in.
    pub fn write(
        &self,
        meta: &SnapshotMeta,
        records: impl IntoIterator<Item = Result<Pair, StorageError>>,
    ) -> Result<SnapshotFile, StorageError> {
        let path = self.temporary();
        let written = self.write_temporary(&path, meta, records);
        match written.and_then(|()| SnapshotFile::open(&*self.disk, &path)) {
            Ok(file) => self.install(file),
            Err(error) => {
                // The write failed already, and a start removes what stays behind.
                let _ = self.disk.remove(&path);
                Err(error)
            }
        }
    }

    fn write_temporary(
        &self,
        path: &Path,
        meta: &SnapshotMeta,
        records: impl IntoIterator<Item = Result<Pair, StorageError>>,
    ) -> Result<(), StorageError> {
        let file = self.disk.open(path, OpenMode::Create).context("create", path)?;
        let mut out = Out { file: &*file, path, offset: 0, hash: Sha256::new() };
        let head = Head { identity: self.identity.clone(), meta: meta.clone() };
        out.put(&format::head(MAGIC, &head))?;
        let mut chunk = Vec::new();
        let mut count = 0u64;
        let mut last: Option<Vec<u8>> = None;
        for record in records {
            let (key, value) = record?;
            if last.as_ref().is_some_and(|last| *last >= key) {
                return Err(StorageError::invalid("snapshot records are not in key order"));
            }
            let size = 8 + key.len() + value.len();
            if size > CHUNK_LIMIT_BYTES {
                return Err(StorageError::invalid(format!(
                    "a record of {size} bytes is too large"
                )));
            }
            if !chunk.is_empty() && chunk.len() + size > limits::TRANSFER_CHUNK_BYTES {
                out.chunk(&chunk)?;
                chunk.clear();
            }
            chunk.extend_from_slice(&(key.len() as u32).to_le_bytes());
            chunk.extend_from_slice(&(value.len() as u32).to_le_bytes());
            chunk.extend_from_slice(&key);
            chunk.extend_from_slice(&value);
            last = Some(key);
            count += 1;
        }
        if !chunk.is_empty() {
            out.chunk(&chunk)?;
        }
        out.end(count)?;
        file.sync().context("sync", path)
    }

    /// Begins to receive a snapshot from a peer.
    pub fn receive(&self) -> Result<Receiving, StorageError> {
        let path = self.temporary();
        let file = self.disk.open(&path, OpenMode::Create).context("create", &path)?;
        let cluster = self.identity.cluster.clone();
        Ok(Receiving { disk: self.disk.clone(), file, path, cluster, offset: 0, kept: false })
    }

    /// Gives a verified, synced snapshot its name, durably, and removes the older ones.
    pub fn install(&self, snapshot: SnapshotFile) -> Result<SnapshotFile, StorageError> {
        // A snapshot of nothing is legal and sorts first.
        let at = snapshot.meta.last_log_id.map(|id| {
            let leader = id.leader_id;
            (id.index, leader.term, leader.node_id)
        });
        let (index, term, node) = at.unwrap_or_default();
        let name = format!("{index:016x}-{term:016x}-{node:016x}.snap");
        let path = self.dir.join(&name);
        if snapshot.path != path {
            self.disk.rename(&snapshot.path, &path).context("rename", &snapshot.path)?;
        }
        self.disk.sync_dir(&self.dir).context("sync", &self.dir)?;
        for other in self.names()? {
            if other < name {
                let old = self.dir.join(other);
                self.disk.remove(&old).context("remove", &old)?;
            }
        }
        Ok(snapshot.at(path))
    }

    /// Reads through the snapshots, newest first, until one is intact.
    pub fn newest(&self) -> Result<Snapshots, StorageError> {
        let mut found = Snapshots::default();
        for name in self.names()?.into_iter().rev() {
            let opened = SnapshotFile::open(&*self.disk, &self.dir.join(&name));
            match opened.and_then(|file| file.verify(&self.identity.cluster)) {
                Ok(file) => {
                    found.newest = Some(file);
                    return Ok(found);
                }
                Err(error @ (StorageError::Io { .. } | StorageError::Version { .. })) => {
                    return Err(error);
                }
                Err(error) => found.damaged.push(error),
            }
        }
        Ok(found)
    }

    fn names(&self) -> Result<Vec<String>, StorageError> {
        let mut names = self.disk.list(&self.dir).context("list", &self.dir)?;
        names.retain(|name| name.ends_with(".snap"));
        Ok(names)
    }

    fn temporary(&self) -> PathBuf {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        self.dir.join(format!("{number}.tmp"))
    }
}

struct Out<'a> {
    file: &'a dyn DiskFile,
    path: &'a Path,
    offset: u64,
    hash: Sha256,
}

impl Out<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.file.write_at(self.offset, bytes).context("write", self.path)?;
        self.offset += bytes.len() as u64;
        self.hash.update(bytes);
        Ok(())
    }

    fn chunk(&mut self, body: &[u8]) -> Result<(), StorageError> {
        let mut bytes = Vec::with_capacity(CHUNK_HEAD_BYTES + body.len());
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&checksum(self.offset, body).to_le_bytes());
        bytes.extend_from_slice(body);
        self.put(&bytes)
    }

    fn end(mut self, records: u64) -> Result<(), StorageError> {
        let mut body = records.to_le_bytes().to_vec();
        body.extend_from_slice(&self.hash.clone().finalize());
        let mut bytes = 0u32.to_le_bytes().to_vec();
        bytes.extend_from_slice(&checksum(self.offset, &body).to_le_bytes());
        bytes.extend_from_slice(&body);
        self.put(&bytes)
    }
}

fn checksum(offset: u64, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&offset.to_le_bytes()), body)
}

/// A snapshot on its way in.
#[derive(Debug)]
pub struct Receiving {
    disk: Arc<dyn Disk>,
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    cluster: String,
    offset: u64,
    kept: bool,
}

impl Receiving {
    /// Bytes received so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Adds the next bytes.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        if self.offset + bytes.len() as u64 > limits::SNAPSHOT_BYTES {
            let most = limits::SNAPSHOT_BYTES;
            return Err(StorageError::invalid(format!("the snapshot has more than {most} bytes")));
        }
        self.file.write_at(self.offset, bytes).context("write", &self.path)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Verifies and syncs what came; the result waits for [`SnapshotStore::install`].
    pub fn finish(mut self) -> Result<SnapshotFile, StorageError> {
        let snapshot = SnapshotFile::open(&*self.disk, &self.path)?.verify(&self.cluster)?;
        self.file.sync().context("sync", &self.path)?;
        self.kept = true;
        Ok(snapshot)
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if !self.kept {
            // A start removes what stays behind.
            let _ = self.disk.remove(&self.path);
        }
    }
}
