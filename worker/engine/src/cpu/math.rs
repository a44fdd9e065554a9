//! Small functions over rows, written once for all instruction sets: plain loops over lanes that the compiler vectorises.
//! They are inlined into each tier's wrapper and so compiled with its instructions; none of them contracts a product and a
//! sum by itself, so their results are the same bits on every tier.

/// Lanes of the sums: fixed, so that the order of additions is the same on every tier.
pub(crate) const LANES: usize = 16;

/// `out = x / rms(x) * weight`.
#[inline(always)]
pub(crate) fn norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let factor = norm_factor(x, epsilon);
    for ((out, value), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = value * factor * weight;
    }
}

/// The same in place, for every part of a row that is as long as the weights.
#[inline(always)]
pub(crate) fn norm_parts(row: &mut [f32], weight: &[f32], epsilon: f32) {
    for part in row.chunks_exact_mut(weight.len()) {
        let factor = norm_factor(part, epsilon);
        for (value, weight) in part.iter_mut().zip(weight) {
            *value = *value * factor * weight;
        }
    }
}

/// `x = (x - mean) / deviation * weight + bias` (Ba, Kiros, Hinton, *Layer Normalization*, 2016).
#[inline(always)]
pub(crate) fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], epsilon: f32) {
    let mut sums = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value;
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        *sum += value;
    }
    let mean = tree_sum(sums) / x.len() as f32;
    x.iter_mut().for_each(|value| *value -= mean);
    let factor = norm_factor(x, epsilon);
    for ((value, weight), bias) in x.iter_mut().zip(weight).zip(bias) {
        *value = *value * factor * weight + bias;
    }
}

/// `1 / rms(x)`.
#[inline(always)]
fn norm_factor(x: &[f32], epsilon: f32) -> f32 {
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
    1.0 / (mean + epsilon).sqrt()
}

/// `gate = silu(gate) * up`.
#[inline(always)]
pub(crate) fn swiglu(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
    }
}

/// `gate = gelu(gate) * up`, by the approximation with tanh (Hendrycks and Gimpel, 2016), which is the same curve as
/// `x / (1 + e^-2u)`.
#[inline(always)]
pub(crate) fn geglu(gate: &mut [f32], up: &[f32]) {
    const ROOT_2_OVER_PI: f32 = 0.797_884_6;
    for (gate, up) in gate.iter_mut().zip(up) {
        let x = *gate;
        let u = ROOT_2_OVER_PI * (x + 0.044_715 * x * x * x);
        *gate = x / (1.0 + exp(-2.0 * u)) * up;
    }
}

/// `row = gelu(row + bias)`: `x` times the share of the normal distribution below it, its tail by Abramowitz and Stegun 7.1.26,
/// to within 2e-7.
#[inline(always)]
pub(crate) fn gelu(row: &mut [f32], bias: &[f32]) {
    for (value, bias) in row.iter_mut().zip(bias) {
        let x = *value + bias;
        let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
        let t = 1.0 / (1.0 + 0.327_591_1 * z);
        let mut p = 1.061_405_4;
        p = p * t - 1.453_152;
        p = p * t + 1.421_413_7;
        p = p * t - 0.284_496_74;
        p = p * t + 0.254_829_6;
        let tail = 0.5 * p * t * exp(-z * z);
        *value = x * if x < 0.0 { tail } else { 1.0 - tail };
    }
}

/// `value = most * tanh(value / most)`.
#[inline(always)]
pub(crate) fn cap(values: &mut [f32], most: f32) {
    for value in values {
        *value = most - 2.0 * most / (1.0 + exp(2.0 * (*value / most)));
    }
}

/// Scores into `exp(score - max)`; returns their sum.
#[inline(always)]
pub(crate) fn softmax(scores: &mut [f32]) -> f32 {
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
pub(crate) fn tree_sum(mut lanes: [f32; LANES]) -> f32 {
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
pub(crate) fn exp(x: f32) -> f32 {
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

    /// Against Simpson's rule over the density.
    #[test]
    fn gelu_is_close_everywhere() {
        let density = |x: f64| (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
        let (step, mut share) = (1.0 / 64.0, 0.0);
        for i in -1_024..1_024 {
            let x = f64::from(i) * step;
            let mut row = [x as f32 - 0.5];
            gelu(&mut row, &[0.5]);
            assert!((f64::from(row[0]) - x * share).abs() < 1e-6, "gelu({x}) = {}", row[0]);
            share += (density(x) + 4.0 * density(x + step / 2.0) + density(x + step)) * step / 6.0;
        }
    }

    #[test]
    fn exp_is_close_everywhere() {
        for i in -8_700..=8_800 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 4e-7, "exp({x}) = {}", exp(x));
        }
        assert!(exp(-1e30) < 1e-37 && exp(f32::NEG_INFINITY) < 1e-37);
    }
}
