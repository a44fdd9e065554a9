//! The types of 32 elements: one scale from the extremes of a block, no search.
//!
//! Four-bit levels lie in pairs, element `i` low and `i + 16` high; fifth bits lie together, one a bit of a 32-bit word.

use super::{inverse, put_half};

const COUNT: usize = 32;

pub(super) fn q8_0(values: &[f32; COUNT], out: &mut Vec<u8>) {
    let most = values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    let scale = most / 127.0;
    let inverse = inverse(scale);
    put_half(scale, out);
    out.extend(values.iter().map(|value| ((value * inverse).round() as i8).to_le_bytes()[0]));
}

pub(super) fn q4_0(values: &[f32; COUNT], out: &mut Vec<u8>) {
    let levels = around_zero(values, 8, out);
    nibbles(&levels, out);
}

pub(super) fn q5_0(values: &[f32; COUNT], out: &mut Vec<u8>) {
    let levels = around_zero(values, 16, out);
    fifth_bits(&levels, out);
    nibbles(&levels, out);
}

pub(super) fn q4_1(values: &[f32; COUNT], out: &mut Vec<u8>) {
    let levels = above_minimum(values, 15, out);
    nibbles(&levels, out);
}

pub(super) fn q5_1(values: &[f32; COUNT], out: &mut Vec<u8>) {
    let levels = above_minimum(values, 31, out);
    fifth_bits(&levels, out);
    nibbles(&levels, out);
}

/// The value farthest from zero becomes level 0, zero becomes level `half`.
fn around_zero(values: &[f32; COUNT], half: u8, out: &mut Vec<u8>) -> [u8; COUNT] {
    let farthest = |most: f32, value: &f32| if value.abs() > most.abs() { *value } else { most };
    let scale = values.iter().fold(0.0, farthest) / -f32::from(half);
    let inverse = inverse(scale);
    put_half(scale, out);
    // Through a signed byte, as ggml does it.
    let level = |value: f32| ((value * inverse + (f32::from(half) + 0.5)) as i8).max(0) as u8;
    values.map(|value| level(value).min(2 * half - 1))
}

/// The smallest value becomes level 0, the largest level `most`.
fn above_minimum(values: &[f32; COUNT], most: u8, out: &mut Vec<u8>) -> [u8; COUNT] {
    let low = values.iter().copied().fold(f32::MAX, f32::min);
    let high = values.iter().copied().fold(f32::MIN, f32::max);
    let scale = (high - low) / f32::from(most);
    let inverse = inverse(scale);
    put_half(scale, out);
    put_half(low, out);
    values.map(|value| (((value - low) * inverse + 0.5) as u8).min(most))
}

fn nibbles(levels: &[u8; COUNT], out: &mut Vec<u8>) {
    let (low, high) = levels.split_at(COUNT / 2);
    out.extend(low.iter().zip(high).map(|(low, high)| low & 15 | (high & 15) << 4));
}

fn fifth_bits(levels: &[u8; COUNT], out: &mut Vec<u8>) {
    let bit = |(at, level): (usize, &u8)| u32::from(level >> 4 & 1) << at;
    let word = levels.iter().enumerate().map(bit).fold(0, |word, bit| word | bit);
    out.extend(word.to_le_bytes());
}
