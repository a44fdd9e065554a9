//! Repacking at load, on all threads; the file's pages are given back as soon as they are read.

use super::floats::FloatPanels;
use super::multiply::{Buffers, Packed};
use super::panels::{Format, Panels, Repack};
use crate::cpu::LoadError;
use crate::cpu::pool::Pool;
use crate::weights::{Matrix, Weights};

/// Repacks every matrix; an error when the system refuses the memory.
pub(crate) fn pack(
    weights: Weights<Matrix>,
    pool: &Pool,
    buffers: &mut [Buffers],
) -> Result<Weights<Packed>, LoadError> {
    // Of header and norms nothing is needed any more, and much lies around them.
    weights.embedding.forget_file();
    weights.try_map(|matrix| {
        let refused = || LoadError::Memory { bytes: matrix.bytes() };
        let Some(format) = Format::of(matrix.kind) else {
            return FloatPanels::of(&matrix).map(Packed::Floats).ok_or_else(refused);
        };
        let mut panels = Panels::room(&matrix, format).ok_or_else(refused)?;
        let mut jobs: Vec<_> = panels.jobs(&matrix).collect();
        pool.for_each(buffers, &mut jobs, |_, job: &mut Repack<'_>, _| job.run());
        drop(jobs);
        Ok(Packed::Levels(panels))
    })
}
