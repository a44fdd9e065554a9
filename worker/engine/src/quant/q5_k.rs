//! Q5_K: as Q4_K, with 32 bytes of fifth bits before the levels: bit `r` of byte `i` belongs to element `i` of run `r`.

use super::{Blocks, Unpacked, k_scales};

pub(super) struct Q5K;

impl Blocks for Q5K {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 176;

    #[inline(always)]
    fn unpack(block: &[u8], out: Unpacked<'_>) {
        k_scales::spread(block, out.scale, out.minimum);
        let fifths = &block[16..48];
        let pairs = block[48..176].chunks_exact(32).zip(out.levels.chunks_exact_mut(64));
        for (pair, (bytes, levels)) in pairs.enumerate() {
            let (low, high) = levels.split_at_mut(32);
            for (((low, high), byte), fifth) in low.iter_mut().zip(high).zip(bytes).zip(fifths) {
                *low = byte & 15 | (fifth >> (2 * pair) & 1) << 4;
                *high = byte >> 4 | (fifth >> (2 * pair + 1) & 1) << 4;
            }
        }
    }

    fn pack(values: &[f32], block: &mut [u8]) {
        let levels = k_scales::pack_head(values, 31, block);
        for (i, level) in levels.iter().enumerate() {
            block[16 + i % 32] |= (level >> 4) << (i / 32);
            block[48 + i / 64 * 32 + i % 32] |= (level & 15) << (i / 32 % 2 * 4);
        }
    }
}
