//! The loops for any machine, and the twin of the others.

use super::kernels::{FastKernels, Lanes, QUADS, Unpacked, check, check_panel, check_unpacked};
use super::levels::{BLOCK_BYTES, Levels, Tile, TileMut, by_tile};
use super::panels::{COLUMNS, Format, Panel, ROWS, Scales};
use super::{attention, floats, levels};
use crate::cpu::math;
use crate::quant::half_to_f32;
use crate::rope;

pub(super) const KERNELS: FastKernels = FastKernels {
    put,
    few: 2,
    multiply_few,
    unpack,
    multiply,
    multiply_floats: floats::multiply,
    from_half,
    to_half,
    norm: math::norm,
    norm_parts: math::norm_parts,
    swiglu: math::swiglu,
    geglu: math::geglu,
    layer_norm: math::layer_norm,
    gelu: math::gelu,
    cap: math::cap,
    rotate,
    rotate_halves,
    attend: attention::attend_portable,
};

fn put(tile: &mut TileMut<'_>, token: usize, row: &[f32]) {
    tile.put(token, row, levels::round);
}

fn rotate(row: &mut [f32], width: usize, turns: &[rope::Turn]) {
    row.chunks_exact_mut(width).for_each(|head| rope::rotate(head, turns));
}

fn rotate_halves(row: &mut [f32], width: usize, turns: &[rope::Turn]) {
    row.chunks_exact_mut(width).for_each(|head| rope::rotate_halves(head, turns));
}

fn to_half(values: &[f32], out: &mut [u16]) {
    for (out, value) in out.iter_mut().zip(values) {
        *out = half::f16::from_f32(*value).to_bits();
    }
}

fn multiply_few(format: Format, panel: Panel<'_>, tile: Tile<'_>, out: &mut [Lanes]) {
    let mut unpacked = Unpacked::default();
    unpacked.resize(format, panel.blocks);
    unpack(format, panel, &mut unpacked);
    multiply_tile(&unpacked, tile, out);
}

/// Inlined into tiers that have nothing better.
#[inline(always)]
pub(super) fn unpack(format: Format, panel: Panel<'_>, out: &mut Unpacked) {
    check_panel(format, panel);
    let bytes = panel.levels.as_chunks::<{ 4 * ROWS }>().0;
    if format.bytes {
        for (quad, bytes) in out.levels.iter_mut().zip(bytes) {
            quad.0 = *bytes;
        }
    } else {
        for (quads, bytes) in
            out.levels.as_chunks_mut::<QUADS>().0.iter_mut().zip(bytes.as_chunks::<4>().0)
        {
            let (low, high) = quads.split_at_mut(4);
            for ((low, high), bytes) in low.iter_mut().zip(high).zip(bytes) {
                low.0 = bytes.map(|byte| byte & 15);
                high.0 = bytes.map(|byte| byte >> 4);
            }
        }
    }
    for plane in 0..format.planes {
        let planes = panel.planes.chunks_exact(format.plane_bytes());
        for (quads, planes) in out.levels.as_chunks_mut::<QUADS>().0.iter_mut().zip(planes) {
            let masks = &planes[plane * ROWS * COLUMNS / 8..];
            for (quad, mask) in quads.iter_mut().zip(masks.as_chunks::<8>().0) {
                let mask = u64::from_le_bytes(*mask);
                for (i, level) in quad.0.iter_mut().enumerate() {
                    *level |= ((mask >> i) as u8 & 1) << (4 + plane);
                }
            }
        }
    }
    unpack_scales(format, panel.scales, out);
}

#[inline(always)]
fn halves(bytes: &[u8]) -> [f32; ROWS] {
    let (pairs, _) = bytes[..2 * ROWS].as_chunks::<2>();
    std::array::from_fn(|row| half_to_f32(u16::from_le_bytes(pairs[row])))
}

#[inline(always)]
fn unpack_scales(format: Format, scales: &[u8], out: &mut Unpacked) {
    let runs = scales.chunks_exact(format.scale_bytes());
    match format.scales {
        Scales::Half => {
            for (block, run) in runs.take(out.blocks).enumerate() {
                out.scales[block].0 = halves(run);
                if format.minima {
                    out.minima[block].0 = halves(&run[2 * ROWS..]);
                }
            }
        }
        Scales::Factors => {
            let blocks = out.scales.chunks_mut(format.scale_blocks());
            let blocks = blocks.zip(out.minima.chunks_mut(format.scale_blocks()));
            for (run, (scales, minima)) in runs.zip(blocks) {
                let (scale, minimum) = (halves(run), halves(&run[2 * ROWS..]));
                let factors = run[4 * ROWS..].chunks_exact(2 * ROWS);
                for ((out, low), factors) in scales.iter_mut().zip(minima).zip(factors) {
                    for row in 0..ROWS {
                        out.0[row] = scale[row] * f32::from(factors[row]);
                        low.0[row] = -(minimum[row] * f32::from(factors[ROWS + row]));
                    }
                }
            }
        }
        Scales::HalfFactors => {
            for (run, scales) in runs.zip(out.scales.chunks_mut(2 * format.scale_blocks())) {
                let scale = halves(run);
                let factors = run[2 * ROWS..].chunks_exact(ROWS);
                for (out, factors) in scales.iter_mut().zip(factors) {
                    for row in 0..ROWS {
                        out.0[row] = scale[row] * f32::from(factors[row] as i8);
                    }
                }
            }
        }
    }
}

fn multiply(panel: &Unpacked, levels: &Levels, out: &mut [Lanes]) {
    by_tile(levels, out).for_each(|(tile, out)| multiply_tile(panel, tile, out));
}

fn multiply_tile(panel: &Unpacked, tile: Tile<'_>, out: &mut [Lanes]) {
    check(panel.blocks, tile, out.len());
    check_unpacked(panel);
    let halves = if panel.halves() { 2 } else { 1 };
    for (token, out) in out.iter_mut().enumerate() {
        let mut sums = [0.0f32; ROWS];
        for block in 0..panel.blocks {
            let at = block * tile.width + token;
            let x = &tile.bytes[at * BLOCK_BYTES..][..BLOCK_BYTES];
            let quads = &panel.levels[block * QUADS..][..QUADS];
            for half in 0..halves {
                let mut integers = [0i32; ROWS];
                let part = QUADS / halves;
                for (quad, levels) in quads.iter().enumerate().skip(half * part).take(part) {
                    for (row, integer) in integers.iter_mut().enumerate() {
                        for i in 0..4 {
                            let column = 4 * quad + i;
                            let value = 256 * i32::from(x[column]) + i32::from(x[COLUMNS + column]);
                            *integer += i32::from(levels.0[4 * row + i]) * value;
                        }
                    }
                }
                let count = |half: usize| tile.counts[(2 * block + half) * tile.width + token];
                let count = if halves == 2 { count(half) } else { count(0) + count(1) };
                let offset = if panel.offset_log2 > 0 { count << panel.offset_log2 } else { 0 };
                let scales = &panel.scales[block * halves + half].0;
                for ((sum, integer), scale) in sums.iter_mut().zip(integers).zip(scales) {
                    let scale = scale * tile.scales[at];
                    *sum = ((integer + offset) as f32).mul_add(scale, *sum);
                }
            }
            if let Some(minima) = panel.minima.get(block) {
                for (sum, minimum) in sums.iter_mut().zip(minima.0) {
                    *sum = minimum.mul_add(tile.sums[at], *sum);
                }
            }
        }
        out.0 = sums;
    }
}

pub(super) fn from_half(values: &[u16], out: &mut [f32]) {
    for (out, value) in out.iter_mut().zip(values) {
        *out = half_to_f32(*value);
    }
}
