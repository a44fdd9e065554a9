//! Blobs: immutable bytes, each in a file named after its SHA-256.
//!
//! A blob is written to `<hex>.partial` and hashed on the way; only when the digest is right is it synced and renamed
//! to `<hex>`, so a name without suffix always means verified bytes. A partial file outlives the process, and the next
//! [`BlobStore::writer`] for the same digest goes on behind it.

use crate::check::ROTTEN;
use crate::error::{Context, StorageError};
use ollamamax_proto::ids::Digest;
use ollamamax_proto::limits;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Name of the blobs' directory in the data directory.
pub(crate) const DIR: &str = "blobs";
const PARTIAL: &str = "partial";
/// Name of the directory beside the blobs for files that others bring.
const INCOMING: &str = "incoming";
const READ_BYTES: usize = 1024 * 1024;

/// A directory of blobs. Clones share it.
#[derive(Clone, Debug)]
pub struct BlobStore {
    dir: PathBuf,
    counter: Arc<AtomicU64>,
}

impl BlobStore {
    /// Opens (and makes) the store in `dir`; removes temporary files, keeps partial ones for their resumption.
    pub fn open(dir: &Path) -> Result<Self, StorageError> {
        fs::create_dir_all(dir).context("create", dir)?;
        for item in fs::read_dir(dir).context("list", dir)? {
            let path = item.context("list", dir)?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(&path).context("remove", &path)?;
            }
        }
        Ok(Self { dir: dir.to_owned(), counter: Arc::default() })
    }

    /// Length of a blob that is there, in bytes.
    pub fn stat(&self, digest: &Digest) -> Result<Option<u64>, StorageError> {
        let path = self.path(digest);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("stat", &path),
        }
    }

    /// Where a blob is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// Where files come that [`BlobStore::adopt`] takes in: on the same file system.
    pub fn incoming(&self) -> PathBuf {
        self.dir.join(INCOMING)
    }

    /// Takes in a file, whose digest and durability whoever brings it vouches for.
    pub fn adopt(&self, file: &Path, digest: &Digest) -> Result<(), StorageError> {
        fs::rename(file, self.path(digest)).context("rename", file)?;
        sync_dir(&self.dir)
    }

    /// Removes what was begun, which nobody has written to for so long and nobody writes now, and what had rotted and is there
    /// again. How many files went.
    pub fn sweep(&self, older_than: Duration) -> Result<usize, StorageError> {
        let mut removed = 0;
        for item in fs::read_dir(&self.dir).context("list", &self.dir)? {
            let path = item.context("list", &self.dir)?.path();
            let modified = fs::metadata(&path).and_then(|found| found.modified());
            let age = modified.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            let is = |name: &str| path.extension().is_some_and(|extension| extension == name);
            // What has rotted is worth nothing once there is a sound one.
            let goes = is(PARTIAL) || (is(ROTTEN) && path.with_extension("").exists());
            if goes && age.is_some_and(|age| age >= older_than) {
                let file = File::open(&path).context("open", &path)?;
                if file.try_lock().is_ok() {
                    fs::remove_file(&path).context("remove", &path)?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }

    /// All blobs with their lengths in bytes, in digest order.
    pub fn list(&self) -> Result<Vec<(Digest, u64)>, StorageError> {
        let mut out = Vec::new();
        for item in fs::read_dir(&self.dir).context("list", &self.dir)? {
            let item = item.context("list", &self.dir)?;
            let name = item.file_name();
            let digest = name.to_str().and_then(|hex| format!("sha256:{hex}").parse().ok());
            if let Some(digest) = digest {
                let len = item.metadata().context("stat", &item.path())?.len();
                out.push((digest, len));
            }
        }
        out.sort();
        Ok(out)
    }

    /// Removes a blob and what was received of it; `true` when the blob was there.
    pub fn remove(&self, digest: &Digest) -> Result<bool, StorageError> {
        let path = self.path(digest);
        let partial = path.with_extension(PARTIAL);
        let mut removed = false;
        for (path, blob) in [(&path, true), (&partial, false)] {
            match fs::remove_file(path) {
                Ok(()) => removed |= blob,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).context("remove", path),
            }
        }
        sync_dir(&self.dir)?;
        Ok(removed)
    }

    /// Begins or goes on with a blob; one writer per digest, a second one gets [`StorageError::InUse`].
    pub fn writer(&self, digest: &Digest) -> Result<Writer, StorageError> {
        let path = self.path(digest).with_extension(PARTIAL);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).context("create", &path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StorageError::InUse { dir: path }),
            Err(TryLockError::Error(error)) => return Err(error).context("lock", &path),
        }
        let mut writer = Writer {
            store: self.clone(),
            expected: Some(*digest),
            path,
            file,
            hash: Sha256::new(),
            offset: 0,
        };
        writer.resume()?;
        Ok(writer)
    }

    /// Stores all of `source`, whatever its digest, and says which it is.
    pub fn put(&self, source: &mut dyn Read) -> Result<(Digest, u64), StorageError> {
        self.begin(|writer| writer.copy(source))
    }

    /// Stores all that `write` writes, whatever its digest, and says which it is. Nothing stays when it fails.
    pub fn make(
        &self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(Digest, u64), StorageError> {
        self.begin(|writer| write(&mut *writer).context("write", &writer.path))
    }

    fn begin(
        &self,
        fill: impl FnOnce(&mut Writer) -> Result<(), StorageError>,
    ) -> Result<(Digest, u64), StorageError> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{}-{number}.tmp", std::process::id()));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.open(&path).context("create", &path)?;
        let store = self.clone();
        let mut writer =
            Writer { store, expected: None, path, file, hash: Sha256::new(), offset: 0 };
        let done = fill(&mut writer).and_then(|()| writer.place());
        if done.is_err() {
            // The failure is told already, and a start removes what stays behind.
            let _ = fs::remove_file(&writer.path);
        }
        done
    }
}

/// A blob on its way in. Dropping it keeps what was received.
#[derive(Debug)]
pub struct Writer {
    store: BlobStore,
    expected: Option<Digest>,
    path: PathBuf,
    file: File,
    hash: Sha256,
    offset: u64,
}

impl Writer {
    /// Bytes that are there already: where to go on.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Adds the next bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        if self.offset + bytes.len() as u64 > limits::BLOB_BYTES {
            let most = limits::BLOB_BYTES;
            return Err(StorageError::invalid(format!("the blob has more than {most} bytes")));
        }
        if let Err(error) = self.file.write_all(bytes) {
            self.undo(&error);
            return Err(error).context("write", &self.path);
        }
        self.hash.update(bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// What a failed write left behind is not hashed, so it must not be resumed from. On a full disk everything goes:
    /// the log beside it needs the room, and without it this node ends.
    fn undo(&mut self, error: &io::Error) {
        if error.kind() == ErrorKind::StorageFull {
            let _ = self.restart();
        } else {
            let _ = self.file.set_len(self.offset);
            let _ = self.file.seek(SeekFrom::Start(self.offset));
        }
    }

    /// Forgets what was received and begins again.
    pub fn restart(&mut self) -> Result<(), StorageError> {
        self.file.set_len(0).context("cut", &self.path)?;
        self.file.seek(SeekFrom::Start(0)).context("seek in", &self.path)?;
        self.hash = Sha256::new();
        self.offset = 0;
        Ok(())
    }

    /// Verifies the whole, makes it durable and gives it its name. Bytes with another digest are removed.
    pub fn commit(mut self) -> Result<PathBuf, StorageError> {
        let (digest, _) = self.place()?;
        Ok(self.store.path(&digest))
    }

    fn place(&mut self) -> Result<(Digest, u64), StorageError> {
        let found = Digest(self.hash.clone().finalize().into());
        if let Some(expected) = self.expected.filter(|expected| *expected != found) {
            fs::remove_file(&self.path).context("remove", &self.path)?;
            return Err(StorageError::DigestMismatch {
                expected: expected.to_string(),
                found: found.to_string(),
                bytes: self.offset,
            });
        }
        self.file.sync_data().context("sync", &self.path)?;
        fs::rename(&self.path, self.store.path(&found)).context("rename", &self.path)?;
        sync_dir(&self.store.dir)?;
        Ok((found, self.offset))
    }

    fn resume(&mut self) -> Result<(), StorageError> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let got = self.file.read(&mut buffer).context("read", &self.path)?;
            if got == 0 {
                return Ok(());
            }
            self.hash.update(&buffer[..got]);
            self.offset += got as u64;
        }
    }

    fn copy(&mut self, source: &mut dyn Read) -> Result<(), StorageError> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let got = source.read(&mut buffer).context("read the source of", &self.path)?;
            if got == 0 {
                return Ok(());
            }
            self.write(&buffer[..got])?;
        }
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::write(self, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn sync_dir(dir: &Path) -> Result<(), StorageError> {
    File::open(dir).and_then(|dir| dir.sync_all()).context("sync", dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_and_left_is_swept_and_what_is_brought_is_taken_in() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = BlobStore::open(dir.path()).expect("opened");
        let digest = Digest::of(b"brought");
        fs::create_dir(store.incoming()).expect("made");
        let file = store.incoming().join("x.part");
        fs::write(&file, b"brought").expect("written");
        store.adopt(&file, &digest).expect("taken in");
        assert_eq!(store.list().expect("listed"), [(digest, 7)]);
        let mut writer = store.writer(&Digest::of(b"other")).expect("begun");
        writer.write(b"oth").expect("written");
        assert_eq!(store.sweep(Duration::ZERO).expect("swept"), 0, "it is being written");
        drop(writer);
        assert_eq!(store.sweep(Duration::from_secs(60)).expect("swept"), 0, "it is young");
        assert_eq!(store.sweep(Duration::ZERO).expect("swept"), 1);
        assert_eq!(store.stat(&digest).expect("looked"), Some(7));
    }

    #[test]
    fn a_full_disk_gets_back_what_an_unfinished_blob_took() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = BlobStore::open(dir.path()).expect("opened");
        let digest = Digest::of(b"a long blob");
        let mut writer = store.writer(&digest).expect("begun");
        writer.write(b"a long").expect("written");
        writer.undo(&ErrorKind::Interrupted.into());
        assert_eq!(writer.offset(), 6, "other failures keep what came for the next try");
        writer.undo(&ErrorKind::StorageFull.into());
        assert_eq!(fs::metadata(&writer.path).expect("there").len(), 0);
        writer.write(b"a long blob").expect("written from the start");
        writer.commit().expect("the digest fits");
    }

    #[test]
    fn what_is_made_is_there_under_its_digest_and_what_fails_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = BlobStore::open(dir.path()).expect("opened");
        let made = store.make(|out| out.write_all(b"a ").and_then(|()| out.write_all(b"blob")));
        let digest = Digest::of(b"a blob");
        assert_eq!(made.expect("made"), (digest, 6));
        assert_eq!(fs::read(store.path(&digest)).expect("there"), b"a blob");
        let failed = store.make(|out| {
            out.write_all(b"half")?;
            Err(ErrorKind::Interrupted.into())
        });
        failed.expect_err("given up");
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
    }
}
