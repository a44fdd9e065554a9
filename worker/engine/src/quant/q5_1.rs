//! Q5_1: 32 elements; f16 scale, f16 minimum, then levels as in Q5_0.

use super::q5_0::{fives, put_fives};
use super::{Blocks, Unpacked, half_at, put_half, range};

pub(super) struct Q5_1;

impl Blocks for Q5_1 {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 24;

    #[inline(always)]
    fn unpack(block: &[u8], out: Unpacked<'_>) {
        fives(&block[4..24], out.levels);
        out.scale.fill(half_at(block, 0));
        out.minimum.fill(half_at(block, 2));
    }

    fn pack(values: &[f32], block: &mut [u8]) {
        let (low, high) = range(values);
        let scale = put_half(block, 0, (high - low) / 31.0);
        let minimum = put_half(block, 2, low);
        put_fives(values, scale, minimum, &mut block[4..]);
    }
}
