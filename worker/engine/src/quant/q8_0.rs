//! Q8_0: 32 elements; f16 scale, 32 signed bytes. As levels they are shifted by 128.

use super::{Blocks, Unpacked, extreme, half_at, nearest, put_half};

pub(super) struct Q8_0;

impl Blocks for Q8_0 {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 34;

    #[inline(always)]
    fn unpack(block: &[u8], out: Unpacked<'_>) {
        let scale = half_at(block, 0);
        for (level, byte) in out.levels.iter_mut().zip(&block[2..34]) {
            *level = byte ^ 0x80;
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
