//! Matrices in the order in which the tensor cores take them: see `worker/engine/kernels/multiply.cu`.
//!
//! Block formats keep their levels exactly; their scales and minima, products of an f16 and a small integer in some formats,
//! are rounded to f16 (a part in 2048), after a power of two has brought the largest of the matrix close to what f16 can hold,
//! so that small ones are no subnormal numbers. Floats of sixteen bits are only rearranged.

use crate::quant::{self, GROUP, Unpacked};
use crate::weights::Matrix;
use half::f16;
use ollamamax_gguf::GgmlType;

/// Rows of a tile.
pub(super) const TILE_ROWS: usize = 16;
/// Columns that share a scale, at most.
const BLOCK: usize = 32;
/// Columns of a block of floats.
const FLOAT_BLOCK: usize = 16;
/// Threads of a warp.
const LANES: usize = 32;

/// How a matrix lies on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Levels of four bits with scale and minimum.
    FourBits,
    /// Levels of up to eight bits with scale and minimum.
    EightBits,
    /// Signed levels with a scale.
    EightSigned,
    /// Signed levels with a scale for every sixteen columns.
    EightHalves,
    /// f16.
    Float16,
    /// bf16.
    Brain16,
    /// f32, row after row.
    Floats,
}

impl Form {
    /// The form for a type of the file.
    pub fn of(kind: GgmlType) -> Self {
        match kind {
            GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q4_K => Self::FourBits,
            GgmlType::Q8_0 => Self::EightSigned,
            GgmlType::Q6_K => Self::EightHalves,
            GgmlType::F16 => Self::Float16,
            GgmlType::BF16 => Self::Brain16,
            kind if quant::is_blocks(kind) => Self::EightBits,
            _ => Self::Floats,
        }
    }

    /// Whether it is levels: multiplied by integers.
    pub fn is_levels(self) -> bool {
        !matches!(self, Self::Float16 | Self::Brain16 | Self::Floats)
    }

    /// Blocks of a row, padding included.
    pub fn blocks(self, columns: usize) -> usize {
        match self {
            Self::Float16 | Self::Brain16 => columns.div_ceil(FLOAT_BLOCK),
            Self::Floats => 0,
            // Two at a time are read of four bits; all levels have the same padding, so that they share inputs.
            _ => columns.div_ceil(BLOCK).next_multiple_of(2),
        }
    }

    /// Bytes of a block of a tile.
    fn block_bytes(self) -> usize {
        if self == Self::FourBits { LANES * 8 } else { LANES * 16 }
    }

    /// The kernel, for so many products of tiles at once: 1, 4 or 8.
    pub fn kernel(self, tiles: u32) -> &'static str {
        let [one, four, eight] = match self {
            Self::FourBits => ["four_bits_1", "four_bits_4", "four_bits_8"],
            Self::EightBits => ["eight_bits_1", "eight_bits_4", "eight_bits_8"],
            Self::EightSigned => ["eight_signed_1", "eight_signed_4", "eight_signed_8"],
            Self::EightHalves => ["eight_halves_1", "eight_halves_4", "eight_halves_8"],
            Self::Float16 => ["float_16_1", "float_16_4", "float_16_8"],
            Self::Brain16 => ["brain_16_1", "brain_16_4", "brain_16_8"],
            Self::Floats => ["floats"; 3],
        };
        match tiles {
            1 => one,
            4 => four,
            _ => eight,
        }
    }
}

/// A matrix as it goes to the device.
#[derive(Debug, PartialEq)]
pub(super) struct Packed {
    pub form: Form,
    pub blocks: usize,
    pub matrix: Vec<u8>,
    pub scales: Vec<u8>,
    /// What products have to be multiplied by: a power of two.
    pub factor: f32,
}

/// Bytes that [`pack`] makes of a matrix.
pub(super) fn packed_bytes(matrix: &Matrix) -> u64 {
    let form = Form::of(matrix.kind);
    if form == Form::Floats {
        return (matrix.rows * matrix.columns * 4) as u64;
    }
    let (tiles, blocks) = (matrix.rows.div_ceil(TILE_ROWS), form.blocks(matrix.columns));
    let scales = if form.is_levels() { TILE_ROWS * 4 } else { 0 };
    (tiles * blocks * (form.block_bytes() + scales)) as u64
}

/// Packs a matrix, on all of this machine's processors.
pub(super) fn pack(matrix: &Matrix) -> Packed {
    let form = Form::of(matrix.kind);
    let blocks = form.blocks(matrix.columns);
    if form == Form::Floats {
        let rows = (0..matrix.rows).flat_map(|row| quant::unpack(matrix.kind, matrix.row(row)));
        let bytes = rows.flat_map(f32::to_le_bytes).collect();
        return Packed { form, blocks, matrix: bytes, scales: Vec::new(), factor: 1.0 };
    }
    let tiles = matrix.rows.div_ceil(TILE_ROWS);
    let tile_scales = if form.is_levels() { blocks * TILE_ROWS * 2 } else { 0 };
    let tile_bytes = blocks * form.block_bytes();
    let (mut bytes, mut scales) = (vec![0; tiles * tile_bytes], vec![0.0; tiles * tile_scales]);
    let mut work: Vec<Tile<'_>> = Vec::with_capacity(tiles);
    let mut rest = &mut scales[..];
    for (nth, bytes) in bytes.chunks_exact_mut(tile_bytes.max(1)).enumerate() {
        let (scales, left) = rest.split_at_mut(tile_scales);
        rest = left;
        work.push(Tile { form, first_row: nth * TILE_ROWS, bytes, scales });
    }
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = tiles.div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for tiles in work.chunks_mut(share) {
            scope.spawn(move || tiles.iter_mut().for_each(|tile| tile.fill(matrix)));
        }
    });
    let most = scales.iter().fold(0.0f32, |most, scale| most.max(scale.abs()));
    let factor = if most > 0.0 { (14.0 - most.log2().floor()).min(100.0).exp2() } else { 1.0 };
    let scales = scales.iter().flat_map(|scale| f16::from_f32(scale * factor).to_le_bytes());
    Packed { form, blocks, scales: scales.collect(), matrix: bytes, factor: 1.0 / factor }
}

struct Tile<'a> {
    form: Form,
    first_row: usize,
    bytes: &'a mut [u8],
    scales: &'a mut [f32],
}

impl Tile<'_> {
    fn fill(&mut self, matrix: &Matrix) {
        let rows = TILE_ROWS.min(matrix.rows - self.first_row);
        for row in 0..rows {
            let bytes = matrix.row(self.first_row + row);
            if self.form.is_levels() {
                self.fill_levels(matrix, row, bytes);
            } else {
                self.fill_floats(row, bytes);
            }
        }
    }

    fn fill_floats(&mut self, row: usize, bytes: &[u8]) {
        for (column, half) in bytes.as_chunks::<2>().0.iter().enumerate() {
            let (block, k) = (column / FLOAT_BLOCK, column % FLOAT_BLOCK);
            let lane = row % 8 * 4 + k % 8 / 2;
            let word = row / 8 + k / 8 * 2;
            let at = (block * LANES + lane) * 16 + word * 4 + k % 2 * 2;
            self.bytes[at..at + 2].copy_from_slice(half);
        }
    }

    fn fill_levels(&mut self, matrix: &Matrix, row: usize, bytes: &[u8]) {
        let groups = matrix.columns / GROUP;
        let mut levels = vec![0; matrix.columns];
        let (mut scale, mut minimum) = (vec![0.0; groups], vec![0.0; groups]);
        let out = Unpacked { levels: &mut levels, scale: &mut scale, minimum: &mut minimum };
        quant::unpack_levels(matrix.kind, bytes, out);
        // What signed levels are less than those of the file.
        let shift = match self.form {
            Form::EightSigned => 128,
            Form::EightHalves => 32,
            _ => 0,
        };
        for (column, level) in levels.iter().enumerate() {
            let (block, k) = (column / BLOCK, column % BLOCK);
            let lane = row % 8 * 4 + k % 16 / 4;
            if self.form == Form::FourBits {
                let word = block % 2 * 2 + row / 8;
                let at = (block / 2 * LANES + lane) * 16 + word * 4 + k % 4;
                self.bytes[at] |= level << (k / 16 * 4);
            } else {
                let word = row / 8 + k / 16 * 2;
                let at = (block * LANES + lane) * 16 + word * 4 + k % 4;
                self.bytes[at] = level.wrapping_sub(shift);
            }
        }
        for group in (0..groups).step_by(BLOCK / GROUP) {
            let pair = match self.form {
                Form::EightHalves => {
                    [scale[group], scale.get(group + 1).copied().unwrap_or_default()]
                }
                Form::EightSigned => [scale[group], 0.0],
                _ => [scale[group], minimum[group]],
            };
            let at = (group / 2 * TILE_ROWS + row % 8 * 2 + row / 8) * 2;
            self.scales[at..at + 2].copy_from_slice(&pair);
        }
    }
}
