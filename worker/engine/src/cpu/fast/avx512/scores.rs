//! Scores and mixes: keys and values are read once for several rows.

use super::super::attention::{self, HEAD};
use super::super::cache::POSITIONS;
use std::arch::x86_64::*;

/// As [`attention::scores`]: a block of keys is read once for several rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn scores(queries: &[f32], keys: &[f32], out: &mut [[f32; POSITIONS]]) {
    let stride = queries.len() / out.len();
    assert!(queries.len() == out.len() * stride && stride.is_multiple_of(4));
    assert!(keys.len() >= stride * POSITIONS);
    match out.len() {
        1 => scores_of::<1>(queries, stride, keys, out),
        2 => scores_of::<2>(queries, stride, keys, out),
        3 => scores_of::<3>(queries, stride, keys, out),
        4 => scores_of::<4>(queries, stride, keys, out),
        _ => debug_assert!(false, "at most {} rows", attention::ROWS),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn scores_of<const R: usize>(
    queries: &[f32],
    stride: usize,
    keys: &[f32],
    out: &mut [[f32; POSITIONS]],
) {
    let mut sums = [[_mm512_setzero_ps(); 4]; R];
    for at in (0..stride).step_by(4) {
        for i in 0..4 {
            // SAFETY: the wrapper has seen sixteen keys for every element, and a row of `stride` for every output.
            unsafe {
                let keys = _mm512_loadu_ps(keys.as_ptr().add((at + i) * POSITIONS));
                for r in 0..R {
                    let query = _mm512_set1_ps(*queries.get_unchecked(r * stride + at + i));
                    sums[r][i] = _mm512_fmadd_ps(query, keys, sums[r][i]);
                }
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        let sum = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
        // SAFETY: sixteen floats.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
    }
}

/// As [`attention::mix`]: a value is read once for several rows, and the mix of up to 32 elements stays in registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn mix(weights: &[[f32; POSITIONS]], values: &[f32], parts: &mut [f32]) {
    let len = parts.len() / weights.len();
    let width = len - HEAD;
    assert!(parts.len() == weights.len() * len && width.is_multiple_of(16));
    assert!(values.len() <= POSITIONS * width);
    match weights.len() {
        1 => mix_of::<1>(weights, values, width, parts),
        2 => mix_of::<2>(weights, values, width, parts),
        3 => mix_of::<3>(weights, values, width, parts),
        4 => mix_of::<4>(weights, values, width, parts),
        _ => debug_assert!(false, "at most {} rows", attention::ROWS),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn mix_of<const R: usize>(
    weights: &[[f32; POSITIONS]],
    values: &[f32],
    width: usize,
    parts: &mut [f32],
) {
    let mut at = 0;
    while at < width {
        at += if width - at >= 32 {
            mix_columns::<R, 2>(weights, values, width, at, parts)
        } else {
            mix_columns::<R, 1>(weights, values, width, at, parts)
        };
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn mix_columns<const R: usize, const C: usize>(
    weights: &[[f32; POSITIONS]],
    values: &[f32],
    width: usize,
    at: usize,
    parts: &mut [f32],
) -> usize {
    // SAFETY: the wrapper has seen `width` values for every position and a part with its head and `width` elements for
    // every row; `at + 16 * C <= width`.
    unsafe {
        let part = |r: usize, c: usize| r * (width + HEAD) + HEAD + at + 16 * c;
        let mut sums: [[__m512; C]; R] = std::array::from_fn(|r| {
            std::array::from_fn(|c| _mm512_loadu_ps(parts.as_ptr().add(part(r, c))))
        });
        for position in 0..values.len() / width {
            let value: [__m512; C] = std::array::from_fn(|c| {
                _mm512_loadu_ps(values.as_ptr().add(position * width + at + 16 * c))
            });
            for r in 0..R {
                let weight = _mm512_set1_ps(*weights.get_unchecked(r).get_unchecked(position));
                for c in 0..C {
                    sums[r][c] = _mm512_fmadd_ps(weight, value[c], sums[r][c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                _mm512_storeu_ps(parts.as_mut_ptr().add(part(r, c)), sums[r][c]);
            }
        }
    }
    16 * C
}
