//! Reading a blob again, piece by piece, to see whether its bytes are still what they were: disks forget.

use crate::blobs::BlobStore;
use crate::error::{Context, StorageError};
use ollamamax_proto::ids::Digest;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::PathBuf;

const READ_BYTES: usize = 1024 * 1024;
/// What a blob is called that has other bytes than its name says.
pub(crate) const ROTTEN: &str = "rotten";

/// A blob that is being read again.
#[derive(Debug)]
pub struct Check {
    path: PathBuf,
    file: File,
    hash: Sha256,
    expected: Digest,
}

/// What is known of a blob so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// There is more of it.
    More,
    /// It is what it was.
    Sound,
    /// It is not.
    Rotten,
}

impl Check {
    /// Reads at least `bytes` more, and says how it stands. What cannot be read is rotten.
    pub fn more(&mut self, bytes: u64) -> Checked {
        let mut buffer = vec![0; READ_BYTES];
        let mut read = 0;
        while read < bytes {
            match self.file.read(&mut buffer) {
                Ok(0) => {
                    let found = Digest(self.hash.clone().finalize().into());
                    return if found == self.expected { Checked::Sound } else { Checked::Rotten };
                }
                Ok(got) => {
                    self.hash.update(&buffer[..got]);
                    read += got as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Checked::Rotten,
            }
        }
        Checked::More
    }

    /// Puts the blob aside, so that nobody takes it for what its name says.
    pub fn put_aside(self) -> Result<(), StorageError> {
        let aside = self.path.with_extension(ROTTEN);
        fs::rename(&self.path, aside).context("rename", &self.path)
    }
}

impl BlobStore {
    /// Begins to read a blob again; `None` when it is not there.
    pub fn check(&self, digest: &Digest) -> Result<Option<Check>, StorageError> {
        let path = self.path(digest);
        match File::open(&path) {
            Ok(file) => Ok(Some(Check { path, file, hash: Sha256::new(), expected: *digest })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("open", &path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom, Write};

    #[test]
    fn one_wrong_bit_is_found_and_the_blob_is_put_aside() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = BlobStore::open(dir.path()).expect("opened");
        let bytes = vec![7; 3 * READ_BYTES];
        let (digest, _) = store.put(&mut bytes.as_slice()).expect("kept");
        let through = || {
            let mut check = store.check(&digest).expect("readable").expect("there");
            loop {
                match check.more(READ_BYTES as u64) {
                    Checked::More => {}
                    done => return (done, check),
                }
            }
        };
        assert_eq!(through().0, Checked::Sound);
        let mut file = File::options().write(true).open(store.path(&digest)).expect("writable");
        file.seek(SeekFrom::Start(1_500_000)).expect("sought");
        file.write_all(&[6]).expect("rots");
        let (found, check) = through();
        assert_eq!(found, Checked::Rotten);
        check.put_aside().expect("put aside");
        assert_eq!(store.stat(&digest).expect("looked"), None);
        assert!(store.check(&digest).expect("looked").is_none());
        store.put(&mut bytes.as_slice()).expect("kept again");
        store.sweep(std::time::Duration::ZERO).expect("swept");
        let left: Vec<_> = fs::read_dir(dir.path()).expect("readable").collect();
        assert_eq!(left.len(), 1, "what was rotten has gone: {left:?}");
    }
}
