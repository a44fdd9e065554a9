//! What stages send each other for a step: which tokens of which sequences, and what is known of them so far.
//!
//! ```text
//! u32 length of the rest | u32 step | u8 what follows the slices (0 tokens, 1 f32, 2 bf16) | u32 slices
//! each slice: u32 start | u32 tokens | u8 logits | u32 blocks | u32 per block
//! then for every token of all slices: its id (u32), or its residual (f32 or bf16 times width)
//! ```
//!
//! All little endian. A frame from outside is doubted: nothing in it is believed before its length has been held against what
//! is left of the bytes.

use ollamamax_engine::backend::{BlockId, Logits, Slice, StepBatch};
use ollamamax_proto::limits;
use ollamamax_proto::placement::Activations;
use std::io::{self, Read, Write};

/// A step, and what goes with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Counts the steps of a session.
    pub step: u32,
    /// The slices; without their tokens where residuals go with them.
    pub batch: StepBatch,
    /// Residuals, `[token][width]`; `None` where tokens go.
    pub residuals: Option<Vec<f32>>,
}

const TOKENS: u8 = 0;
const F32: u8 = 1;
const BF16: u8 = 2;

/// Writes a frame in one piece; `buffer` is kept from frame to frame.
pub fn write(
    to: &mut impl Write,
    buffer: &mut Vec<u8>,
    (step, batch): (u32, &StepBatch),
    residuals: Option<(&[f32], Activations)>,
) -> io::Result<()> {
    buffer.clear();
    buffer.extend([0; 4]);
    put(buffer, step as usize);
    buffer.push(match residuals {
        None => TOKENS,
        Some((_, Activations::F32)) => F32,
        Some((_, Activations::Bf16)) => BF16,
    });
    put(buffer, batch.slices.len());
    for slice in &batch.slices {
        put(buffer, slice.start as usize);
        put(buffer, slice.tokens.len());
        buffer.push(match slice.logits {
            Logits::None => 0,
            Logits::Last => 1,
            Logits::All => 2,
            Logits::Hidden => 3,
        });
        put(buffer, slice.blocks.len());
        slice.blocks.iter().for_each(|block| put(buffer, block.0 as usize));
    }
    match residuals {
        None => {
            let tokens = batch.slices.iter().flat_map(|slice| &slice.tokens);
            tokens.for_each(|token| put(buffer, *token as usize));
        }
        Some((rows, Activations::F32)) => put_f32(buffer, rows),
        Some((rows, Activations::Bf16)) => {
            let start = buffer.len();
            buffer.resize(start + 2 * rows.len(), 0);
            for (out, x) in buffer[start..].as_chunks_mut::<2>().0.iter_mut().zip(rows) {
                *out = half::bf16::from_f32(*x).to_bits().to_le_bytes();
            }
        }
    }
    let len = u32::try_from(buffer.len() - 4)
        .ok()
        .filter(|len| *len as usize <= limits::STAGE_FRAME_BYTES);
    let Some(len) = len else {
        let words = format!(
            "a frame of {} bytes, at most {} can be sent",
            buffer.len(),
            limits::STAGE_FRAME_BYTES
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
    };
    buffer[..4].copy_from_slice(&len.to_le_bytes());
    to.write_all(buffer)?;
    to.flush()
}

/// Appends floats.
pub fn put_f32(buffer: &mut Vec<u8>, rows: &[f32]) {
    let start = buffer.len();
    buffer.resize(start + 4 * rows.len(), 0);
    for (out, x) in buffer[start..].as_chunks_mut::<4>().0.iter_mut().zip(rows) {
        *out = x.to_le_bytes();
    }
}

/// Reads floats; the slice tells how many.
pub fn take_f32(bytes: &[u8], rows: &mut [f32]) {
    for (x, bytes) in rows.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *x = f32::from_le_bytes(*bytes);
    }
}

fn put(buffer: &mut Vec<u8>, number: usize) {
    // Counts and ids here are bounded far below.
    buffer.extend((number as u32).to_le_bytes());
}

/// Reads one frame of a model of `width`; `buffer` is kept from frame to frame.
pub fn read(from: &mut impl Read, buffer: &mut Vec<u8>, width: usize) -> io::Result<Frame> {
    let mut len = [0; 4];
    from.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > limits::STAGE_FRAME_BYTES {
        let most = limits::STAGE_FRAME_BYTES;
        return Err(malformed(format!("a frame of {len} bytes, at most {most} are accepted")));
    }
    buffer.clear();
    // Grown as bytes come: a length alone takes no memory.
    let got = from.take(len as u64).read_to_end(buffer)?;
    if got < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    parse(buffer, width).map_err(malformed)
}

fn malformed(words: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, words)
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let left = self.0.len();
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| format!("{count} more bytes expected, {left} are left"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u32, String> {
        let bytes = self.take(4)?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    /// A number of things of `size` bytes each that follow.
    fn count(&mut self, size: usize) -> Result<usize, String> {
        let count = self.number()? as usize;
        match count.checked_mul(size) {
            Some(bytes) if bytes <= self.0.len() => Ok(count),
            _ => Err(format!("{count} times {size} bytes expected, {} are left", self.0.len())),
        }
    }
}

fn parse(bytes: &[u8], width: usize) -> Result<Frame, String> {
    let mut bytes = Bytes(bytes);
    let step = bytes.number()?;
    let kind = bytes.take(1)?[0];
    let count = bytes.count(13)?;
    let mut slices = Vec::with_capacity(count);
    let mut counts = Vec::with_capacity(count);
    for _ in 0..count {
        let start = bytes.number()?;
        let tokens = bytes.count(2)?;
        let logits = match bytes.take(1)?[0] {
            0 => Logits::None,
            1 => Logits::Last,
            2 => Logits::All,
            3 => Logits::Hidden,
            other => return Err(format!("`{other}` is nothing that can be wanted of a slice")),
        };
        let blocks = bytes.count(4)?;
        let blocks = (0..blocks).map(|_| bytes.number().map(BlockId)).collect::<Result<_, _>>()?;
        counts.push(tokens);
        slices.push(Slice { start, tokens: Vec::new(), blocks, logits });
    }
    let total = counts.iter().fold(0usize, |total, count| total.saturating_add(*count));
    let size = match kind {
        TOKENS => 4,
        F32 => width.saturating_mul(4),
        BF16 => width.saturating_mul(2),
        other => return Err(format!("`{other}` is nothing that follows slices")),
    };
    let expected = total.saturating_mul(size);
    if bytes.0.len() != expected {
        return Err(format!("{total} tokens take {expected} bytes, {} came", bytes.0.len()));
    }
    for (slice, count) in slices.iter_mut().zip(counts) {
        slice.tokens = match kind {
            TOKENS => (0..count).map(|_| bytes.number()).collect::<Result<_, _>>()?,
            _ => vec![0; count],
        };
    }
    let residuals = match kind {
        TOKENS => None,
        F32 => {
            let mut rows = vec![0.0; total * width];
            take_f32(bytes.0, &mut rows);
            Some(rows)
        }
        _ => {
            let halves = bytes.0.as_chunks::<2>().0.iter();
            let float = |half: &[u8; 2]| half::bf16::from_bits(u16::from_le_bytes(*half)).to_f32();
            Some(halves.map(float).collect())
        }
    };
    Ok(Frame { step, batch: StepBatch { slices }, residuals })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WIDTH: usize = 3;

    fn slice() -> impl Strategy<Value = Slice> {
        let logits =
            prop::sample::select(vec![Logits::None, Logits::Last, Logits::All, Logits::Hidden]);
        let tokens = prop::collection::vec(any::<u32>(), 1..5);
        let blocks = prop::collection::vec(any::<u32>().prop_map(BlockId), 0..4);
        (any::<u32>(), tokens, blocks, logits).prop_map(|(start, tokens, blocks, logits)| Slice {
            start,
            tokens,
            blocks,
            logits,
        })
    }

    fn written(step: u32, batch: &StepBatch, residuals: Option<(&[f32], Activations)>) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, &mut Vec::new(), (step, batch), residuals).expect("into memory");
        bytes
    }

    proptest! {
        #[test]
        fn a_frame_is_read_as_it_was_written(
            slices in prop::collection::vec(slice(), 0..4),
            step in any::<u32>(),
            seed in any::<u16>(),
        ) {
            let batch = StepBatch { slices };
            let total: usize = batch.slices.iter().map(|slice| slice.tokens.len()).sum();
            let back = |bytes: &[u8]| read(&mut &bytes[..], &mut Vec::new(), WIDTH);
            let frame = back(&written(step, &batch, None)).expect("sound");
            prop_assert_eq!(&frame, &Frame { step, batch: batch.clone(), residuals: None });
            let rows: Vec<f32> = (0..total * WIDTH).map(|i| (i as f32 + f32::from(seed)).sin()).collect();
            let frame = back(&written(step, &batch, Some((&rows, Activations::F32)))).expect("sound");
            prop_assert_eq!(frame.residuals.as_ref(), Some(&rows));
            prop_assert_eq!(frame.batch.slices.len(), batch.slices.len());
            let frame = back(&written(step, &batch, Some((&rows, Activations::Bf16)))).expect("sound");
            for (half, x) in frame.residuals.expect("rows").iter().zip(&rows) {
                prop_assert!((half - x).abs() <= x.abs() / 256.0);
            }
        }

        #[test]
        fn garbage_is_refused_and_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), cut in 0usize..40) {
            let _ = parse(&bytes, WIDTH);
            let slices = vec![Slice { start: 1, tokens: vec![2], blocks: vec![BlockId(3)], logits: Logits::Last }];
            let mut whole = written(7, &StepBatch { slices }, None);
            let end = cut.min(whole.len() - 1);
            whole.truncate(end);
            prop_assert!(read(&mut &whole[..], &mut Vec::new(), WIDTH).is_err());
        }
    }

    #[test]
    fn a_length_alone_takes_no_memory() {
        let huge = u32::MAX.to_le_bytes();
        let error = read(&mut &huge[..], &mut Vec::new(), WIDTH).expect_err("too long");
        assert!(error.to_string().contains("at most"), "{error}");
    }
}
