//! The tier for AVX-512 with VNNI: 16 floats or 64 products of bytes at a time.
//!
//! Every function here may only run on a machine that has the tier's instructions: [`detect`] hands the table out after
//! looking, and the wrappers in it are reachable in no other way.

use super::super::rows::{LevelRows, QuantRow, Rows};
use super::{Kernels, TILE_ROWS, Tier, portable};
use crate::quant;
use ollamamax_gguf::GgmlType;
use std::arch::x86_64::*;

/// The kernels, if this machine can run them.
pub(super) fn detect() -> Option<Kernels> {
    let features = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    features.then_some(KERNELS)
}

/// Defines a function that is compiled for the tier, and under it a wrapper of the same name for the table.
macro_rules! tier {
    ($(fn $name:ident($($argument:ident: $type:ty),*) $(-> $out:ty)? $body:block)*) => {
        $(fn $name($($argument: $type),*) $(-> $out)? {
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
            fn inner($($argument: $type),*) $(-> $out)? $body
            // SAFETY: wrappers are reached only through the table that `detect` hands out when the machine has the tier.
            unsafe { inner($($argument),*) }
        })*
    };
}

const KERNELS: Kernels = Kernels {
    tier: Tier::Avx512,
    unpack_plain,
    unpack_levels,
    dot_plain,
    dot_levels,
    quantise,
    norm,
    swiglu,
    softmax,
    scores,
    mix,
    to_half,
};

tier! {
    fn unpack_plain(kind: GgmlType, row: &[u8], out: &mut [f32]) {
        quant::unpack_plain(kind, row, out, |levels, scale, minimum, out| {
            // SAFETY: sixteen levels and sixteen floats; unaligned access is allowed.
            let levels = unsafe { _mm_loadu_si128(levels.as_ptr().cast()) };
            let levels = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(levels));
            let values = _mm512_fmadd_ps(levels, _mm512_set1_ps(scale), _mm512_set1_ps(minimum));
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), values) };
        });
    }
    fn unpack_levels(kind: GgmlType, row: &[u8], out: &mut LevelRows, index: usize) {
        portable::unpack_levels(kind, row, out, index)
    }
    fn quantise(row: &[f32], out: &mut QuantRow) {
        portable::quantise(row, out)
    }
    fn norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
        portable::norm(x, weight, epsilon, out)
    }
    fn swiglu(gate: &mut [f32], up: &[f32]) {
        portable::swiglu(gate, up)
    }
    fn softmax(scores: &mut [f32]) -> f32 {
        portable::softmax(scores)
    }
    fn dot_plain(weights: &[f32], rows: usize, tokens: &Rows, out: &mut [f32]) {
        assert!(weights.len() >= rows * tokens.stride() && tokens.stride().is_multiple_of(Rows::PAD));
        let mut token = 0;
        while token < tokens.count() {
            let many = tokens.count() - token >= TOKENS;
            let mut row = 0;
            while row < rows {
                row += match (many, rows - row >= ROWS) {
                    (true, true) => plain_tile::<ROWS, TOKENS>(weights, row, tokens, token, out),
                    (true, false) => plain_tile::<1, TOKENS>(weights, row, tokens, token, out),
                    (false, true) => plain_tile::<ROWS, 1>(weights, row, tokens, token, out),
                    (false, false) => plain_tile::<1, 1>(weights, row, tokens, token, out),
                };
            }
            token += if many { TOKENS } else { 1 };
        }
    }
    fn dot_levels(weights: &LevelRows, rows: usize, tokens: &[QuantRow], out: &mut [f32]) {
        check_levels(weights, rows, tokens);
        let mut token = 0;
        while token < tokens.len() {
            let many = tokens.len() - token >= TOKENS;
            let mut row = 0;
            while row < rows {
                row += match (many, rows - row >= ROWS) {
                    (true, true) => levels_tile::<ROWS, TOKENS>(weights, row, tokens, token, out),
                    (true, false) => levels_tile::<1, TOKENS>(weights, row, tokens, token, out),
                    (false, true) => levels_tile::<ROWS, 1>(weights, row, tokens, token, out),
                    (false, false) => levels_tile::<1, 1>(weights, row, tokens, token, out),
                };
            }
            token += if many { TOKENS } else { 1 };
        }
    }
    fn scores(query: &[f32], keys: &[u16], scale: f32, scores: &mut [f32]) {
        let width = query.len();
        assert!(width.is_multiple_of(16) && keys.len() >= scores.len() * width);
        for (index, score) in scores.iter_mut().enumerate() {
            let key = &keys[index * width..][..width];
            *score = half_dot(query, key) * scale;
        }
    }
    fn mix(weights: &[f32], values: &[u16], mix: &mut [f32]) {
        let width = mix.len();
        assert!(width.is_multiple_of(16) && values.len() >= weights.len() * width);
        for at in (0..width).step_by(16) {
            mix_column(weights, values, width, at, mix);
        }
    }
    fn to_half(values: &[f32], out: &mut [u16]) {
        let (chunks, rest) = values.as_chunks::<8>();
        let (outs, out_rest) = out[..values.len()].as_chunks_mut::<8>();
        for (out, chunk) in outs.iter_mut().zip(chunks) {
            // SAFETY: both sides are eight elements; unaligned access is allowed.
            unsafe {
                let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(chunk.as_ptr()));
                _mm_storeu_si128(out.as_mut_ptr().cast(), half);
            }
        }
        for (out, value) in out_rest.iter_mut().zip(rest) {
            *out = half::f16::from_f32(*value).to_bits();
        }
    }
}

/// Fails loudly rather than reading past an end: the tiles use raw loads.
fn check_levels(weights: &LevelRows, rows: usize, tokens: &[QuantRow]) {
    let widths = weights.widths;
    assert!(weights.levels.len() >= rows * widths.elements);
    assert!(weights.scales.len() >= rows * widths.scales && widths.scales * 4 == widths.elements);
    assert!(weights.minima.len() >= rows * widths.groups && widths.groups.is_multiple_of(16));
    assert!(widths.elements.is_multiple_of(64));
    for token in tokens {
        assert!(token.elements.len() >= widths.elements && token.scales.len() >= widths.scales);
        assert!(token.sums.len() >= widths.groups);
    }
}

/// Weight rows and tokens of a full tile: 16 accumulators, and registers left for the operands.
const ROWS: usize = 4;
const TOKENS: usize = 4;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
fn plain_tile<const R: usize, const T: usize>(
    weights: &[f32],
    row: usize,
    tokens: &Rows,
    token: usize,
    out: &mut [f32],
) -> usize {
    let stride = tokens.stride();
    let w: [*const f32; R] = std::array::from_fn(|r| weights[(row + r) * stride..].as_ptr());
    let x: [*const f32; T] = std::array::from_fn(|t| tokens.padded(token + t).as_ptr());
    let mut sums = [[_mm512_setzero_ps(); T]; R];
    for at in (0..stride).step_by(16) {
        // SAFETY: every pointer is the start of `stride` floats, and `at + 16 <= stride`, a multiple of 32.
        let (w, x) = unsafe {
            (w.map(|w| _mm512_loadu_ps(w.add(at))), x.map(|x| _mm512_loadu_ps(x.add(at))))
        };
        for r in 0..R {
            for t in 0..T {
                sums[r][t] = _mm512_fmadd_ps(w[r], x[t], sums[r][t]);
            }
        }
    }
    for r in 0..R {
        for t in 0..T {
            out[(token + t) * TILE_ROWS + row + r] = sum_of(sums[r][t]);
        }
    }
    R
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
fn levels_tile<const R: usize, const T: usize>(
    weights: &LevelRows,
    row: usize,
    tokens: &[QuantRow],
    token: usize,
    out: &mut [f32],
) -> usize {
    let widths = weights.widths;
    let mut sums = [[_mm512_setzero_ps(); T]; R];
    for step in 0..widths.elements / 64 {
        // SAFETY: `check_levels` has seen that every row and token has `elements` bytes and a quarter as many scales.
        unsafe {
            let w: [__m512i; R] = std::array::from_fn(|r| {
                let at = (row + r) * widths.elements + step * 64;
                _mm512_loadu_si512(weights.levels.as_ptr().add(at).cast())
            });
            let w_scale: [__m512; R] = std::array::from_fn(|r| {
                _mm512_loadu_ps(weights.scales.as_ptr().add((row + r) * widths.scales + step * 16))
            });
            for t in 0..T {
                let x = &tokens[token + t];
                let x_scale = _mm512_loadu_ps(x.scales.as_ptr().add(step * 16));
                let x = _mm512_loadu_si512(x.elements.as_ptr().add(step * 64).cast());
                for r in 0..R {
                    let products = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w[r], x);
                    let scale = _mm512_mul_ps(w_scale[r], x_scale);
                    sums[r][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), scale, sums[r][t]);
                }
            }
        }
    }
    for step in 0..widths.groups / 16 {
        for r in 0..R {
            for t in 0..T {
                // SAFETY: `check_levels` has seen that every row and token has `groups` entries.
                let (minimum, sum) = unsafe {
                    let at = (row + r) * widths.groups + step * 16;
                    (
                        _mm512_loadu_ps(weights.minima.as_ptr().add(at)),
                        _mm512_loadu_ps(tokens[token + t].sums.as_ptr().add(step * 16)),
                    )
                };
                sums[r][t] = _mm512_fmadd_ps(minimum, sum, sums[r][t]);
            }
        }
    }
    for r in 0..R {
        for t in 0..T {
            out[(token + t) * TILE_ROWS + row + r] = sum_of(sums[r][t]);
        }
    }
    R
}

/// The sum of the lanes, halves first.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
fn sum_of(lanes: __m512) -> f32 {
    let eight = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps::<1>(lanes));
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
fn half_dot(query: &[f32], key: &[u16]) -> f32 {
    let mut sum = _mm512_setzero_ps();
    for (query, key) in query.as_chunks::<16>().0.iter().zip(key.as_chunks::<16>().0) {
        // SAFETY: both sides are sixteen elements; unaligned access is allowed.
        let (query, key) =
            unsafe { (_mm512_loadu_ps(query.as_ptr()), _mm256_loadu_si256(key.as_ptr().cast())) };
        sum = _mm512_fmadd_ps(query, _mm512_cvtph_ps(key), sum);
    }
    sum_of(sum)
}

/// Sixteen columns of the mix, in one register over all positions.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
fn mix_column(weights: &[f32], values: &[u16], width: usize, at: usize, mix: &mut [f32]) {
    let mix = &mut mix[at..at + 16];
    // SAFETY: sixteen floats.
    let mut sum = unsafe { _mm512_loadu_ps(mix.as_ptr()) };
    for (index, weight) in weights.iter().enumerate() {
        let value = &values[index * width + at..][..16];
        // SAFETY: sixteen halves; unaligned access is allowed.
        let value = unsafe { _mm256_loadu_si256(value.as_ptr().cast()) };
        sum = _mm512_fmadd_ps(_mm512_set1_ps(*weight), _mm512_cvtph_ps(value), sum);
    }
    // SAFETY: sixteen floats.
    unsafe { _mm512_storeu_ps(mix.as_mut_ptr(), sum) };
}
