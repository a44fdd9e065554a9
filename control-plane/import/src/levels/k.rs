//! Q4_K and Q5_K: 256 elements in eight runs of 32, each with a scale and a minimum of six bits, and an f16 over each kind.
//!
//! Pairs 0..4 lie in the low six bits of bytes 0..4 (scales) and 4..8 (minima); pairs 4..8 have their low halves in bytes
//! 8..12 and their two high bits on top of the first eight bytes.

use super::search::{Found, Tries, scale_and_minimum};
use super::{nearest, put_half};

const COUNT: usize = 256;
/// Largest scale and minimum of a run.
const TOP: f32 = 63.0;

pub(super) fn q4_k(values: &[f32; COUNT], out: &mut Vec<u8>) {
    let levels = levels(values, Tries { most: 15, first: -1.0, step: 0.1, steps: 20 }, out);
    nibbles(&levels, out);
}

pub(super) fn q5_k(values: &[f32; COUNT], out: &mut Vec<u8>) {
    let levels = levels(values, Tries { most: 31, first: -0.5, step: 0.1, steps: 15 }, out);
    let at = out.len();
    out.resize(at + 32, 0);
    for (run, levels) in levels.as_chunks::<32>().0.iter().enumerate() {
        for (byte, level) in out[at..].iter_mut().zip(levels) {
            *byte |= (level >> 4 & 1) << run;
        }
    }
    nibbles(&levels, out);
}

/// Appends the head of a block and returns its levels.
fn levels(values: &[f32; COUNT], tries: Tries, out: &mut Vec<u8>) -> [u8; COUNT] {
    let runs = values.as_chunks::<32>().0;
    let found: [Found; 8] = std::array::from_fn(|run| scale_and_minimum(&runs[run], tries));
    let top = |pick: fn(&Found) -> f32| {
        found.iter().map(pick).fold(0.0f32, |top, value| if value > top { value } else { top })
    };
    let (scale_top, minimum_top) = (top(|run| run.scale), top(|run| run.minimum));
    let per = |top: f32| if top > 0.0 { TOP / top } else { 0.0 };
    // Through a byte, as ggml does it.
    let stored = |value: f32| (nearest(value) as u8).min(TOP as u8);
    let scales = found.map(|run| stored(per(scale_top) * run.scale));
    let minima = found.map(|run| stored(per(minimum_top) * run.minimum));
    let scale = put_half(scale_top / TOP, out);
    let minimum = put_half(minimum_top / TOP, out);
    pack(&scales, &minima, out);

    let mut levels = [0; COUNT];
    for (at, (levels, run)) in levels.as_chunks_mut::<32>().0.iter_mut().zip(runs).enumerate() {
        let step = scale * f32::from(scales[at]);
        if step == 0.0 {
            // They count for nothing; ggml leaves those of the search.
            *levels = found[at].levels;
            continue;
        }
        let low = minimum * f32::from(minima[at]);
        *levels = run.map(|value| nearest((value + low) / step).clamp(0, tries.most.into()) as u8);
    }
    levels
}

fn pack(scales: &[u8; 8], minima: &[u8; 8], out: &mut Vec<u8>) {
    out.extend((0..4).map(|at| scales[at] | scales[at + 4] >> 4 << 6));
    out.extend((0..4).map(|at| minima[at] | minima[at + 4] >> 4 << 6));
    out.extend((4..8).map(|at| scales[at] & 15 | (minima[at] & 15) << 4));
}

/// The low four bits: of each 64 elements the first 32 low and the others high.
fn nibbles(levels: &[u8; COUNT], out: &mut Vec<u8>) {
    for levels in levels.as_chunks::<64>().0 {
        let (low, high) = levels.split_at(32);
        out.extend(low.iter().zip(high).map(|(low, high)| low & 15 | (high & 15) << 4));
    }
}
