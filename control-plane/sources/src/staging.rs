//! A file that is coming in pieces, in any order: its bytes, a journal of the pieces that are there, and the digest of what is
//! there from the beginning without a gap.
//!
//! ```text
//! <key>.part       the bytes, where they belong; locked by whoever writes
//! <key>.ranges     `total validator`, then a line `start end` for what came since the line before
//! ```
//!
//! A line follows its bytes, so what a killed process has recorded is there for the next; after a power cut it may not be, which
//! shows in the digest. Whoever resumes reads what is there once, for the digest. Nothing here blocks a runtime: one thread
//! writes and hashes.

use crate::error::SourceError;
use crate::ranges::Ranges;
use bytes::Bytes;
use ollamamax_proto::{Digest, limits};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const PART: &str = "part";
const RANGES: &str = "ranges";
/// Bytes hashed at once.
const PIECE_BYTES: usize = 1 << 20;

/// A file that is coming.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    journal_path: PathBuf,
    file: File,
    journal: File,
    had: Ranges,
    /// What came since the last line of the journal.
    unrecorded: Ranges,
    hash: Sha256,
    /// How far that has come.
    hashed: u64,
}

/// A file that has come, and whose digest is known. Dropped without being kept, it stays for a while.
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
    journal_path: PathBuf,
    /// What its bytes are.
    pub digest: Digest,
    /// How many.
    pub bytes: u64,
    _lock: File,
}

impl Staged {
    /// Where it is: whoever keeps it moves it away from there, and then calls [`Staged::forget`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes what is left of it.
    pub fn forget(self) {
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(&self.journal_path);
    }
}

impl Staging {
    /// Opens the file `key` in `dir`, or makes it. `Ok(None)`: somebody else writes it.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn open(dir: &Path, key: Digest) -> io::Result<Option<Self>> {
        fs::create_dir_all(dir)?;
        let path = dir.join(key.hex()).with_extension(PART);
        let journal_path = dir.join(key.hex()).with_extension(RANGES);
        let Some(file) = locked(&path)? else { return Ok(None) };
        let text = fs::read(&journal_path).unwrap_or_default();
        let mut options = OpenOptions::new();
        let journal = options.create(true).append(true).open(&journal_path)?;
        let bytes = file.metadata()?.len();
        let (had, unrecorded, hash) = (recorded(&text, bytes), Ranges::default(), Sha256::new());
        Ok(Some(Self { path, journal_path, file, journal, had, unrecorded, hash, hashed: 0 }))
    }

    /// What is there.
    pub fn had(&self) -> &Ranges {
        &self.had
    }

    /// What the source said of the file when its first bytes came: how long it is, and which edition.
    pub fn said(&self) -> Option<(u64, String)> {
        let text = fs::read(&self.journal_path).ok()?;
        let line = text.split(|byte| *byte == b'\n').next()?;
        let (total, validator) = std::str::from_utf8(line).ok()?.split_once(' ')?;
        Some((total.parse().ok()?, validator.to_owned()))
    }

    /// Begins anew, for a file of `total` bytes.
    ///
    /// # Errors
    /// When the disk fails, or has no room for it.
    pub fn begin(&mut self, total: u64, validator: &str) -> io::Result<()> {
        self.file.set_len(0)?;
        self.journal.set_len(0)?;
        self.had.clear();
        self.unrecorded.clear();
        (self.hash, self.hashed) = (Sha256::new(), 0);
        let plain: String = validator.chars().filter(|c| !c.is_control()).collect();
        self.journal.write_all(format!("{total} {plain}\n").as_bytes())
    }

    /// Whether the disk has room for so many bytes more, and some for others.
    ///
    /// # Errors
    /// When it has not.
    pub fn needs(&self, bytes: u64) -> io::Result<()> {
        let disk = rustix::fs::fstatvfs(&self.file)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if bytes.saturating_add(limits::DISK_LEFT_BYTES) > free {
            let text = format!("{bytes} bytes shall come, and the disk has room for {free}");
            return Err(io::Error::new(ErrorKind::StorageFull, text));
        }
        Ok(())
    }

    /// Takes bytes in.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn write(&mut self, offset: u64, bytes: &Bytes) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)?;
        let range = offset..offset + bytes.len() as u64;
        if offset == self.hashed {
            self.hash.update(bytes);
            self.hashed = range.end;
        }
        self.had.add(range.clone());
        self.unrecorded.add(range);
        if self.unrecorded.bytes() >= limits::PULL_RECORD_BYTES {
            self.record()?;
        }
        self.catch_up()
    }

    /// Writes down what came.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn record(&mut self) -> io::Result<()> {
        let line = |range: &Range<u64>| format!("{} {}\n", range.start, range.end);
        let lines: String = self.unrecorded.iter().map(line).collect();
        self.journal.write_all(lines.as_bytes())?;
        self.unrecorded.clear();
        Ok(())
    }

    /// Hashes what is there from the beginning.
    fn catch_up(&mut self) -> io::Result<()> {
        let end = self.had.prefix();
        if self.hashed >= end {
            return Ok(());
        }
        let mut buffer = vec![0; PIECE_BYTES];
        while self.hashed < end {
            let want = usize::try_from(end - self.hashed).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            self.file.read_exact_at(&mut buffer[..want], self.hashed)?;
            self.hash.update(&buffer[..want]);
            self.hashed += want as u64;
        }
        Ok(())
    }

    /// The whole file, durable.
    ///
    /// # Errors
    /// When the disk fails, or something is missing after all.
    pub fn finish(mut self) -> io::Result<Staged> {
        self.catch_up()?;
        let bytes = self.had.prefix();
        if bytes != self.had.bytes() || bytes != self.file.metadata()?.len() {
            return Err(io::Error::other("the file has a gap"));
        }
        self.record()?;
        self.file.sync_all()?;
        Ok(Staged {
            path: self.path,
            journal_path: self.journal_path,
            digest: Digest(self.hash.finalize().into()),
            bytes,
            _lock: self.file,
        })
    }

    /// Removes everything of it.
    pub fn forget(self) {
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(&self.journal_path);
    }
}

/// Opens and locks a file that may be moved away by whoever has the lock now.
fn locked(path: &Path) -> io::Result<Option<File>> {
    loop {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        match fs::metadata(path) {
            Ok(there) if there.ino() == file.metadata()?.ino() => return Ok(Some(file)),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

/// What a journal says is there, of a file that has `bytes`. A torn line says nothing.
fn recorded(text: &[u8], bytes: u64) -> Ranges {
    let mut had = Ranges::default();
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let lines = std::str::from_utf8(&text[..whole]).unwrap_or_default().lines().skip(1);
    for line in lines {
        let parsed = line.split_once(' ').map(|(start, end)| (start.parse(), end.parse()));
        if let Some((Ok(start), Ok(end))) = parsed
            && start < end
            && end <= bytes
        {
            had.add(start..end);
        }
    }
    had
}

/// Removes what nobody has written to for so long, and nobody writes now.
///
/// # Errors
/// When the directory cannot be read.
pub fn sweep(dir: &Path, older_than: Duration) -> Result<usize, SourceError> {
    let mut removed = 0;
    let items = match fs::read_dir(dir) {
        Ok(items) => items,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    for item in items {
        let path = item?.path();
        let age = |path: &Path| -> Option<Duration> {
            let modified = fs::metadata(path).ok()?.modified().ok()?;
            SystemTime::now().duration_since(modified).ok()
        };
        let part = path.with_extension(PART);
        let is_old =
            [&path, &part].iter().all(|path| age(path).is_none_or(|age| age >= older_than));
        if !is_old {
            continue;
        }
        let lock = File::open(&part).ok();
        let is_free = lock.as_ref().is_none_or(|file| file.try_lock().is_ok());
        if is_free && fs::remove_file(&path).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> Staging {
        Staging::open(dir, Digest::of(b"key")).expect("opened").expect("free")
    }

    #[test]
    fn pieces_in_any_order_become_the_file_and_a_killed_process_loses_what_it_has_not_recorded() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut staging = open(dir.path());
        staging.begin(9, "tag").expect("begun");
        staging.write(6, &Bytes::from_static(b"ghi")).expect("written");
        staging.write(0, &Bytes::from_static(b"abc")).expect("written");
        staging.record().expect("recorded");
        staging.write(3, &Bytes::from_static(b"d")).expect("written");
        assert!(Staging::open(dir.path(), Digest::of(b"key")).expect("looked").is_none(), "locked");
        // As a kill leaves it: nothing is recorded any more, and the last line is torn.
        drop(staging);
        let journal = dir.path().join(Digest::of(b"key").hex()).with_extension(RANGES);
        let mut file = OpenOptions::new().append(true).open(&journal).expect("there");
        file.write_all(b"3 9").expect("torn");
        drop(file);
        let mut staging = open(dir.path());
        assert_eq!(staging.said(), Some((9, "tag".to_owned())));
        assert_eq!(staging.had().missing(9, 100).first(), Some(&(3..6)));
        assert_eq!(staging.had().bytes(), 6);
        staging.write(3, &Bytes::from_static(b"def")).expect("written");
        let staged = staging.finish().expect("whole");
        assert_eq!((staged.digest, staged.bytes), (Digest::of(b"abcdefghi"), 9));
        staged.forget();
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
    }

    #[test]
    fn what_does_not_fit_is_not_begun() {
        let dir = tempfile::tempdir().expect("a directory");
        let staging = open(dir.path());
        let full = staging.needs(u64::MAX / 2).expect_err("no disk is that large");
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        staging.needs(1).expect("one byte fits");
    }

    #[test]
    fn what_nobody_writes_to_is_swept_and_what_is_written_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut staging = open(dir.path());
        staging.begin(9, "").expect("begun");
        assert_eq!(sweep(dir.path(), Duration::ZERO).expect("swept"), 0, "it is in use");
        drop(staging);
        assert_eq!(sweep(dir.path(), Duration::from_secs(60)).expect("swept"), 0, "it is young");
        assert_eq!(sweep(dir.path(), Duration::ZERO).expect("swept"), 2);
        assert_eq!(sweep(&dir.path().join("none"), Duration::ZERO).expect("nothing there"), 0);
    }
}
