//! Q6_K: 256 elements in sixteen groups; 128 bytes of low halves, 64 bytes of two high bits, sixteen signed factors, f16
//! scale, shifted by 32. Each half of 128 elements is four runs of 32: the low halves of runs 0 and 2 share 32 bytes, those
//! of 1 and 3 the next 32, and one byte holds the high bits of the four elements at the same place.

use super::word::Word;
use super::{Blocks, Unpacked, extreme, half_at, nearest, put_half};

pub(super) struct Q6K;

impl Blocks for Q6K {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 210;

    #[inline(always)]
    fn unpack(block: &[u8], out: Unpacked<'_>) {
        for (half, levels) in out.levels.chunks_exact_mut(128).enumerate() {
            for at in [0, 16] {
                let even = Word::load(block, 64 * half + at);
                let odd = Word::load(block, 64 * half + 32 + at);
                let top = Word::load(block, 128 + 32 * half + at);
                even.low_halves().or(top.bits::<0>(3).raised()).store(levels, at);
                odd.low_halves().or(top.bits::<2>(3).raised()).store(levels, 32 + at);
                even.high_halves().or(top.bits::<4>(3).raised()).store(levels, 64 + at);
                odd.high_halves().or(top.bits::<6>(3).raised()).store(levels, 96 + at);
            }
        }
        let d = half_at(block, 208);
        let groups = out.scale.iter_mut().zip(out.minimum.iter_mut());
        for ((scale, minimum), factor) in groups.zip(&block[192..208]) {
            *scale = d * f32::from(*factor as i8);
            *minimum = -32.0 * *scale;
        }
    }

    fn pack(values: &[f32], block: &mut [u8]) {
        let mut wanted = [0.0f32; 16];
        for (wanted, group) in wanted.iter_mut().zip(values.chunks_exact(16)) {
            *wanted = extreme(group) / -32.0;
        }
        let d = put_half(block, 208, extreme(&wanted).abs() / 127.0);
        for (group, wanted) in wanted.iter().enumerate() {
            let factor = if d == 0.0 { 0.0 } else { (wanted / d).round().clamp(-128.0, 127.0) };
            block[192 + group] = factor as i8 as u8;
        }
        for (i, value) in values.iter().enumerate() {
            let scale = d * f32::from(block[192 + i / 16] as i8);
            let level = nearest(*value, scale, -32.0 * scale, 63);
            let (half, run, at) = (i / 128, i / 32 % 4, i % 32);
            block[64 * half + run % 2 * 32 + at] |= (level & 15) << (run / 2 * 4);
            block[128 + 32 * half + at] |= (level >> 4) << (2 * run);
        }
    }
}
