//! The forward pass of models that continue a text, as in the paper (Touvron et al., *LLaMA*, 2023, with grouped-query
//! attention, Ainslie et al., 2023), and that of encoders (Devlin et al., *BERT*, 2018), both
//! written over the steps that a numeric path provides. What families of
//! models add to it (see [`crate::architecture`]) happens inside the steps. Each step treats every token alone, so a token's result does not
//! depend on its neighbours.

use crate::weights::{Entry, Layer, Weights};

/// What [`Steps::add`] multiplies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From {
    /// What [`Steps::attend`] gave.
    Attended,
    /// What [`Steps::gate`] gave.
    Gated,
}

/// What happens to a product before [`Steps::add`] adds it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Before<'a> {
    /// Nothing.
    Nothing,
    /// It is normed with this weight.
    Norm(&'a [f32]),
    /// This is added to it.
    Bias(&'a [f32]),
}

impl<'a> Before<'a> {
    fn norm(weight: Option<&'a Vec<f32>>) -> Self {
        weight.map_or(Self::Nothing, |weight| Self::Norm(weight))
    }

    fn bias(bias: Option<&'a Vec<f32>>) -> Self {
        bias.map_or(Self::Nothing, |bias| Self::Bias(bias))
    }
}

/// The steps of one pass over some tokens. What they read and write lies in the pass: the residual stream `x`, its normed
/// copy, queries, keys and values, and the inner parts of both halves of a layer.
pub(crate) trait Steps {
    /// How this path holds a matrix.
    type Matrix;

    /// `x` = what the part of the model before this one gave, or the embedding of the tokens, scaled where the model has it so; with type and position added, where there is an entry.
    fn embed(&mut self, entry: Option<&Entry>);
    /// `normed = x / rms(x) * weight`.
    fn norm(&mut self, weight: &[f32]);
    /// `x = normed = (x - mean(x)) / deviation(x) * weight + bias`.
    fn renorm(&mut self, weight: &[f32], bias: &[f32]);
    /// `queries, keys, values = W normed + biases`; queries and keys normed head by head and rotated by position, keys and
    /// values stored.
    fn project(&mut self, index: usize, layer: &Layer<Self::Matrix>);
    /// `attended = softmax(queries keys) values`, over the positions that each token sees, as many as the layer allows.
    fn attend(&mut self, index: usize);
    /// `gated = activation(W_gate normed) * (W_up normed)`; without a gate, `activation(W_up normed + bias)`.
    fn gate(&mut self, layer: &Layer<Self::Matrix>);
    /// `x = x + W from`. Where layers are split into shards, the product is the sum over all of them.
    fn add(&mut self, matrix: &Self::Matrix, from: From, before: Before<'_>);
}

/// Runs the tokens of a pass through all layers; afterwards `x` holds their last residuals and the cache their keys and
/// values.
pub(crate) fn forward<S: Steps>(weights: &Weights<S::Matrix>, pass: &mut S) {
    if let Some(entry) = &weights.entry {
        return encode(weights, entry, pass);
    }
    pass.embed(None);
    for (index, layer) in weights.layers.iter().enumerate() {
        pass.norm(&layer.attention_norm);
        pass.project(index, layer);
        pass.attend(index);
        let post_norm = Before::norm(layer.extras.attention_post_norm.as_ref());
        pass.add(&layer.output, From::Attended, post_norm);

        pass.norm(&layer.feed_forward_norm);
        pass.gate(layer);
        let post_norm = Before::norm(layer.extras.feed_forward_post_norm.as_ref());
        pass.add(&layer.down, From::Gated, post_norm);
    }
}

/// The same for an encoder and whole texts: norms stand after what they norm, and `x` ends as the hidden states. No layer reads
/// what another has stored, so the cache holds the keys and values of one.
fn encode<S: Steps>(weights: &Weights<S::Matrix>, entry: &Entry, pass: &mut S) {
    pass.embed(Some(entry));
    pass.renorm(&entry.norm_weight, &entry.norm_bias);
    for layer in &weights.layers {
        let extras = &layer.extras;
        pass.project(0, layer);
        pass.attend(0);
        pass.add(&layer.output, From::Attended, Before::bias(extras.output_bias.as_ref()));
        pass.renorm(&layer.attention_norm, &extras.attention_norm_bias);

        pass.gate(layer);
        pass.add(&layer.down, From::Gated, Before::bias(extras.down_bias.as_ref()));
        pass.renorm(&layer.feed_forward_norm, &extras.feed_forward_norm_bias);
    }
}
