//! The loops for AVX-512 with VNNI: a row of a panel is a lane, a byte product of four columns one instruction.
//!
//! Every function here may only run on a machine that has the tier's instructions: [`KERNELS`] is handed out after
//! looking, and the wrappers in it are reachable in no other way.

use super::attention::{self, Job};
use super::cache::POSITIONS;
use super::floats;
use super::kernels::{FastKernels, Lanes, QUADS, Unpacked, check, check_panel, check_unpacked};
use super::levels::{BLOCK_BYTES, Levels, MOST, Tile, TileMut, by_tile};
use super::panels::{COLUMNS, Format, Panel, ROWS, Scales};
use crate::cpu::{math, rope};
use std::arch::x86_64::*;

pub(super) const KERNELS: FastKernels = FastKernels {
    put,
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

const HALF: u8 = 0;
const FACTORS: u8 = 1;
const HALF_FACTORS: u8 = 2;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
fn few_tokens<const BYTES: bool, const PLANES: usize, const SCALES: u8, const MINIMA: bool>(
    format: Format,
    panel: Panel<'_>,
    tile: Tile<'_>,
    out: &mut [Lanes],
) {
    match out {
        [one] => few::<1, BYTES, PLANES, SCALES, MINIMA>(format, panel, tile, [one]),
        [one, two] => few::<2, BYTES, PLANES, SCALES, MINIMA>(format, panel, tile, [one, two]),
        _ => debug_assert!(out.is_empty()),
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
    out: [&mut Lanes; T],
) {
    let mut sums = [_mm512_setzero_ps(); T];
    for block in 0..panel.blocks {
        fetch_ahead::<BYTES>(format, panel, block);
        let levels = levels_of::<BYTES, PLANES>(panel, block);
        let (scales, minimum) = scales_of::<SCALES, MINIMA>(panel, block);
        for t in 0..T {
            sums[t] = if SCALES == HALF_FACTORS {
                let sum =
                    add_half::<0>(&levels, scales[0], format.offset_log2, tile, block, t, sums[t]);
                add_half::<1>(&levels, scales[1], format.offset_log2, tile, block, t, sum)
            } else {
                let mut integers =
                    [_mm512_setzero_si512(), start::<MINIMA>(format.offset_log2, tile, block, t)];
                for (quad, levels) in levels.iter().enumerate() {
                    integers = add_quad(integers, *levels, tile, block, t, quad);
                }
                let sum = scaled(integers, scales[0], tile, block, t, sums[t]);
                if MINIMA { with_minimum(minimum, tile, block, t, sum) } else { sum }
            };
        }
    }
    for (out, sum) in out.into_iter().zip(sums) {
        // SAFETY: sixteen floats on a cache line of their own.
        unsafe { _mm512_store_ps(out.0.as_mut_ptr(), sum) };
    }
}

/// Bytes of levels that are on their way while others are multiplied.
const AHEAD: usize = 4096;

/// Asks for what is needed some blocks later: panels are short, and the processor's own prefetcher begins anew with each.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
fn fetch_ahead<const BYTES: bool>(format: Format, panel: Panel<'_>, block: usize) {
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
fn many_tokens<const HALVES: bool, const MINIMA: bool>(
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
fn many<const T: usize, const HALVES: bool, const MINIMA: bool>(
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
unsafe fn load_quad(panel: &Unpacked, index: usize) -> __m512i {
    // SAFETY: as promised by the caller.
    unsafe { _mm512_load_si512(panel.levels.as_ptr().add(index).cast()) }
}

/// Adds the products of four columns to both planes' sums.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
fn add_quad(
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
fn add_half<const HALF: usize>(
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
fn count(half: usize, offset_log2: u32, tile: Tile<'_>, block: usize, token: usize) -> __m512i {
    // SAFETY: `check` has seen two counts for every block and token of the tile.
    let count = unsafe { *tile.counts.get_unchecked((2 * block + half) * tile.width + token) };
    _mm512_set1_epi32(count << offset_log2)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
fn start<const MINIMA: bool>(
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
fn scaled(
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
fn with_minimum(
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

/// The quads of a block.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
fn levels_of<const BYTES: bool, const PLANES: usize>(
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
fn scales_of<const SCALES: u8, const MINIMA: bool>(
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
fn unpack_levels<const BYTES: bool, const PLANES: usize>(panel: Panel<'_>, out: &mut Unpacked) {
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
fn put_scales<const SCALES: u8, const MINIMA: bool>(
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

/// As [`attention::scores`]: a block of keys is read once for several rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
fn scores(queries: &[f32], keys: &[f32], out: &mut [[f32; POSITIONS]]) {
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
fn scores_of<const R: usize>(
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
fn mix(weights: &[[f32; POSITIONS]], values: &[f32], parts: &mut [f32]) {
    let len = parts.len() / weights.len();
    let width = len - attention::HEAD;
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
fn mix_of<const R: usize>(
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
fn mix_columns<const R: usize, const C: usize>(
    weights: &[[f32; POSITIONS]],
    values: &[f32],
    width: usize,
    at: usize,
    parts: &mut [f32],
) -> usize {
    // SAFETY: the wrapper has seen `width` values for every position and a part with its head and `width` elements for
    // every row; `at + 16 * C <= width`.
    unsafe {
        let part =
            |r: usize, c: usize| r * (width + attention::HEAD) + attention::HEAD + at + 16 * c;
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
