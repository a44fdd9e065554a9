//! A blob that is on its way: it gets its final name only when it is complete and its digest fits.

use super::{hash_all, sync_parent};
use ollamamax_proto::Digest;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The bytes that came so far.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
    file: File,
    hash: Sha256,
    pub(super) length: u64,
}

impl Partial {
    /// Goes on from what an earlier attempt left, hashed again because nobody vouches for it.
    pub(super) fn open(path: PathBuf, total: u64) -> io::Result<Self> {
        let options =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
        let mut file = options.open(&path)?;
        if file.metadata()?.len() > total {
            file.set_len(0)?;
        }
        let mut hash = Sha256::new();
        let length = hash_all(&mut file, &mut hash)?;
        file.seek(SeekFrom::Start(length))?;
        Ok(Self { path, file, hash, length })
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Gives the blob its final name if the digest fits; deletes it otherwise.
    pub(super) fn finish(self, path: &Path, digest: Digest) -> io::Result<bool> {
        if Digest(self.hash.finalize().into()) != digest {
            fs::remove_file(&self.path)?;
            return Ok(false);
        }
        self.file.sync_all()?;
        fs::rename(&self.path, path)?;
        sync_parent(path)?;
        Ok(true)
    }
}
