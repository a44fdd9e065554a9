//! Safetensors files that lie: each lie is refused, and nothing that somebody may send makes the reader fall over.

use crate::support::{files, model};
use ollamamax_import::{Adapter, ReadAt, Safetensors};
use ollamamax_tests::checkpoint::{Tiny, safetensors, with_header};
use proptest::prelude::*;

fn read(bytes: &Vec<u8>) -> Result<Safetensors, String> {
    Safetensors::read("f", bytes as &dyn ReadAt).map_err(|error| error.to_string())
}

#[test]
fn a_sound_file_is_read() {
    let header = r#"{"__metadata__": {"format": "pt"}, "b": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [8, 20]},
        "a": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]}}"#;
    let read = read(&with_header(header, &[0; 20])).expect("sound");
    assert_eq!(read.tensors.len(), 2);
    assert_eq!((read.tensors["b"].start, read.tensors["b"].bytes), (16 + header.len() as u64, 12));
    assert!(read.tensors["a"].element().is_none() && read.tensors["b"].element().is_some());
}

#[test]
fn every_lie_is_refused() {
    let one = |entry: &str| with_header(&format!(r#"{{"a": {entry}}}"#), &[0; 16]);
    let f32s = |shape: &str, places: &str| {
        one(&format!(r#"{{"dtype": "F32", "shape": {shape}, "data_offsets": {places}}}"#))
    };
    let two = |first: &str, second: &str, name: &str| {
        let entry =
            |places| format!(r#"{{"dtype": "F32", "shape": [2], "data_offsets": {places}}}"#);
        let header = format!(r#"{{"a": {}, "{name}": {}}}"#, entry(first), entry(second));
        with_header(&header, &[0; 16])
    };
    let mut long = with_header("{}", &[]);
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut past = with_header("{}", &[]);
    past[0] += 1;
    for (file, words) in [
        (Vec::new(), "it has 0 bytes"),
        (vec![0; 7], "it has 7 bytes"),
        (long, "is said to take 18446744073709551615 bytes"),
        (past, "is said to take 3 bytes of 2"),
        (with_header("", &[]), "cannot be read"),
        (with_header("[]", &[]), "cannot be read"),
        (with_header("{", &[]), "cannot be read"),
        (with_header(&"[".repeat(100_000), &[]), "cannot be read"),
        (with_header(r#"{"a": 1}"#, &[]), "cannot be read"),
        (with_header("{}", &[0; 4]), "end at byte 0 of 4"),
        (one(r#"{"dtype": "F32", "shape": [4]}"#), "cannot be read"),
        (one(r#"{"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}"#), "unknown type"),
        (one(r#"{"dtype": "F4", "shape": [1], "data_offsets": [0, 16]}"#), "takes 16 bytes"),
        (f32s("[4]", "[0, 16, 32]"), "cannot be read"),
        (f32s("[-4]", "[0, 16]"), "cannot be read"),
        (f32s("[5]", "[0, 16]"), "takes 16 bytes"),
        (f32s("[4]", "[0, 20]"), "lies at 0 to 20 of 16"),
        (f32s("[4]", "[16, 0]"), "lies at 16 to 0"),
        (f32s("[4]", "[18446744073709551615, 18446744073709551615]"), "of 16 bytes"),
        (f32s("[4294967296, 4294967296, 2]", "[0, 16]"), "takes 16 bytes"),
        (f32s("[18446744073709551615]", "[0, 16]"), "takes 16 bytes"),
        (f32s("[1, 1, 1, 1, 1, 1, 1, 1, 4]", "[0, 16]"), "9 dimensions"),
        (f32s("[3]", "[0, 12]"), "end at byte 12 of 16"),
        (two("[0, 8]", "[4, 12]", "b"), "overlaps"),
        (two("[0, 8]", "[0, 8]", "b"), "overlaps"),
        (two("[4, 12]", "[12, 20]", "b"), "lies at 12 to 20"),
        (two("[0, 8]", "[8, 16]", "a"), "appears twice"),
    ] {
        let error = read(&file).expect_err(words);
        assert!(error.contains(words), "{error} lacks {words}");
    }
}

/// A header that says it is larger than any is: of a sparse file, so that nobody has to have it.
#[test]
fn a_header_over_the_limit_is_not_read() {
    struct Sparse;
    impl ReadAt for Sparse {
        fn bytes(&self) -> u64 {
            1 << 40
        }
        fn read_at(&self, at: u64, buffer: &mut [u8]) -> std::io::Result<()> {
            assert_eq!((at, buffer.len()), (0, 8), "more than the length was read");
            buffer.copy_from_slice(&(1u64 << 39).to_le_bytes());
            Ok(())
        }
    }
    let error = Safetensors::read("f", &Sparse).expect_err("too large").to_string();
    assert!(error.contains("at most 100000000 is accepted"), "{error}");
}

fn damaged(
    mut bytes: Vec<u8>,
    changes: &[(prop::sample::Index, u8)],
    end: prop::sample::Index,
) -> Vec<u8> {
    for (at, byte) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    bytes.truncate(end.index(bytes.len() + 1));
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_comes_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&bytes);
        let _ = Adapter::read(&files([("a.gguf".to_owned(), bytes.clone())].into()));
        let config = br#"{"peft_type": "LORA", "lora_alpha": 1}"#.to_vec();
        let both = [("adapter_config.json".to_owned(), config), ("a.safetensors".to_owned(), bytes)];
        let _ = Adapter::read(&files(both.into()));
    }

    #[test]
    fn a_damaged_file_says_nothing_that_its_bytes_do_not_back(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        end in any::<prop::sample::Index>(),
    ) {
        let whole = safetensors(&Tiny::new("Qwen3ForCausalLM", 9).tensors[..4]);
        let bytes = damaged(whole, &changes, end);
        if let Ok(read) = read(&bytes) {
            for stored in read.tensors.values() {
                prop_assert!(stored.start + stored.bytes <= bytes.len() as u64);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_json_is_understood_or_refused(
        config in any::<bool>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut all = Tiny::new("LlamaForCausalLM", 9).files();
        let name = if config { "config.json" } else { "tokenizer.json" };
        let mut bytes = all.remove(name).expect("there");
        for (at, byte) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        all.insert(name.to_owned(), bytes);
        let _ = model(all);
    }
}
