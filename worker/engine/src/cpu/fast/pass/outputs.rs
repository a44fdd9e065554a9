//! What comes out of a pass: hidden states and logits of the tokens that somebody wants them of.

use super::{Activations, Input, Pass};
use crate::cpu::fast::multiply::Packed;
use crate::weights::Weights;

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
