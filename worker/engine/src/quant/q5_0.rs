//! Q5_0: 32 elements; f16 scale, 4 bytes with the fifth bit of each level, 16 bytes of low halves, shifted by 16.

use super::word::Word;
use super::{Blocks, Unpacked, extreme, half_at, nearest, put_half};

pub(super) struct Q5_0;

impl Blocks for Q5_0 {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 22;

    #[inline(always)]
    fn unpack(block: &[u8], out: Unpacked<'_>) {
        let scale = half_at(block, 0);
        fives(&block[2..22], out.levels);
        out.scale.fill(scale);
        out.minimum.fill(-16.0 * scale);
    }

    fn pack(values: &[f32], block: &mut [u8]) {
        let scale = put_half(block, 0, extreme(values) / -16.0);
        put_fives(values, scale, -16.0 * scale, &mut block[2..]);
    }
}

/// 4 bytes of fifth bits (bit `i` for element `i`) and 16 of low halves into 32 levels.
#[inline(always)]
pub(super) fn fives(bytes: &[u8], levels: &mut [u8]) {
    let word = Word::load(bytes, 4);
    word.low_halves().or(sixteens(bytes[0], bytes[1])).store(levels, 0);
    word.high_halves().or(sixteens(bytes[2], bytes[3])).store(levels, 16);
}

/// Sixteen bits into sixteen bytes of 16 or 0.
#[inline(always)]
fn sixteens(low: u8, high: u8) -> Word {
    // Every byte gets all eight bits, keeps its own, and carries into its top bit if that one is set.
    let eight = |bits: u8| {
        let own = u64::from(bits).wrapping_mul(0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
        ((own + 0x0040_6070_787c_7e7f) & 0x8080_8080_8080_8080) >> 3
    };
    let both = u128::from(eight(low)) | u128::from(eight(high)) << 64;
    Word::load(&both.to_le_bytes(), 0)
}

pub(super) fn put_fives(values: &[f32], scale: f32, minimum: f32, bytes: &mut [u8]) {
    let mut high = 0u32;
    for (i, value) in values.iter().enumerate() {
        let level = nearest(*value, scale, minimum, 31);
        high |= u32::from(level >> 4) << i;
        bytes[4 + i % 16] |= (level & 15) << (i / 16 * 4);
    }
    bytes[..4].copy_from_slice(&high.to_le_bytes());
}
