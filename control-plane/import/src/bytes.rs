//! Files that are read in places: on disk, or in memory for tests.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A file that is read in places, by several threads at once.
pub trait ReadAt: Send + Sync {
    /// Bytes it has.
    fn bytes(&self) -> u64;

    /// Fills `buffer` from byte `at` on; fails when the file ends before.
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// An open file, with the size it had then.
#[derive(Debug)]
pub struct OnDisk {
    file: File,
    bytes: u64,
}

impl OnDisk {
    /// Takes an open file.
    pub fn new(file: File) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        Ok(Self { file, bytes })
    }
}

impl ReadAt for OnDisk {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, at)
    }
}

impl ReadAt for Vec<u8> {
    fn bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(at).ok();
        let range = start.and_then(|start| Some(start..start.checked_add(buffer.len())?));
        let found = range.and_then(|range| self.get(range));
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A reader from the start of a file.
pub(crate) struct FromStart<'a> {
    file: &'a dyn ReadAt,
    at: u64,
}

impl<'a> FromStart<'a> {
    pub fn of(file: &'a dyn ReadAt) -> Self {
        Self { file, at: 0 }
    }
}

impl io::Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.file.bytes().saturating_sub(self.at);
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        self.file.read_at(self.at, &mut buffer[..count])?;
        self.at += count as u64;
        Ok(count)
    }
}
