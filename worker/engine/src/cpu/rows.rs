//! Tables of numbers that kernels read: rows padded so that no kernel has a remainder.

/// Rows of floats, one per token; each row is padded with zeros to a multiple of [`Rows::PAD`].
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    data: Vec<f32>,
    width: usize,
    stride: usize,
    count: usize,
}

impl Rows {
    /// Floats a kernel reads at a time, at most.
    pub const PAD: usize = 32;

    /// An empty table of rows of `width`.
    pub fn new(width: usize) -> Self {
        Self { data: Vec::new(), width, stride: width.next_multiple_of(Self::PAD), count: 0 }
    }

    /// Makes it `count` rows; their contents are whatever was there, the padding is zero.
    pub fn resize(&mut self, count: usize) {
        self.count = count;
        let needed = count * self.stride;
        if self.data.len() < needed {
            self.data.resize(needed, 0.0);
        }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn stride(&self) -> usize {
        self.stride
    }

    /// A row without its padding.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.data[index * self.stride..][..self.width]
    }

    /// A row with its padding.
    pub fn padded(&self, index: usize) -> &[f32] {
        &self.data[index * self.stride..][..self.stride]
    }

    /// All rows, without their padding.
    pub fn rows_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        let width = self.width;
        let rows = self.data.chunks_exact_mut(self.stride).take(self.count);
        rows.map(move |row| &mut row[..width])
    }
}

/// Widths of the three parts of a row in quantised form, for a row of some number of elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QuantWidths {
    /// Elements, padded to 64: what one wide dot product takes.
    pub elements: usize,
    /// Scales: one per four elements, each group's four times over, so that a vector of partial sums (each of four
    /// products) is scaled without a shuffle.
    pub scales: usize,
    /// Group sums or minima: one per 16 elements, padded to 16.
    pub groups: usize,
}

impl QuantWidths {
    pub fn of(columns: usize) -> Self {
        let elements = columns.next_multiple_of(64);
        let groups = columns.div_ceil(crate::quant::GROUP).next_multiple_of(16);
        Self { elements, scales: elements / 4, groups }
    }
}

/// A row of activations in eight bits.
#[derive(Clone, Debug, Default)]
pub(crate) struct QuantRow {
    /// `value / scale`, rounded: -127 to 127.
    pub elements: Vec<i8>,
    /// One scale per run of 32 elements, eight times over.
    pub scales: Vec<f32>,
    /// For each 16 elements `scale * sum(elements)`: what a weight's minimum is multiplied by.
    pub sums: Vec<f32>,
}

impl QuantRow {
    pub fn resize(&mut self, widths: QuantWidths) {
        self.elements.resize(widths.elements, 0);
        self.scales.resize(widths.scales, 0.0);
        self.sums.resize(widths.groups, 0.0);
    }
}

/// Some weight rows, unpacked into levels.
#[derive(Clone, Debug, Default)]
pub(crate) struct LevelRows {
    pub widths: QuantWidths,
    /// Levels, row after row.
    pub levels: Vec<u8>,
    /// Scales, each four times over, row after row.
    pub scales: Vec<f32>,
    /// Minima, row after row.
    pub minima: Vec<f32>,
    /// One row's scales before they are spread.
    pub spread: Vec<f32>,
}

impl LevelRows {
    /// Makes room for `rows` rows and clears the padding that an earlier, wider use may have left.
    pub fn resize(&mut self, rows: usize, widths: QuantWidths) {
        if self.widths != widths || self.levels.len() < rows * widths.elements {
            self.widths = widths;
            self.levels.clear();
            self.scales.clear();
            self.minima.clear();
            self.spread.clear();
            self.levels.resize(rows * widths.elements, 0);
            self.scales.resize(rows * widths.scales, 0.0);
            self.minima.resize(rows * widths.groups, 0.0);
            self.spread.resize(widths.groups, 0.0);
        }
    }
}
