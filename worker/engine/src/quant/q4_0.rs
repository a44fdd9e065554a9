//! Q4_0: 32 elements; f16 scale, 16 bytes of two levels each (element `i` low, `i + 16` high), shifted by 8.

use super::word::Word;
use super::{Blocks, Unpacked, extreme, half_at, nearest, put_half};

pub(super) struct Q4_0;

impl Blocks for Q4_0 {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 18;

    #[inline(always)]
    fn unpack(block: &[u8], out: Unpacked<'_>) {
        let scale = half_at(block, 0);
        nibbles(&block[2..18], out.levels);
        out.scale.fill(scale);
        out.minimum.fill(-8.0 * scale);
    }

    fn pack(values: &[f32], block: &mut [u8]) {
        let scale = put_half(block, 0, extreme(values) / -8.0);
        put_nibbles(values, scale, -8.0 * scale, &mut block[2..]);
    }
}

/// 16 bytes into 32 levels: the low halves first.
#[inline(always)]
pub(super) fn nibbles(bytes: &[u8], levels: &mut [u8]) {
    let word = Word::load(bytes, 0);
    word.low_halves().store(levels, 0);
    word.high_halves().store(levels, 16);
}

pub(super) fn put_nibbles(values: &[f32], scale: f32, minimum: f32, bytes: &mut [u8]) {
    for (i, byte) in bytes[..16].iter_mut().enumerate() {
        let level = |value| nearest(value, scale, minimum, 15);
        *byte = level(values[i]) | level(values[i + 16]) << 4;
    }
}
