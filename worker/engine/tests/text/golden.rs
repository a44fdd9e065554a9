//! The tokenizer and the chat template of a real file against recorded outputs of llama.cpp.

use ollamamax_engine::engine::TextModel;
use ollamamax_engine::vocabulary::TokenKind;
use ollamamax_gguf::Gguf;
use ollamamax_proto::inference::{Chat, Message, Options, Prompt};
use ollamamax_tests::model::smollm2;
use std::sync::OnceLock;

fn model() -> &'static TextModel {
    static MODEL: OnceLock<TextModel> = OnceLock::new();
    MODEL.get_or_init(|| {
        let bytes = std::fs::read(smollm2()).expect("the model file is readable");
        let gguf = Gguf::parse(&bytes).expect("a sound header");
        TextModel::from_gguf(&gguf).expect("a known tokenizer and template")
    })
}

fn golden() -> serde_json::Value {
    let golden = include_str!("../data/golden-smollm2-text.json");
    serde_json::from_str(golden).expect("recorded as JSON")
}

fn tokens(value: &serde_json::Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("token ids")
}

#[test]
fn every_recorded_text_gives_the_recorded_tokens() {
    let golden = golden();
    let cases = golden["tokenize"].as_array().expect("cases");
    assert!(cases.len() >= 30);
    for case in cases {
        let text = case["text"].as_str().expect("text");
        let encoded = model().tokenizer().encode(text, true).expect("tokenises");
        assert_eq!(encoded, tokens(&case["tokens"]), "{text:?}");
        let vocabulary = model().tokenizer().vocabulary();
        if encoded.iter().all(|&id| vocabulary.kind(id) == TokenKind::Normal) {
            let bytes: Vec<u8> =
                encoded.iter().flat_map(|&id| model().tokenizer().bytes(id).to_vec()).collect();
            assert_eq!(String::from_utf8_lossy(&bytes), text);
        }
    }
    let long = golden["nll"]["text"].as_str().expect("text");
    let encoded = model().tokenizer().encode(long, true).expect("tokenises");
    assert_eq!(encoded, tokens(&golden["nll"]["tokens"]));
}

#[test]
fn every_recorded_prompt_gives_the_recorded_tokens() {
    for case in golden()["generate"].as_array().expect("cases") {
        let prompt = if case["kind"] == "chat" {
            let message = |message: &serde_json::Value| Message {
                role: message["role"].as_str().expect("a role").into(),
                content: message["content"].as_str().expect("a content").into(),
                extra_json: String::new(),
            };
            let messages = case["messages"].as_array().expect("messages");
            let messages = messages.iter().map(message).collect();
            Prompt::Chat(Chat { messages, ..Chat::default() })
        } else {
            Prompt::Text(case["prompt_text"].as_str().expect("text").into())
        };
        let prepared = model().prepare(&prompt, &Options::default(), 8192).expect("fits");
        assert_eq!(prepared.tokens, tokens(&case["prompt_tokens"]), "{}", case["id"]);
    }
}

#[test]
fn recorded_outputs_end_and_read_as_recorded() {
    for case in golden()["generate"].as_array().expect("cases") {
        let output = tokens(&case["output_tokens"]);
        let ended = output.last().is_some_and(|&token| model().tokenizer().is_end(token));
        assert_eq!(Some(ended), case["ended_by_eog"].as_bool());
        let bytes: Vec<u8> =
            output.iter().flat_map(|&id| model().tokenizer().bytes(id).to_vec()).collect();
        assert_eq!(String::from_utf8_lossy(&bytes), case["output_text"].as_str().expect("text"));
    }
}

#[test]
fn special_tokens_are_only_recognised_when_asked() {
    let tokenizer = model().tokenizer();
    let text = "a<|im_end|>b";
    let (plain, special) = (tokenizer.encode(text, false), tokenizer.encode(text, true));
    assert!(special.expect("tokenises").contains(&2));
    let plain = plain.expect("tokenises");
    assert!(!plain.contains(&2));
    let bytes: Vec<u8> = plain.iter().flat_map(|&id| tokenizer.bytes(id).to_vec()).collect();
    assert_eq!(bytes, text.as_bytes());
}
