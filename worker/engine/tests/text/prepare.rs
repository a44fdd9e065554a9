//! From a request to tokens that fit.

use crate::fake::vocabulary;
use ollamamax_engine::engine::{PrepareError, TextModel};
use ollamamax_proto::inference::{Chat, Message, Options, Predict, Prompt};
use proptest::prelude::*;

/// Only the contents, so that a test can count their tokens.
const TEMPLATE: &str = "{% for m in messages %}{{ m.content }}{% endfor %}";

fn model() -> TextModel {
    TextModel::new(vocabulary(), Some(TEMPLATE)).expect("a sound model")
}

fn message(role: &str, content: &str) -> Message {
    Message { role: role.into(), content: content.into(), extra_json: String::new() }
}

fn chat(messages: Vec<Message>, context: Vec<u32>) -> Prompt {
    Prompt::Chat(Chat { messages, context, ..Chat::default() })
}

fn text(model: &TextModel, tokens: &[u32]) -> String {
    let bytes = tokens.iter().flat_map(|&token| model.tokenizer().bytes(token).to_vec());
    String::from_utf8(bytes.collect()).expect("whole characters")
}

#[test]
fn what_fits_is_kept_as_it_is() {
    let prompt = Prompt::Tokens((0..9).collect());
    let prepared = model().prepare(&prompt, &Options::default(), 10).expect("fits");
    assert_eq!((prepared.tokens, prepared.context_tokens), ((0..9).collect(), 10));
}

#[test]
fn the_request_may_ask_for_less_context_but_not_for_more() {
    for (asked, got) in [(Some(8), 8), (Some(99), 10), (None, 10)] {
        let options = Options { context_tokens: asked, ..Options::default() };
        let prepared = model().prepare(&Prompt::Tokens(vec![1]), &options, 10).expect("fits");
        assert_eq!(prepared.context_tokens, got);
    }
}

#[test]
fn a_long_text_keeps_its_beginning_and_its_newest_part() {
    let options = Options { keep_tokens: 2, predict: Predict::AtMost(3), ..Options::default() };
    let prompt = Prompt::Tokens((0..14).collect());
    let prepared = model().prepare(&prompt, &options, 10).expect("cut");
    assert_eq!(prepared.tokens, [0, 1, 9, 10, 11, 12, 13]);
}

#[test]
fn a_long_chat_loses_its_oldest_turns_and_keeps_system_and_last() {
    let model = model();
    let messages = vec![
        message("user", "aaa"),
        message("system", "bb"),
        message("assistant", "ccc"),
        message("user", "dd"),
        message("assistant", "aa"),
        message("user", "ee"),
    ];
    let options = Options { predict: Predict::AtMost(2), ..Options::default() };
    let prepare = |context_tokens| {
        let prompt = chat(messages.clone(), vec![]);
        text(&model, &model.prepare(&prompt, &options, context_tokens).expect("cut").tokens)
    };
    assert_eq!(prepare(15), "aaabbcccddaaee");
    assert_eq!(prepare(14), "bbddaaee", "an answer without its question goes, too");
    assert_eq!(prepare(10), "bbddaaee");
    assert_eq!(prepare(9), "bbee", "room for the answer is left");
    assert_eq!(prepare(4).len(), 2, "even the last turn is cut when it must be");
}

#[test]
fn without_truncate_the_lengths_are_told() {
    let options = Options { truncate: false, ..Options::default() };
    let long = PrepareError::TooLong { tokens: 12, context_tokens: 10 };
    let tokens = Prompt::Tokens(vec![1; 12]);
    assert_eq!(model().prepare(&tokens, &options, 10), Err(long.clone()));
    let chat = chat(vec![message("user", "aaaaaa"), message("user", "bbbbbb")], vec![]);
    assert_eq!(model().prepare(&chat, &options, 10), Err(long));
}

#[test]
fn context_tokens_stand_before_the_chat() {
    let prompt = chat(vec![message("user", "ab")], vec![9, 8]);
    let prepared = model().prepare(&prompt, &Options::default(), 10).expect("fits");
    assert_eq!(prepared.tokens[..2], [9, 8]);
    assert_eq!(text(&model(), &prepared.tokens[2..]), "ab");
}

#[test]
fn nothing_and_nonsense_are_refused() {
    let model = model();
    let options = Options::default();
    assert_eq!(model.prepare(&Prompt::Text(String::new()), &options, 9), Err(PrepareError::Empty));
    let stray = PrepareError::Token { token: 16, vocabulary: 16 };
    assert_eq!(model.prepare(&Prompt::Tokens(vec![1, 16]), &options, 9), Err(stray));
    let prompt = Prompt::Chat(Chat {
        messages: vec![message("user", "a")],
        template: Some("{% if %}".into()),
        ..Chat::default()
    });
    assert!(matches!(model.prepare(&prompt, &options, 9), Err(PrepareError::Template(_))));
}

#[test]
fn bos_comes_once_where_the_model_wants_it() {
    let mut wants_bos = vocabulary();
    (wants_bos.bos, wants_bos.add_bos) = (Some(14), Some(true));
    let template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}";
    let model = TextModel::new(wants_bos, Some(template)).expect("a sound model");
    let tokens =
        |prompt: &Prompt| model.prepare(prompt, &Options::default(), 40).expect("fits").tokens;
    assert_eq!(tokens(&Prompt::Text("d".into())), [14, 12]);
    assert_eq!(tokens(&Prompt::Text(String::new())), [14]);
    assert_eq!(tokens(&chat(vec![message("user", "d")], vec![])), [14, 12]);
}

proptest! {
    #[test]
    fn a_prepared_prompt_always_fits(
        contents in prop::collection::vec(("(system|user|assistant)", "[abcde]{0,20}"), 1..12),
        context_tokens in 2u32..40,
        keep_tokens in 0u32..60,
        predict in prop_oneof![Just(Predict::UntilDone), (0u32..50).prop_map(Predict::AtMost)],
    ) {
        let messages: Vec<Message> =
            contents.iter().map(|(role, content)| message(role, content)).collect();
        let options = Options { keep_tokens, predict, ..Options::default() };
        match model().prepare(&chat(messages, vec![]), &options, context_tokens) {
            Ok(prepared) => {
                prop_assert!(!prepared.tokens.is_empty());
                prop_assert!(prepared.tokens.len() < context_tokens as usize);
            }
            Err(error) => prop_assert_eq!(error, PrepareError::Empty),
        }
    }
}

#[test]
fn a_bias_on_an_unknown_token_is_refused_by_its_id() {
    let mut options = Options::default();
    options.sampling.logit_bias = [(0, 1.0), (16, 1.0)].into();
    let prompt = Prompt::Tokens(vec![1]);
    let model = model();
    let refused = model.prepare(&prompt, &options, 10);
    assert_eq!(refused, Err(PrepareError::Bias { token: 16, last: 15 }));
    options.sampling.logit_bias.remove(&16);
    assert!(model.prepare(&prompt, &options, 10).is_ok());
}
