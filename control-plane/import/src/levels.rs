//! Quantisers: floats in, ggml's blocks out; the twins of what the engine unpacks.
//!
//! A block holds *levels*, a few bits each, and a scale (and for some types a minimum) that make weights of them again. The
//! types of 32 elements take the scale from the extremes of a block. Those of 256 search for the scale that loses least,
//! weighing what is large more, and then quantise the scales themselves.
//!
//! The arithmetic is ggml's reference (`ggml-quants.c`, `quantize_row_*_ref`), operation by operation in `f32`, so that the
//! blocks are the same to the bit as those llama.cpp writes without an importance matrix.

mod k;
mod q6_k;
mod search;
mod simple;

use half::{bf16, f16};
use ollamamax_gguf::GgmlType;

/// Whether weights can be written in this type.
pub(crate) fn can_write(kind: GgmlType) -> bool {
    use GgmlType::*;
    let plain = matches!(kind, F32 | F16 | BF16);
    plain || matches!(kind, Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q4_K | Q5_K | Q6_K)
}

/// Appends `values` in a type, rows of whole blocks; `false`, and nothing appended, for a type that is not written here.
pub fn quantise(kind: GgmlType, values: &[f32], out: &mut Vec<u8>) -> bool {
    match kind {
        GgmlType::F32 => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        GgmlType::F16 => {
            out.extend(values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()));
        }
        GgmlType::BF16 => {
            out.extend(values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()));
        }
        GgmlType::Q8_0 => blocks(values, out, simple::q8_0),
        GgmlType::Q4_0 => blocks(values, out, simple::q4_0),
        GgmlType::Q4_1 => blocks(values, out, simple::q4_1),
        GgmlType::Q5_0 => blocks(values, out, simple::q5_0),
        GgmlType::Q5_1 => blocks(values, out, simple::q5_1),
        GgmlType::Q4_K => blocks(values, out, k::q4_k),
        GgmlType::Q5_K => blocks(values, out, k::q5_k),
        GgmlType::Q6_K => blocks(values, out, q6_k::q6_k),
        _ => return false,
    }
    true
}

fn blocks<const N: usize>(values: &[f32], out: &mut Vec<u8>, one: fn(&[f32; N], &mut Vec<u8>)) {
    for block in values.as_chunks::<N>().0 {
        one(block, out);
    }
}

/// Appends an f16 and says what was really stored.
fn put_half(value: f32, out: &mut Vec<u8>) -> f32 {
    let stored = f16::from_f32(value);
    out.extend(stored.to_le_bytes());
    stored.to_f32()
}

/// Rounds to the nearest integer, ties to even, as adding and taking away 3 * 2^22 does. What is no number is 0.
fn nearest(value: f32) -> i32 {
    value.round_ties_even() as i32
}

/// One over it, and 0 for 0.
fn inverse(value: f32) -> f32 {
    if value == 0.0 { 0.0 } else { 1.0 / value }
}
