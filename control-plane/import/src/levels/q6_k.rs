//! Q6_K: 256 elements in sixteen runs of 16 around zero, each with a scale of a signed byte, under one f16.
//!
//! Of each 128 elements the low four bits of 0..32 and 64..96 share bytes, as do those of 32..64 and 96..128; the two high
//! bits of four elements that are 32 apart share one.

use super::search::{TINY, scale_around_zero};
use super::{nearest, put_half};
use half::f16;

const COUNT: usize = 256;

pub(super) fn q6_k(values: &[f32; COUNT], out: &mut Vec<u8>) {
    let runs = values.as_chunks::<16>().0;
    let found: [(f32, [u8; 16]); 16] = std::array::from_fn(|run| scale_around_zero(&runs[run]));
    let most = found.iter().fold(
        0.0f32,
        |most, (scale, _)| {
            if scale.abs() > most.abs() { *scale } else { most }
        },
    );
    if most.abs() < TINY {
        out.resize(out.len() + 210, 0);
        return;
    }
    let inverse = -128.0 / most;
    let scale = f16::from_f32(1.0 / inverse).to_f32();
    let scales = found.map(|(scale, _)| nearest(inverse * scale).min(127) as i8);
    let mut levels = [0u8; COUNT];
    for (at, (levels, run)) in levels.as_chunks_mut::<16>().0.iter_mut().zip(runs).enumerate() {
        let step = scale * f32::from(scales[at]);
        *levels = match step == 0.0 {
            // They count for nothing; ggml leaves those of the search.
            true => found[at].1,
            false => run.map(|value| (nearest(value / step).clamp(-32, 31) + 32) as u8),
        };
    }
    let halves = levels.as_chunks::<128>().0;
    for half in halves {
        out.extend((0..64).map(|at| half[at] & 15 | (half[at + 64] & 15) << 4));
    }
    for half in halves {
        let high = |at: usize| half[at] >> 4;
        let byte = |at| high(at) | high(at + 32) << 2 | high(at + 64) << 4 | high(at + 96) << 6;
        out.extend((0..32).map(byte));
    }
    out.extend(scales.map(|scale| scale.to_le_bytes()[0]));
    put_half(1.0 / inverse, out);
}
