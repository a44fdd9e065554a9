//! Who this worker is, across restarts: a random id kept in the data directory, and an incarnation that grows with every
//! start.
//!
//! The id file is replaced atomically and synced. A lock on the directory keeps a second process from taking the same
//! identity; across machines (a copied directory) the newer incarnation fences the older at the control plane.

use ollamamax_proto::{Incarnation, Millis, WorkerId};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const FILE: &str = "worker.json";
const LOCK: &str = "worker.lock";
const FORMAT: u32 = 1;

/// The identity of this life of the worker. The directory stays locked while it lives.
#[derive(Debug)]
pub struct Identity {
    /// Kept for as long as the data directory lives.
    pub worker: WorkerId,
    /// Higher than that of every earlier start from this directory, even when the clock went back.
    pub incarnation: Incarnation,
    _lock: File,
}

/// Why no identity could be taken.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another process has it.
    #[error("data directory `{}` is in use by another worker process; stop it or choose another directory", .path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The file does not hold an identity of a known format.
    #[error("identity file `{}` cannot be read: {reason}; restore it, or delete it to become a new worker", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file system refused.
    #[error("identity in `{}` cannot be kept", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    worker: WorkerId,
    incarnation: Incarnation,
}

impl Identity {
    /// Takes the identity kept in `dir`, or becomes a new worker there: the one that a certificate there names, if one does.
    /// `now` names this life.
    pub fn take(
        dir: &Path,
        certified: Option<WorkerId>,
        now: Millis,
    ) -> Result<Self, IdentityError> {
        let io_at = |path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::Io { path, source }
        };
        fs::create_dir_all(dir).map_err(io_at(dir))?;
        let lock_path = dir.join(LOCK);
        let lock = File::create(&lock_path).map_err(io_at(&lock_path))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(IdentityError::Locked { path: dir.to_owned() });
            }
            Err(error) => {
                return Err(IdentityError::Io { path: lock_path, source: error.into() });
            }
        }
        let path = dir.join(FILE);
        let last = read(&path)?;
        let kept = last.as_ref().map(|last| last.worker);
        if let (Some(certified), Some(kept)) = (certified, kept)
            && certified != kept
        {
            let reason = format!("it names worker {kept}, the certificate worker {certified}");
            return Err(IdentityError::Malformed { path, reason });
        }
        let record = Record {
            format: FORMAT,
            worker: kept.or(certified).unwrap_or_else(|| WorkerId(rand::random())),
            incarnation: Incarnation(last.map_or(0, |last| last.incarnation.0 + 1).max(now.0)),
        };
        write(dir, &path, &record).map_err(io_at(&path))?;
        Ok(Self { worker: record.worker, incarnation: record.incarnation, _lock: lock })
    }
}

fn read(path: &Path) -> Result<Option<Record>, IdentityError> {
    let malformed = |reason| IdentityError::Malformed { path: path.to_owned(), reason };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(IdentityError::Io { path: path.to_owned(), source }),
    };
    let record: Record =
        serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
    if record.format != FORMAT {
        return Err(malformed(format!("format `{}`, expected `{FORMAT}`", record.format)));
    }
    Ok(Some(record))
}

fn write(dir: &Path, path: &Path, record: &Record) -> io::Result<()> {
    let aside = path.with_extension("json.new");
    let mut file = File::create(&aside)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_stays_and_the_incarnation_grows_even_when_the_clock_goes_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = Identity::take(dir.path(), None, Millis(1_000)).expect("a new identity");
        let (worker, incarnation) = (first.worker, first.incarnation);
        assert_eq!(incarnation, Incarnation(1_000));
        drop(first);
        let second = Identity::take(dir.path(), None, Millis(10)).expect("the same identity");
        assert_eq!(second.worker, worker);
        assert!(second.incarnation > incarnation);
    }

    #[test]
    fn two_holders_of_one_directory_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let _first = Identity::take(dir.path(), None, Millis(1)).expect("a new identity");
        let error = Identity::take(dir.path(), None, Millis(2)).expect_err("it is taken");
        assert!(matches!(error, IdentityError::Locked { .. }), "{error}");
    }

    #[test]
    fn a_broken_file_is_not_silently_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        for text in [
            "",
            "{}",
            r#"{"format":9,"worker":"00000000000000000000000000000001","incarnation":1}"#,
        ] {
            fs::write(dir.path().join(FILE), text).expect("written");
            let error = Identity::take(dir.path(), None, Millis(2)).expect_err("not an identity");
            assert!(matches!(error, IdentityError::Malformed { .. }), "{error}");
            assert_eq!(fs::read_to_string(dir.path().join(FILE)).expect("there"), text);
        }
    }
}
