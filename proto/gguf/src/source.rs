//! A reader that knows where it is and how much remains: the only place that takes a length from a file.

use crate::error::{Fault, GgufError};
use ollamamax_proto::limits::{GGUF_HEADER_BYTES, GGUF_STRING_BYTES};
use std::io::Read;

/// Bytes reserved ahead of what has really been read.
const RESERVE_BYTES: usize = 64 * 1024;

pub(crate) struct Source<R> {
    reader: R,
    position: u64,
    len: u64,
}

impl<R: Read> Source<R> {
    pub fn new(reader: R, len: u64) -> Self {
        Self { reader, position: 0, len }
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn position(&self) -> u64 {
        self.position
    }

    /// Fails unless `count` things of at least `each` bytes can still follow.
    pub fn expect(&self, what: &'static str, count: u64, each: u64) -> Result<(), GgufError> {
        let needed = count.saturating_mul(each);
        let remaining = self.len - self.position;
        if needed > remaining {
            return self.fail(Fault::Truncated { what, needed, remaining });
        }
        let header = self.position.saturating_add(needed);
        if header > GGUF_HEADER_BYTES {
            let what = "the size of the header";
            return self.fail(Fault::Limit { what, found: header, limit: GGUF_HEADER_BYTES });
        }
        Ok(())
    }

    pub fn fail<T>(&self, fault: Fault) -> Result<T, GgufError> {
        Err(GgufError::new(self.position, fault))
    }

    pub fn bytes<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        self.expect(what, N as u64, 1)?;
        let mut bytes = [0; N];
        if let Err(error) = self.reader.read_exact(&mut bytes) {
            return self.fail(Fault::Io(error));
        }
        self.position += N as u64;
        Ok(bytes)
    }

    pub fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.bytes(what)?))
    }

    pub fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.bytes(what)?))
    }

    /// A count, held against its limit and against the bytes that remain when each thing takes at least `each`.
    pub fn count(&mut self, what: &'static str, limit: u64, each: u64) -> Result<u64, GgufError> {
        let at = self.position;
        let found = self.u64(what)?;
        if found > limit {
            return Err(GgufError::new(at, Fault::Limit { what, found, limit }));
        }
        self.expect(what, found, each)?;
        Ok(found)
    }

    pub fn string(&mut self, what: &'static str) -> Result<String, GgufError> {
        self.str(what, &mut Vec::new()).map(str::to_owned)
    }

    /// A string, read into a buffer whose old contents go.
    pub fn str<'a>(
        &mut self,
        what: &'static str,
        bytes: &'a mut Vec<u8>,
    ) -> Result<&'a str, GgufError> {
        let at = self.position;
        let len = self.count(what, GGUF_STRING_BYTES, 1)?;
        bytes.clear();
        bytes.reserve((len as usize).min(RESERVE_BYTES));
        match self.reader.by_ref().take(len).read_to_end(bytes) {
            Err(error) => return self.fail(Fault::Io(error)),
            Ok(read) if read as u64 != len => {
                return self.fail(Fault::Truncated { what, needed: len, remaining: read as u64 });
            }
            Ok(_) => self.position += len,
        }
        std::str::from_utf8(bytes).map_err(|_| GgufError::new(at, Fault::Utf8 { what }))
    }

    /// `count` values, read one by one: the vector grows with what was read, not with what was claimed.
    pub fn many<T>(
        &mut self,
        count: u64,
        mut one: impl FnMut(&mut Self) -> Result<T, GgufError>,
    ) -> Result<Vec<T>, GgufError> {
        let reserve = RESERVE_BYTES / size_of::<T>().max(1);
        let mut values = Vec::with_capacity((count as usize).min(reserve));
        for _ in 0..count {
            values.push(one(self)?);
        }
        Ok(values)
    }
}
