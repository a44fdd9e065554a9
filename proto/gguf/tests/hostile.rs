//! A GGUF from a stranger: any bytes at all give a header or an error that names a byte, never a panic.

use ollamamax_gguf::{
    Array, Fault, GgmlType, Gguf, GgufError, GgufWriter, Strings, Value, model_facts,
};
use proptest::prelude::*;

fn small() -> GgufWriter {
    let mut writer = GgufWriter::new();
    writer
        .metadata("general.architecture", Value::Str("llama".into()))
        .metadata("general.name", Value::Str("small".into()))
        .metadata("general.file_type", Value::U32(3))
        .metadata("llama.block_count", Value::U32(1))
        .metadata("llama.context_length", Value::U32(128))
        .metadata("llama.embedding_length", Value::U32(64))
        .metadata("llama.attention.head_count", Value::U32(4))
        .metadata("llama.attention.head_count_kv", Value::U32(2))
        .metadata("llama.rope.freq_base", Value::F32(1e-5))
        .metadata("a.bool", Value::Bool(true))
        .metadata("a.array", Value::Array(Array::Str(vec!["a", "bc"].into())))
        .metadata("a.number", Value::I64(-7))
        .metadata("an.array", Value::Array(Array::F32(vec![1.0, 2.0])))
        .metadata("tokenizer.chat_template", Value::Str("{{ x }}".into()))
        .tensor("token_embd.weight", &[64, 8], GgmlType::Q4_1, vec![1; 320])
        .tensor("blk.0.ffn_norm.weight", &[3], GgmlType::F32, vec![2; 12])
        .tensor("output_norm.weight", &[3], GgmlType::F32, vec![2; 12]);
    writer
}

fn fault(bytes: &[u8]) -> GgufError {
    Gguf::parse(bytes).expect_err("must be refused")
}

/// A file that starts well and continues with `tail`.
fn header(tensors: u64, entries: u64, tail: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(entries.to_le_bytes());
    bytes.extend(tail);
    bytes
}

#[test]
fn what_is_written_is_read() {
    for version in [2, 3] {
        let bytes = small().version(version).to_bytes();
        let gguf = Gguf::parse(&bytes).expect("a valid file");
        assert_eq!(gguf.version, version);
        assert_eq!(gguf.get_str("general.name").ok(), Some("small"));
        assert_eq!(gguf.get_u32("llama.block_count").ok(), Some(1));
        assert_eq!(gguf.get_array_str("a.array").ok().map(Strings::len), Some(2));
        assert_eq!(gguf.get("a.number"), Some(&Value::I64(-7)));
        let tensor = gguf.tensor("blk.0.ffn_norm.weight").expect("is there");
        assert_eq!(tensor.offset, 320);
        assert_eq!(bytes[tensor.start as usize..][..12], [2; 12]);
        let again = Gguf::read(std::io::Cursor::new(&bytes), bytes.len() as u64).expect("valid");
        assert_eq!(again.tensors(), gguf.tensors());
        assert_eq!(again.entries(), gguf.entries());
    }
}

#[test]
fn a_larger_alignment_is_kept() {
    let mut writer = GgufWriter::new();
    writer.metadata("general.alignment", Value::U32(256));
    writer.tensor("a", &[1], GgmlType::F32, vec![0; 4]);
    writer.tensor("b", &[1], GgmlType::F32, vec![0; 4]);
    let gguf = Gguf::parse(&writer.to_bytes()).expect("a valid file");
    assert_eq!(gguf.tensor("b").map(|b| b.offset).ok(), Some(256));
    assert_eq!(gguf.data_start % 256, 0);
}

#[test]
fn facts_are_what_the_header_says() {
    let gguf = Gguf::parse(&small().to_bytes()).expect("a valid file");
    let facts = model_facts(&gguf).expect("a language model");
    assert_eq!(facts.quantization, "Q4_1");
    assert_eq!(facts.parameter_count, 64 * 8 + 6);
    assert_eq!((facts.layers, facts.vocabulary, facts.context_length), (1, 8, 128));
    assert_eq!(facts.kv_bytes_per_token, 2 * (16 + 16) * 2);
    assert_eq!((facts.layer_bytes[0], facts.embedding_bytes, facts.head_bytes), (12, 332, 0));
    assert!(facts.has_chat_template);
    assert_eq!(
        facts.metadata_json,
        r#"{"a.bool":true,"a.number":-7,"general.architecture":"llama","general.file_type":3,"#
            .to_owned()
            + r#""general.parameter_count":518,"llama.attention.head_count":4,"#
            + r#""llama.attention.head_count_kv":2,"llama.block_count":1,"llama.context_length":128,"#
            + r#""llama.embedding_length":64,"llama.rope.freq_base":0.00001,"#
            + r#""tokenizer.chat_template":"{{ x }}"}"#
    );
}

#[test]
fn metadata_json_stays_within_its_limit() {
    let limit = ollamamax_proto::limits::MODEL_METADATA_BYTES;
    let mut writer = small();
    writer.metadata("long", Value::Str("\"".repeat(limit)));
    for index in 0..20 {
        writer.metadata(&format!("text.{index}"), Value::Str("x".repeat(limit / 10)));
    }
    let gguf = Gguf::parse(&writer.to_bytes()).expect("a valid file");
    let json = model_facts(&gguf).expect("a language model").metadata_json;
    assert!(json.len() <= limit);
    assert!(json.contains("llama.block_count") && json.contains("text.") && !json.contains("long"));
}

#[test]
fn a_claimed_layer_count_needs_tensors() {
    let mut writer = small();
    let bytes = {
        writer.metadata("x.block_count", Value::U32(u32::MAX));
        let bytes = writer.to_bytes();
        let at = find(&bytes, b"llama.block_count") + 17 + 4;
        let mut bytes = bytes;
        bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        bytes
    };
    let gguf = Gguf::parse(&bytes).expect("the header itself is fine");
    let error = model_facts(&gguf).expect_err("4 billion layers in 3 tensors").to_string();
    assert!(error.contains("`llama.block_count` is 4294967295"), "{error}");
}

fn find(bytes: &[u8], needle: &[u8]) -> usize {
    bytes.windows(needle.len()).position(|window| window == needle).expect("is in the file")
}

#[test]
fn every_truncation_is_refused() {
    let bytes = small().to_bytes();
    for len in 0..bytes.len() {
        let error = fault(&bytes[..len]);
        assert!(error.offset <= len as u64, "{error}");
        assert!(error.to_string().starts_with("gguf, byte "));
    }
}

#[test]
fn lengths_are_not_believed() {
    let huge = (u64::MAX / 2).to_le_bytes();
    assert!(matches!(fault(&header(u64::MAX, 0, &[])).fault, Fault::Limit { .. }));
    assert!(matches!(fault(&header(0, u64::MAX, &[])).fault, Fault::Limit { .. }));
    assert!(matches!(fault(&header(1000, 0, &[])).fault, Fault::Truncated { .. }));
    assert!(matches!(
        fault(&header(0, 1, &[&huge[..], &[0; 99]].concat())).fault,
        Fault::Limit { .. }
    ));
    let near = 1_000_000u64.to_le_bytes();
    let error = fault(&header(0, 1, &[&near[..], &[0; 99]].concat()));
    assert_eq!(
        error.to_string(),
        "gguf, byte 32: the file ends here: a metadata key needs 1000000 bytes, 99 remain; is it truncated?"
    );
    // An array of 16 million strings in a file of a hundred bytes.
    let mut tail = 1u64.to_le_bytes().to_vec();
    tail.extend(b"k");
    tail.extend(9u32.to_le_bytes());
    tail.extend(8u32.to_le_bytes());
    tail.extend((16u64 << 20).to_le_bytes());
    tail.extend([0; 64]);
    assert!(matches!(fault(&header(0, 1, &tail)).fault, Fault::Truncated { .. }));
    // A reader shorter than the length it was given.
    let bytes = small().to_bytes();
    let error = Gguf::read(&bytes[..50], bytes.len() as u64).expect_err("the reader ends early");
    assert!(matches!(error.fault, Fault::Truncated { .. } | Fault::Io(_)));
}

#[test]
fn the_kind_of_fault_is_named() {
    let refused = |build: &dyn Fn(&mut GgufWriter)| {
        let mut writer = GgufWriter::new();
        build(&mut writer);
        fault(&writer.to_bytes()).to_string()
    };
    let data = || vec![0; 64];
    let kind = GgmlType::F32;
    let cases: [(String, &str); 9] = [
        (fault(b"GGML\x03\0\0\0").to_string(), "not a GGUF file"),
        (fault(b"GGUF\0\0\0\x03").to_string(), "big-endian"),
        (fault(b"GGUF\x01\0\0\0").to_string(), "version 1 is not supported"),
        (
            refused(&|w| {
                w.metadata("k", Value::U8(1)).metadata("k", Value::U8(2));
            }),
            "metadata `k` appears twice",
        ),
        (
            refused(&|w| {
                w.tensor("t", &[16], kind, data()).tensor("t", &[16], kind, data());
            }),
            "tensor `t` appears twice",
        ),
        (
            refused(&|w| {
                w.tensor("t", &[32], kind, data()).tensor("u", &[16], kind, vec![0; 128]);
            }),
            "tensors `t` and `u` overlap",
        ),
        (
            refused(&|w| {
                w.tensor("t", &[1 << 40, 1 << 40], kind, data());
            }),
            "overflows",
        ),
        (
            refused(&|w| {
                w.tensor("t", &[16], GgmlType::Q4_0, data());
            }),
            "no multiple of the type's block size",
        ),
        (
            refused(&|w| {
                w.metadata("general.alignment", Value::U32(48));
            }),
            "power of two",
        ),
    ];
    for (error, part) in cases {
        assert!(error.contains(part), "{error} should contain {part}");
    }
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    let bytes = small().to_bytes();
    for text in [&b"small"[..], b"general.name", b"token_embd.weight", b"bc"] {
        let mut bytes = bytes.clone();
        let at = find(&bytes, text);
        bytes[at] = 0xff;
        let error = fault(&bytes);
        assert!(matches!(error.fault, Fault::Utf8 { .. }), "{error}");
        assert_eq!(error.offset, at as u64 - 8);
    }
}

/// Header and facts of whatever this is; only the absence of panics matters.
fn swallow(bytes: &[u8]) {
    if let Ok(gguf) = Gguf::parse(bytes) {
        let _ = model_facts(&gguf);
        for tensor in gguf.tensors() {
            assert!(tensor.start + tensor.bytes <= bytes.len() as u64);
        }
    }
    let _ = Gguf::read(bytes, bytes.len() as u64);
}

#[test]
fn every_single_byte_changed_is_survived() {
    let bytes = small().to_bytes();
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff, bytes[at] ^ 1, bytes[at].wrapping_add(1)] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            swallow(&bytes);
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        swallow(&bytes);
        swallow(&header(1, 1, &bytes));
        swallow(&header(0, 3, &bytes));
        swallow(&header(3, 0, &bytes));
    }

    #[test]
    fn random_flips_are_survived(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = small().to_bytes();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= value;
        }
        swallow(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        swallow(&bytes);
    }
}
