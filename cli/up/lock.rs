//! Only one `up` per data directory. The lock file also tells whether the last run ended cleanly: then it is empty.

use crate::exit::Failure;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

/// The directory is ours as long as this lives.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
    /// Whether the last run ended without saying goodbye: its children may still be on their way out.
    pub was_broken_off: bool,
}

impl Lock {
    /// Takes the directory, which is made when it is not there.
    pub fn take(directory: &Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(directory).map_err(Failure::file("create", directory))?;
        let path = directory.join("up.lock");
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(Failure::file("lock", &path))?;
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
        let mut holder = String::new();
        (&mut file).take(64).read_to_string(&mut holder).map_err(Failure::file("read", &path))?;
        let holder = holder.trim();
        match locked {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Failure::Other(format!(
                    "another `ollamamax up` (process {holder}) uses `{}`; stop it or choose another --data-dir",
                    directory.display()
                )));
            }
            Err(error) => return Err(Failure::file("lock", path)(error.into())),
        }
        let was_broken_off = !holder.is_empty();
        let mut lock = Self { file, path, was_broken_off };
        lock.write(&std::process::id().to_string())?;
        Ok(lock)
    }

    /// Says goodbye: everything has ended.
    pub fn end(mut self) -> Result<(), Failure> {
        self.write("")
    }

    fn write(&mut self, text: &str) -> Result<(), Failure> {
        let Self { file, path, .. } = self;
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(text.as_bytes()))
            .map_err(Failure::file("write", path.as_path()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_a_broken_run_is_noticed() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = Lock::take(directory.path()).expect("free");
        assert!(!first.was_broken_off);
        let failure = Lock::take(directory.path()).expect_err("taken");
        assert!(failure.to_string().contains(&std::process::id().to_string()), "{failure}");
        drop(first);
        let second = Lock::take(directory.path()).expect("free again");
        assert!(second.was_broken_off);
        second.end().expect("written");
        assert!(!Lock::take(directory.path()).expect("free").was_broken_off);
    }
}
