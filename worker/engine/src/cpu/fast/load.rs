//! Repacking at load, on all threads; the file's pages are given back as soon as they are read.

use super::floats::FloatPanels;
use super::multiply::{Buffers, Packed};
use super::panels::{Panels, Repack};
use crate::cpu::pool::Pool;
use crate::weights::{Matrix, Weights};

/// Repacks every matrix.
pub(crate) fn pack(
    weights: Weights<Matrix>,
    pool: &Pool,
    buffers: &mut [Buffers],
) -> Weights<Packed> {
    // Of header and norms nothing is needed any more, and much lies around them.
    weights.embedding.forget_file();
    weights.map(|matrix| match Panels::room(&matrix) {
        Some(mut panels) => {
            let mut jobs: Vec<_> = panels.jobs(&matrix).collect();
            pool.for_each(buffers, &mut jobs, |_, job: &mut Repack<'_>, _| job.run());
            drop(jobs);
            Packed::Levels(panels)
        }
        None => Packed::Floats(FloatPanels::of(&matrix)),
    })
}
