//! One file of the log: a head of one page, then records.
//!
//! The head repeats what the log knew when the segment was begun, so that every older segment may be removed once its
//! entries are purged, and says where the previous segment ended, so that a cut in it shows.

use super::record::{Parsed, Record, parse};
use super::view::{Place, Summary};
use crate::disk::{Disk, DiskFile, OpenMode, read_full};
use crate::error::{Context, StorageError};
use crate::format::{self, HeadError};
use crate::types::{Entry, Identity};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"OMXWAL\0\0";
/// Where the records begin.
pub(crate) const HEAD_PAGE: u64 = 4096;

/// What a segment says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub identity: Identity,
    /// Counts segments, from 1.
    pub segment: u64,
    /// Where the previous segment ended, 0 for the first one.
    pub previous_end: u64,
    /// Last batch of the previous segment.
    pub batch: u64,
    /// What the log knew at that point.
    pub summary: Summary,
}

pub(crate) fn name(segment: u64) -> String {
    format!("{segment:016x}.wal")
}

pub(crate) fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wal")?;
    if digits.len() != 16 {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

pub(crate) fn path(dir: &Path, segment: u64) -> PathBuf {
    dir.join(name(segment))
}

/// Makes a durable, empty segment of at least `bytes`.
pub(crate) fn create(
    disk: &dyn Disk,
    dir: &Path,
    head: &Head,
    bytes: u64,
) -> Result<Arc<dyn DiskFile>, StorageError> {
    let path = path(dir, head.segment);
    let file = disk.open(&path, OpenMode::Create).context("create", &path)?;
    file.preallocate(bytes).context("reserve space for", &path)?;
    let page = format::head(MAGIC, head);
    debug_assert!(page.len() as u64 <= HEAD_PAGE, "the head fits its page");
    file.write_at(0, &page).context("write", &path)?;
    file.sync().context("sync", &path)?;
    disk.sync_dir(dir).context("sync", dir)?;
    Ok(file)
}

/// Reads the head at the start of a whole segment.
pub(crate) fn read_head(bytes: &[u8]) -> Result<Head, HeadError> {
    let page = bytes.get(..HEAD_PAGE as usize).unwrap_or(bytes);
    let (head, used) = format::read_head::<Head>(MAGIC, page)?;
    if page[used..].iter().any(|byte| *byte != 0) {
        return Err(HeadError::Bad("there are bytes behind the head"));
    }
    Ok(head)
}

/// Reads one entry back and checks it.
pub(crate) fn read_entry(
    file: &dyn DiskFile,
    path: &Path,
    place: Place,
) -> Result<Entry, StorageError> {
    let mut bytes = vec![0; place.size as usize];
    read_full(file, place.offset, &mut bytes).context("read", path)?;
    let corrupt = |reason: &str| StorageError::corrupt(path, place.offset, reason);
    match parse(&bytes, place.segment, place.offset) {
        Parsed::Record { kind, payload, .. } => match Record::decode(kind, payload) {
            Some(Record::Entry { bytes, .. }) => {
                postcard::from_bytes(&bytes).map_err(|_| corrupt("the entry does not decode"))
            }
            _ => Err(corrupt("there is no entry")),
        },
        Parsed::End => Err(corrupt("the entry is gone")),
        Parsed::Bad(reason) => Err(corrupt(reason)),
    }
}
