//! Q5_0: 32 elements; f16 scale, 4 bytes with the fifth bit of each level, 16 bytes of low halves, shifted by 16.

use super::q4_0::nibbles;
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
    let high = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    nibbles(&bytes[4..20], levels);
    for (i, level) in levels[..32].iter_mut().enumerate() {
        *level |= ((high >> i & 1) << 4) as u8;
    }
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
