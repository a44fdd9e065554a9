//! The scales that Q4_K and Q5_K share: eight pairs of six-bit scale and minimum in twelve bytes.
//!
//! Pairs 0..4 lie in the low six bits of bytes 0..4 (scales) and 4..8 (minima); pairs 4..8 have their low halves in bytes
//! 8..12 and their two high bits on top of the first eight bytes.

use super::{nearest, range};

/// The eight scales and minima.
#[inline(always)]
pub(crate) fn unpack(bytes: &[u8]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut minima) = ([0; 8], [0; 8]);
    for i in 0..4 {
        scales[i] = bytes[i] & 63;
        minima[i] = bytes[i + 4] & 63;
        scales[i + 4] = bytes[i + 8] & 15 | bytes[i] >> 6 << 4;
        minima[i + 4] = bytes[i + 8] >> 4 | bytes[i + 4] >> 6 << 4;
    }
    (scales, minima)
}

fn pack(scales: &[u8; 8], minima: &[u8; 8], bytes: &mut [u8]) {
    for i in 0..4 {
        bytes[i] = scales[i] | scales[i + 4] >> 4 << 6;
        bytes[i + 4] = minima[i] | minima[i + 4] >> 4 << 6;
        bytes[i + 8] = scales[i + 4] & 15 | (minima[i + 4] & 15) << 4;
    }
}

/// Packs the head of a block (f16 scale, f16 minimum, twelve bytes) and returns the levels up to `most`.
pub(super) fn pack_head(values: &[f32], most: u8, block: &mut [u8]) -> [u8; 256] {
    let mut wanted = [(0.0f32, 0.0f32); 8];
    for (wanted, run) in wanted.iter_mut().zip(values.chunks_exact(32)) {
        let (low, high) = range(run);
        // The stored minimum is subtracted and not negative: a run above zero starts at zero.
        let low = low.min(0.0);
        *wanted = ((high - low).max(0.0) / f32::from(most), -low);
    }
    let top = |pick: fn(&(f32, f32)) -> f32| wanted.iter().map(pick).fold(0.0, f32::max) / 63.0;
    let scale = super::put_half(block, 0, top(|w| w.0));
    let minimum = super::put_half(block, 2, top(|w| w.1));
    let scales = wanted.map(|w| nearest(w.0, scale, 0.0, 63));
    let minima = wanted.map(|w| nearest(w.1, minimum, 0.0, 63));
    pack(&scales, &minima, &mut block[4..16]);
    let mut levels = [0; 256];
    for (i, (level, value)) in levels.iter_mut().zip(values).enumerate() {
        let (scale, minimum) =
            (scale * f32::from(scales[i / 32]), minimum * f32::from(minima[i / 32]));
        *level = nearest(*value, scale, -minimum, most);
    }
    levels
}

/// Spreads the eight pairs over the sixteen groups.
#[inline(always)]
pub(super) fn spread(block: &[u8], scale: &mut [f32], minimum: &mut [f32]) {
    let (d, m) = (super::half_at(block, 0), super::half_at(block, 2));
    let (scales, minima) = unpack(&block[4..16]);
    for i in 0..8 {
        let (s, m) = (d * f32::from(scales[i]), -(m * f32::from(minima[i])));
        scale[2 * i] = s;
        scale[2 * i + 1] = s;
        minimum[2 * i] = m;
        minimum[2 * i + 1] = m;
    }
}
