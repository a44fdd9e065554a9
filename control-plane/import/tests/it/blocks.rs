//! The quantisers against ggml's: the same blocks to the bit.

use ollamamax_gguf::GgmlType::{self, *};
use ollamamax_import::quantise;
use sha2::{Digest as _, Sha256};

const COUNT: usize = 256 * 64;

/// Numbers from 0 to 1 by SplitMix64, the same in every language.
fn uniform(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 40) as f32 / (1u32 << 24) as f32
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// About normal, from -2 to 2.
fn bell(count: usize) -> Vec<f32> {
    uniform(1, 4 * count).chunks_exact(4).map(|u| u[0] + u[1] + u[2] + u[3] - 2.0).collect()
}

fn input(name: &str) -> Vec<f32> {
    let scaled = |by: f32| bell(COUNT).into_iter().map(move |value| value * by);
    match name {
        "bell" => scaled(0.05).collect(),
        "above zero" => uniform(2, COUNT).into_iter().map(|value| value + 0.5).collect(),
        "outliers" => {
            let far = |(at, value): (usize, f32)| if at % 97 == 0 { value * 50.0 } else { value };
            scaled(0.01).enumerate().map(far).collect()
        }
        "sparse" => {
            let few = uniform(3, COUNT);
            let thin = |(at, value): (usize, f32)| {
                if at < COUNT / 4 || few[at] < 0.9 { 0.0 } else { value }
            };
            bell(COUNT).into_iter().enumerate().map(thin).collect()
        }
        other => unreachable!("{other} is no input"),
    }
}

fn start_of_hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// What `ggml_quantize_chunk` of llama.cpp v0.5.0 (libggml-base of the npm package `@node-llama-cpp/linux-x64` 3.22.1) writes for
/// these inputs, rows of 256, without an importance matrix: the first eight bytes of its SHA-256.
const GGML: [(&str, GgmlType, &str); 32] = [
    ("bell", Q4_0, "d16d31aa87d9c36c"),
    ("bell", Q4_1, "368768076a3497fb"),
    ("bell", Q5_0, "ac291c15d998fd00"),
    ("bell", Q5_1, "9b4066d674ecc5f3"),
    ("bell", Q8_0, "24a490f8c24cc3eb"),
    ("bell", Q4_K, "5e7c18ffe8467dbe"),
    ("bell", Q5_K, "3d70501837e21596"),
    ("bell", Q6_K, "642bb727f037c820"),
    ("above zero", Q4_0, "318a004abacff2ce"),
    ("above zero", Q4_1, "27bedb12163239b6"),
    ("above zero", Q5_0, "4f3aa9b1a9961633"),
    ("above zero", Q5_1, "747ff3541ab09acb"),
    ("above zero", Q8_0, "a8177d080c994ec3"),
    ("above zero", Q4_K, "5fceb4d17f80907e"),
    ("above zero", Q5_K, "c2eec00c8fbc71ee"),
    ("above zero", Q6_K, "a0dd5067e0109e14"),
    ("outliers", Q4_0, "ab83914c5602faf9"),
    ("outliers", Q4_1, "bd5fa58edb45f8a4"),
    ("outliers", Q5_0, "60af8d0b72d81c13"),
    ("outliers", Q5_1, "0b8344f4c0946d13"),
    ("outliers", Q8_0, "7ac45103c5bf57c1"),
    ("outliers", Q4_K, "1b9a34d2eff8a356"),
    ("outliers", Q5_K, "9c3a07b2e6b4f403"),
    ("outliers", Q6_K, "a5065d3c59abedd4"),
    ("sparse", Q4_0, "2e319ab298de9fd8"),
    ("sparse", Q4_1, "bc392f82e7b893e2"),
    ("sparse", Q5_0, "281c51a8ab4ab652"),
    ("sparse", Q5_1, "01a1b0913784fd76"),
    ("sparse", Q8_0, "9e74dc188ed5fe64"),
    ("sparse", Q4_K, "3385143b2f407565"),
    ("sparse", Q5_K, "c428c63cf28ba405"),
    ("sparse", Q6_K, "417392eeffeb2128"),
];

#[test]
fn blocks_are_those_of_ggml_to_the_bit() {
    let floats: Vec<(&str, String)> = ["bell", "above zero", "outliers", "sparse"]
        .map(|name| {
            let bytes: Vec<u8> = input(name).iter().flat_map(|value| value.to_le_bytes()).collect();
            (name, start_of_hash(&bytes))
        })
        .to_vec();
    let expected = [
        ("bell", "edaf687864eda66c"),
        ("above zero", "4e76efa7dd71143e"),
        ("outliers", "9ee45155a330fb99"),
        ("sparse", "efc110446ec9a281"),
    ];
    assert_eq!(floats, expected.map(|(name, hash)| (name, hash.to_owned())), "other inputs");
    let mut other = Vec::new();
    for (name, kind, expected) in GGML {
        let mut bytes = Vec::new();
        assert!(quantise(kind, &input(name), &mut bytes));
        if start_of_hash(&bytes) != expected {
            other.push((name, kind));
        }
    }
    assert!(other.is_empty(), "not as ggml: {other:?}");
}

#[test]
fn types_that_are_not_written_are_refused() {
    let mut out = Vec::new();
    assert!(!quantise(Q2_K, &[0.0; 256], &mut out));
    assert!(out.is_empty());
}
