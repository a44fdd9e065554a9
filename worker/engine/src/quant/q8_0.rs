//! Q8_0: 32 elements; f16 scale, 32 signed bytes. As levels they are shifted by 128.

use super::word::Word;
use super::{Blocks, Unpacked, extreme, half_at, nearest, put_half};

pub(super) struct Q8_0;

impl Blocks for Q8_0 {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 34;

    #[inline(always)]
    fn unpack(block: &[u8], out: Unpacked<'_>) {
        let scale = half_at(block, 0);
        for at in [0, 16] {
            Word::load(block, 2 + at).flipped().store(out.levels, at);
        }
        out.scale.fill(scale);
        out.minimum.fill(-128.0 * scale);
    }

    fn pack(values: &[f32], block: &mut [u8]) {
        let scale = put_half(block, 0, extreme(values).abs() / 127.0);
        for (byte, value) in block[2..].iter_mut().zip(values) {
            *byte = nearest(*value, scale, -128.0 * scale, 255) ^ 0x80;
        }
    }
}
