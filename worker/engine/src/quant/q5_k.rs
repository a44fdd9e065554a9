//! Q5_K: as Q4_K, with 32 bytes of fifth bits before the levels: bit `r` of byte `i` belongs to element `i` of run `r`.

use super::word::Word;
use super::{Blocks, Unpacked, k_scales};

pub(super) struct Q5K;

impl Blocks for Q5K {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 176;

    #[inline(always)]
    fn unpack(block: &[u8], out: Unpacked<'_>) {
        k_scales::spread(block, out.scale, out.minimum);
        for at in [0, 16] {
            let fifths = Word::load(block, 16 + at);
            pair::<0, 1>(block, out.levels, at, fifths);
            pair::<2, 3>(block, out.levels, at, fifths);
            pair::<4, 5>(block, out.levels, at, fifths);
            pair::<6, 7>(block, out.levels, at, fifths);
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

/// Sixteen elements each of the runs `LOW` and `HIGH`, which share their bytes.
#[inline(always)]
fn pair<const LOW: i32, const HIGH: i32>(block: &[u8], levels: &mut [u8], at: usize, fifths: Word) {
    let word = Word::load(block, 48 + 16 * LOW as usize + at);
    let (low, high) = (fifths.bits::<LOW>(1).raised(), fifths.bits::<HIGH>(1).raised());
    word.low_halves().or(low).store(levels, 32 * LOW as usize + at);
    word.high_halves().or(high).store(levels, 32 * HIGH as usize + at);
}
