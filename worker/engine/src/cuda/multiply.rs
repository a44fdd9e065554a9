//! Products of matrices: what is made of their input, and how a grid shares them out.

use super::arguments as args;
use super::device::{Address, Grid};
use super::pack::Form;
use super::pass::{Pass, ROW_THREADS};

/// Most warps that share the columns of a matrix out.
const RUNS: u32 = 8;
/// Fewest blocks of columns that are worth a warp.
const RUN_BLOCKS: u32 = 8;

/// A matrix on the device.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeviceMatrix {
    pub form: Form,
    pub matrix: Address,
    pub scales: Address,
    pub rows: u32,
    pub columns: u32,
    pub blocks: u32,
    pub factor: f32,
    /// All that a product reads of it.
    pub bytes: u64,
}

/// What was made of an input for a multiplication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prepared {
    Levels,
    Halves { f16: bool },
}

impl Pass<'_> {
    /// The input in the form that the matrix is multiplied with.
    fn prepare(&mut self, matrix: &DeviceMatrix, input: Address, tokens: u32) {
        let f16 = matrix.form == Form::Float16;
        let wanted = match matrix.form {
            Form::Floats => return,
            form if form.is_levels() => Prepared::Levels,
            _ => Prepared::Halves { f16 },
        };
        if self.prepared == Some((input, wanted)) {
            return;
        }
        let (width, blocks) = (matrix.columns, matrix.blocks);
        match wanted {
            Prepared::Levels => {
                let levels = args::Levels {
                    x: input,
                    levels: self.space.levels,
                    scales: self.space.level_scales,
                    width,
                    blocks,
                };
                let grid = Grid::wide(blocks.div_ceil(ROW_THREADS / 32), tokens, ROW_THREADS);
                self.launch("levels", grid, &levels);
            }
            Prepared::Halves { f16 } => {
                let halves = args::Halves {
                    x: input,
                    out: self.space.halves,
                    scales: self.space.halves_scales,
                    width,
                    blocks,
                    f16: f16.into(),
                    padding: 0,
                };
                self.launch("halves", Grid::of(tokens, ROW_THREADS), &halves);
            }
        }
        self.prepared = Some((input, wanted));
    }

    /// `out = matrix input`.
    pub(super) fn multiply(
        &mut self,
        matrix: &DeviceMatrix,
        input: Address,
        out: Address,
        tokens: u32,
    ) {
        if tokens == 0 {
            return;
        }
        self.prepare(matrix, input, tokens);
        let (rows, columns) = (matrix.rows, matrix.columns);
        if matrix.form == Form::Floats {
            let floats = args::Floats { matrix: matrix.matrix, input, out, rows, columns };
            let grid = Grid::wide(rows.div_ceil(ROW_THREADS / 32), tokens, ROW_THREADS);
            return self.launch("floats", grid, &floats);
        }
        let levels = matrix.form.is_levels();
        let space = self.space;
        // How columns are shared out depends on the matrix alone, so that a token's products do.
        let warps = (matrix.blocks / RUN_BLOCKS).clamp(1, RUNS);
        let arguments = args::Multiply {
            matrix: matrix.matrix,
            scales: matrix.scales,
            input: if levels { space.levels } else { space.halves },
            input_scales: if levels { space.level_scales } else { space.halves_scales },
            out,
            rows,
            tokens,
            blocks: matrix.blocks,
            run: matrix.blocks.div_ceil(warps).next_multiple_of(2),
            factor: matrix.factor,
            padding: 0,
        };
        let tiles = match tokens {
            0..=8 => 1,
            9..=32 => 4,
            _ => 8,
        };
        let mut grid = Grid::wide(rows.div_ceil(16), tokens.div_ceil(8 * tiles), warps * 32);
        grid.shared_bytes = warps * tiles * 4 * 32 * 4;
        self.launch(matrix.form.kernel(tiles), grid, &arguments);
    }
}
