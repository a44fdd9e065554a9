//! Opening a log: read every segment, believe what is provably whole, and tell a torn tail from lost promises.
//!
//! ```text
//!  segment 1        segment 2                     segment 3 (last)
//!  [head][..batches][head][..batches][zeros]      [head][..batches][seal] x torn x [zeros]
//!                                    ^ must be where the            ^            ^
//!                                      next head says it ended      |            dropped, if above high water
//!                                                           high water, at or before the last seal
//! ```
//!
//! What ends before the high-water record is amnesia, what is unreadable before it is corruption. Above it a torn
//! batch is legitimate, as long as nothing of a later batch exists: batches are synced one after the other.

use super::record::{ALIGN, Parsed, Record, Seal, parse};
use super::segment::{self, HEAD_PAGE, Head};
use super::view::{Place, Summary, View};
use crate::disk::{Disk, DiskFile, OpenMode, read_to_end};
use crate::error::{Context, StorageError};
use crate::format::{self, HeadError};
use crate::highwater::{Mark, Position};
use crate::types::Entry;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A log as it was found.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub view: View,
    pub segments: BTreeMap<u64, Arc<dyn DiskFile>>,
    /// The end of the last whole batch.
    pub end: Position,
    /// Bytes of the last segment that are no whole batch, and have to be wiped.
    pub torn: bool,
    /// Batches between the high-water record and the end: written, maybe not synced.
    pub unproven: Vec<u8>,
    /// A last segment that was never finished, to be removed.
    pub unfinished: Option<PathBuf>,
}

struct Replay<'a> {
    mark: &'a Mark,
    cache_bytes: usize,
    view: View,
    batch: u64,
}

/// The end of the readable part of one segment.
struct Stop {
    end: u64,
    torn: bool,
    bytes: Vec<u8>,
}

/// Reads the log in `dir` and holds it against `mark`.
pub(crate) fn recover(
    disk: &dyn Disk,
    dir: &Path,
    mark: &Mark,
    cache_bytes: usize,
) -> Result<Recovered, StorageError> {
    let names = disk.list(dir).context("list", dir)?;
    let numbers: Vec<u64> = names.iter().filter_map(|name| segment::number(name)).collect();
    let Some((&first, &last)) = numbers.first().zip(numbers.last()) else {
        return Err(amnesia(dir, mark, "no segment"));
    };
    if last < mark.position.segment {
        return Err(amnesia(dir, mark, &format!("segments up to {last}")));
    }
    if let Some(gap) = (first..=last).zip(&numbers).find(|(want, have)| want != *have) {
        return Err(corrupt(dir, gap.0, 0, "the segment is missing"));
    }
    let mut segments = BTreeMap::new();
    let mut replay = None;
    let mut stop: Option<Stop> = None;
    let mut unfinished = None;
    for number in numbers {
        let path = segment::path(dir, number);
        let file = disk.open(&path, OpenMode::Write).context("open", &path)?;
        let bytes = read_to_end(&*file, 0, u64::MAX).context("read", &path)?;
        let begun = bytes.get(HEAD_PAGE as usize..).unwrap_or_default();
        let unused = begun.iter().all(|byte| *byte == 0);
        let unproven = number == last && number > first && number > mark.position.segment;
        let head = match segment::read_head(&bytes) {
            Ok(head) => head,
            Err(HeadError::Version(found)) => {
                return Err(StorageError::Version { file: path, found, expected: format::VERSION });
            }
            Err(HeadError::Bad(_)) if unproven && unused => {
                unfinished = Some(path);
                break;
            }
            Err(HeadError::Bad(reason)) => return Err(StorageError::corrupt(&path, 0, reason)),
        };
        let replay = replay.get_or_insert_with(|| Replay {
            mark,
            cache_bytes,
            view: View::starting(head.summary.clone()),
            batch: head.batch,
        });
        replay.check_head(&path, number, &head, stop.as_ref())?;
        if unproven && unused {
            // Its name may only look durable, after a sync of the directory that failed: better made again.
            unfinished = Some(path);
            break;
        }
        stop = Some(replay.segment(&path, number, bytes)?);
        segments.insert(number, file);
    }
    let (Some(replay), Some(stop)) = (replay, stop) else {
        return Err(amnesia(dir, mark, "no intact segment"));
    };
    finish(dir, replay, stop, segments, unfinished)
}

fn finish(
    dir: &Path,
    replay: Replay<'_>,
    stop: Stop,
    segments: BTreeMap<u64, Arc<dyn DiskFile>>,
    unfinished: Option<PathBuf>,
) -> Result<Recovered, StorageError> {
    let Replay { mark, view, batch, .. } = replay;
    let segment = *segments.keys().next_back().expect("a replay has a segment");
    let end = Position { segment, offset: stop.end, batch };
    if (end.segment, end.offset) < (mark.position.segment, mark.position.offset) {
        let found = format!("batch {batch} at byte {} of segment {segment}", stop.end);
        return Err(amnesia(dir, mark, &found));
    }
    if let Some(index) = view.missing() {
        let first = *segments.keys().next().expect("a replay has a segment");
        let reason = format!("entries up to index {index} were in older segments, which are gone");
        return Err(corrupt(dir, first, 0, &reason));
    }
    if unfinished.is_some() && stop.torn {
        // The next segment is only begun once everything here is durable.
        let reason = "there are unreadable bytes although the next segment was begun";
        return Err(corrupt(dir, segment, stop.end, reason));
    }
    let proven = if mark.position.segment == segment { mark.position.offset } else { HEAD_PAGE };
    let unproven = stop.bytes[proven as usize..stop.end as usize].to_vec();
    Ok(Recovered { view, segments, end, torn: stop.torn, unproven, unfinished })
}

impl Replay<'_> {
    fn check_head(
        &self,
        path: &Path,
        number: u64,
        head: &Head,
        previous: Option<&Stop>,
    ) -> Result<(), StorageError> {
        let bad = |reason: &str| Err(StorageError::corrupt(path, 0, reason));
        if head.identity != self.mark.identity {
            return bad("the segment belongs to another node or cluster");
        }
        if head.segment != number {
            return bad("the segment has another number than its name");
        }
        let Some(previous) = previous else { return Ok(()) };
        if previous.torn || previous.end != head.previous_end || head.batch != self.batch {
            let parent = path.parent().unwrap_or(path);
            let reason = format!(
                "the segment is whole up to here, but ended at byte {} with batch {}",
                head.previous_end, head.batch
            );
            return Err(corrupt(parent, number - 1, previous.end, &reason));
        }
        if head.summary != *self.view.summary() {
            return bad("the head contradicts the segments before it");
        }
        Ok(())
    }

    fn segment(
        &mut self,
        path: &Path,
        number: u64,
        mut bytes: Vec<u8>,
    ) -> Result<Stop, StorageError> {
        let mut offset = HEAD_PAGE;
        let mut end = offset;
        let mut pending: Vec<(Record, Place)> = Vec::new();
        let reason = loop {
            let rest = bytes.get(offset as usize..).unwrap_or_default();
            let (kind, payload, size) = match parse(rest, number, offset) {
                Parsed::Record { kind, payload, size } => (kind, payload, size),
                Parsed::End => break None,
                Parsed::Bad(reason) => break Some(reason),
            };
            let start = offset;
            let invalid = |reason: &str| StorageError::corrupt(path, start, reason);
            let Some(record) = Record::decode(kind, payload) else {
                return Err(invalid("an intact record of unknown content"));
            };
            let place = Place { segment: number, offset, size: size as u32 };
            offset += size as u64;
            if let Record::Seal(seal) = &record {
                if seal.batch != self.batch + 1 || seal.records as usize != pending.len() {
                    return Err(invalid("the seal does not fit its batch"));
                }
                self.batch = seal.batch;
                end = offset;
                for (record, place) in pending.drain(..) {
                    self.apply(path, record, place)?;
                }
            } else {
                pending.push((record, place));
            }
        };
        let rest = bytes.get(end as usize..).unwrap_or_default();
        let torn = rest.iter().any(|byte| *byte != 0);
        let high = self.mark.position;
        if (number, end) < (high.segment, high.offset) && torn {
            let reason = reason.unwrap_or("nothing stands where a durable batch should");
            return Err(StorageError::corrupt(path, offset.min(bytes.len() as u64), reason));
        }
        if torn {
            self.no_later_batch(path, number, &bytes, offset)?;
        }
        // The zeros after a head or a record may be beyond the end of the file; reading, there is no difference.
        bytes.resize(bytes.len().max(end as usize), 0);
        Ok(Stop { end, torn, bytes })
    }

    /// Refuses a damaged record that is followed by something which was only written after it was durable.
    fn no_later_batch(
        &self,
        path: &Path,
        number: u64,
        bytes: &[u8],
        from: u64,
    ) -> Result<(), StorageError> {
        let mut offset = from as usize + ALIGN;
        let mut sealed = false;
        while offset < bytes.len() {
            let Parsed::Record { kind, payload, size } =
                parse(&bytes[offset..], number, offset as u64)
            else {
                offset += ALIGN;
                continue;
            };
            let later = match Record::decode(kind, payload) {
                Some(Record::Seal(Seal { batch, .. })) => {
                    let next = batch == self.batch + 1;
                    let later = sealed || !next;
                    sealed = true;
                    later
                }
                _ => sealed,
            };
            if later {
                let reason = "a record is unreadable that was durable before later ones";
                return Err(StorageError::corrupt(path, from, reason));
            }
            offset += size;
        }
        Ok(())
    }

    fn apply(&mut self, path: &Path, record: Record, place: Place) -> Result<(), StorageError> {
        let Record::Entry { log_id, bytes } = record else {
            self.view.fold(&record);
            return Ok(());
        };
        let bad = |reason: &str| Err(StorageError::corrupt(path, place.offset, reason));
        if self.view.next_index().is_some_and(|next| next != log_id.index) {
            return bad("the entry does not follow the one before it");
        }
        let Ok(entry) = postcard::from_bytes::<Entry>(&bytes) else {
            return bad("the entry does not decode");
        };
        self.view.append(Arc::new(entry), bytes.len(), Some(place));
        self.view.evict(self.cache_bytes);
        Ok(())
    }
}

fn corrupt(dir: &Path, number: u64, offset: u64, reason: &str) -> StorageError {
    StorageError::corrupt(&segment::path(dir, number), offset, reason)
}

fn amnesia(dir: &Path, mark: &Mark, found: &str) -> StorageError {
    let Position { segment, offset, batch } = mark.position;
    StorageError::Amnesia {
        dir: dir.to_owned(),
        expected: format!("batch {batch} at byte {offset} of segment {segment}"),
        found: found.to_owned(),
    }
}

/// The summary a fresh log begins with.
pub(crate) fn nothing() -> Summary {
    Summary::default()
}
