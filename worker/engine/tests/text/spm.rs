//! A SentencePiece vocabulary against llama.cpp's tokens for the same texts.
//!
//! ```text
//! FAMILIES_OUT=/tmp/families cargo test -p ollamamax-engine --test text sentence    writes the models, too
//! python worker/engine/tests/data/reference.py /tmp/families                            writes the tokens
//! ```

use ollamamax_engine::engine::TextModel;
use ollamamax_engine::synth::Synth;
use ollamamax_gguf::{Array, GgmlType, Gguf, Value};

const WORDS: &str = "the cat sat on the mat and then the other cat ate that thing there \
                     héllo wörld naïve 12 123 1234 lower lowest newer newest wider";

const TEXTS: [&str; 9] = [
    "the cat",
    "  two  spaces ",
    "then there that other thing",
    "héllo wörld, naïve!",
    "1234512",
    "lowest newest\nwider\tnewer",
    "\u{1f600} emoji and 日本語",
    "x",
    "a<s>b</s>",
];

/// All pieces of the words, with scores that follow no order, so that merges compete.
fn metadata(space_prefix: bool) -> Vec<(String, Value)> {
    let mut tokens = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    tokens.extend((0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>")));
    for word in WORDS.split(' ') {
        let word: Vec<char> = format!("\u{2581}{word}").chars().collect();
        for len in 1..=word.len() {
            for piece in word.windows(len) {
                let piece = String::from_iter(piece);
                // Some are left out: a merge then has to take another way.
                let left_out = len > 1 && (piece.len() * 7 + len) % 3 == 0;
                if !left_out && !tokens.contains(&piece) {
                    tokens.push(piece);
                }
            }
        }
    }
    let kinds = (0..tokens.len()).map(|id| match id {
        0 => 2,
        1 | 2 => 3,
        3..259 => 6,
        _ => 1,
    });
    let scores = (0..tokens.len()).map(|id| -((id * 37 % 61) as f32));
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    vec![
        (key("model"), Value::Str("llama".to_owned())),
        (key("scores"), Value::Array(Array::F32(scores.collect()))),
        (key("token_type"), Value::Array(Array::I32(kinds.collect()))),
        (key("tokens"), Value::Array(Array::Str(tokens.into()))),
        (key("bos_token_id"), Value::U32(1)),
        (key("eos_token_id"), Value::U32(2)),
        (key("add_space_prefix"), Value::Bool(space_prefix)),
    ]
}

fn file(space_prefix: bool) -> Vec<u8> {
    let mut synth = Synth::tiny(GgmlType::F32, 1);
    synth.metadata = metadata(space_prefix);
    let tokens = synth.metadata.iter().find(|(key, _)| key == "tokenizer.ggml.tokens");
    if let Some((_, Value::Array(Array::Str(tokens)))) = tokens {
        synth.vocabulary = u32::try_from(tokens.len()).expect("small");
    }
    synth.to_gguf()
}

fn name(space_prefix: bool) -> &'static str {
    if space_prefix { "spm-prefix" } else { "spm" }
}

#[test]
fn sentence_pieces_are_llama_cpps() {
    if let Some(folder) = std::env::var_os("FAMILIES_OUT") {
        write_pieces(folder.as_ref());
    }
    let reference: serde_json::Value =
        serde_json::from_str(include_str!("../data/pieces.json")).expect("reference data");
    for prefix in [true, false] {
        let gguf = Gguf::parse(&file(prefix)).expect("a valid file");
        let model = TextModel::from_gguf(&gguf).expect("a known tokenizer");
        let tokenizer = model.tokenizer();
        for text in TEXTS {
            let tokens = tokenizer.encode(text, true).expect("tokens");
            let expected: Vec<u32> =
                serde_json::from_value(reference[name(prefix)][text].clone()).expect("recorded");
            assert_eq!(tokens, expected, "{text:?}");
            let bytes: Vec<u8> =
                tokens.iter().flat_map(|&token| tokenizer.bytes(token).to_vec()).collect();
            let shown = String::from_utf8(bytes).expect("UTF-8");
            let words = text.replace("<s>", if prefix { " " } else { "" }).replace("</s>", "");
            assert_eq!(shown, if prefix { format!(" {words}") } else { words });
        }
        assert_eq!(tokenizer.prompt_bos(), Some(1));
        assert!(tokenizer.is_end(2));
    }
}

/// Writes the models that the reference is made from.
fn write_pieces(folder: &std::path::Path) {
    std::fs::create_dir_all(folder).expect("a folder");
    for prefix in [true, false] {
        let path = folder.join(format!("{}.gguf", name(prefix)));
        std::fs::write(path, file(prefix)).expect("a file");
    }
    let texts = serde_json::to_string(&TEXTS).expect("JSON");
    std::fs::write(folder.join("texts.json"), texts).expect("a file");
}
