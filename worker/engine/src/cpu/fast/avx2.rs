//! The loops for AVX2, FMA and F16C. There is no product of bytes that cannot overflow, so both sides are widened to sixteen
//! bits, where the two planes of an activation are one number again.
//!
//! Every function here may only run on a machine that has the tier's instructions: [`KERNELS`] is handed out after
//! looking, and the wrappers in it are reachable in no other way.

use super::attention::{self, Job};
use super::kernels::{FastKernels, Lanes, QUADS, Unpacked, check, check_unpacked};
use super::levels::{BLOCK_BYTES, Levels, Tile, TileMut, by_tile};
use super::panels::{COLUMNS, Format, Panel};
use super::{floats, levels, portable};
use crate::cpu::math;
use crate::rope;
use std::arch::x86_64::*;

pub(super) const KERNELS: FastKernels = FastKernels {
    put,
    few: 2,
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
            #[target_feature(enable = "avx2,fma,f16c")]
            fn inner($($argument: $type),*) $body
            // SAFETY: wrappers are reached only through the table that is handed out when the machine has the tier.
            unsafe { inner($($argument),*) }
        })*
    };
}

tier! {
    fn put(tile: &mut TileMut<'_>, token: usize, row: &[f32]) {
        tile.put(token, row, |values, out| levels::round(values, out))
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
    fn geglu(gate: &mut [f32], up: &[f32]) {
        math::geglu(gate, up)
    }
    fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], epsilon: f32) {
        math::layer_norm(x, weight, bias, epsilon)
    }
    fn gelu(row: &mut [f32], bias: &[f32]) {
        math::gelu(row, bias)
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
        let (chunks, rest) = values.as_chunks::<8>();
        let (outs, out_rest) = out[..values.len()].as_chunks_mut::<8>();
        for (out, chunk) in outs.iter_mut().zip(chunks) {
            // SAFETY: both sides are eight elements; unaligned access is allowed.
            unsafe {
                let floats = _mm256_loadu_ps(chunk.as_ptr());
                let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(floats);
                _mm_storeu_si128(out.as_mut_ptr().cast(), halves);
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
            |queries, keys, out| attention::scores(queries, keys, out),
            |weights, values, parts| attention::mix(weights, values, parts),
        )
    }
    fn unpack(format: Format, panel: Panel<'_>, out: &mut Unpacked) {
        portable::unpack(format, panel, out)
    }
    fn multiply_few(format: Format, panel: Panel<'_>, tile: Tile<'_>, out: &mut [Lanes]) {
        let mut unpacked = Unpacked::default();
        unpacked.resize(format, panel.blocks);
        portable::unpack(format, panel, &mut unpacked);
        many(&unpacked, tile, out)
    }
    fn multiply(panel: &Unpacked, levels: &Levels, out: &mut [Lanes]) {
        for (tile, out) in by_tile(levels, out) {
            many(panel, tile, out);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn many(panel: &Unpacked, tile: Tile<'_>, out: &mut [Lanes]) {
    check(panel.blocks, tile, out.len());
    check_unpacked(panel);
    for (token, out) in out.iter_mut().enumerate() {
        match (panel.halves(), panel.minima.is_empty()) {
            (true, _) => one::<true, false>(panel, tile, token, out),
            (false, true) => one::<false, false>(panel, tile, token, out),
            (false, false) => one::<false, true>(panel, tile, token, out),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn one<const HALVES: bool, const MINIMA: bool>(
    panel: &Unpacked,
    tile: Tile<'_>,
    token: usize,
    out: &mut Lanes,
) {
    let mut sums = [_mm256_setzero_ps(); 2];
    let (parts, quads) = if HALVES { (2, QUADS / 2) } else { (1, QUADS) };
    for block in 0..panel.blocks {
        let at = block * tile.width + token;
        // SAFETY: `check` has seen 64 bytes, a scale, a sum and two counts for every block and token of the tile, and
        // `check_unpacked` the quads, scales and minima of every block.
        unsafe {
            let x = widened(tile.bytes.as_ptr().add(at * BLOCK_BYTES));
            let x_scale = _mm256_set1_ps(*tile.scales.get_unchecked(at));
            for part in 0..parts {
                let mut integers = [_mm256_setzero_si256(); 4];
                for quad in part * quads..(part + 1) * quads {
                    let levels = panel.levels.as_ptr().add(block * QUADS + quad).cast::<__m128i>();
                    let x =
                        _mm256_set1_epi64x(x.as_ptr().add(quad * 4).cast::<i64>().read_unaligned());
                    for (four, integers) in integers.iter_mut().enumerate() {
                        let levels = _mm256_cvtepu8_epi16(_mm_load_si128(levels.add(four)));
                        *integers = _mm256_add_epi32(*integers, _mm256_madd_epi16(levels, x));
                    }
                }
                let counts = tile.counts.as_ptr().add(2 * block * tile.width + token);
                let count = match (MINIMA, HALVES) {
                    (true, _) => 0,
                    (_, true) => *counts.add(part * tile.width) << panel.offset_log2,
                    _ => (*counts + *counts.add(tile.width)) << panel.offset_log2,
                };
                let scales = panel.scales.as_ptr().add(block * parts + part).cast::<f32>();
                for (eight, sum) in sums.iter_mut().enumerate() {
                    let pairs = _mm256_hadd_epi32(integers[2 * eight], integers[2 * eight + 1]);
                    let rows = _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs);
                    let rows = _mm256_add_epi32(rows, _mm256_set1_epi32(count));
                    let scale = _mm256_mul_ps(_mm256_load_ps(scales.add(8 * eight)), x_scale);
                    *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(rows), scale, *sum);
                }
            }
            if MINIMA {
                let minima = panel.minima.as_ptr().add(block).cast::<f32>();
                let x_sum = _mm256_set1_ps(*tile.sums.get_unchecked(at));
                for (eight, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm256_fmadd_ps(_mm256_load_ps(minima.add(8 * eight)), x_sum, *sum);
                }
            }
        }
    }
    for (out, sum) in out.0.as_chunks_mut::<8>().0.iter_mut().zip(sums) {
        // SAFETY: eight floats.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), sum) };
    }
}

/// A token's block as numbers of sixteen bits.
///
/// # Safety
/// There must be 64 bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn widened(block: *const i8) -> [i16; COLUMNS] {
    let mut out = [0i16; COLUMNS];
    for half in [0, 16] {
        // SAFETY: as promised by the caller; `out` has room for both halves.
        unsafe {
            let high = _mm256_cvtepi8_epi16(_mm_loadu_si128(block.add(half).cast()));
            let low = _mm256_cvtepi8_epi16(_mm_loadu_si128(block.add(COLUMNS + half).cast()));
            let whole = _mm256_add_epi16(_mm256_slli_epi16::<8>(high), low);
            _mm256_storeu_si256(out.as_mut_ptr().add(half).cast(), whole);
        }
    }
    out
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn halves_into(values: &[u16], out: &mut [f32]) {
    let (chunks, rest) = values.as_chunks::<8>();
    let (outs, out_rest) = out[..values.len()].as_chunks_mut::<8>();
    for (out, chunk) in outs.iter_mut().zip(chunks) {
        // SAFETY: both sides are eight elements; unaligned access is allowed.
        unsafe {
            let half = _mm_loadu_si128(chunk.as_ptr().cast());
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(half));
        }
    }
    for (out, value) in out_rest.iter_mut().zip(rest) {
        *out = crate::quant::half_to_f32(*value);
    }
}
