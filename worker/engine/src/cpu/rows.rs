//! Rows of floats, one per token.

/// A table of rows.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    data: Vec<f32>,
    width: usize,
    count: usize,
}

impl Rows {
    /// An empty table of rows of `width`.
    pub fn new(width: usize) -> Self {
        Self { data: Vec::new(), width, count: 0 }
    }

    /// Makes it `count` rows; their contents are whatever was there, zeros at first.
    pub fn resize(&mut self, count: usize) {
        self.count = count;
        let needed = count * self.width;
        if self.data.len() < needed {
            self.data.resize(needed, 0.0);
        }
    }

    /// Takes the contents of all rows, one after another.
    pub fn fill(&mut self, contents: &[f32]) {
        let len = self.count * self.width;
        self.data[..len].copy_from_slice(&contents[..len]);
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn row(&self, index: usize) -> &[f32] {
        &self.data[index * self.width..][..self.width]
    }

    /// The contents of all rows, one after another.
    pub fn all_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.count * self.width]
    }

    /// All rows.
    pub fn rows_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.data.chunks_exact_mut(self.width).take(self.count)
    }
}
