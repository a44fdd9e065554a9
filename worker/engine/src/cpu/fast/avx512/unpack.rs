//! What panels hold, in registers.

use super::super::kernels::{QUADS, Unpacked};
use super::super::panels::{Panel, ROWS};
use super::products::{FACTORS, HALF, HALF_FACTORS};
use std::arch::x86_64::*;

/// The quads of a block.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn levels_of<const BYTES: bool, const PLANES: usize>(
    panel: Panel<'_>,
    block: usize,
) -> [__m512i; QUADS] {
    let line = |at: usize| {
        // SAFETY: `check_panel` has seen all lines of all blocks; unaligned access is allowed.
        unsafe { _mm512_loadu_si512(panel.levels.as_ptr().add(64 * at).cast()) }
    };
    if BYTES {
        return std::array::from_fn(|quad| line(block * QUADS + quad));
    }
    let lines: [__m512i; QUADS / 2] = std::array::from_fn(|j| line(block * QUADS / 2 + j));
    let nibble = _mm512_set1_epi8(15);
    let mut levels: [__m512i; QUADS] = std::array::from_fn(|quad| {
        let line = lines[quad % 4];
        let line = if quad < 4 { line } else { _mm512_srli_epi16::<4>(line) };
        _mm512_and_si512(line, nibble)
    });
    for plane in 0..PLANES {
        let bit = _mm512_set1_epi8(16 << plane);
        for (quad, levels) in levels.iter_mut().enumerate() {
            let at = ((block * PLANES + plane) * QUADS + quad) * 8;
            // SAFETY: `check_panel` has seen all planes of all blocks.
            let mask = unsafe { panel.planes.as_ptr().add(at).cast::<u64>().read_unaligned() };
            *levels = _mm512_mask_add_epi8(*levels, mask, *levels, bit);
        }
    }
    levels
}

/// The scales of both halves of a block, equal or not, and its minimum.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn scales_of<const SCALES: u8, const MINIMA: bool>(
    panel: Panel<'_>,
    block: usize,
) -> ([__m512; 2], __m512) {
    const RUN: usize = 8;
    let base = panel.scales.as_ptr();
    // SAFETY: `check_panel` has seen the scales of all blocks in the layout that `Scales` describes; unaligned access is
    // allowed.
    unsafe {
        let halves = |at: usize| _mm512_cvtph_ps(_mm256_loadu_si256(base.add(at).cast()));
        let bytes = |at: usize| _mm_loadu_si128(base.add(at).cast());
        let unsigned = |at: usize| _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes(at)));
        let signed = |at: usize| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes(at)));
        match SCALES {
            HALF => {
                let at = block * 2 * ROWS * if MINIMA { 2 } else { 1 };
                let scale = halves(at);
                let minimum = if MINIMA { halves(at + 2 * ROWS) } else { _mm512_setzero_ps() };
                ([scale; 2], minimum)
            }
            FACTORS => {
                let at = block / RUN * (4 * ROWS + RUN * 2 * ROWS);
                let factors = at + 4 * ROWS + block % RUN * 2 * ROWS;
                let scale = _mm512_mul_ps(halves(at), unsigned(factors));
                let minimum = _mm512_mul_ps(halves(at + 2 * ROWS), unsigned(factors + ROWS));
                ([scale; 2], _mm512_sub_ps(_mm512_set1_ps(-0.0), minimum))
            }
            _ => {
                let at = block / RUN * (2 * ROWS + RUN * 2 * ROWS);
                let factors = at + 2 * ROWS + block % RUN * 2 * ROWS;
                let scale = halves(at);
                let scales = [
                    _mm512_mul_ps(scale, signed(factors)),
                    _mm512_mul_ps(scale, signed(factors + ROWS)),
                ];
                (scales, _mm512_setzero_ps())
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn unpack_levels<const BYTES: bool, const PLANES: usize>(
    panel: Panel<'_>,
    out: &mut Unpacked,
) {
    for block in 0..panel.blocks {
        for (quad, levels) in levels_of::<BYTES, PLANES>(panel, block).into_iter().enumerate() {
            // SAFETY: the wrapper has seen `QUADS` aligned quads per block.
            unsafe {
                _mm512_store_si512(
                    out.levels.as_mut_ptr().add(block * QUADS + quad).cast(),
                    levels,
                );
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn put_scales<const SCALES: u8, const MINIMA: bool>(
    panel: Panel<'_>,
    block: usize,
    out: &mut Unpacked,
) {
    let (scales, minimum) = scales_of::<SCALES, MINIMA>(panel, block);
    let parts = if SCALES == HALF_FACTORS { 2 } else { 1 };
    for part in 0..parts {
        let lanes = &mut out.scales[block * parts + part];
        // SAFETY: sixteen floats on a cache line of their own.
        unsafe { _mm512_store_ps(lanes.0.as_mut_ptr(), scales[part]) };
    }
    if MINIMA {
        // SAFETY: as above.
        unsafe { _mm512_store_ps(out.minima[block].0.as_mut_ptr(), minimum) };
    }
}
