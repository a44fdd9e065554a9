//! Weight formats: what the bytes of a tensor mean.
//!
//! Every block format of ggml is, after unpacking, the same thing: unsigned *levels* of up to eight bits, and for each
//! run of [`GROUP`] levels a scale and a minimum, so that `weight = scale * level + minimum`. A format file therefore holds
//! one unpacking into that form and, for synthetic models and tests, one packing; kernels know levels only.
//!
//! ```text
//! file bytes --unpack--> levels u8, scale f32, minimum f32 --+--> integer dot with 8-bit activations
//!                                                            `--> plain f32 row
//! ```
//!
//! Block layouts: ggml's `ggml-common.h` and `ggml-quants.c`. The plain row is exactly ggml's `dequantize_row_*`: all
//! products and sums involved fit a float's 24 bits, so the other order of terms rounds nothing differently.

pub(crate) mod k_scales;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod word;

use half::{bf16, f16};
use ollamamax_gguf::GgmlType;

/// Levels that share a scale and a minimum in the unpacked form.
pub(crate) const GROUP: usize = 16;
/// Elements of the largest block.
const BLOCK_MAX: usize = 256;

/// Where one block is unpacked to: `levels` elements, and `levels / GROUP` scales and minima.
pub(crate) struct Unpacked<'a> {
    /// The levels.
    pub levels: &'a mut [u8],
    /// Scale of each group.
    pub scale: &'a mut [f32],
    /// Minimum of each group.
    pub minimum: &'a mut [f32],
}

/// A block format.
trait Blocks {
    /// Elements per block, a multiple of [`GROUP`].
    const ELEMENTS: usize;
    /// Bytes per block.
    const BYTES: usize;
    /// Unpacks one block of [`Self::BYTES`].
    fn unpack(block: &[u8], out: Unpacked<'_>);
    /// Packs [`Self::ELEMENTS`] values into one block; plain rounding, no search for better scales.
    fn pack(values: &[f32], block: &mut [u8]);
}

/// Whether tensors of this type can be computed with.
pub fn is_supported(kind: GgmlType) -> bool {
    is_blocks(kind) || matches!(kind, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16)
}

/// Whether the type unpacks into levels.
pub(crate) fn is_blocks(kind: GgmlType) -> bool {
    use GgmlType::*;
    matches!(kind, Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q4_K | Q5_K | Q6_K)
}

/// Calls `$function::<Format>($arguments)` for a block type; other types do nothing (shapes are checked at load).
macro_rules! for_blocks {
    ($kind:expr, $function:ident, ($($argument:expr),*)) => {
        match $kind {
            GgmlType::Q4_0 => $function::<q4_0::Q4_0>($($argument),*),
            GgmlType::Q4_1 => $function::<q4_1::Q4_1>($($argument),*),
            GgmlType::Q5_0 => $function::<q5_0::Q5_0>($($argument),*),
            GgmlType::Q5_1 => $function::<q5_1::Q5_1>($($argument),*),
            GgmlType::Q8_0 => $function::<q8_0::Q8_0>($($argument),*),
            GgmlType::Q4_K => $function::<q4_k::Q4K>($($argument),*),
            GgmlType::Q5_K => $function::<q5_k::Q5K>($($argument),*),
            GgmlType::Q6_K => $function::<q6_k::Q6K>($($argument),*),
            _ => debug_assert!(false, "{} is no block format", $kind),
        }
    };
}

/// Unpacks a row of blocks into levels. Inlined into each tier's wrapper, so that it is compiled for its instructions.
#[inline(always)]
pub(crate) fn unpack_levels(kind: GgmlType, row: &[u8], out: Unpacked<'_>) {
    for_blocks!(kind, levels_of, (row, out));
}

/// What [`expand`] does, in a tier's instructions.
pub(crate) trait Expand: Fn(&[u8; GROUP], f32, f32, &mut [f32; GROUP]) {}
impl<F: Fn(&[u8; GROUP], f32, f32, &mut [f32; GROUP])> Expand for F {}

/// Unpacks a row of any supported type into floats.
#[inline(always)]
pub(crate) fn unpack_plain(kind: GgmlType, row: &[u8], out: &mut [f32], expand: impl Expand) {
    match kind {
        GgmlType::F32 => {
            for (value, bytes) in out.iter_mut().zip(row.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
        GgmlType::F16 => {
            for (value, bytes) in out.iter_mut().zip(row.as_chunks::<2>().0) {
                *value = half_to_f32(u16::from_le_bytes(*bytes));
            }
        }
        GgmlType::BF16 => {
            for (value, bytes) in out.iter_mut().zip(row.as_chunks::<2>().0) {
                *value = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
        }
        _ => for_blocks!(kind, plain_of, (row, out, expand)),
    }
}

/// Packs a row of values; its length is a multiple of the type's block.
pub fn pack(kind: GgmlType, values: &[f32]) -> Vec<u8> {
    match kind {
        GgmlType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        GgmlType::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        GgmlType::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        _ => {
            let mut out = Vec::new();
            for_blocks!(kind, pack_of, (values, &mut out));
            out
        }
    }
}

/// A row of any supported type as floats.
pub fn unpack(kind: GgmlType, row: &[u8]) -> Vec<f32> {
    let blocks = row.len() / kind.block_bytes() as usize;
    let mut out = vec![0.0; blocks * kind.block_elements() as usize];
    unpack_plain(kind, row, &mut out, expand);
    out
}

#[inline(always)]
fn levels_of<B: Blocks>(row: &[u8], out: Unpacked<'_>) {
    let groups = B::ELEMENTS / GROUP;
    let blocks = row.chunks_exact(B::BYTES).zip(out.levels.chunks_exact_mut(B::ELEMENTS));
    let scales = out.scale.chunks_exact_mut(groups).zip(out.minimum.chunks_exact_mut(groups));
    for ((block, levels), (scale, minimum)) in blocks.zip(scales) {
        one_at_a_time();
        B::unpack(block, Unpacked { levels, scale, minimum });
    }
}

#[inline(always)]
fn plain_of<B: Blocks>(row: &[u8], out: &mut [f32], expand: impl Expand) {
    let mut levels = [0; BLOCK_MAX];
    let mut scale = [0.0; BLOCK_MAX / GROUP];
    let mut minimum = [0.0; BLOCK_MAX / GROUP];
    let (levels, groups) = (&mut levels[..B::ELEMENTS], B::ELEMENTS / GROUP);
    for (block, out) in row.chunks_exact(B::BYTES).zip(out.chunks_exact_mut(B::ELEMENTS)) {
        one_at_a_time();
        let (scale, minimum) = (&mut scale[..groups], &mut minimum[..groups]);
        B::unpack(block, Unpacked { levels, scale, minimum });
        let values = out.as_chunks_mut::<GROUP>().0.iter_mut().zip(levels.as_chunks::<GROUP>().0);
        for ((values, levels), (scale, minimum)) in values.zip(scale.iter().zip(minimum.iter())) {
            expand(levels, *scale, *minimum, values);
        }
    }
}

/// `scale * level + minimum` for a group, on any machine.
#[inline(always)]
pub(crate) fn expand(levels: &[u8; GROUP], scale: f32, minimum: f32, out: &mut [f32; GROUP]) {
    for (out, level) in out.iter_mut().zip(levels) {
        *out = scale * f32::from(*level) + minimum;
    }
}

fn pack_of<B: Blocks>(values: &[f32], out: &mut Vec<u8>) {
    for values in values.chunks_exact(B::ELEMENTS) {
        let start = out.len();
        out.resize(start + B::BYTES, 0);
        B::pack(values, &mut out[start..]);
    }
}

/// An f16 as f32 without branches, so that loops over it vectorise on any machine; exact, subnormals and infinities
/// included. Method: Maratyszcza's FP16 library, `fp16_ieee_to_fp32_value`.
#[inline(always)]
pub(crate) fn half_to_f32(bits: u16) -> f32 {
    let word = u32::from(bits) << 16;
    let sign = word & 0x8000_0000;
    let twice = word.wrapping_add(word);
    let normal =
        f32::from_bits((twice >> 4).wrapping_add(0xE0 << 23)) * f32::from_bits(0x0780_0000);
    let subnormal = f32::from_bits((twice >> 17) | (126 << 23)) - 0.5;
    let value = if twice < (1 << 27) { subnormal } else { normal };
    f32::from_bits(sign | value.to_bits())
}

/// Keeps the compiler from vectorising a loop across blocks, with gathers that cost ten times as much as the arithmetic:
/// inside a block there is enough to do at once. Compiles to nothing else.
#[inline(always)]
fn one_at_a_time() {
    std::hint::black_box(());
}

/// The f16 at `at`.
#[inline(always)]
fn half_at(block: &[u8], at: usize) -> f32 {
    half_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// Stores an f16 at `at` and returns what was really stored.
fn put_half(block: &mut [u8], at: usize, value: f32) -> f32 {
    let stored = f16::from_f32(value);
    block[at..at + 2].copy_from_slice(&stored.to_le_bytes());
    stored.to_f32()
}

/// Smallest and largest value.
fn range(values: &[f32]) -> (f32, f32) {
    values.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)))
}

/// The level from 0 to `most` whose `scale * level + minimum` is nearest to `value`.
fn nearest(value: f32, scale: f32, minimum: f32, most: u8) -> u8 {
    if scale == 0.0 {
        return 0;
    }
    ((value - minimum) / scale).round().clamp(0.0, most.into()) as u8
}

/// The value of largest magnitude, with its sign.
fn extreme(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most: f32, &v| if v.abs() > most.abs() { v } else { most })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollamamax_gguf::GgmlType::*;

    #[test]
    fn half_conversion_is_exact_for_every_value() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (half_to_f32(bits), f16::from_bits(bits).to_f32());
            assert!(ours == theirs || (ours.is_nan() && theirs.is_nan()), "{bits:#06x}");
            assert!(ours.is_nan() || ours.is_sign_negative() == theirs.is_sign_negative());
        }
    }

    #[test]
    fn packing_loses_no_more_than_a_level() {
        let wave = |i: usize| (i as f32 * 0.37).sin() + 0.3 * (i as f32 * 0.11).cos();
        let values: Vec<f32> = (0..1024).map(wave).collect();
        let cases = [
            (F32, 0.0),
            (F16, 0.001),
            (BF16, 0.01),
            (Q8_0, 0.01),
            (Q6_K, 0.05),
            (Q5_0, 0.11),
            (Q5_1, 0.06),
            (Q5_K, 0.09),
            (Q4_0, 0.2),
            (Q4_1, 0.11),
            (Q4_K, 0.15),
        ];
        for (kind, bound) in cases {
            let bytes = pack(kind, &values);
            assert_eq!(Some(bytes.len() as u64), kind.row_bytes(1024));
            let worst = unpack(kind, &bytes)
                .iter()
                .zip(&values)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(worst <= bound, "{kind}: off by {worst}");
        }
    }

    /// The order of nibbles and high bits, against blocks computed by hand from ggml's definition.
    #[test]
    fn elements_lie_where_ggml_puts_them() {
        let mut q4_1 = vec![0x00, 0x3c, 0x00, 0x40]; // scale 1, minimum 2
        q4_1.extend((0..16u8).map(|i| i | (15 - i) << 4));
        let expected: Vec<f32> =
            (0..32).map(|i| if i < 16 { i as f32 + 2.0 } else { 33.0 - i as f32 }).collect();
        assert_eq!(unpack(Q4_1, &q4_1), expected);

        let mut q5_0 = vec![0x00, 0x3c, 0x01, 0x00, 0x02, 0x80]; // scale 1, high bits 0, 17 and 31
        q5_0.extend([0x21; 16]);
        let values = unpack(Q5_0, &q5_0);
        assert_eq!((values[0], values[1]), (17.0 - 16.0, 1.0 - 16.0));
        assert_eq!((values[16], values[17], values[31]), (-14.0, 2.0, 2.0));

        let mut q6_k = vec![0u8; 210];
        q6_k[0] = 0xf1; // element 0: low 1, element 64: low 15
        q6_k[32] = 0x52; // element 32: low 2, element 96: low 5
        q6_k[128] = 0b11_10_01_00; // high bits of elements 0, 32, 64, 96
        for (group, scale) in q6_k[192..208].iter_mut().enumerate() {
            *scale = group as u8 + 1;
        }
        q6_k[209] = 0x3c;
        let values = unpack(Q6_K, &q6_k);
        let expected = |level: f32, group: f32| (level - 32.0) * (group + 1.0);
        assert_eq!(values[0], expected(1.0, 0.0));
        assert_eq!(values[32], expected(2.0 + 16.0, 2.0));
        assert_eq!(values[64], expected(15.0 + 32.0, 4.0));
        assert_eq!(values[96], expected(5.0 + 48.0, 6.0));
        assert_eq!(values[255], expected(0.0, 15.0));
    }
}
