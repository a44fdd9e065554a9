//! The tier for any machine, and the twin of the others.

use super::super::rows::{LevelRows, QuantRow, Rows};
use super::{Kernels, TILE_ROWS, Tier, portable};
use crate::quant::{self, half_to_f32};
use half::f16;
use ollamamax_gguf::GgmlType;

pub(super) const KERNELS: Kernels = Kernels {
    tier: Tier::Scalar,
    unpack_plain,
    unpack_levels: portable::unpack_levels,
    dot_plain,
    dot_levels,
    quantise: portable::quantise,
    norm: portable::norm,
    swiglu: portable::swiglu,
    softmax: portable::softmax,
    scores,
    mix,
    to_half,
};

fn unpack_plain(kind: GgmlType, row: &[u8], out: &mut [f32]) {
    quant::unpack_plain(kind, row, out, quant::expand);
}

/// Sum of products in sixteen lanes.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; 16];
    for (a, b) in a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    portable::tree_sum(lanes)
}

fn dot_plain(weights: &[f32], rows: usize, tokens: &Rows, out: &mut [f32]) {
    for token in 0..tokens.count() {
        let x = tokens.padded(token);
        for (row, weights) in weights.chunks_exact(tokens.stride()).take(rows).enumerate() {
            out[token * TILE_ROWS + row] = dot(weights, x);
        }
    }
}

fn dot_levels(weights: &LevelRows, rows: usize, tokens: &[QuantRow], out: &mut [f32]) {
    let widths = weights.widths;
    for (token, x) in tokens.iter().enumerate() {
        for row in 0..rows {
            let levels = &weights.levels[row * widths.elements..][..widths.elements];
            let scales = &weights.scales[row * widths.scales..][..widths.scales];
            let minima = &weights.minima[row * widths.groups..][..widths.groups];
            let mut sum = 0.0;
            let groups = levels.as_chunks::<16>().0.iter().zip(x.elements.as_chunks::<16>().0);
            for (group, (levels, elements)) in groups.enumerate() {
                let products =
                    levels.iter().zip(elements).map(|(&l, &e)| i32::from(l) * i32::from(e));
                let products = products.sum::<i32>() as f32;
                sum += products * (scales[4 * group] * x.scales[4 * group]);
            }
            sum += minima.iter().zip(&x.sums).map(|(m, s)| m * s).sum::<f32>();
            out[token * TILE_ROWS + row] = sum;
        }
    }
}

fn scores(query: &[f32], keys: &[u16], scale: f32, scores: &mut [f32]) {
    for (score, key) in scores.iter_mut().zip(keys.chunks_exact(query.len())) {
        let mut lanes = [0.0; 16];
        for (query, key) in query.as_chunks::<16>().0.iter().zip(key.as_chunks::<16>().0) {
            for ((lane, query), key) in lanes.iter_mut().zip(query).zip(key) {
                *lane += query * half_to_f32(*key);
            }
        }
        *score = portable::tree_sum(lanes) * scale;
    }
}

fn mix(weights: &[f32], values: &[u16], mix: &mut [f32]) {
    for (weight, value) in weights.iter().zip(values.chunks_exact(mix.len())) {
        for (mix, value) in mix.iter_mut().zip(value) {
            *mix += weight * half_to_f32(*value);
        }
    }
}

fn to_half(values: &[f32], out: &mut [u16]) {
    for (out, value) in out.iter_mut().zip(values) {
        *out = f16::from_f32(*value).to_bits();
    }
}
