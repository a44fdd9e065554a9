//! Rows of a tensor as floats, in their new order, with what an adapter adds.

use crate::bytes::ReadAt;
use crate::error::{ImportError, Quote};
use crate::family::Order;
use crate::model::{Model, Source, Tensor};
use crate::safetensors::Element;
use half::{bf16, f16};

/// What an adapter adds to a matrix: `scale * B * A`, with `A` of `rank` rows as wide as the matrix and `B` of as many rows as it
/// has, each of `rank`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Delta {
    pub a: Vec<f32>,
    pub b: Vec<f32>,
    pub rank: usize,
    pub scale: f32,
    /// In which order the rows of `B` are taken.
    pub order: Order,
}

impl Element {
    /// Bytes of one.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}

/// Values of a file as floats; the first that is no number is an error.
pub(crate) fn values(
    tensor: &str,
    (name, file): &(String, std::sync::Arc<dyn ReadAt>),
    at: u64,
    count: usize,
    element: Element,
    out: &mut Vec<f32>,
) -> Result<(), ImportError> {
    let mut bytes = vec![0; count * element.bytes() as usize];
    let read = file.read_at(at, &mut bytes);
    read.map_err(|source| ImportError::Read { file: Quote::of(name), source })?;
    let first = out.len();
    match element {
        Element::F32 => out.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
        Element::F16 => {
            out.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()));
        }
        Element::BF16 => {
            out.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()));
        }
    }
    match out[first..].iter().find(|value| !value.is_finite()) {
        Some(&found) => Err(ImportError::NotFinite { tensor: Quote::of(tensor), found }),
        None => Ok(()),
    }
}

impl Model {
    /// Rows `first..last` of a tensor.
    pub(crate) fn rows(
        &self,
        tensor: &Tensor,
        first: u64,
        last: u64,
    ) -> Result<Vec<f32>, ImportError> {
        let width = tensor.dims[0] as usize;
        let count = (last - first) as usize * width;
        let mut out = Vec::with_capacity(count);
        match &tensor.source {
            Source::Values(all) => out.extend(&all[first as usize * width..last as usize * width]),
            Source::File { file, start, element } => {
                let file = &self.files[*file];
                let at = |row: u64| start + row * width as u64 * element.bytes();
                if tensor.order == Order::AsTheyLie {
                    values(&tensor.name, file, at(first), count, *element, &mut out)?;
                } else {
                    // A vector's rows are its values.
                    for row in first..last {
                        let from = tensor.order.of(row, tensor.rows());
                        values(&tensor.name, file, at(from), width, *element, &mut out)?;
                    }
                }
            }
        }
        if let Some(delta) = &tensor.delta {
            delta.add(first, tensor.rows(), width, &mut out);
        }
        Ok(out)
    }
}

impl Delta {
    /// Adds to rows of which the first is `first`.
    fn add(&self, first: u64, rows: u64, width: usize, values: &mut [f32]) {
        for (row, values) in (first..).zip(values.chunks_exact_mut(width)) {
            let from = self.order.of(row, rows) as usize * self.rank;
            let factors = &self.b[from..from + self.rank];
            for (factor, a) in factors.iter().zip(self.a.chunks_exact(width)) {
                let factor = factor * self.scale;
                for (value, a) in values.iter_mut().zip(a) {
                    *value += factor * a;
                }
            }
        }
    }
}
