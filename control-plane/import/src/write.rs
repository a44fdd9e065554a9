//! Writing a model: a header that says where everything will lie, then tensor by tensor, some rows on each thread at a time.
//!
//! ```text
//! read rows -> floats -> + adapter -> quantise  \
//! read rows -> floats -> + adapter -> quantise  -+-> written in order, padded to the alignment
//! ```

use crate::error::{ImportError, Quote};
use crate::levels;
use crate::mix::Quantisation;
use crate::model::{Model, Tensor};
use ollamamax_gguf::{GgmlType, GgufWriter, Value};
use ollamamax_proto::limits::IMPORT_PART_BYTES;
use std::io::Write;
use std::ops::ControlFlow;

/// Hears how many of all bytes are written, and may end it.
pub type Progress<'a> = dyn FnMut(u64, u64) -> ControlFlow<()> + 'a;

/// ggml's number for how blocks are laid out.
const QUANTISATION_VERSION: u32 = 2;
/// Largest value of F16.
const F16_MAX: f32 = 65_504.0;

impl Model {
    /// Writes the GGUF, in the types it has or as asked for, on so many threads; returns its bytes. Memory is a few times
    /// [`IMPORT_PART_BYTES`] for each thread, or one row where that is more.
    pub fn write(
        &self,
        quantisation: Option<Quantisation>,
        threads: usize,
        out: &mut dyn Write,
        progress: &mut Progress<'_>,
    ) -> Result<u64, ImportError> {
        let mut writer = GgufWriter::new();
        for (key, value) in &self.metadata {
            writer.metadata(key, value.clone());
        }
        let file_type = quantisation.unwrap_or_else(|| self.kept()).file_type();
        writer.metadata("general.file_type", Value::U32(file_type));
        writer.metadata("general.quantization_version", Value::U32(QUANTISATION_VERSION));
        let kinds: Vec<GgmlType> =
            self.tensors.iter().map(|t| self.kind(t, quantisation)).collect();
        let mut sizes = Vec::with_capacity(kinds.len());
        for (tensor, kind) in self.tensors.iter().zip(&kinds) {
            let bytes =
                kind.row_bytes(tensor.dims[0]).and_then(|row| row.checked_mul(tensor.rows()));
            let bytes =
                bytes.expect("a type is chosen that fits the rows, and the source has as many");
            writer.declare(&tensor.name, &tensor.dims, *kind, bytes);
            sizes.push(bytes);
        }
        let header = writer.header();
        let alignment = writer.alignment();
        let padded = |bytes: u64| bytes.next_multiple_of(alignment);
        let total =
            padded(header.len() as u64) + sizes.iter().map(|size| padded(*size)).sum::<u64>();
        out.write_all(&header).map_err(ImportError::Write)?;
        let mut sink = Sink { out, written: header.len() as u64, total, progress };
        for ((tensor, kind), size) in self.tensors.iter().zip(kinds).zip(sizes) {
            sink.pad(alignment)?;
            let begin = sink.written;
            self.write_tensor(tensor, kind, threads.max(1), &mut sink)?;
            debug_assert_eq!(sink.written - begin, size);
        }
        sink.pad(alignment)?;
        Ok(sink.written)
    }

    fn write_tensor(
        &self,
        tensor: &Tensor,
        kind: GgmlType,
        threads: usize,
        sink: &mut Sink<'_, '_>,
    ) -> Result<(), ImportError> {
        let rows = tensor.rows();
        let per_part = (IMPORT_PART_BYTES / (tensor.dims[0] * 4)).max(1);
        let mut firsts = (0..rows).step_by(per_part as usize).peekable();
        while firsts.peek().is_some() {
            let batch: Vec<u64> = firsts.by_ref().take(threads).collect();
            let make = |first: u64| self.part(tensor, kind, first, (first + per_part).min(rows));
            let parts: Vec<_> = match batch.as_slice() {
                [first] => vec![make(*first)],
                all => std::thread::scope(|scope| {
                    let work: Vec<_> =
                        all.iter().map(|first| scope.spawn(move || make(*first))).collect();
                    let done = |part: std::thread::ScopedJoinHandle<'_, Result<_, _>>| {
                        part.join().unwrap_or(Err(ImportError::GivenUp))
                    };
                    work.into_iter().map(done).collect()
                }),
            };
            for part in parts {
                sink.put(&part?)?;
            }
        }
        Ok(())
    }

    /// Some rows in their new type.
    fn part(
        &self,
        tensor: &Tensor,
        kind: GgmlType,
        first: u64,
        last: u64,
    ) -> Result<Vec<u8>, ImportError> {
        let values = self.rows(tensor, first, last)?;
        if kind == GgmlType::F16
            && let Some(&found) = values.iter().find(|value| value.abs() > F16_MAX)
        {
            return Err(ImportError::TooLargeForF16 { tensor: Quote::of(&tensor.name), found });
        }
        let mut out = Vec::new();
        levels::quantise(kind, &values, &mut out);
        Ok(out)
    }
}

/// Where bytes go, and who hears of it.
struct Sink<'a, 'p> {
    out: &'a mut dyn Write,
    written: u64,
    total: u64,
    progress: &'a mut Progress<'p>,
}

impl Sink<'_, '_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), ImportError> {
        self.out.write_all(bytes).map_err(ImportError::Write)?;
        self.written += bytes.len() as u64;
        match (self.progress)(self.written, self.total) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ImportError::GivenUp),
        }
    }

    fn pad(&mut self, alignment: u64) -> Result<(), ImportError> {
        let zeros = self.written.next_multiple_of(alignment) - self.written;
        self.put(&vec![0; zeros as usize])
    }
}
