//! One record of the log and its frame.
//!
//! ```text
//! [len u32][crc32c u32][kind u8][payload, len-1 bytes][zeros up to a multiple of 8]
//! ```
//!
//! The checksum also covers the segment number and the offset, so that a record which was written elsewhere, or which
//! an earlier life of the file left behind, is never taken for one that belongs here. A `Seal` closes each batch: what
//! precedes it was handed to the disk in one write, and the next batch only starts once that write was synced. So a
//! damaged record followed by a seal of a later batch was durable once: that is corruption, not a torn tail.

use crate::types::{LogId, Vote};
use ollamamax_proto::limits;
use serde::{Deserialize, Serialize};

/// Bytes of a frame before the kind.
const FRAME_BYTES: usize = 8;
/// Records start at multiples of this.
pub(crate) const ALIGN: usize = 8;

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const COMMITTED: u8 = 3;
const TRUNCATE: u8 = 4;
const PURGE: u8 = 5;
const SEAL: u8 = 6;

/// What the log is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// A log entry: its id, and the whole entry encoded.
    Entry { log_id: LogId, bytes: Vec<u8> },
    /// A promise.
    Vote(Vote),
    /// How far the log is known to be committed.
    Committed(Option<LogId>),
    /// Everything after this entry is void; everything when there is none.
    TruncateAfter(Option<LogId>),
    /// Everything up to this entry, inclusive, is no longer needed.
    Purge(LogId),
    /// The end of a batch.
    Seal(Seal),
}

/// The end of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seal {
    /// Counts batches, from 1, over all segments.
    pub batch: u64,
    /// Records in the batch, the seal not counted.
    pub records: u32,
}

/// What stands at some offset.
#[derive(Debug)]
pub(crate) enum Parsed<'a> {
    /// An intact record and the bytes it takes with its padding.
    Record { kind: u8, payload: &'a [u8], size: usize },
    /// Eight zeros, or the end of the file: nothing was written here.
    End,
    /// Something that is no intact record.
    Bad(&'static str),
}

impl Record {
    /// Appends the frame of this record to `out`, which starts at `base` in segment `segment`; returns its size.
    pub fn frame(&self, out: &mut Vec<u8>, segment: u64, base: u64) -> usize {
        let start = out.len();
        out.extend_from_slice(&[0; FRAME_BYTES]);
        out.push(self.kind());
        match self {
            Self::Entry { bytes, .. } => out.extend_from_slice(bytes),
            Self::Vote(vote) => put(out, vote),
            Self::Committed(log_id) | Self::TruncateAfter(log_id) => put(out, log_id),
            Self::Purge(log_id) => put(out, log_id),
            Self::Seal(seal) => put(out, seal),
        }
        let len = (out.len() - start - FRAME_BYTES) as u32;
        out.resize(out.len().next_multiple_of(ALIGN), 0);
        let body = &out[start + FRAME_BYTES..start + FRAME_BYTES + len as usize];
        let crc = checksum(segment, base + start as u64, len, body);
        out[start..start + 4].copy_from_slice(&len.to_le_bytes());
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
        out.len() - start
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Entry { .. } => ENTRY,
            Self::Vote(_) => VOTE,
            Self::Committed(_) => COMMITTED,
            Self::TruncateAfter(_) => TRUNCATE,
            Self::Purge(_) => PURGE,
            Self::Seal(_) => SEAL,
        }
    }

    /// The record of an intact frame; `None` when its payload makes no sense.
    pub fn decode(kind: u8, payload: &[u8]) -> Option<Self> {
        Some(match kind {
            ENTRY => {
                // The log id is the first field of an entry, and postcard needs no more of it.
                let (log_id, _) = postcard::take_from_bytes(payload).ok()?;
                Self::Entry { log_id, bytes: payload.to_vec() }
            }
            VOTE => Self::Vote(postcard::from_bytes(payload).ok()?),
            COMMITTED => Self::Committed(postcard::from_bytes(payload).ok()?),
            TRUNCATE => Self::TruncateAfter(postcard::from_bytes(payload).ok()?),
            PURGE => Self::Purge(postcard::from_bytes(payload).ok()?),
            SEAL => Self::Seal(postcard::from_bytes(payload).ok()?),
            _ => return None,
        })
    }
}

/// Reads what stands at the start of `bytes`, which is at `offset` of segment `segment`.
pub(crate) fn parse(bytes: &[u8], segment: u64, offset: u64) -> Parsed<'_> {
    let Some((frame, rest)) = bytes.split_at_checked(FRAME_BYTES) else {
        return if bytes.iter().all(|byte| *byte == 0) {
            Parsed::End
        } else {
            Parsed::Bad("the frame is cut")
        };
    };
    let len = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]);
    let crc = u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]]);
    if len == 0 && crc == 0 {
        return Parsed::End;
    }
    if len == 0 || len as usize > limits::WAL_RECORD_BYTES {
        return Parsed::Bad("the length is impossible");
    }
    let Some(body) = rest.get(..len as usize) else {
        return Parsed::Bad("the record is cut");
    };
    if checksum(segment, offset, len, body) != crc {
        return Parsed::Bad("the checksum does not match");
    }
    let size = (FRAME_BYTES + len as usize).next_multiple_of(ALIGN);
    Parsed::Record { kind: body[0], payload: &body[1..], size }
}

fn put<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    let bytes = postcard::to_stdvec(value).expect("plain data always encodes");
    out.extend_from_slice(&bytes);
}

fn checksum(segment: u64, offset: u64, len: u32, body: &[u8]) -> u32 {
    let mut place = [0; 20];
    place[..8].copy_from_slice(&segment.to_le_bytes());
    place[8..16].copy_from_slice(&offset.to_le_bytes());
    place[16..].copy_from_slice(&len.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_bound_to_its_place() {
        let seal = Record::Seal(Seal { batch: 3, records: 7 });
        let mut bytes = Vec::new();
        let size = seal.frame(&mut bytes, 5, 4096);
        assert_eq!(size, bytes.len());
        let Parsed::Record { kind, payload, size: read } = parse(&bytes, 5, 4096) else {
            unreachable!("an intact frame")
        };
        assert_eq!((Record::decode(kind, payload), read), (Some(seal), size));
        assert!(matches!(parse(&bytes, 6, 4096), Parsed::Bad(_)), "another segment");
        assert!(matches!(parse(&bytes, 5, 4104), Parsed::Bad(_)), "another offset");
        for cut in 1..9 {
            assert!(!matches!(parse(&bytes[..cut], 5, 4096), Parsed::Record { .. }));
        }
    }
}
