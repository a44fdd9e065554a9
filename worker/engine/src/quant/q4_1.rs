//! Q4_1: 32 elements; f16 scale, f16 minimum, 16 bytes of levels as in Q4_0.

use super::q4_0::{nibbles, put_nibbles};
use super::{Blocks, Unpacked, half_at, put_half, range};

pub(super) struct Q4_1;

impl Blocks for Q4_1 {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 20;

    #[inline(always)]
    fn unpack(block: &[u8], out: Unpacked<'_>) {
        nibbles(&block[4..20], out.levels);
        out.scale.fill(half_at(block, 0));
        out.minimum.fill(half_at(block, 2));
    }

    fn pack(values: &[f32], block: &mut [u8]) {
        let (low, high) = range(values);
        let scale = put_half(block, 0, (high - low) / 15.0);
        let minimum = put_half(block, 2, low);
        put_nibbles(values, scale, minimum, &mut block[4..]);
    }
}
