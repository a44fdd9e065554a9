//! What comes out of a pass: hidden states and logits of the tokens that somebody wants them of, residuals for the next part of
//! the model, products for the other shards.

use super::{Activations, Fast, Input, Pass};
use crate::backend::Shards;
use crate::cpu::fast::multiply::{Packed, Products};
use crate::cpu::rows::Rows;
use crate::weights::Weights;

impl Fast {
    /// The residual of a token of the last run.
    pub fn residual(&self, token: usize) -> &[f32] {
        self.s.x.row(token)
    }
}

impl Pass<'_> {
    /// The last hidden states of some tokens; an encoder has normed them already.
    pub(super) fn hidden(&self, weights: &Weights<Packed>, wanted: &[usize]) -> Vec<Vec<f32>> {
        let of_token = |token: &usize| {
            let mut row = self.s.x.row(*token).to_vec();
            if !self.shape.architecture.encoder {
                let (norm, epsilon) = (self.kernels.norm, self.shape.norm_epsilon);
                norm(self.s.x.row(*token), &weights.norm, epsilon, &mut row);
            }
            row
        };
        wanted.iter().map(of_token).collect()
    }

    /// The logits after some tokens; an encoder has none.
    pub(super) fn logits(&mut self, weights: &Weights<Packed>, wanted: &[usize]) -> Vec<Vec<f32>> {
        let Some(head) = &weights.head else { return Vec::new() };
        let Activations { x, normed, .. } = &mut *self.s;
        normed.resize(wanted.len());
        for (row, token) in normed.rows_mut().zip(wanted) {
            (self.kernels.norm)(x.row(*token), &weights.norm, self.shape.norm_epsilon, row);
        }
        self.multiply(&[head], Input::Normed);
        let of_token = |token| {
            let mut logits = vec![0.0; head.rows()];
            self.s.products.gather(0, token, &mut logits);
            if self.shape.logits_cap > 0.0 {
                (self.kernels.cap)(&mut logits, self.shape.logits_cap);
            }
            logits
        };
        (0..wanted.len()).map(of_token).collect()
    }
}

/// Replaces the products by their sums over all shards.
pub(super) fn sum_products(
    shards: &mut dyn Shards,
    products: &mut Products,
    x: &Rows,
    failed: &mut Option<String>,
) {
    let mut rows = vec![0.0; x.count() * x.width()];
    for (token, row) in rows.chunks_exact_mut(x.width()).enumerate() {
        products.gather(0, token, row);
    }
    if failed.is_none() {
        *failed = shards.sum(&mut rows).err();
    }
    for (token, row) in rows.chunks_exact(x.width()).enumerate() {
        products.scatter(0, token, row);
    }
}
