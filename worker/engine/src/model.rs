//! The forward pass, as in the paper (Touvron et al., *LLaMA*, 2023, with grouped-query attention, Ainslie et al., 2023),
//! written over the steps that a numeric path provides. What families of
//! models add to it (see [`crate::architecture`]) happens inside the steps. Each step treats every token alone, so a token's result does not
//! depend on its neighbours.

use crate::weights::{Layer, Weights};

/// What [`Steps::add`] multiplies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From {
    /// What [`Steps::attend`] gave.
    Attended,
    /// What [`Steps::gate`] gave.
    Gated,
}

/// The steps of one pass over some tokens. What they read and write lies in the pass: the residual stream `x`, its normed
/// copy, queries, keys and values, and the inner parts of both halves of a layer.
pub(crate) trait Steps {
    /// How this path holds a matrix.
    type Matrix;

    /// `x = embedding of the tokens`, scaled where the model has it so.
    fn embed(&mut self);
    /// `normed = x / rms(x) * weight`.
    fn norm(&mut self, weight: &[f32]);
    /// `queries, keys, values = W normed + biases`; queries and keys normed head by head and rotated by position, keys and
    /// values stored.
    fn project(&mut self, index: usize, layer: &Layer<Self::Matrix>);
    /// `attended = softmax(queries keys) values`, over each token's own and earlier positions, as many as the layer sees.
    fn attend(&mut self, index: usize);
    /// `gated = activation(W_gate normed) * (W_up normed)`.
    fn gate(&mut self, gate: &Self::Matrix, up: &Self::Matrix);
    /// `x = x + W from`, the product normed first where the layer has a norm for it.
    fn add(&mut self, matrix: &Self::Matrix, from: From, norm: Option<&[f32]>);
}

/// Runs the tokens of a pass through all layers; afterwards `x` holds their last residuals and the cache their keys and
/// values.
pub(crate) fn forward<S: Steps>(weights: &Weights<S::Matrix>, pass: &mut S) {
    pass.embed();
    for (index, layer) in weights.layers.iter().enumerate() {
        pass.norm(&layer.attention_norm);
        pass.project(index, layer);
        pass.attend(index);
        pass.add(&layer.output, From::Attended, layer.extras.attention_post_norm.as_deref());

        pass.norm(&layer.feed_forward_norm);
        pass.gate(&layer.gate, &layer.up);
        pass.add(&layer.down, From::Gated, layer.extras.feed_forward_post_norm.as_deref());
    }
}
