//! The on-disk version, and the frame every file of ours opens with.
//!
//! | version | since      | what changed                                                        |
//! |---------|------------|---------------------------------------------------------------------|
//! | 1       | 2026-11-23 | The first one: log segments, high-water record, snapshots, sled state. |
//!
//! A head is `[magic 8][version u32][len u32][crc32c u32][body len]`, little endian, the checksum over everything
//! before and after it. Its first sixteen bytes keep their place in every future version, so that an old program can
//! name the version of a newer file instead of calling it corrupt.

use serde::{Serialize, de::DeserializeOwned};

/// The version this program writes, and the only one it reads.
pub const VERSION: u32 = 1;

/// Bytes of a head before its body.
pub(crate) const HEAD_BYTES: usize = 20;

/// Why a head could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeadError {
    /// An intact head of another version.
    Version(u32),
    /// No head, a cut one, or one whose checksum does not match.
    Bad(&'static str),
}

/// A head with `body` inside.
pub(crate) fn head<T: Serialize>(magic: &[u8; 8], body: &T) -> Vec<u8> {
    head_with_version(magic, VERSION, body)
}

pub(crate) fn head_with_version<T: Serialize>(magic: &[u8; 8], version: u32, body: &T) -> Vec<u8> {
    let body = postcard::to_stdvec(body).expect("plain data always encodes");
    let mut out = Vec::with_capacity(HEAD_BYTES + body.len());
    out.extend_from_slice(magic);
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out), &body);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&body);
    out
}

/// The body of the head at the start of `bytes`, and how many bytes the head takes.
pub(crate) fn read_head<T: DeserializeOwned>(
    magic: &[u8; 8],
    bytes: &[u8],
) -> Result<(T, usize), HeadError> {
    let Some((fixed, rest)) = bytes.split_at_checked(HEAD_BYTES) else {
        return Err(HeadError::Bad("the head is cut"));
    };
    if &fixed[..8] != magic {
        return Err(HeadError::Bad("the magic bytes are missing"));
    }
    let word =
        |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let (version, len, crc) = (word(8), word(12) as usize, word(16));
    let Some(body) = rest.get(..len) else {
        return Err(HeadError::Bad("the head is cut"));
    };
    if crc32c::crc32c_append(crc32c::crc32c(&fixed[..16]), body) != crc {
        return Err(HeadError::Bad("the checksum of the head does not match"));
    }
    if version != VERSION {
        return Err(HeadError::Version(version));
    }
    let body =
        postcard::from_bytes(body).map_err(|_| HeadError::Bad("the head does not decode"))?;
    Ok((body, HEAD_BYTES + len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_survives_the_round_trip_and_any_flipped_bit_is_noticed() {
        let bytes = head(b"OMXTEST\0", &(7u64, "name".to_owned()));
        let (body, used): ((u64, String), _) = read_head(b"OMXTEST\0", &bytes).expect("intact");
        assert_eq!((body, used), ((7, "name".to_owned()), bytes.len()));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let read = read_head::<(u64, String)>(b"OMXTEST\0", &bad);
            assert!(matches!(read, Err(HeadError::Bad(_))), "bit {bit}: {read:?}");
        }
    }

    #[test]
    fn another_version_is_named() {
        let bytes = head_with_version(b"OMXTEST\0", 9, &1u64);
        assert_eq!(read_head::<u64>(b"OMXTEST\0", &bytes), Err(HeadError::Version(9)));
    }
}
