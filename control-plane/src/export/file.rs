//! A file of JSON lines: each record once, whatever happens to the process, since the file's own end says how far it is.
//!
//! ```text
//! open: a torn last line is cut off -> the last line says where to go on
//! write: append -> on disk -> cursor
//! ```
//!
//! The file is opened by its name each time, so that whoever rotates it needs to tell nobody. In a file that is new or empty
//! the cursor says where to go on. A file is one node's own; should another write to it, too, that is noticed under its lock.

use super::ExportError;
use super::cursor::{Cursor, Last};
use super::piece::Piece;
use ollamamax_proto::audit::Line;
use ollamamax_proto::limits;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Such a file.
#[derive(Debug)]
pub(super) struct FileSink {
    path: PathBuf,
    cursor: Cursor,
    last: Option<Last>,
    /// Bytes it had when it was last looked at; `None`: what is in it has to be looked at.
    length: Option<u64>,
}

impl FileSink {
    /// Opens or makes it.
    pub fn open(path: PathBuf, cursor: Cursor) -> Result<Self, ExportError> {
        let mut sink = Self { path, cursor, last: None, length: None };
        sink.last()?;
        Ok(sink)
    }

    /// The last record that is in the file, or was in the one before.
    pub fn last(&mut self) -> Result<Option<Last>, ExportError> {
        if self.length.is_none() {
            let (end, length) = resume(&self.path)?;
            self.last = match end {
                End::Empty => self.cursor.read()?,
                End::At(last) => Some(last),
            };
            self.length = Some(length);
        }
        Ok(self.last)
    }

    /// Adds a piece; it is on disk when this returns.
    pub async fn write(&mut self, piece: Piece) -> Result<(), ExportError> {
        let (path, cursor) = (self.path.clone(), self.cursor.clone());
        // Should this be cancelled or fail, the file is looked at before the next time.
        let known = self.length.take();
        let written = tokio::task::spawn_blocking(move || {
            let mut file = open(&path)?;
            file.lock()?;
            let length = file.metadata()?.len();
            if length > 0 && known != Some(length) {
                let path = path.display();
                let why = format!(
                    "somebody else writes to `{path}`, too: give each node a file of its own"
                );
                return Err(io::Error::other(why));
            }
            let text = piece.text();
            file.write_all(text.as_bytes())?;
            file.sync_data()?;
            cursor.write(piece.last()).map(|()| (piece.last(), length + text.len() as u64))
        });
        let (last, length) = written.await.map_err(io::Error::other)??;
        (self.last, self.length) = (Some(last), Some(length));
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.create(true).append(true).read(true).mode(0o600);
    options.open(path).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot write `{}`: {error}", path.display()))
    })
}

enum End {
    /// There is no line in it.
    Empty,
    /// The last line, up to which everything is there.
    At(Last),
}

/// Cuts off what a crash left of a line, and reads the one before; tells how long the file is then.
fn resume(path: &Path) -> Result<(End, u64), ExportError> {
    let mut file = open(path)?;
    file.lock()?;
    let length = file.seek(SeekFrom::End(0))?;
    // The last whole line and what may be left of one after it.
    let most = 2 * limits::AUDIT_LINE_BYTES as u64;
    let from = length.saturating_sub(most);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    (&file).take(most).read_to_end(&mut tail)?;
    let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let lines = &tail[..whole];
    if whole == 0 && from > 0 {
        return Err(foreign(path, "its last line is longer than any of a trail"));
    }
    let line = lines.strip_suffix(b"\n").unwrap_or_default();
    let begin = line.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let end = match (whole, std::str::from_utf8(&line[begin..]).ok().and_then(Line::parse)) {
        (0, _) => End::Empty,
        (_, Some(Line::Record(record))) => End::At((record.number, Some(record.hash))),
        (_, Some(Line::Gap(gap))) => End::At((gap.to, None)),
        (_, None) => return Err(foreign(path, "its last line is no record")),
    };
    let keep = from + whole as u64;
    // What a crash leaves begins like a line; anything else is somebody's own.
    let torn = &tail[whole..];
    let begins = |line: &[u8]| torn.iter().zip(line).all(|(one, other)| one == other);
    if !begins(b"{\"number\":") && !begins(b"{\"missing_from\":") {
        return Err(foreign(path, "its last line is no record"));
    }
    if keep < length {
        tracing::warn!(file = %path.display(), bytes = length - keep, "a torn line was cut off");
        file.set_len(keep)?;
        file.sync_data()?;
    }
    if length == 0 {
        sync_name(path)?;
    }
    Ok((end, keep))
}

/// A file that was just made must be found after a power cut.
fn sync_name(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(dir).and_then(|dir| dir.sync_data()) {
        // Not every filesystem does it for directories.
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
        done => done,
    }
}

fn foreign(path: &Path, why: &str) -> ExportError {
    let path = path.display();
    ExportError::Foreign(format!(
        "`{path}` is no exported trail: {why}; move it away or name another file"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::piece::tests::{check, trail};
    use super::*;
    use ollamamax_proto::Millis;
    use std::fs;

    struct Bench {
        dir: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().expect("a directory") }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("audit.jsonl")
        }

        fn open(&self) -> Result<FileSink, ExportError> {
            FileSink::open(self.path(), Cursor::new(self.dir.path().join("cursor")))
        }

        fn lines(&self) -> Vec<Line> {
            let text = fs::read_to_string(self.path()).expect("there");
            assert!(text.is_empty() || text.ends_with('\n'), "{text}");
            text.lines().map(|line| Line::parse(line).expect(line)).collect()
        }
    }

    async fn add(sink: &mut FileSink, count: u64, most: usize) {
        let trail = trail(count);
        loop {
            let after = sink.last().expect("whole").map(|(number, _)| number);
            let Some(mut piece) = Piece::next(&trail, after, Millis(0)) else { break };
            piece.0.truncate(most);
            sink.write(piece).await.expect("written");
        }
    }

    /// Wherever a crash tears the file, each record is in it once in the end.
    #[tokio::test]
    async fn each_record_is_there_once_wherever_the_file_was_torn() {
        let bench = Bench::new();
        add(&mut bench.open().expect("new"), 4, 2).await;
        let whole = fs::read(bench.path()).expect("there");
        for cut in (0..whole.len()).step_by(17).chain([whole.len() - 1, whole.len()]) {
            fs::write(bench.path(), &whole[..cut]).expect("torn");
            fs::remove_file(bench.dir.path().join("cursor")).expect("there");
            add(&mut bench.open().expect("it goes on"), 6, 1).await;
            let verifier = check(&bench.lines());
            assert_eq!((verifier.checked(), verifier.gaps().len()), (6, 0), "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn a_rotated_file_goes_on_in_the_next_one() {
        let bench = Bench::new();
        let mut sink = bench.open().expect("new");
        add(&mut sink, 3, 9).await;
        fs::rename(bench.path(), bench.dir.path().join("audit.1.jsonl")).expect("rotated");
        add(&mut sink, 5, 9).await;
        assert_eq!(bench.lines().iter().map(Line::number).collect::<Vec<_>>(), [4, 5]);
        fs::rename(bench.path(), bench.dir.path().join("audit.2.jsonl")).expect("rotated");
        add(&mut bench.open().expect("again"), 6, 9).await;
        assert_eq!(bench.lines().iter().map(Line::number).collect::<Vec<_>>(), [6]);
    }

    #[tokio::test]
    async fn two_nodes_that_were_given_one_file_notice_and_lose_nothing() {
        let bench = Bench::new();
        let (mut one, mut two) = (bench.open().expect("new"), bench.open().expect("same"));
        add(&mut one, 3, 9).await;
        let piece = Piece::next(&trail(3), None, Millis(0)).expect("some");
        let error = two.write(piece).await.expect_err("it has changed").to_string();
        assert!(error.contains("a file of its own"), "{error}");
        add(&mut two, 5, 9).await;
        assert_eq!(check(&bench.lines()).checked(), 5);
    }

    #[test]
    fn what_is_no_trail_is_refused_and_left_alone() {
        for text in ["hello", "hello\n", "{}\n", "{}", &"x".repeat(300_000)] {
            let bench = Bench::new();
            fs::write(bench.path(), text).expect("written");
            let error = bench.open().expect_err("no trail").to_string();
            assert!(error.contains("move it away"), "{error}");
            assert_eq!(fs::read_to_string(bench.path()).expect("there"), text);
        }
        let bench = Bench::new();
        let nowhere = bench.dir.path().join("no").join("file");
        let cursor = Cursor::new(bench.dir.path().join("cursor"));
        let error = FileSink::open(nowhere, cursor).expect_err("no directory").to_string();
        assert!(error.contains("cannot write"), "{error}");
    }
}
