//! A stream cut at the ends of its lines: whole lines go on as they came, in as few pieces as they came in.

use bytes::Bytes;
use ollamamax_proto::limits;

/// The line that has begun.
#[derive(Debug, Default)]
pub(super) struct Lines {
    tail: Vec<u8>,
}

/// A line that does not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line of its answer has more than {} bytes", limits::ADOPTED_LINE_BYTES)]
pub(super) struct TooLong;

impl Lines {
    /// Takes what came; gives all lines that are whole now. `keeps` sees each, with its end, and says whether it goes on.
    pub fn push(
        &mut self,
        chunk: Bytes,
        keeps: impl FnMut(&[u8]) -> bool,
    ) -> Result<Bytes, TooLong> {
        let Some(last) = chunk.iter().rposition(|byte| *byte == b'\n') else {
            self.tail.extend_from_slice(&chunk);
            return self.bounded(Bytes::new());
        };
        let (whole, rest) = (chunk.slice(..=last), chunk.slice(last + 1..));
        let whole = match self.tail.is_empty() {
            true => whole,
            false => {
                self.tail.extend_from_slice(&whole);
                std::mem::take(&mut self.tail).into()
            }
        };
        self.tail.extend_from_slice(&rest);
        self.bounded(kept(whole, keeps))
    }

    /// What is left at the end of the stream: a line without an end.
    pub fn finish(&mut self, keeps: impl FnMut(&[u8]) -> bool) -> Bytes {
        kept(std::mem::take(&mut self.tail).into(), keeps)
    }

    fn bounded(&self, whole: Bytes) -> Result<Bytes, TooLong> {
        if self.tail.len() > limits::ADOPTED_LINE_BYTES { Err(TooLong) } else { Ok(whole) }
    }
}

fn kept(whole: Bytes, mut keeps: impl FnMut(&[u8]) -> bool) -> Bytes {
    let mut dropped = false;
    let mut ranges = Vec::new();
    let mut at = 0;
    for line in whole.split_inclusive(|byte| *byte == b'\n') {
        let end = at + line.len();
        match keeps(line) {
            true if dropped => ranges.push(at..end),
            true => {}
            false if !dropped => {
                dropped = true;
                ranges.push(0..at);
            }
            false => {}
        }
        at = end;
    }
    if dropped {
        return ranges.into_iter().flat_map(|range| whole[range].to_vec()).collect();
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(pieces: &[&[u8]], keeps: impl Fn(&[u8]) -> bool) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (mut lines, mut out, mut seen) = (Lines::default(), Vec::new(), Vec::new());
        let mut see = |line: &[u8]| {
            seen.push(line.to_vec());
            keeps(line)
        };
        for piece in pieces {
            out.extend(lines.push(Bytes::copy_from_slice(piece), &mut see).expect("short"));
        }
        out.extend(lines.finish(&mut see));
        (out, seen)
    }

    #[test]
    fn a_line_that_is_not_kept_is_missing_alone() {
        let (out, _) = run(&[b"a\nb\nc\n", b"b", b"\nd"], |line| !line.starts_with(b"b"));
        assert_eq!(out, b"a\nc\nd");
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::default();
        let piece = Bytes::from(vec![b'x'; limits::ADOPTED_LINE_BYTES]);
        assert!(lines.push(piece.clone(), |_| true).is_ok());
        assert_eq!(lines.push(piece, |_| true), Err(TooLong));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_lines_do_not_depend_on_how_they_came(
            text in "[ab\n]{0,60}", cuts in proptest::collection::vec(0usize..60, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &text.as_bytes()[w[0]..w[1]]).collect();
            let (out, seen) = run(&pieces, |_| true);
            prop_assert_eq!(&out, text.as_bytes());
            let whole: Vec<Vec<u8>> =
                text.as_bytes().split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
            prop_assert_eq!(seen, whole);
        }
    }
}
