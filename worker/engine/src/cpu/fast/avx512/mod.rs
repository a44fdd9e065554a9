//! The loops for AVX-512 with VNNI: a row of a panel is a lane, a byte product of four columns one instruction.
//!
//! Every function here may only run on a machine that has the tier's instructions: [`KERNELS`] is handed out after
//! looking, and the wrappers in it are reachable in no other way.

mod products;
mod scores;
mod unpack;

use super::attention::{self, Job};
use super::floats;
use super::kernels::{FastKernels, Lanes, QUADS, Unpacked, check, check_panel, check_unpacked};
use super::levels::{BLOCK_BYTES, Levels, MOST, Tile, TileMut, by_tile};
use super::panels::{COLUMNS, Format, Panel, Scales};
use crate::cpu::math;
use crate::rope;
use products::{FACTORS, HALF, HALF_FACTORS, few_tokens, many_tokens};
use scores::{mix, scores};
use std::arch::x86_64::*;
use unpack::{put_scales, unpack_levels};

pub(super) const KERNELS: FastKernels = FastKernels {
    put,
    few: super::levels::TOKENS - 1,
    multiply_few,
    unpack,
    multiply,
    multiply_floats,
    from_half,
    to_half,
    norm,
    norm_parts,
    swiglu,
    geglu,
    layer_norm,
    gelu,
    cap,
    rotate,
    rotate_halves,
    attend,
};

/// Defines a function that is compiled for the tier, and under it a wrapper of the same name for the table.
macro_rules! tier {
    ($(fn $name:ident($($argument:ident: $type:ty),*) $body:block)*) => {
        $(fn $name($($argument: $type),*) {
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
            fn inner($($argument: $type),*) $body
            // SAFETY: wrappers are reached only through the table that is handed out when the machine has the tier.
            unsafe { inner($($argument),*) }
        })*
    };
}

tier! {
    fn put(tile: &mut TileMut<'_>, token: usize, row: &[f32]) {
        tile.put(token, row, |values, out| round(values, out))
    }
    fn multiply_floats(panel: &[f32], token: &[f32], out: &mut Lanes) {
        floats::multiply(panel, token, out)
    }
    fn norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
        math::norm(x, weight, epsilon, out)
    }
    fn norm_parts(row: &mut [f32], weight: &[f32], epsilon: f32) {
        math::norm_parts(row, weight, epsilon)
    }
    fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], epsilon: f32) {
        math::layer_norm(x, weight, bias, epsilon)
    }
    fn gelu(row: &mut [f32], bias: &[f32]) {
        math::gelu(row, bias)
    }
    fn geglu(gate: &mut [f32], up: &[f32]) {
        math::geglu(gate, up)
    }
    fn cap(values: &mut [f32], most: f32) {
        math::cap(values, most)
    }
    fn rotate_halves(row: &mut [f32], width: usize, turns: &[rope::Turn]) {
        row.chunks_exact_mut(width).for_each(|head| rope::rotate_halves(head, turns))
    }
    fn swiglu(gate: &mut [f32], up: &[f32]) {
        math::swiglu(gate, up)
    }
    fn rotate(row: &mut [f32], width: usize, turns: &[rope::Turn]) {
        row.chunks_exact_mut(width).for_each(|head| rope::rotate(head, turns))
    }
    fn to_half(values: &[f32], out: &mut [u16]) {
        let (chunks, rest) = values.as_chunks::<16>();
        let (outs, out_rest) = out[..values.len()].as_chunks_mut::<16>();
        for (out, chunk) in outs.iter_mut().zip(chunks) {
            // SAFETY: both sides are sixteen elements; unaligned access is allowed.
            unsafe {
                let floats = _mm512_loadu_ps(chunk.as_ptr());
                let halves = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(floats);
                _mm256_storeu_si256(out.as_mut_ptr().cast(), halves);
            }
        }
        for (out, value) in out_rest.iter_mut().zip(rest) {
            *out = half::f16::from_f32(*value).to_bits();
        }
    }
    fn from_half(values: &[u16], out: &mut [f32]) {
        halves_into(values, out)
    }
    fn attend(job: Job<'_>) {
        attention::attend(
            job,
            |halves, out| halves_into(halves, out),
            |queries, keys, out| scores(queries, keys, out),
            |weights, values, parts| mix(weights, values, parts),
        )
    }
    fn multiply_few(format: Format, panel: Panel<'_>, tile: Tile<'_>, out: &mut [Lanes]) {
        check(panel.blocks, tile, out.len());
        check_panel(format, panel);
        match (format.bytes, format.planes, format.scales, format.minima) {
            (true, _, _, _) => few_tokens::<true, 0, HALF, false>(format, panel, tile, out),
            (_, 0, Scales::Half, false) => few_tokens::<false, 0, HALF, false>(format, panel, tile, out),
            (_, 0, Scales::Half, true) => few_tokens::<false, 0, HALF, true>(format, panel, tile, out),
            (_, _, Scales::Half, false) => few_tokens::<false, 1, HALF, false>(format, panel, tile, out),
            (_, _, Scales::Half, true) => few_tokens::<false, 1, HALF, true>(format, panel, tile, out),
            (_, 0, Scales::Factors, _) => few_tokens::<false, 0, FACTORS, true>(format, panel, tile, out),
            (_, _, Scales::Factors, _) => few_tokens::<false, 1, FACTORS, true>(format, panel, tile, out),
            (_, _, Scales::HalfFactors, _) => {
                few_tokens::<false, 2, HALF_FACTORS, false>(format, panel, tile, out)
            }
        }
    }
    fn unpack(format: Format, panel: Panel<'_>, out: &mut Unpacked) {
        check_panel(format, panel);
        assert!(out.levels.len() >= panel.blocks * QUADS);
        match (format.bytes, format.planes) {
            (true, _) => unpack_levels::<true, 0>(panel, out),
            (_, 0) => unpack_levels::<false, 0>(panel, out),
            (_, 1) => unpack_levels::<false, 1>(panel, out),
            _ => unpack_levels::<false, 2>(panel, out),
        }
        for block in 0..panel.blocks {
            match format.scales {
                Scales::Half if format.minima => put_scales::<HALF, true>(panel, block, out),
                Scales::Half => put_scales::<HALF, false>(panel, block, out),
                Scales::Factors => put_scales::<FACTORS, true>(panel, block, out),
                Scales::HalfFactors => put_scales::<HALF_FACTORS, false>(panel, block, out),
            }
        }
    }
    fn multiply(panel: &Unpacked, levels: &Levels, out: &mut [Lanes]) {
        check_unpacked(panel);
        for (tile, out) in by_tile(levels, out) {
            check(panel.blocks, tile, out.len());
            match (panel.halves(), panel.minima.is_empty()) {
                (true, _) => many_tokens::<true, false>(panel, tile, out),
                (false, true) => many_tokens::<false, false>(panel, tile, out),
                (false, false) => many_tokens::<false, true>(panel, tile, out),
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
fn halves_into(values: &[u16], out: &mut [f32]) {
    let (chunks, rest) = values.as_chunks::<16>();
    let (outs, out_rest) = out[..values.len()].as_chunks_mut::<16>();
    for (out, chunk) in outs.iter_mut().zip(chunks) {
        // SAFETY: both sides are sixteen elements; unaligned access is allowed.
        unsafe {
            let half = _mm256_loadu_si256(chunk.as_ptr().cast());
            _mm512_storeu_ps(out.as_mut_ptr(), _mm512_cvtph_ps(half));
        }
    }
    for (out, value) in out_rest.iter_mut().zip(rest) {
        *out = crate::quant::half_to_f32(*value);
    }
}

/// As [`levels::round`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
fn round(values: &[f32; COLUMNS], out: &mut [i8; BLOCK_BYTES]) -> (f32, [i32; 2]) {
    // SAFETY: twice sixteen floats.
    let halves = unsafe {
        [_mm512_loadu_ps(values.as_ptr()), _mm512_loadu_ps(values.as_ptr().add(COLUMNS / 2))]
    };
    // Of a value that is not a number and another one, these give the second.
    let most = _mm512_max_ps(_mm512_abs_ps(halves[0]), _mm512_setzero_ps());
    let most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(halves[1]), most));
    let inverse = if most > 1e-30 { MOST / most } else { 0.0 };
    let mut sums = [0; 2];
    for (half, values) in halves.into_iter().enumerate() {
        let value = _mm512_mul_ps(values, _mm512_set1_ps(inverse));
        let value = _mm512_max_ps(value, _mm512_set1_ps(-MOST));
        let value = _mm512_cvtps_epi32(_mm512_min_ps(value, _mm512_set1_ps(MOST)));
        let low = _mm512_srai_epi32::<24>(_mm512_slli_epi32::<24>(value));
        let high = _mm512_srai_epi32::<8>(_mm512_sub_epi32(value, low));
        // SAFETY: sixteen bytes of each plane.
        unsafe {
            let at = out.as_mut_ptr().add(half * COLUMNS / 2);
            _mm_storeu_si128(at.cast(), _mm512_cvtepi32_epi8(high));
            _mm_storeu_si128(at.add(COLUMNS).cast(), _mm512_cvtepi32_epi8(low));
        }
        sums[half] = _mm512_reduce_add_epi32(value);
    }
    (most / MOST, sums)
}
