//! What is done to foreign bytes, and what must hold whatever they are. Shared by the fuzz binaries and by the test that
//! replays the corpus.

use ollamamax_engine::cpu::{CpuBackend, CpuOptions};
use ollamamax_engine::text::TextModel;
use ollamamax_engine::tokenizer::Tokenizer;
use ollamamax_engine::vocabulary::{TokenKind, Vocabulary};
use ollamamax_engine::weights::Mapping;
use ollamamax_gguf::Gguf;
use ollamamax_proto::inference::{Message, Think};
use ollamamax_template::{ChatTemplate, Conversation};
use std::sync::{Arc, OnceLock};

/// A model file: it is refused or loaded, never more.
pub fn gguf(bytes: &[u8]) {
    let Ok(gguf) = Gguf::parse(bytes) else { return };
    let _ = ollamamax_gguf::model_facts(&gguf);
    let _ = TextModel::from_gguf(&gguf);
    let options = CpuOptions { threads: 1, kv_blocks: 1, ..CpuOptions::default() };
    let mapping = Arc::new(Mapping::from_vec(bytes.to_vec()));
    let _ = CpuBackend::from_mapping(mapping, &options);
}

/// Text through a tokenizer of all bytes gives the same text back; and a vocabulary from the bytes themselves is refused or
/// works.
pub fn tokenizer(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let tokenizer = all_bytes();
    let tokens = tokenizer.encode(&text, false).expect("any text is tokenised");
    let back: Vec<u8> = tokens.iter().flat_map(|t| tokenizer.bytes(*t).to_vec()).collect();
    assert_eq!(back, text.as_bytes());

    let mut parts = text.split('\0');
    let mut list = || parts.next().unwrap_or_default();
    let (pre, tokens, merges) = (list(), list(), list());
    let vocabulary = Vocabulary {
        model: ["gpt2", "llama"][usize::from(bytes.last().unwrap_or(&0) % 2)].to_owned(),
        pre: pre.to_owned(),
        tokens: tokens.split('\n').collect(),
        kinds: tokens.bytes().map(|byte| TokenKind::from_number(i64::from(byte % 7))).collect(),
        merges: merges.split('\n').collect(),
        scores: merges.bytes().map(f32::from).collect(),
        bos: bytes.first().map(|byte| u32::from(*byte)),
        ..Vocabulary::default()
    };
    let mut words = Vocabulary { model: "bert".to_owned(), ..vocabulary.clone() };
    ["[UNK]", "[CLS]", "[SEP]"].into_iter().for_each(|token| words.tokens.push(token));
    for tokenizer in [vocabulary, words].into_iter().flat_map(Tokenizer::new) {
        for special in [false, true] {
            if let Ok(ids) = tokenizer.encode(list(), special) {
                let count = tokenizer.vocabulary().tokens.len();
                assert!(ids.iter().all(|id| (*id as usize) < count));
            }
        }
    }
}

/// A template from the bytes renders within its budget, or says why not.
pub fn template(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (source, content) = text.split_once('\0').unwrap_or((&text, "Hello!"));
    let Ok(template) = ChatTemplate::new(source) else { return };
    let message = |role: &str, content: &str, extra: &str| Message {
        role: role.to_owned(),
        content: content.to_owned(),
        extra_json: extra.to_owned(),
    };
    let messages = [
        message("system", "Be brief.", ""),
        message("user", content, ""),
        message(
            "assistant",
            "",
            r#"{"tool_calls":[{"function":{"name":"f","arguments":{"x":1}}}]}"#,
        ),
        message("tool", "42", r#"{"tool_name":"f"}"#),
    ];
    let tools = r#"[{"type":"function","function":{"name":"f","parameters":{}}}]"#;
    for (count, tools_json, think) in
        [(1, "", None), (2, "", Some(Think::Off)), (4, tools, Some(Think::High))]
    {
        let messages = &messages[..count];
        let (bos, eos) = ("<s>", "</s>");
        let _ = template.render(&Conversation { messages, tools_json, think, bos, eos });
    }
    let _ = template.insert(content, content);
}

/// A byte-level vocabulary: every byte, and some merges.
fn all_bytes() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| {
        let mut moved = 0x100;
        let mut tokens: Vec<String> = (0..=u8::MAX)
            .map(|byte| {
                let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
                let code = if printable {
                    u32::from(byte)
                } else {
                    moved += 1;
                    moved - 1
                };
                char::from_u32(code).expect("a character").to_string()
            })
            .collect();
        let merges: Vec<String> = ["h e", "l l", "he ll", "Ġ a", "Ġ Ġ"].map(str::to_owned).to_vec();
        tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
        Tokenizer::new(Vocabulary {
            model: "gpt2".to_owned(),
            pre: "smollm".to_owned(),
            tokens: tokens.into(),
            merges: merges.into(),
            ..Vocabulary::default()
        })
        .expect("a sound vocabulary")
    })
}
