//! Kernels written once for all tiers: plain loops over lanes that the compiler vectorises. They are inlined into each
//! tier's wrapper and so compiled with its instructions.

use super::super::rows::{LevelRows, QuantRow};
use crate::quant::{self, GROUP, Unpacked};
use ollamamax_gguf::GgmlType;

/// Lanes of the sums: fixed, so that the order of additions is the same on every tier.
const LANES: usize = 16;

#[inline(always)]
pub(super) fn unpack_levels(kind: GgmlType, row: &[u8], out: &mut LevelRows, index: usize) {
    let widths = out.widths;
    let levels = &mut out.levels[index * widths.elements..][..widths.elements];
    let minimum = &mut out.minima[index * widths.groups..][..widths.groups];
    let scale = &mut out.spread[..widths.groups];
    quant::unpack_levels(kind, row, Unpacked { levels, scale, minimum });
    let scales = &mut out.scales[index * widths.scales..][..widths.scales];
    for (four, scale) in scales.as_chunks_mut::<4>().0.iter_mut().zip(&out.spread) {
        *four = [*scale; 4];
    }
}

/// Runs of 32: `scale = max |x| / 127`.
#[inline(always)]
pub(super) fn quantise(row: &[f32], out: &mut QuantRow) {
    let runs = row.as_chunks::<32>().0;
    let elements = out.elements.as_chunks_mut::<32>().0;
    let scales = out.scales.as_chunks_mut::<8>().0;
    let sums = out.sums.as_chunks_mut::<2>().0;
    for (((run, elements), scales), sums) in runs.iter().zip(elements).zip(scales).zip(sums) {
        let mut most = [0.0f32; LANES];
        for part in run.as_chunks::<LANES>().0 {
            for (most, value) in most.iter_mut().zip(part) {
                *most = if value.abs() > *most { value.abs() } else { *most };
            }
        }
        let most = most.iter().fold(0.0f32, |a, &b| if b > a { b } else { a });
        let scale = most / 127.0;
        let inverse = if most > 0.0 { 127.0 / most } else { 0.0 };
        let mut rounded = [0i32; 32];
        for (rounded, value) in rounded.iter_mut().zip(run) {
            // Adding 1.5 * 2^23 rounds to the nearest integer, which is then in the low bits.
            *rounded = (value * inverse + 12_582_912.0).to_bits() as i32 - 0x4b40_0000;
        }
        for (element, rounded) in elements.iter_mut().zip(&rounded) {
            *element = *rounded as i8;
        }
        *scales = [scale; 8];
        for (sum, group) in sums.iter_mut().zip(rounded.as_chunks::<GROUP>().0) {
            *sum = scale * group.iter().sum::<i32>() as f32;
        }
    }
}

#[inline(always)]
pub(super) fn norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let mut squares = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (square, value) in squares.iter_mut().zip(chunk) {
            *square += value * value;
        }
    }
    for (square, value) in squares.iter_mut().zip(rest) {
        *square += value * value;
    }
    let mean = tree_sum(squares) / x.len() as f32;
    let factor = 1.0 / (mean + epsilon).sqrt();
    for ((out, value), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = value * factor * weight;
    }
}

#[inline(always)]
pub(super) fn swiglu(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
    }
}

#[inline(always)]
pub(super) fn softmax(scores: &mut [f32]) -> f32 {
    let most = scores.iter().fold(f32::MIN, |a, &b| if b > a { b } else { a });
    let mut sums = [0.0f32; LANES];
    let (chunks, rest) = scores.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (sum, score) in sums.iter_mut().zip(chunk) {
            *score = exp(*score - most);
            *sum += *score;
        }
    }
    for (sum, score) in sums.iter_mut().zip(rest) {
        *score = exp(*score - most);
        *sum += *score;
    }
    tree_sum(sums)
}

/// Halves are added until one is left.
#[inline(always)]
pub(super) fn tree_sum(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// `e^x` to within two units in the last place, without branches: 2^n times a polynomial on [-ln2/2, ln2/2].
/// Coefficients: Cephes `expf`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 0.166_666_66;
    p = p * r + 0.5;
    p = p * r * r + r + 1.0;
    let power = (shifted.to_bits() as i32 - 0x4b40_0000 + 127) << 23;
    p * f32::from_bits(power as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere() {
        for i in -8_700..=8_800 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 4e-7, "exp({x}) = {}", exp(x));
        }
        assert!(exp(-1e30) < 1e-37 && exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn quantised_activations_are_within_half_a_step() {
        let row: Vec<f32> = (0..96).map(|i| (i as f32 * 0.7).sin() * (1 + i / 32) as f32).collect();
        let mut out = QuantRow::default();
        out.resize(super::super::super::rows::QuantWidths::of(96));
        quantise(&row, &mut out);
        for (i, value) in row.iter().enumerate() {
            let scale = out.scales[i / 4];
            assert!((value - scale * f32::from(out.elements[i])).abs() <= scale * 0.5001);
        }
        let sum: f32 = out.elements[16..32].iter().map(|&e| f32::from(e)).sum();
        assert!((out.sums[1] - sum * out.scales[4]).abs() < 1e-4);
        quantise(&[0.0; 96], &mut out);
        assert!(out.elements.iter().all(|&e| e == 0) && out.sums.iter().all(|&s| s == 0.0));
    }
}
