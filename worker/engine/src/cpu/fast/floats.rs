//! Matrices of floats, in the same panels of sixteen rows: `[column][row]`, in the precision of the file.

use super::kernels::Lanes;
use super::panels::ROWS;
use crate::cpu::pages::Pages;
use crate::weights::Matrix;
use ollamamax_gguf::GgmlType;
use std::fmt;

/// A repacked matrix of floats.
pub(crate) struct FloatPanels {
    pub kind: GgmlType,
    pub rows: usize,
    pub columns: usize,
    bytes: Pages,
}

impl fmt::Debug for FloatPanels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FloatPanels({} {}x{})", self.kind, self.rows, self.columns)
    }
}

impl FloatPanels {
    /// Repacks a matrix of F32, F16 or BF16; `None` when the system refuses the memory.
    pub fn of(matrix: &Matrix) -> Option<Self> {
        let element = matrix.kind.block_bytes() as usize;
        let panels = matrix.rows.div_ceil(ROWS);
        let mut pages = Pages::zeroed::<u8>(panels * matrix.columns * ROWS * element)?;
        let bytes = pages.get_mut::<u8>();
        for row in 0..matrix.rows {
            let panel = &mut bytes[row / ROWS * matrix.columns * ROWS * element..];
            for (column, value) in matrix.row(row).chunks_exact(element).enumerate() {
                panel[(column * ROWS + row % ROWS) * element..][..element].copy_from_slice(value);
            }
        }
        matrix.forget(0..matrix.rows);
        Some(Self { kind: matrix.kind, rows: matrix.rows, columns: matrix.columns, bytes: pages })
    }

    /// Panels there are.
    pub fn count(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes.bytes() as u64
    }

    /// Panel `index` as floats, `[column][row]`.
    pub fn unpack(&self, index: usize, from_half: fn(&[u16], &mut [f32]), out: &mut Vec<f32>) {
        let element = self.kind.block_bytes() as usize;
        let len = self.columns * ROWS;
        out.resize(len, 0.0);
        let bytes = &self.bytes.get::<u8>()[index * len * element..][..len * element];
        match self.kind {
            GgmlType::F16 => {
                let (pairs, _) = bytes.as_chunks::<2>();
                for (out, pairs) in out.chunks_mut(64).zip(pairs.chunks(64)) {
                    let mut halves = [0; 64];
                    for (half, pair) in halves.iter_mut().zip(pairs) {
                        *half = u16::from_le_bytes(*pair);
                    }
                    from_half(&halves[..out.len()], out);
                }
            }
            GgmlType::BF16 => {
                for (out, pair) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *out = f32::from_bits(u32::from(u16::from_le_bytes(*pair)) << 16);
                }
            }
            _ => {
                for (out, four) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *out = f32::from_le_bytes(*four);
                }
            }
        }
    }
}

/// One unpacked panel times one token: even and odd columns apart, then added. Inlined into each tier's wrapper.
#[inline(always)]
pub(super) fn multiply(panel: &[f32], token: &[f32], out: &mut Lanes) {
    let (mut even, mut odd) = ([0.0f32; ROWS], [0.0f32; ROWS]);
    let mut columns = panel.as_chunks::<ROWS>().0.iter().zip(token);
    while let Some((weights, x)) = columns.next() {
        for (sum, weight) in even.iter_mut().zip(weights) {
            *sum = weight.mul_add(*x, *sum);
        }
        if let Some((weights, x)) = columns.next() {
            for (sum, weight) in odd.iter_mut().zip(weights) {
                *sum = weight.mul_add(*x, *sum);
            }
        }
    }
    for ((out, even), odd) in out.0.iter_mut().zip(even).zip(odd) {
        *out = even + odd;
    }
}
