//! Q4_K: 256 elements in eight runs of 32; f16 scale and minimum, twelve bytes of six-bit factors, 128 bytes of levels:
//! each 32 bytes hold one run in their low and the next in their high halves.

use super::word::Word;
use super::{Blocks, Unpacked, k_scales};

pub(super) struct Q4K;

impl Blocks for Q4K {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 144;

    #[inline(always)]
    fn unpack(block: &[u8], out: Unpacked<'_>) {
        k_scales::spread(block, out.scale, out.minimum);
        for (bytes, levels) in block[16..144].chunks_exact(32).zip(out.levels.chunks_exact_mut(64))
        {
            for at in [0, 16] {
                let word = Word::load(bytes, at);
                word.low_halves().store(levels, at);
                word.high_halves().store(levels, 32 + at);
            }
        }
    }

    fn pack(values: &[f32], block: &mut [u8]) {
        let levels = k_scales::pack_head(values, 15, block);
        for (i, level) in levels.iter().enumerate() {
            block[16 + i / 64 * 32 + i % 32] |= level << (i / 32 % 2 * 4);
        }
    }
}
