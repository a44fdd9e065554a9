//! Panels times tokens: where almost all of the time goes.
//!
//! Threads claim a few panels at a time. With few tokens a panel is multiplied as it is stored, so that memory is read once
//! and nothing is written; with more it is unpacked into the thread's own buffer first and multiplied from there, tile after
//! tile of tokens. Both give the same bits.
//!
//! Products lie `[panel][token][row of the panel]`: every claim has a part of its own to write to, and no vector is torn apart.

use super::floats::FloatPanels;
use super::kernels::{FastKernels, Lanes, Unpacked};
use super::levels::Levels;
use super::panels::{Panels, ROWS};
use crate::cpu::pool::Pool;
use crate::cpu::rows::Rows;

/// Claims per thread: enough to even out a thread that was interrupted.
const CLAIMS_PER_THREAD: usize = 4;

/// A repacked matrix.
#[derive(Debug)]
pub(crate) enum Packed {
    /// Of a block format.
    Levels(Panels),
    /// Of floats.
    Floats(FloatPanels),
}

impl Packed {
    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        match self {
            Self::Levels(panels) => panels.rows,
            Self::Floats(panels) => panels.rows,
        }
    }

    /// Panels there are.
    pub fn panels(&self) -> usize {
        match self {
            Self::Levels(panels) => panels.count(),
            Self::Floats(panels) => panels.count(),
        }
    }

    /// Elements of the matrix.
    pub fn elements(&self) -> u64 {
        let (rows, columns) = match self {
            Self::Levels(panels) => (panels.rows, panels.columns),
            Self::Floats(panels) => (panels.rows, panels.columns),
        };
        rows as u64 * columns as u64
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Levels(panels) => panels.bytes(),
            Self::Floats(panels) => panels.bytes(),
        }
    }

    /// Row `row` as floats, as the file has it. All sixteen rows of its panel are unpacked for that.
    pub fn row(&self, row: usize, kernels: &FastKernels, buffers: &mut Buffers, out: &mut [f32]) {
        match self {
            Self::Levels(panels) => {
                let panel = panels.panel(row / ROWS);
                buffers.unpacked.resize(panels.format, panel.blocks);
                (kernels.unpack)(panels.format, panel, &mut buffers.unpacked);
                buffers.unpacked.row(row % ROWS, out);
            }
            Self::Floats(panels) => {
                panels.unpack(row / ROWS, kernels.from_half, &mut buffers.floats);
                for (out, column) in out.iter_mut().zip(buffers.floats.as_chunks::<ROWS>().0) {
                    *out = column[row % ROWS];
                }
            }
        }
    }
}

/// The products of some matrices with one input.
#[derive(Debug, Default)]
pub(crate) struct Products {
    lanes: Vec<Lanes>,
    tokens: usize,
}

impl Products {
    /// Copies the products of a matrix whose panels begin at `panel` with one token.
    pub fn gather(&self, panel: usize, token: usize, out: &mut [f32]) {
        for (index, out) in out.chunks_mut(ROWS).enumerate() {
            out.copy_from_slice(&self.lanes(panel + index, token)[..out.len()]);
        }
    }

    /// Puts products in the place of those that [`Products::gather`] reads.
    pub fn scatter(&mut self, panel: usize, token: usize, row: &[f32]) {
        for (index, row) in row.chunks(ROWS).enumerate() {
            let at = (panel + index) * self.tokens + token;
            self.lanes[at].0[..row.len()].copy_from_slice(row);
        }
    }

    /// The sixteen products of a panel with one token.
    pub fn lanes(&self, panel: usize, token: usize) -> &[f32; ROWS] {
        &self.lanes[panel * self.tokens + token].0
    }
}

/// A thread's buffers.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    unpacked: Unpacked,
    floats: Vec<f32>,
    pub attention: super::attention::Scratch,
    pub row: Vec<f32>,
}

/// Rounds the input's rows, on several threads when there are several tiles.
pub(crate) fn quantise(
    kernels: &FastKernels,
    pool: &Pool,
    buffers: &mut [Buffers],
    input: &Rows,
    levels: &mut Levels,
) {
    levels.resize(input.count(), input.width());
    let tile_tokens = levels.tile_tokens();
    let mut tiles: Vec<_> = levels.tiles_mut().collect();
    pool.for_each(buffers, &mut tiles, |index, tile, _| {
        let first = index * tile_tokens;
        for token in first..(first + tile_tokens).min(input.count()) {
            (kernels.put)(tile, token - first, input.row(token));
        }
    });
}

/// A few panels of one matrix, and where their products go.
struct Claim<'a> {
    matrix: &'a Packed,
    first: usize,
    out: &'a mut [Lanes],
}

/// All products of one input; `levels` is the same input, rounded, if any matrix needs that.
pub(crate) fn multiply(
    kernels: &FastKernels,
    pool: &Pool,
    buffers: &mut [Buffers],
    matrices: &[&Packed],
    (input, levels): (&Rows, &Levels),
    products: &mut Products,
) {
    let tokens = input.count();
    let panels: usize = matrices.iter().map(|matrix| matrix.panels()).sum();
    products.tokens = tokens;
    products.lanes.resize(panels * tokens, Lanes::ZERO);
    if tokens == 0 {
        return;
    }
    let per_claim = panels.div_ceil(pool.threads() * CLAIMS_PER_THREAD).max(1);
    let mut claims = Vec::with_capacity(panels.div_ceil(per_claim) + matrices.len());
    let mut rest = &mut products.lanes[..];
    for &matrix in matrices {
        let mine;
        (mine, rest) = rest.split_at_mut(matrix.panels() * tokens);
        let parts = mine.chunks_mut(per_claim * tokens).enumerate();
        claims.extend(parts.map(|(part, out)| Claim { matrix, first: part * per_claim, out }));
    }
    pool.for_each(buffers, &mut claims, |_, claim, buffers| match claim.matrix {
        Packed::Levels(panels) => {
            in_levels(kernels, panels, claim.first, levels, claim.out, buffers)
        }
        Packed::Floats(panels) => {
            in_floats(kernels, panels, claim.first, input, claim.out, buffers)
        }
    });
}

fn in_levels(
    kernels: &FastKernels,
    panels: &Panels,
    first: usize,
    levels: &Levels,
    out: &mut [Lanes],
    buffers: &mut Buffers,
) {
    for (index, out) in out.chunks_exact_mut(levels.count()).enumerate() {
        let panel = panels.panel(first + index);
        if levels.count() <= kernels.few {
            let (tile, _) = levels.tiles().next().expect("there are tokens");
            (kernels.multiply_few)(panels.format, panel, tile, out);
            continue;
        }
        buffers.unpacked.resize(panels.format, panel.blocks);
        (kernels.unpack)(panels.format, panel, &mut buffers.unpacked);
        (kernels.multiply)(&buffers.unpacked, levels, out);
    }
}

fn in_floats(
    kernels: &FastKernels,
    panels: &FloatPanels,
    first: usize,
    input: &Rows,
    out: &mut [Lanes],
    buffers: &mut Buffers,
) {
    for (index, out) in out.chunks_exact_mut(input.count()).enumerate() {
        panels.unpack(first + index, kernels.from_half, &mut buffers.floats);
        for (token, out) in out.iter_mut().enumerate() {
            (kernels.multiply_floats)(&buffers.floats, input.row(token), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::fast::{kernels_of, load};
    use crate::cpu::{Tier, pool::Pool};
    use crate::part::Part;
    use crate::quant;
    use crate::shape::ModelShape;
    use crate::synth::Synth;
    use crate::weights::{Mapping, Weights};
    use ollamamax_gguf::{GgmlType, Gguf};
    use std::sync::Arc;

    #[test]
    fn a_packed_row_is_the_row_of_the_file() {
        use GgmlType::{BF16, F16, F32, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
        for kind in [F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K] {
            let file = Arc::new(Mapping::from_vec(Synth::tiny(kind, 3).to_gguf()));
            let gguf = Gguf::parse(file.bytes()).expect("a model");
            let shape = ModelShape::from_gguf(&gguf).expect("a shape");
            let weights =
                || Weights::of(&gguf, &shape, &file, 64, &Part::whole(&shape)).expect("tensors");
            let (pool, mut buffers) = (Pool::new(1), vec![Buffers::default()]);
            let packed =
                load::pack(weights(), &pool, &mut buffers).expect("packed").head.expect("a head");
            let head = weights().head.expect("a head");
            for tier in [Tier::Portable, Tier::best()] {
                let kernels = kernels_of(tier).expect("available");
                for row in 0..head.rows {
                    let mut out = vec![0.0; head.columns];
                    packed.row(row, &kernels, &mut buffers[0], &mut out);
                    assert_eq!(out, quant::unpack(kind, head.row(row)), "{kind} {tier:?} {row}");
                }
            }
        }
    }
}
