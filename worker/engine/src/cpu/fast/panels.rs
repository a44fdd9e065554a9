//! Weights repacked at load: *panels* of sixteen rows, so that one vector holds the same columns of sixteen rows and no sum
//! ever runs across lanes.
//!
//! ```text
//! matrix -> panels of 16 rows -> blocks of 32 columns
//! panel:  levels  [block][quad j of 4 columns][row][4 columns]   nibbles: quads j and j + 4 share 64 bytes
//!         bits    [block][plane][quad 0..8] as 64-bit masks      bits 4 and 5 of a level, where it has them
//!         scales  see `Scales`
//! weight = scale * (level - offset) + minimum
//! ```
//!
//! Nothing is rounded: levels, half-precision scales and six-bit factors are kept as the file has them, so a panel is as
//! large as its part of the file and unpacks to exactly the same weights.

use crate::cpu::pages::Pages;
use crate::quant::{self, k_scales};
use crate::weights::Matrix;
use half::f16;
use ollamamax_gguf::GgmlType;
use std::fmt;

/// Rows of a panel: floats in the widest vector.
pub(crate) const ROWS: usize = 16;
/// Columns of a block.
pub(crate) const COLUMNS: usize = 32;
/// Columns that share a factored scale's f16.
const SUPER: usize = 256;
/// Bytes of a cache line; every part of a panel starts on one.
const LINE: usize = 64;

/// How scales are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scales {
    /// Per block: 16 f16 scales, then, if the format has minima, 16 f16 minima.
    Half,
    /// Per 256 columns: 16 f16 scales and 16 f16 minima; then per block 16 factors and 16 minimum factors, u8.
    Factors,
    /// Per 256 columns: 16 f16 scales; then per block two times 16 signed factors, one for each half of the block.
    HalfFactors,
}

/// What distinguishes one panel format from another; the fields are constants to every kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    /// Levels are whole bytes; else nibbles with `planes` more bits.
    pub bytes: bool,
    /// Bit planes above the nibble.
    pub planes: usize,
    /// Binary logarithm of what is subtracted from every level; 0 for nothing.
    pub offset_log2: u32,
    /// Whether there are minima.
    pub minima: bool,
    /// How scales are stored.
    pub scales: Scales,
}

impl Format {
    /// The format of a weight type; `None` for floats.
    pub const fn of(kind: GgmlType) -> Option<Self> {
        use Scales::{Factors, Half, HalfFactors};
        let (planes, offset_log2, minima, scales) = match kind {
            GgmlType::Q4_0 => (0, 3, false, Half),
            GgmlType::Q4_1 => (0, 0, true, Half),
            GgmlType::Q5_0 => (1, 4, false, Half),
            GgmlType::Q5_1 => (1, 0, true, Half),
            GgmlType::Q8_0 => (0, 7, false, Half),
            GgmlType::Q4_K => (0, 0, true, Factors),
            GgmlType::Q5_K => (1, 0, true, Factors),
            GgmlType::Q6_K => (2, 5, false, HalfFactors),
            _ => return None,
        };
        let bytes = matches!(kind, GgmlType::Q8_0);
        Some(Self { bytes, planes, offset_log2, minima, scales })
    }

    /// Bytes of a block's levels, without bit planes.
    pub const fn level_bytes(self) -> usize {
        ROWS * COLUMNS / if self.bytes { 1 } else { 2 }
    }

    /// Bytes of a block's bit planes.
    pub const fn plane_bytes(self) -> usize {
        self.planes * ROWS * COLUMNS / 8
    }

    /// Bytes of the scales of one run: a block, or 256 columns where factors share an f16.
    pub const fn scale_bytes(self) -> usize {
        match self.scales {
            Scales::Half => 2 * ROWS * if self.minima { 2 } else { 1 },
            Scales::Factors => 4 * ROWS + SUPER / COLUMNS * 2 * ROWS,
            Scales::HalfFactors => 2 * ROWS + SUPER / COLUMNS * 2 * ROWS,
        }
    }

    /// Blocks of a run of scales.
    pub const fn scale_blocks(self) -> usize {
        match self.scales {
            Scales::Half => 1,
            Scales::Factors | Scales::HalfFactors => SUPER / COLUMNS,
        }
    }
}

/// A repacked matrix.
pub(crate) struct Panels {
    pub kind: GgmlType,
    pub format: Format,
    pub rows: usize,
    pub columns: usize,
    planes_at: usize,
    scales_at: usize,
    panel_bytes: usize,
    /// Begins on a page, and with it every panel on a cache line.
    lines: Pages,
}

impl fmt::Debug for Panels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Panels({} {}x{})", self.kind, self.rows, self.columns)
    }
}

/// One panel's bytes, part by part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panel<'a> {
    pub levels: &'a [u8],
    pub planes: &'a [u8],
    pub scales: &'a [u8],
    /// Blocks per row.
    pub blocks: usize,
    /// Bytes from here to the same place in the next panel.
    pub stride: usize,
}

impl Panels {
    /// Room for a matrix whose type has this format, zeroed; `None` when the system refuses the memory.
    pub fn room(matrix: &Matrix, format: Format) -> Option<Self> {
        let blocks = matrix.columns / COLUMNS;
        let planes_at = blocks * format.level_bytes();
        let scales_at = planes_at + blocks * format.plane_bytes();
        let scales = blocks.div_ceil(format.scale_blocks()) * format.scale_bytes();
        let panel_bytes = (scales_at + scales).next_multiple_of(LINE);
        Some(Self {
            kind: matrix.kind,
            format,
            rows: matrix.rows,
            columns: matrix.columns,
            planes_at,
            scales_at,
            panel_bytes,
            lines: Pages::zeroed::<u8>(matrix.rows.div_ceil(ROWS) * panel_bytes)?,
        })
    }

    /// Panels there are.
    pub fn count(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// Blocks per row.
    pub fn blocks(&self) -> usize {
        self.columns / COLUMNS
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.lines.bytes() as u64
    }

    /// Panel `index`.
    pub fn panel(&self, index: usize) -> Panel<'_> {
        let bytes = &self.lines.get()[index * self.panel_bytes..][..self.panel_bytes];
        Panel {
            levels: &bytes[..self.planes_at],
            planes: &bytes[self.planes_at..self.scales_at],
            scales: &bytes[self.scales_at..],
            blocks: self.blocks(),
            stride: self.panel_bytes,
        }
    }

    /// Jobs that fill the panels from the matrix, a few panels each: independent of each other.
    pub fn jobs<'a>(&'a mut self, matrix: &'a Matrix) -> impl Iterator<Item = Repack<'a>> {
        let (format, planes_at, scales_at) = (self.format, self.planes_at, self.scales_at);
        let panel_bytes = self.panel_bytes;
        let parts = self.lines.get_mut().chunks_mut(panel_bytes * PANELS_PER_JOB).enumerate();
        parts.map(move |(index, panels)| Repack {
            matrix,
            format,
            first: index * PANELS_PER_JOB,
            planes_at,
            scales_at,
            panel_bytes,
            panels,
        })
    }
}

/// Panels one repacking job fills: enough that claiming the job costs nothing beside it.
const PANELS_PER_JOB: usize = 16;

/// Fills some panels.
pub(crate) struct Repack<'a> {
    matrix: &'a Matrix,
    format: Format,
    first: usize,
    planes_at: usize,
    scales_at: usize,
    panel_bytes: usize,
    panels: &'a mut [u8],
}

impl Repack<'_> {
    /// Does it.
    pub fn run(&mut self) {
        let rows = self.panels.len() / self.panel_bytes * ROWS;
        let end = (self.first * ROWS + rows).min(self.matrix.rows);
        for (index, bytes) in self.panels.chunks_exact_mut(self.panel_bytes).enumerate() {
            let (levels, rest) = bytes.split_at_mut(self.planes_at);
            let (planes, scales) = rest.split_at_mut(self.scales_at - self.planes_at);
            let first = (self.first + index) * ROWS;
            let mut row_levels = vec![0u8; self.matrix.columns];
            let mut scale = vec![0.0; self.matrix.columns / quant::GROUP];
            let mut minimum = scale.clone();
            for row in 0..ROWS.min(self.matrix.rows.saturating_sub(first)) {
                let bytes = self.matrix.row(first + row);
                let unpacked = quant::Unpacked {
                    levels: &mut row_levels,
                    scale: &mut scale,
                    minimum: &mut minimum,
                };
                quant::unpack_levels(self.matrix.kind, bytes, unpacked);
                put_levels(self.format, &row_levels, row, levels, planes);
                match self.format.scales {
                    Scales::Half => put_halves(self.format, &scale, &minimum, row, scales),
                    Scales::Factors => put_factors(self.matrix.kind, bytes, row, scales),
                    Scales::HalfFactors => put_half_factors(bytes, row, scales),
                }
            }
        }
        // Those before, too: what another job reads beside this one is mapped again, a few pages at most.
        self.matrix.forget(0..end);
    }
}

fn put_levels(format: Format, row_levels: &[u8], row: usize, levels: &mut [u8], planes: &mut [u8]) {
    let blocks = row_levels.as_chunks::<COLUMNS>().0.iter();
    for (block, out) in blocks.clone().zip(levels.chunks_exact_mut(format.level_bytes())) {
        let (quads, _) = block.as_chunks::<4>();
        if format.bytes {
            for (quad, out) in quads.iter().zip(out.chunks_exact_mut(4 * ROWS)) {
                out[4 * row..][..4].copy_from_slice(quad);
            }
        } else {
            let (low, high) = quads.split_at(4);
            for ((low, high), out) in low.iter().zip(high).zip(out.chunks_exact_mut(4 * ROWS)) {
                for i in 0..4 {
                    out[4 * row + i] = low[i] & 15 | (high[i] & 15) << 4;
                }
            }
        }
    }
    if format.planes == 0 {
        return;
    }
    for (block, out) in blocks.zip(planes.chunks_exact_mut(format.plane_bytes())) {
        for (plane, out) in out.chunks_exact_mut(ROWS * COLUMNS / 8).enumerate() {
            for (quad, out) in block.as_chunks::<4>().0.iter().zip(out.chunks_exact_mut(8)) {
                let bits = quad.iter().rev().fold(0, |bits, l| bits << 1 | l >> (4 + plane) & 1);
                out[row / 2] |= bits << (row % 2 * 4);
            }
        }
    }
}

fn put_halves(format: Format, scale: &[f32], minimum: &[f32], row: usize, scales: &mut [u8]) {
    let groups = COLUMNS / quant::GROUP;
    for (block, out) in scales.chunks_exact_mut(format.scale_bytes()).enumerate() {
        let Some(scale) = scale.get(block * groups) else { return };
        // Both came from an f16: nothing is lost on the way back.
        out[2 * row..][..2].copy_from_slice(&f16::from_f32(*scale).to_le_bytes());
        if format.minima {
            let minimum = f16::from_f32(minimum[block * groups]);
            out[2 * (ROWS + row)..][..2].copy_from_slice(&minimum.to_le_bytes());
        }
    }
}

/// Blocks of Q4_K and Q5_K begin with f16 scale, f16 minimum and twelve bytes of factors.
fn put_factors(kind: GgmlType, bytes: &[u8], row: usize, scales: &mut [u8]) {
    let blocks = bytes.chunks_exact(kind.block_bytes() as usize);
    let bytes = const { Format::of(GgmlType::Q4_K).expect("has a format").scale_bytes() };
    for (block, out) in blocks.zip(scales.chunks_exact_mut(bytes)) {
        out[2 * row..][..2].copy_from_slice(&block[..2]);
        out[2 * (ROWS + row)..][..2].copy_from_slice(&block[2..4]);
        let (factors, minima) = k_scales::unpack(&block[4..16]);
        for (run, out) in out[4 * ROWS..].chunks_exact_mut(2 * ROWS).enumerate() {
            out[row] = factors[run];
            out[ROWS + row] = minima[run];
        }
    }
}

/// Blocks of Q6_K end with sixteen signed factors and an f16 scale.
fn put_half_factors(bytes: &[u8], row: usize, scales: &mut [u8]) {
    let blocks = bytes.chunks_exact(GgmlType::Q6_K.block_bytes() as usize);
    let bytes = const { Format::of(GgmlType::Q6_K).expect("has a format").scale_bytes() };
    for (block, out) in blocks.zip(scales.chunks_exact_mut(bytes)) {
        out[2 * row..][..2].copy_from_slice(&block[208..210]);
        for (group, factor) in block[192..208].iter().enumerate() {
            out[2 * ROWS + group * ROWS + row] = *factor;
        }
    }
}
