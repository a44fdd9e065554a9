//! Weights times activations: where almost all of the time goes.
//!
//! Rows of one or several matrices that share an input are cut into units; threads claim units, unpack a few weight rows
//! into buffers of their own and multiply them with all tokens while they are in the nearest cache. On the *plain* path
//! both sides are floats; on the *quantised* path activations are rounded to eight bits per run of 32, and products and
//! their sums within a group are exact integers. Matrices of floats take the plain path always.

use super::kernels::{Kernels, TILE_ROWS};
use super::pool::Pool;
use super::rows::{LevelRows, QuantRow, QuantWidths, Rows};
use crate::quant;
use crate::weights::Matrix;

/// Units per thread: enough to even out a thread that was interrupted.
const UNITS_PER_THREAD: usize = 8;

/// Which numbers are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumericPath {
    /// Float activations: closest to the weights' exact result.
    Plain,
    /// Eight-bit activations with integer products: faster, off by a few tenths of a logit.
    Quantised,
}

/// A thread's buffers.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    plain: Vec<f32>,
    levels: LevelRows,
    tile: Vec<f32>,
    /// Attention scores of one head.
    pub scores: Vec<f32>,
    /// A query or a mix, padded.
    pub head: [Vec<f32>; 2],
}

/// One matrix and where its products go: one slice of `matrix.rows` per token.
pub(crate) struct Product<'a> {
    pub matrix: &'a Matrix,
    pub out: Vec<&'a mut [f32]>,
}

impl<'a> Product<'a> {
    pub fn new(matrix: &'a Matrix, out: &'a mut Rows) -> Self {
        Self { matrix, out: out.rows_mut().collect() }
    }
}

/// Some rows of a matrix and their places in the output, one slice per token.
struct Unit<'a> {
    matrix: &'a Matrix,
    first: usize,
    out: Vec<&'a mut [f32]>,
}

/// What multiplication needs besides its operands.
#[derive(Debug)]
pub(crate) struct Multiplier {
    pub kernels: Kernels,
    pub path: NumericPath,
    pub pool: Pool,
    pub scratch: Vec<Scratch>,
    quants: Vec<QuantRow>,
}

impl Multiplier {
    pub fn new(kernels: Kernels, path: NumericPath, pool: Pool) -> Self {
        let scratch = (0..pool.threads()).map(|_| Scratch::default()).collect();
        Self { kernels, path, pool, scratch, quants: Vec::new() }
    }

    /// All products of one input.
    pub fn multiply(&mut self, input: &Rows, products: Vec<Product<'_>>) {
        let in_levels =
            |matrix: &Matrix| self.path == NumericPath::Quantised && quant::is_blocks(matrix.kind);
        if products.iter().any(|product| in_levels(product.matrix)) {
            self.quantise(input);
        }
        let rows: usize = products.iter().map(|product| product.matrix.rows).sum();
        let unit_rows = rows.div_ceil(self.pool.threads() * UNITS_PER_THREAD);
        let mut units = cut(products, unit_rows.next_multiple_of(TILE_ROWS));
        let (kernels, quants) = (&self.kernels, &self.quants[..]);
        let path = self.path;
        self.pool.for_each(&mut self.scratch, &mut units, |_, unit, scratch| {
            if path == NumericPath::Quantised && quant::is_blocks(unit.matrix.kind) {
                unit.in_levels(kernels, &quants[..input.count()], scratch);
            } else {
                unit.in_floats(kernels, input, scratch);
            }
        });
    }

    fn quantise(&mut self, input: &Rows) {
        let count = input.count();
        if self.quants.len() < count {
            self.quants.resize(count, QuantRow::default());
        }
        let kernels = &self.kernels;
        self.pool.for_each(&mut self.scratch, &mut self.quants[..count], |token, out, _| {
            let row = input.row(token);
            out.resize(QuantWidths::of(row.len()));
            (kernels.quantise)(row, out);
        });
    }
}

/// Cuts every product into units of `unit_rows` rows.
fn cut(products: Vec<Product<'_>>, unit_rows: usize) -> Vec<Unit<'_>> {
    let mut units = Vec::new();
    for Product { matrix, mut out } in products {
        let mut first = 0;
        while first < matrix.rows {
            let rows = unit_rows.min(matrix.rows - first);
            let out = out.iter_mut().map(|rest| split_front(rest, rows)).collect();
            units.push(Unit { matrix, first, out });
            first += rows;
        }
    }
    units
}

/// Takes the first `len` elements off a slice.
fn split_front<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (front, tail) = std::mem::take(rest).split_at_mut(len);
    *rest = tail;
    front
}

impl Unit<'_> {
    fn rows(&self) -> usize {
        self.out.first().map_or(0, |out| out.len())
    }

    fn in_floats(&mut self, kernels: &Kernels, input: &Rows, scratch: &mut Scratch) {
        let stride = input.stride();
        scratch.plain.clear();
        scratch.plain.resize(TILE_ROWS * stride, 0.0);
        scratch.tile.resize(input.count() * TILE_ROWS, 0.0);
        for start in (0..self.rows()).step_by(TILE_ROWS) {
            let rows = TILE_ROWS.min(self.rows() - start);
            for (row, out) in scratch.plain.chunks_exact_mut(stride).take(rows).enumerate() {
                let bytes = self.matrix.row(self.first + start + row);
                (kernels.unpack_plain)(self.matrix.kind, bytes, &mut out[..self.matrix.columns]);
            }
            (kernels.dot_plain)(&scratch.plain, rows, input, &mut scratch.tile);
            self.scatter(start, rows, &scratch.tile);
        }
    }

    fn in_levels(&mut self, kernels: &Kernels, input: &[QuantRow], scratch: &mut Scratch) {
        scratch.levels.resize(TILE_ROWS, QuantWidths::of(self.matrix.columns));
        scratch.tile.resize(input.len() * TILE_ROWS, 0.0);
        for start in (0..self.rows()).step_by(TILE_ROWS) {
            let rows = TILE_ROWS.min(self.rows() - start);
            for row in 0..rows {
                let bytes = self.matrix.row(self.first + start + row);
                (kernels.unpack_levels)(self.matrix.kind, bytes, &mut scratch.levels, row);
            }
            (kernels.dot_levels)(&scratch.levels, rows, input, &mut scratch.tile);
            self.scatter(start, rows, &scratch.tile);
        }
    }

    fn scatter(&mut self, start: usize, rows: usize, tile: &[f32]) {
        for (out, tile) in self.out.iter_mut().zip(tile.chunks_exact(TILE_ROWS)) {
            out[start..start + rows].copy_from_slice(&tile[..rows]);
        }
    }
}
