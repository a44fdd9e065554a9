//! How far a target is, in a small file of this node: number and hash of the last record.

use ollamamax_proto::Digest;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Number of a record, and its hash where it is known.
pub(super) type Last = (u64, Option<[u8; 32]>);

/// Such a file.
#[derive(Clone, Debug)]
pub(super) struct Cursor {
    path: PathBuf,
}

impl Cursor {
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// What it says; `None` when there is none yet.
    pub fn read(&self) -> io::Result<Option<Last>> {
        let text = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let damaged = || {
            let path = self.path.display();
            io::Error::other(format!(
                "`{path}` says not how far the trail was exported; remove it to begin anew"
            ))
        };
        let mut words = text.split_whitespace();
        let number = words.next().and_then(|word| word.parse().ok()).ok_or_else(damaged)?;
        let hash = words.next().map(|word| format!("sha256:{word}").parse::<Digest>());
        Ok(Some((number, hash.transpose().map_err(|_| damaged())?.map(|digest| digest.0))))
    }

    /// Replaces it; durable when it returns.
    pub fn write(&self, (number, hash): Last) -> io::Result<()> {
        let dir = self.path.parent().ok_or(ErrorKind::InvalidInput)?;
        fs::create_dir_all(dir)?;
        let new = self.path.with_extension("new");
        let mut file =
            OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
        let hash = hash.map(|hash| Digest(hash).hex()).unwrap_or_default();
        file.write_all(format!("{number} {hash}\n").as_bytes())?;
        file.sync_data()?;
        fs::rename(&new, &self.path)?;
        File::open(dir)?.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_damage_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let cursor = Cursor::new(dir.path().join("sub").join("c"));
        assert_eq!(cursor.read().expect("nothing yet"), None);
        for last in [(7, Some([9; 32])), (8, None)] {
            cursor.write(last).expect("written");
            assert_eq!(cursor.read().expect("read"), Some(last));
        }
        fs::write(&cursor.path, "what").expect("written");
        assert!(cursor.read().expect_err("no number").to_string().contains("remove it"));
    }
}
