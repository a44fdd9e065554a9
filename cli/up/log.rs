//! A child's output on disk: one file, and the one before it once it has grown too long.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Size at which a log file is put aside.
pub const ROTATE_BYTES: u64 = 16 * 1024 * 1024;
/// How much of a log's end is read for its last lines.
const TAIL_BYTES: u64 = 16 * 1024;

/// A log file that never grows beyond twice its limit.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    limit_bytes: u64,
    file: File,
    written_bytes: u64,
}

impl Log {
    /// Goes on behind what is there.
    pub fn open(path: &Path, limit_bytes: u64) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let written_bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), limit_bytes, file, written_bytes })
    }

    /// Adds a piece of output; a full file becomes `<name>.1` first.
    pub fn write(&mut self, piece: &[u8]) -> std::io::Result<()> {
        if self.written_bytes > 0 && self.written_bytes + piece.len() as u64 > self.limit_bytes {
            let mut aside = self.path.clone().into_os_string();
            aside.push(".1");
            std::fs::rename(&self.path, aside)?;
            *self = Self::open(&self.path, self.limit_bytes)?;
        }
        self.written_bytes += piece.len() as u64;
        self.file.write_all(piece)
    }
}

/// The last lines of a log, for people.
pub fn tail(path: &Path, lines: usize) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_keeps_its_end_and_one_file_before() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x.log");
        let mut log = Log::open(&path, 20).expect("opened");
        for n in 0..10 {
            log.write(format!("line {n}\n").as_bytes()).expect("written");
        }
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "line 8\nline 9\n");
        let aside = directory.path().join("x.log.1");
        assert_eq!(std::fs::read_to_string(aside).expect("there"), "line 6\nline 7\n");
        assert_eq!(tail(&path, 1), ["line 9"]);
        assert_eq!(tail(Path::new("/nowhere"), 3), Vec::<String>::new());
    }
}
