//! Bytes from a source into a file: several ranges at once, resumed wherever an earlier try ended, verified at the end.
//!
//! ```text
//! missing ranges -> fetchers (some at once; each cuts, waits and tries again) -> one thread: write, hash, record -> digest
//! ```
//!
//! The source is not believed: the size is the one that was promised, an answer holds the range that was asked for and no byte
//! more, bytes come at some pace, and what has the wrong digest is removed. A source that cannot do ranges sends everything, and
//! that is taken from the beginning.

mod opening;
mod pace;

use crate::error::SourceError;
use crate::guard::shown;
use crate::http::failed;
use crate::staging::{Staged, Staging};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, try_join_all};
use ollamamax_proto::{Digest, limits};
use opening::{Opening, begin, opening};
use pace::{Pace, Tries};
use reqwest::{Response, Url};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Who has the bytes.
pub trait Origin: Send + Sync {
    /// Where they are, for words.
    fn url(&self) -> &Url;

    /// Asks for a range.
    fn get(&self, range: Range<u64>) -> BoxFuture<'_, Result<Response, SourceError>>;
}

/// What shall be fetched.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// What the bytes must be, where that is known.
    pub digest: Option<Digest>,
    /// How many they must be, where that is known.
    pub bytes: Option<u64>,
    /// Most there may be.
    pub limit: u64,
}

/// How far a download is: bytes that are there, of so many, and how many came over the network.
pub type Tell<'a> = &'a (dyn Fn(u64, u64, u64) + Send + Sync);

/// Pieces on their way to the disk.
const PIECES_AHEAD: usize = 64;
/// How long a file that somebody else writes is waited for: whoever was cancelled ends in a moment.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Fetches everything into a file in `dir`.
///
/// # Errors
/// When it cannot be had, or is not what it must be: then nothing of it is left. What broke off is kept for the next try.
pub async fn fetch(
    origin: &dyn Origin,
    wanted: &Wanted,
    dir: &Path,
    tell: Tell<'_>,
) -> Result<Staged, SourceError> {
    let key = wanted.digest.unwrap_or_else(|| Digest::of(origin.url().as_str().as_bytes()));
    let (mut again, mut tries) = (false, Tries::default());
    loop {
        let mut staging = open(dir, key).await?;
        let resumed = !staging.had().is_empty() && !again;
        if again {
            staging.begin(0, "")?;
        }
        let staged = match transfer(origin, wanted, staging, tell).await {
            Ok(staged) => staged,
            // It has no ranges, or another file: it is asked for everything again.
            Err(Ended { error, whole: true }) if error.may_pass() => {
                tries.again(error, 0).await?;
                continue;
            }
            Err(ended) => return Err(ended.error),
        };
        let got = staged.digest;
        match wanted.digest.filter(|expected| *expected != got) {
            None => return Ok(staged),
            Some(expected) => {
                staged.forget();
                // What an earlier process left may have been lost with the power.
                if !resumed {
                    return Err(SourceError::Mismatch { expected, got });
                }
                again = true;
            }
        }
    }
}

async fn open(dir: &Path, key: Digest) -> Result<Staging, SourceError> {
    let begun = Instant::now();
    loop {
        let dir = dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || Staging::open(&dir, key));
        match opened.await.map_err(io::Error::other)?? {
            Some(staging) => return Ok(staging),
            None if begun.elapsed() > LOCK_WAIT => {
                let text = "another process fetches the same file into the same directory";
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, text).into());
            }
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// A transfer that came to nothing.
struct Ended {
    error: SourceError,
    /// Whether it begins again from nothing.
    whole: bool,
}

impl<E: Into<SourceError>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self { error: error.into(), whole: false }
    }
}

async fn transfer(
    origin: &dyn Origin,
    wanted: &Wanted,
    mut staging: Staging,
    tell: Tell<'_>,
) -> Result<Staged, Ended> {
    let piece = limits::PULL_PIECE_BYTES;
    // Bytes without a digest are of one file only as long as the source says so.
    let is_known = |validator: &str| wanted.digest.is_some() || !validator.is_empty();
    let said = staging.said().filter(|(total, validator)| *total > 0 && is_known(validator));
    if said.is_none() && !staging.had().is_empty() {
        staging.begin(0, "")?;
    }
    let total = wanted.bytes.or(said.as_ref().map(|(total, _)| *total));
    let missing = total.map(|total| staging.had().missing(total, piece)).unwrap_or_default();
    if missing.is_empty() && total.is_some() && wanted.digest.is_some() {
        return Ok(sealed(staging).await?);
    }
    let first = missing.first().cloned().unwrap_or(0..piece);
    let mut opening = begin(origin, wanted, first).await?;
    let same = said.is_some_and(|(had, validator)| {
        Some(had) == opening.total && (wanted.digest.is_some() || validator == opening.validator)
    });
    if !same || !opening.partial {
        staging.begin(opening.total.unwrap_or(0), &opening.validator)?;
        if opening.partial && opening.range.start > 0 {
            opening = begin(origin, wanted, 0..piece).await?;
        }
    }
    let mut there = staging.had().clone();
    there.add(opening.range.clone());
    let todo: VecDeque<Range<u64>> = match opening.total {
        Some(total) if opening.partial => there.missing(total, piece).into(),
        _ => VecDeque::new(),
    };
    staging.needs(opening.total.unwrap_or(0).saturating_sub(staging.had().bytes()))?;
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    let work = Work {
        origin,
        wanted,
        total: opening.total,
        partial: opening.partial,
        validator: opening.validator.clone(),
        todo: Mutex::new(todo),
        sender,
        done: AtomicU64::new(staging.had().bytes()),
        came: AtomicU64::new(0),
        changed: AtomicBool::new(false),
        tell,
    };
    let writer = tokio::task::spawn_blocking(move || write(staging, receiver));
    let fetched = work.all(opening).await;
    let whole = !work.can_go_on();
    drop(work);
    // Whatever happened, what came is written down first; the disk's own failure is the one to tell.
    let staging = writer.await.map_err(io::Error::other)??;
    fetched.map_err(|error| Ended { error, whole })?;
    Ok(sealed(staging).await?)
}

async fn sealed(staging: Staging) -> Result<Staged, SourceError> {
    let finished = tokio::task::spawn_blocking(move || staging.finish()).await;
    Ok(finished.map_err(io::Error::other)??)
}

/// Writes what comes, until nobody sends any more.
fn write(mut staging: Staging, mut pieces: mpsc::Receiver<(u64, Bytes)>) -> io::Result<Staging> {
    while let Some((offset, bytes)) = pieces.blocking_recv() {
        if let Err(error) = staging.write(offset, &bytes) {
            // The log of the node lies on the same disk: it needs the room more.
            if error.kind() == io::ErrorKind::StorageFull {
                staging.forget();
            }
            return Err(error);
        }
    }
    staging.record()?;
    Ok(staging)
}

struct Work<'a> {
    origin: &'a dyn Origin,
    wanted: &'a Wanted,
    total: Option<u64>,
    partial: bool,
    validator: String,
    todo: Mutex<VecDeque<Range<u64>>>,
    sender: mpsc::Sender<(u64, Bytes)>,
    done: AtomicU64,
    came: AtomicU64,
    /// Whether the source has another file than at first, or sends no ranges any more.
    changed: AtomicBool,
    tell: Tell<'a>,
}

impl Work<'_> {
    /// Whether what breaks off can go on where it was.
    fn can_go_on(&self) -> bool {
        self.partial && !self.changed.load(Ordering::Relaxed)
    }

    async fn all(&self, opening: Opening) -> Result<(), SourceError> {
        self.told(0);
        let count = if self.partial { limits::PULL_RANGES_COUNT } else { 1 };
        let mut opening = Some(opening);
        let fetchers = (0..count).map(|_| self.fetcher(opening.take()));
        try_join_all(fetchers).await.map(drop)
    }

    fn next(&self) -> Option<Range<u64>> {
        self.todo.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn told(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let came = self.came.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let total = self.total.unwrap_or(0);
        (self.tell)(if total > 0 { done.min(total) } else { done }, total, came);
    }

    async fn fetcher(&self, opening: Option<Opening>) -> Result<(), SourceError> {
        if let Some(Opening { answer, range, .. }) = opening {
            self.range(range, Some(answer)).await?;
        }
        while let Some(range) = self.next() {
            self.range(range, None).await?;
        }
        Ok(())
    }

    /// Fetches one range, trying again from where it broke off.
    async fn range(
        &self,
        mut range: Range<u64>,
        mut answer: Option<Response>,
    ) -> Result<(), SourceError> {
        let mut tries = Tries::default();
        while !range.is_empty() {
            let before = range.start;
            match self.once(&mut range, answer.take()).await {
                Ok(()) => return Ok(()),
                Err(error) if error.may_pass() && self.can_go_on() => {
                    tries.again(error, range.start - before).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn once(
        &self,
        range: &mut Range<u64>,
        answer: Option<Response>,
    ) -> Result<(), SourceError> {
        let url = self.origin.url();
        let lied = |what: &str| Err(SourceError::Lied { host: shown(url), what: what.to_owned() });
        let answer = match answer {
            Some(answer) => answer,
            None => {
                let asked = range.clone();
                let again = opening(self.origin, self.wanted, asked.clone()).await?;
                let edition = self.wanted.digest.is_some() || again.validator == self.validator;
                if again.partial != self.partial || again.total != self.total || !edition {
                    self.changed.store(true, Ordering::Relaxed);
                    let why = "it has another file meanwhile".to_owned();
                    return Err(SourceError::Broken { host: shown(url), why });
                }
                range.end = if self.partial { again.range.end } else { range.end };
                if range.end < asked.end {
                    // It sends less than was asked for at once; the rest is asked for after it.
                    let rest = range.end..asked.end;
                    self.todo.lock().unwrap_or_else(PoisonError::into_inner).push_front(rest);
                }
                again.answer
            }
        };
        let mut body = answer.bytes_stream();
        let mut pace = Pace::new();
        while let Some(bytes) = body.next().await {
            let bytes = bytes.map_err(|error| failed(url, error))?;
            let len = bytes.len() as u64;
            if len > range.end - range.start {
                return match self.total {
                    Some(_) => lied("sends more than it said"),
                    None => Err(SourceError::TooLarge {
                        what: format!("the file at `{}`", shown(url)),
                        bytes: range.start + len,
                        limit: self.wanted.limit,
                    }),
                };
            }
            pace.took(len, url)?;
            if self.sender.send((range.start, bytes)).await.is_err() {
                // The disk failed; the writer says how.
                return Err(SourceError::Io(io::Error::other("nothing can be written")));
            }
            range.start += len;
            self.told(len);
        }
        if range.is_empty() || self.total.is_none() {
            return Ok(());
        }
        let why = format!("it broke off {} bytes early", range.end - range.start);
        Err(SourceError::Broken { host: shown(url), why })
    }
}
