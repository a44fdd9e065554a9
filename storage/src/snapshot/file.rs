//! Reading a snapshot: nothing is handed out before the chunk it is in was verified.

use super::{
    CHUNK_HEAD_BYTES, CHUNK_LIMIT_BYTES, END_BYTES, HEAD_LIMIT_BYTES, Head, MAGIC, checksum,
};
use crate::disk::{Disk, DiskFile, OpenMode, read_full};
use crate::error::{Context, StorageError};
use crate::format::{self, HeadError};
use crate::kv::Pair;
use crate::types::{Identity, SnapshotMeta};
use ollamamax_proto::limits;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One snapshot, readable for as long as it is held, even when a newer one has replaced it.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    pub(super) path: PathBuf,
    file: Arc<dyn DiskFile>,
    identity: Identity,
    pub(super) meta: SnapshotMeta,
    len: u64,
    head_bytes: u64,
}

impl SnapshotFile {
    /// Opens a snapshot and reads its head; the rest is verified while it is read.
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Self, StorageError> {
        let file = disk.open(path, OpenMode::Read).context("open", path)?;
        let len = file.len().context("measure", path)?;
        let mut bytes = vec![0; HEAD_LIMIT_BYTES];
        let got = read_full(&*file, 0, &mut bytes).context("read", path)?;
        match format::read_head::<Head>(MAGIC, &bytes[..got]) {
            Ok((Head { identity, meta }, used)) => {
                let head_bytes = used as u64;
                Ok(Self { path: path.to_owned(), file, identity, meta, len, head_bytes })
            }
            Err(HeadError::Version(found)) => {
                let expected = format::VERSION;
                Err(StorageError::Version { file: path.to_owned(), found, expected })
            }
            Err(HeadError::Bad(reason)) => Err(StorageError::corrupt(path, 0, reason)),
        }
    }

    pub(super) fn at(self, path: PathBuf) -> Self {
        Self { path, ..self }
    }

    /// What the snapshot covers.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes; a real one never is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Raw bytes for a peer, at most [`limits::TRANSFER_CHUNK_BYTES`]; empty at the end.
    pub fn read_chunk(&self, offset: u64) -> Result<Vec<u8>, StorageError> {
        let left = self.len.saturating_sub(offset).min(limits::TRANSFER_CHUNK_BYTES as u64);
        let mut bytes = vec![0; left as usize];
        let got = read_full(&*self.file, offset, &mut bytes).context("read", &self.path)?;
        bytes.truncate(got);
        Ok(bytes)
    }

    /// The records in key order. The last item is an error when anything at all is wrong with the file.
    pub fn records(&self) -> Records {
        Records {
            snapshot: self.clone(),
            offset: 0,
            hash: Sha256::new(),
            count: 0,
            chunk: Vec::new(),
            at: 0,
            done: false,
        }
    }

    /// Reads all of it, and that it is of `cluster`.
    pub fn verify(self, cluster: &str) -> Result<Self, StorageError> {
        if self.identity.cluster != cluster {
            return Err(StorageError::WrongCluster {
                dir: self.path,
                expected: cluster.to_owned(),
                found: self.identity.cluster,
            });
        }
        for record in self.records() {
            record?;
        }
        Ok(self)
    }
}

/// The records of a snapshot, verified chunk by chunk and, at the end, as a whole.
#[derive(Debug)]
pub struct Records {
    snapshot: SnapshotFile,
    offset: u64,
    hash: Sha256,
    count: u64,
    chunk: Vec<u8>,
    at: usize,
    done: bool,
}

impl Iterator for Records {
    type Item = Result<Pair, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.step().transpose();
        self.done = !matches!(item, Some(Ok(_)));
        item
    }
}

impl Records {
    fn step(&mut self) -> Result<Option<Pair>, StorageError> {
        if self.offset == 0 {
            let head = self.read(self.snapshot.head_bytes as usize)?;
            self.take(&head);
        }
        if self.at == self.chunk.len() && !self.next_chunk()? {
            return Ok(None);
        }
        let bad = || self.corrupt("a record does not fit its chunk");
        let rest = &self.chunk[self.at..];
        let (sizes, rest) = rest.split_at_checked(8).ok_or_else(bad)?;
        let key_len = u32::from_le_bytes([sizes[0], sizes[1], sizes[2], sizes[3]]) as usize;
        let value_len = u32::from_le_bytes([sizes[4], sizes[5], sizes[6], sizes[7]]) as usize;
        let (key, rest) = rest.split_at_checked(key_len).ok_or_else(bad)?;
        let value = rest.get(..value_len).ok_or_else(bad)?;
        let pair = (key.to_vec(), value.to_vec());
        self.at += 8 + key_len + value_len;
        self.count += 1;
        Ok(Some(pair))
    }

    fn next_chunk(&mut self) -> Result<bool, StorageError> {
        let head = self.read(CHUNK_HEAD_BYTES)?;
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let crc = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if len > CHUNK_LIMIT_BYTES {
            return Err(self.corrupt("the length of a chunk is impossible"));
        }
        let end = len == 0;
        let len = if end { END_BYTES - CHUNK_HEAD_BYTES } else { len };
        let whole = self.read(CHUNK_HEAD_BYTES + len)?;
        let body = &whole[CHUNK_HEAD_BYTES..];
        if checksum(self.offset, body) != crc {
            return Err(self.corrupt("the checksum of a chunk does not match"));
        }
        if !end {
            self.chunk = body.to_vec();
            self.at = 0;
            self.take(&whole);
            return Ok(true);
        }
        if body[..8] != self.count.to_le_bytes() || body[8..] != self.hash.clone().finalize()[..] {
            return Err(self.corrupt("the checksum of the whole does not match"));
        }
        if self.offset + END_BYTES as u64 != self.snapshot.len {
            return Err(self.corrupt("there are bytes behind the end"));
        }
        Ok(false)
    }

    fn read(&self, len: usize) -> Result<Vec<u8>, StorageError> {
        if self.snapshot.len.saturating_sub(self.offset) < len as u64 {
            return Err(self.corrupt("the file is cut"));
        }
        let mut bytes = vec![0; len];
        let got = read_full(&*self.snapshot.file, self.offset, &mut bytes)
            .context("read", &self.snapshot.path)?;
        if got < len {
            return Err(self.corrupt("the file is cut"));
        }
        Ok(bytes)
    }

    fn take(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.offset += bytes.len() as u64;
    }

    fn corrupt(&self, reason: &str) -> StorageError {
        StorageError::corrupt(&self.snapshot.path, self.offset, reason)
    }
}
