//! A real model through the whole of it: SmolLM2 as a checkpoint of 32-bit weights, converted and quantised, against what
//! llama.cpp makes of the same weights.

use ollamamax_gguf::{GgmlType, Gguf};
use ollamamax_import::{Checkpoint, Files, Model, OnDisk, Quantisation};
use ollamamax_tests::checkpoint::of_gguf;
use ollamamax_tests::model::smollm2;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// What llama.cpp v0.5.0 (`llama_model_quantize` of libllama, npm package `@node-llama-cpp/linux-x64` 3.22.1) makes of the
/// dequantised weights, without an importance matrix: see [`fingerprint`]. `F32` is what it was given.
const LLAMA_CPP: [(Quantisation, &str); 13] = [
    (Quantisation::F32, "4748597ac004475b"),
    (Quantisation::F16, "f0070a92ff6702c3"),
    (Quantisation::BF16, "5ea50c61c4c8d7d6"),
    (Quantisation::Q8_0, "f08fa1834ebe093f"),
    (Quantisation::Q4_0, "aa8ae587a2ee2c01"),
    (Quantisation::Q4_1, "66d7a95260d40508"),
    (Quantisation::Q5_0, "54345710fe1a3ab2"),
    (Quantisation::Q5_1, "70cfeee5792e8df6"),
    (Quantisation::Q4_K_S, "efd8b1c3ddaac8ea"),
    (Quantisation::Q4_K_M, "3a9528f02c21c4b1"),
    (Quantisation::Q5_K_S, "848665fcc0f0b348"),
    (Quantisation::Q5_K_M, "c93edbf6b011e885"),
    (Quantisation::Q6_K, "1cbfdcb37cb1bd9f"),
];

/// The first eight bytes of the SHA-256 over all tensors by name: the name, a zero, the type, a zero, the bytes.
fn fingerprint(file: &[u8]) -> String {
    let gguf = Gguf::parse(file).expect("a sound file");
    let mut tensors: Vec<_> = gguf.tensors().iter().collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let mut hash = Sha256::new();
    for tensor in tensors {
        hash.update(format!("{}\0{}\0", tensor.name, tensor.kind));
        hash.update(&file[tensor.start as usize..][..tensor.bytes as usize]);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The types of SmolLM2's file as floats, written down once more from ggml's definition.
fn unpacked(kind: GgmlType, bytes: &[u8]) -> Vec<f32> {
    let half = |bytes: &[u8]| half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
    match kind {
        GgmlType::F32 => {
            bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
        }
        GgmlType::Q8_0 => {
            let block = |block: &[u8; 34]| {
                let scale = half(block);
                block.map(|level| f32::from(level as i8) * scale)
            };
            bytes.as_chunks::<34>().0.iter().flat_map(|b| block(b)[2..].to_vec()).collect()
        }
        GgmlType::Q4_1 => {
            let value = |block: &[u8; 20], at: usize| {
                let level = block[4 + at % 16] >> (at / 16 * 4) & 15;
                f32::from(level) * half(block) + half(&block[2..])
            };
            let blocks = bytes.as_chunks::<20>().0.iter();
            blocks.flat_map(|block| (0..32).map(move |at| value(block, at))).collect()
        }
        other => unreachable!("SmolLM2 has no {other}"),
    }
}

fn opened(directory: &Path) -> Files {
    let entries = std::fs::read_dir(directory).expect("listed");
    let mut files = Files::new();
    for entry in entries {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        files.insert(
            name,
            Arc::new(OnDisk::new(File::open(&path).expect("opened")).expect("a size")),
        );
    }
    files
}

#[test]
fn every_quantisation_of_a_real_checkpoint_is_what_llama_cpp_makes_of_it() {
    let directory = tempfile::tempdir().expect("a directory");
    of_gguf(smollm2(), unpacked, directory.path()).expect("unpacked");
    let checkpoint = Checkpoint::read(&opened(directory.path())).expect("sound");
    let model = Model::of_checkpoint(&checkpoint).expect("sound");
    let mut other = Vec::new();
    for (quantisation, expected) in LLAMA_CPP {
        let mut file = Vec::new();
        let ended =
            model.write(Some(quantisation), 2, &mut file, &mut |_, _| ControlFlow::Continue(()));
        ended.expect("it can be written");
        if fingerprint(&file) != expected {
            other.push(quantisation);
        }
        if quantisation == Quantisation::F32 {
            says_the_same(&file);
        }
    }
    assert!(other.is_empty(), "not as llama.cpp: {other:?}");
}

/// What the original's metadata says, the imported file says, too.
fn says_the_same(file: &[u8]) {
    let original = std::fs::read(smollm2()).expect("read");
    let [original, imported] =
        [&original[..], file].map(|bytes| Gguf::parse(bytes).expect("sound"));
    let mut compared = 0;
    let is_about_files = |key: &str| key.starts_with("general.") && key != "general.architecture";
    for entry in original.entries().iter().filter(|entry| !is_about_files(&entry.key)) {
        // A vocabulary of bytes has no spaces to put anywhere.
        if entry.key == "tokenizer.ggml.add_space_prefix" {
            continue;
        }
        assert_eq!(imported.get(&entry.key), Some(&entry.value), "{}", entry.key);
        compared += 1;
    }
    assert_eq!(compared, 22, "of the 33 entries of the original");
}
