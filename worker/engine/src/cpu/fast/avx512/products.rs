//! Panels times tokens: as they are stored for a few tokens, unpacked for many.

use super::super::kernels::{Lanes, QUADS, Unpacked};
use super::super::levels::{BLOCK_BYTES, Tile};
use super::super::panels::{COLUMNS, Format, Panel};
use super::unpack::{levels_of, scales_of};
use std::arch::x86_64::*;

pub(super) const HALF: u8 = 0;
pub(super) const FACTORS: u8 = 1;
pub(super) const HALF_FACTORS: u8 = 2;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn few_tokens<
    const BYTES: bool,
    const PLANES: usize,
    const SCALES: u8,
    const MINIMA: bool,
>(
    format: Format,
    panel: Panel<'_>,
    tile: Tile<'_>,
    out: &mut [Lanes],
) {
    let mut first = 0;
    while first < out.len() {
        first += match out.len() - first {
            1 => few::<1, BYTES, PLANES, SCALES, MINIMA>(format, panel, tile, first, out),
            2 => few::<2, BYTES, PLANES, SCALES, MINIMA>(format, panel, tile, first, out),
            3 => few::<3, BYTES, PLANES, SCALES, MINIMA>(format, panel, tile, first, out),
            4 => few::<4, BYTES, PLANES, SCALES, MINIMA>(format, panel, tile, first, out),
            5 => few::<5, BYTES, PLANES, SCALES, MINIMA>(format, panel, tile, first, out),
            6 => few::<6, BYTES, PLANES, SCALES, MINIMA>(format, panel, tile, first, out),
            7 => few::<7, BYTES, PLANES, SCALES, MINIMA>(format, panel, tile, first, out),
            _ => few::<WIDE, BYTES, PLANES, SCALES, MINIMA>(format, panel, tile, first, out),
        };
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
fn few<
    const T: usize,
    const BYTES: bool,
    const PLANES: usize,
    const SCALES: u8,
    const MINIMA: bool,
>(
    format: Format,
    panel: Panel<'_>,
    tile: Tile<'_>,
    first: usize,
    out: &mut [Lanes],
) -> usize {
    let mut sums = [_mm512_setzero_ps(); T];
    for block in 0..panel.blocks {
        fetch_ahead::<BYTES>(format, panel, block);
        let levels = levels_of::<BYTES, PLANES>(panel, block);
        let (scales, minimum) = scales_of::<SCALES, MINIMA>(panel, block);
        for (t, sum) in sums.iter_mut().enumerate() {
            let (token, offset) = (first + t, format.offset_log2);
            *sum = if SCALES == HALF_FACTORS {
                let half = add_half::<0>(&levels, scales[0], offset, tile, block, token, *sum);
                add_half::<1>(&levels, scales[1], offset, tile, block, token, half)
            } else {
                let mut integers =
                    [_mm512_setzero_si512(), start::<MINIMA>(offset, tile, block, token)];
                for (quad, levels) in levels.iter().enumerate() {
                    integers = add_quad(integers, *levels, tile, block, token, quad);
                }
                let sum = scaled(integers, scales[0], tile, block, token, *sum);
                if MINIMA { with_minimum(minimum, tile, block, token, sum) } else { sum }
            };
        }
    }
    for (out, sum) in out[first..].iter_mut().zip(sums) {
        // SAFETY: sixteen floats on a cache line of their own.
        unsafe { _mm512_store_ps(out.0.as_mut_ptr(), sum) };
    }
    T
}

/// Bytes of levels that are on their way while others are multiplied.
const AHEAD: usize = 4096;

/// Asks for what is needed some blocks later: panels are short, and the processor's own prefetcher begins anew with each.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn fetch_ahead<const BYTES: bool>(format: Format, panel: Panel<'_>, block: usize) {
    let lines = if BYTES { QUADS } else { QUADS / 2 };
    let levels = panel.levels.as_ptr().wrapping_add(block * 64 * lines + AHEAD);
    for line in 0..lines {
        _mm_prefetch::<_MM_HINT_T0>(levels.wrapping_add(64 * line).cast());
    }
    let scales = block / format.scale_blocks() * format.scale_bytes();
    let scales = panel.scales.as_ptr().wrapping_add(scales + panel.stride);
    _mm_prefetch::<_MM_HINT_T0>(scales.cast());
}

/// Tokens of a full tile of the loop below: two integer and one float accumulator each, and registers left for operands.
const WIDE: usize = 8;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn many_tokens<const HALVES: bool, const MINIMA: bool>(
    panel: &Unpacked,
    tile: Tile<'_>,
    out: &mut [Lanes],
) {
    let mut first = 0;
    while first < out.len() {
        first += match out.len() - first {
            WIDE.. => many::<WIDE, HALVES, MINIMA>(panel, tile, first, out),
            4.. => many::<4, HALVES, MINIMA>(panel, tile, first, out),
            2.. => many::<2, HALVES, MINIMA>(panel, tile, first, out),
            _ => many::<1, HALVES, MINIMA>(panel, tile, first, out),
        };
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn many<const T: usize, const HALVES: bool, const MINIMA: bool>(
    panel: &Unpacked,
    tile: Tile<'_>,
    first: usize,
    out: &mut [Lanes],
) -> usize {
    let mut sums = [_mm512_setzero_ps(); T];
    let (parts, quads) = if HALVES { (2, QUADS / 2) } else { (1, QUADS) };
    for block in 0..panel.blocks {
        for part in 0..parts {
            let mut integers = [[_mm512_setzero_si512(); 2]; T];
            for t in 0..T {
                integers[t][1] = if HALVES {
                    count(part, panel.offset_log2, tile, block, first + t)
                } else {
                    start::<MINIMA>(panel.offset_log2, tile, block, first + t)
                };
            }
            for quad in part * quads..(part + 1) * quads {
                // SAFETY: `check_unpacked` has seen `QUADS` aligned quads per block.
                let levels = unsafe { load_quad(panel, block * QUADS + quad) };
                for t in 0..T {
                    integers[t] = add_quad(integers[t], levels, tile, block, first + t, quad);
                }
            }
            // SAFETY: `check_unpacked` has seen a scale per part.
            let scale =
                unsafe { _mm512_load_ps(panel.scales.as_ptr().add(block * parts + part).cast()) };
            for t in 0..T {
                sums[t] = scaled(integers[t], scale, tile, block, first + t, sums[t]);
            }
        }
        if MINIMA {
            // SAFETY: `check_unpacked` has seen a minimum per block.
            let minimum = unsafe { _mm512_load_ps(panel.minima.as_ptr().add(block).cast()) };
            for t in 0..T {
                sums[t] = with_minimum(minimum, tile, block, first + t, sums[t]);
            }
        }
    }
    for t in 0..T {
        // SAFETY: sixteen floats on a cache line of their own.
        unsafe { _mm512_store_ps(out[first + t].0.as_mut_ptr(), sums[t]) };
    }
    T
}

/// # Safety
/// There must be more than `index` quads.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) unsafe fn load_quad(panel: &Unpacked, index: usize) -> __m512i {
    // SAFETY: as promised by the caller.
    unsafe { _mm512_load_si512(panel.levels.as_ptr().add(index).cast()) }
}

/// Adds the products of four columns to both planes' sums.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn add_quad(
    [high, low]: [__m512i; 2],
    levels: __m512i,
    tile: Tile<'_>,
    block: usize,
    token: usize,
    quad: usize,
) -> [__m512i; 2] {
    let at = (block * tile.width + token) * BLOCK_BYTES + 4 * quad;
    // SAFETY: `check` has seen 64 bytes for every block and token of the tile.
    let (x_high, x_low) = unsafe {
        let four = tile.bytes.as_ptr().add(at);
        (four.cast::<i32>().read_unaligned(), four.add(COLUMNS).cast::<i32>().read_unaligned())
    };
    [
        _mm512_dpbusd_epi32(high, levels, _mm512_set1_epi32(x_high)),
        _mm512_dpbusd_epi32(low, levels, _mm512_set1_epi32(x_low)),
    ]
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn add_half<const HALF: usize>(
    levels: &[__m512i; QUADS],
    scale: __m512,
    offset_log2: u32,
    tile: Tile<'_>,
    block: usize,
    token: usize,
    sum: __m512,
) -> __m512 {
    let mut integers = [_mm512_setzero_si512(), count(HALF, offset_log2, tile, block, token)];
    for quad in HALF * QUADS / 2..(HALF + 1) * QUADS / 2 {
        integers = add_quad(integers, levels[quad], tile, block, token, quad);
    }
    scaled(integers, scale, tile, block, token, sum)
}

/// What the offset takes off: the integers' sum is stored negated.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn count(
    half: usize,
    offset_log2: u32,
    tile: Tile<'_>,
    block: usize,
    token: usize,
) -> __m512i {
    // SAFETY: `check` has seen two counts for every block and token of the tile.
    let count = unsafe { *tile.counts.get_unchecked((2 * block + half) * tile.width + token) };
    _mm512_set1_epi32(count << offset_log2)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn start<const MINIMA: bool>(
    offset_log2: u32,
    tile: Tile<'_>,
    block: usize,
    token: usize,
) -> __m512i {
    if MINIMA {
        return _mm512_setzero_si512();
    }
    // SAFETY: `check` has seen two counts for every block and token of the tile.
    let counts = unsafe {
        let at = 2 * block * tile.width + token;
        tile.counts.get_unchecked(at) + tile.counts.get_unchecked(at + tile.width)
    };
    _mm512_set1_epi32(counts << offset_log2)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn scaled(
    [high, low]: [__m512i; 2],
    scale: __m512,
    tile: Tile<'_>,
    block: usize,
    token: usize,
    sum: __m512,
) -> __m512 {
    // SAFETY: `check` has seen a scale for every block and token of the tile.
    let x_scale = unsafe { *tile.scales.get_unchecked(block * tile.width + token) };
    let integers = _mm512_add_epi32(_mm512_slli_epi32::<8>(high), low);
    let scale = _mm512_mul_ps(scale, _mm512_set1_ps(x_scale));
    _mm512_fmadd_ps(_mm512_cvtepi32_ps(integers), scale, sum)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn with_minimum(
    minimum: __m512,
    tile: Tile<'_>,
    block: usize,
    token: usize,
    sum: __m512,
) -> __m512 {
    // SAFETY: `check` has seen a sum for every block and token of the tile.
    let x_sum = unsafe { *tile.sums.get_unchecked(block * tile.width + token) };
    _mm512_fmadd_ps(minimum, _mm512_set1_ps(x_sum), sum)
}
