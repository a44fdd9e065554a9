//! The forward pass, as in the paper (Touvron et al., *LLaMA*, 2023, with grouped-query attention, Ainslie et al., 2023).
//!
//! Shapes: `x` is tokens x width; queries tokens x (heads * head width); keys and values tokens x (kv heads * head width).

use crate::cpu::ops::Ops;
use crate::cpu::rows::Rows;
use crate::shape::ModelShape;
use crate::weights::Weights;

/// What a pass writes between its steps; kept from pass to pass.
#[derive(Debug)]
pub(crate) struct Activations {
    /// The residual stream.
    pub x: Rows,
    pub normed: Rows,
    queries: Rows,
    keys: Rows,
    values: Rows,
    attended: Rows,
    gate: Rows,
    up: Rows,
    delta: Rows,
}

impl Activations {
    pub fn new(shape: &ModelShape) -> Self {
        let width = shape.width as usize;
        let heads = |heads: u32| heads as usize * shape.head_width as usize;
        Self {
            x: Rows::new(width),
            normed: Rows::new(width),
            queries: Rows::new(heads(shape.heads)),
            keys: Rows::new(heads(shape.kv_heads)),
            values: Rows::new(heads(shape.kv_heads)),
            attended: Rows::new(heads(shape.heads)),
            gate: Rows::new(shape.feed_forward as usize),
            up: Rows::new(shape.feed_forward as usize),
            delta: Rows::new(width),
        }
    }

    fn resize(&mut self, tokens: usize) {
        let Self { x, normed, queries, keys, values, attended, gate, up, delta } = self;
        for rows in [x, normed, queries, keys, values, attended, gate, up, delta] {
            rows.resize(tokens);
        }
    }
}

/// Runs the tokens of `ops` through all layers; afterwards `s.x` holds their last residuals and the cache their keys
/// and values.
pub(crate) fn forward(weights: &Weights, ops: &mut Ops<'_>, s: &mut Activations) {
    s.resize(ops.places.len());
    ops.embed(&weights.embedding, &mut s.x);
    for (index, layer) in weights.layers.iter().enumerate() {
        ops.norm(&s.x, &layer.attention_norm, &mut s.normed);
        ops.multiply(
            &s.normed,
            [
                (&layer.query, &mut s.queries),
                (&layer.key, &mut s.keys),
                (&layer.value, &mut s.values),
            ],
        );
        ops.rotate(&mut s.queries);
        ops.rotate(&mut s.keys);
        ops.store(index, &s.keys, &s.values);
        ops.attend(index, &s.queries, &mut s.attended);
        ops.multiply(&s.attended, [(&layer.output, &mut s.delta)]);
        ops.add(&mut s.x, &s.delta);

        ops.norm(&s.x, &layer.feed_forward_norm, &mut s.normed);
        ops.multiply(&s.normed, [(&layer.gate, &mut s.gate), (&layer.up, &mut s.up)]);
        ops.swiglu(&mut s.gate, &s.up);
        ops.multiply(&s.gate, [(&layer.down, &mut s.delta)]);
        ops.add(&mut s.x, &s.delta);
    }
}

/// The logits of some rows of the residual stream, gathered into `x`.
pub(crate) fn logits(
    weights: &Weights,
    ops: &mut Ops<'_>,
    x: &Rows,
    normed: &mut Rows,
) -> Vec<Vec<f32>> {
    normed.resize(x.count());
    ops.norm(x, &weights.norm, normed);
    let mut logits = vec![vec![0.0; weights.head.rows]; x.count()];
    ops.multiply_into(normed, &weights.head, &mut logits);
    logits
}
