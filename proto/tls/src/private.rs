//! Files that only their owner may read: written whole or not at all, refused when others could have read them.
//!
//! ```text
//! directory 0700 / <name>.new 0600  --sync-->  rename to <name>  --sync--> directory
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Why a private file was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    /// The system said no.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its mode gives others a right.
    #[error(
        "`{}` holds a private key and others may use it (mode {mode:03o}); run `chmod 600 {}`",
        path.display(), path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is longer than anything written here.
    #[error("`{}` has more than {max} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Most read, in bytes.
        max: usize,
    },
}

/// Writes `bytes` to `directory/name`, mode 0600, in place of what is there; a power cut leaves the old or the new. The
/// directory is made if need be, and closed to others (0700).
pub fn save(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), PrivateError> {
    let (path, fresh) = (directory.join(name), directory.join(format!("{name}.new")));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| PrivateError::Io { path, source }
    };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.and_then(|()| fs::set_permissions(directory, Permissions::from_mode(0o700)))
        .map_err(failed(directory))?;
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&fresh)(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(failed(&fresh))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed(&fresh))?;
    fs::rename(&fresh, &path).map_err(failed(&path))?;
    File::open(directory).and_then(|at| at.sync_all()).map_err(failed(directory))
}

/// Reads `directory/name`, at most `max` bytes. `None` when it is not there.
pub fn load(
    directory: &Path,
    name: &str,
    max: usize,
) -> Result<Option<Zeroizing<Vec<u8>>>, PrivateError> {
    let path = directory.join(name);
    let failed = |source| PrivateError::Io { path: path.clone(), source };
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    // Asked of the open file: another one may stand at the path a moment later.
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(PrivateError::Exposed { path, mode });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(max + 1));
    file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > max {
        return Err(PrivateError::TooLong { path, max });
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").permissions().mode() & 0o777
    }

    #[test]
    fn only_the_owner_may_read_what_was_saved() {
        let root = tempfile::tempdir().expect("a directory");
        let directory = root.path().join("a/b");
        assert!(load(&directory, "key", 10).expect("nothing there").is_none());
        save(&directory, "key", b"one").expect("saved");
        fs::write(directory.join("key.new"), b"left by a crash").expect("written");
        save(&directory, "key", b"two").expect("saved again");
        assert_eq!((mode(&directory), mode(&directory.join("key"))), (0o700, 0o600));
        assert_eq!(load(&directory, "key", 3).expect("loaded").expect("there").as_slice(), b"two");
        assert!(!directory.join("key.new").exists());
        assert!(matches!(load(&directory, "key", 2), Err(PrivateError::TooLong { .. })));
    }

    #[test]
    fn what_others_could_read_is_refused_and_says_what_to_do() {
        let root = tempfile::tempdir().expect("a directory");
        save(root.path(), "key", b"one").expect("saved");
        for open in [0o644, 0o640, 0o604, 0o660] {
            let path = root.path().join("key");
            fs::set_permissions(&path, Permissions::from_mode(open)).expect("changed");
            let error = load(root.path(), "key", 10).expect_err("refused");
            assert!(matches!(error, PrivateError::Exposed { mode, .. } if mode == open));
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
    }
}
