//! Stdout: for whoever collects what processes print. Logs are on stderr, so nothing else is here.
//!
//! The cursor is written after the lines: what was printed just before a crash is printed once more.

use super::ExportError;
use super::cursor::{Cursor, Last};
use super::piece::Piece;
use std::io::{self, Write};

/// The stdout of this process.
#[derive(Debug)]
pub(super) struct StdoutSink {
    cursor: Cursor,
    last: Option<Last>,
}

impl StdoutSink {
    pub fn open(cursor: Cursor) -> Result<Self, ExportError> {
        let last = cursor.read()?;
        Ok(Self { cursor, last })
    }

    pub fn last(&self) -> Option<Last> {
        self.last
    }

    pub async fn write(&mut self, piece: Piece) -> Result<(), ExportError> {
        let cursor = self.cursor.clone();
        let written = tokio::task::spawn_blocking(move || {
            let mut stdout = io::stdout().lock();
            stdout.write_all(piece.text().as_bytes())?;
            stdout.flush()?;
            cursor.write(piece.last()).map(|()| piece.last())
        });
        self.last = Some(written.await.map_err(io::Error::other)??);
        Ok(())
    }
}
