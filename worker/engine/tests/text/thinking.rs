//! Models that think first: what their output begins with, which of their tokens are text, and where a format holds.

use crate::constrained::{
    CONTEXT_TOKENS, engine, grammar, model, person, run, sampling, schema, solo,
};
use crate::fake::{END, FakeBackend, Stream, drain, limits};
use ollamamax_engine::engine::{Engine, EngineLimits, Prepared, TextModel};
use ollamamax_engine::vocabulary::{TokenKind, Vocabulary};
use ollamamax_proto::inference::{
    Chat, FinishReason, Message, Options, OutputFormat, Predict, Prompt, Sampling, Tags,
};
use serde_json::{Value, json};
use std::sync::Arc;

fn tags(open: &str, close: &str) -> Tags {
    Tags { open: open.to_owned(), close: close.to_owned() }
}

/// Tags that the vocabulary of [`model`] spells in pieces; a `}` is at the end of some tokens and in the midst of others.
fn request(format: &OutputFormat, seed: u64, opened: bool) -> Prepared {
    let options = Options {
        sampling: sampling(seed),
        format: Some(format.clone()),
        predict: Predict::AtMost(150),
        thinking: Some(tags("[a", "}")),
        logprobs: Some(0),
        ..Options::default()
    };
    let mut prompt = model().tokenizer().encode("cab", false).expect("spelt");
    prompt.push(2 + (seed % 40) as u32);
    let end = if opened { "[a\n " } else { "b" };
    prompt.extend(model().tokenizer().encode(end, false).expect("spelt"));
    model().prepare(&Prompt::Tokens(prompt), &options, CONTEXT_TOKENS).expect("sound")
}

/// What stands behind the thinking of a text, and whether there was any.
fn answer(text: &str) -> Option<(&str, bool)> {
    let Some(thought) = text.strip_prefix("[a") else { return Some((text, false)) };
    let (_, answer) = thought.split_once('}')?;
    let gap = answer.len() - answer.trim_start_matches('\n').len();
    assert!(gap <= 2, "{text:?}");
    Some((&answer[gap..], true))
}

#[test]
fn a_format_holds_behind_the_thinking_and_from_the_first_token_without() {
    let (mut thought, mut at_once) = (0, 0);
    for (seed, opened) in (0..150).flat_map(|seed| [(seed, true), (seed, false)]) {
        let stream = solo(&request(&person(), seed, opened), &[], 0);
        let text = stream.text();
        assert!(!opened || text.starts_with("[a"), "{text:?}");
        let shown = stream.finished.as_ref().expect("ended");
        if shown.reason != FinishReason::Stop {
            continue;
        }
        let (answer, thinks) = answer(&text).expect("an end comes only behind the thinking");
        let value: Value = serde_json::from_str(answer).expect(&text);
        assert!(value["age"].as_i64().is_some_and(|age| (7..=142).contains(&age)), "{text}");
        *(if thinks { &mut thought } else { &mut at_once }) += 1;
        assert!(thinks || !opened);
    }
    assert!(thought > 100 && at_once > 20, "{thought} thought, {at_once} did not");
}

#[test]
fn what_comes_before_a_format_is_the_same_from_any_cut_in_company_and_with_guesses() {
    let list = schema(&json!({"type": "array", "items": {"enum": [1, {"a": 1}]}, "minItems": 12}));
    let requests: Vec<Prepared> = (0..12)
        .map(|seed| request([&list, &person()][seed as usize % 2], seed, seed % 3 == 0))
        .collect();
    let mut preempted = false;
    for request in &requests {
        let whole = solo(request, &[], 0);
        let guessed = solo(request, &[], 1);
        assert_eq!((whole.tokens(), whole.text()), (guessed.tokens(), guessed.text()));
        assert!(whole.logprobs.len() <= whole.tokens().len(), "the tag is no token");
        for cut in 0..=whole.pieces.len() {
            let before = Stream { pieces: whole.pieces[..cut].to_vec(), ..Stream::default() };
            let mut rest = request.clone();
            if let Some(mirostat) = &mut rest.options.sampling.mirostat {
                mirostat.mu = cut.checked_sub(1).and_then(|last| whole.mus[last]);
            }
            let after = solo(&rest, &before.tokens(), cut % 3);
            assert_eq!([before.tokens(), after.tokens()].concat(), whole.tokens(), "cut at {cut}");
            assert_eq!(before.text() + &after.text(), whole.text(), "cut at {cut}");
        }
    }
    for (blocks, sequences_max, speculating_max) in [(400, 12, 0), (52, 9, 9)] {
        let mut engine =
            engine(blocks, EngineLimits { speculating_max, ..limits(sequences_max, 40) });
        let ids: Vec<u64> =
            requests.iter().map(|r| engine.submit(r.clone(), &[]).expect("taken").0).collect();
        let (streams, failed, some) = run(&mut engine);
        preempted |= some;
        assert!(failed.is_empty(), "{failed:?}");
        for (id, request) in ids.iter().zip(&requests) {
            let alone = solo(request, &[], 0);
            assert_eq!(streams[id].tokens(), alone.tokens(), "sequence {id} in {blocks} blocks");
            assert_eq!(streams[id].text(), alone.text());
        }
    }
    assert!(preempted, "nobody had to wait again");
}

#[test]
fn a_format_that_begins_like_the_tag_is_told_apart_by_what_follows() {
    let format = grammar("start: \"[\" (\"b\" | \"a\" \"a\")");
    let mut seen = [0; 3];
    for seed in 0..120 {
        let text = solo(&request(&format, seed, false), &[], 0).text();
        match text.as_str() {
            "[b" => seen[0] += 1,
            // Behind the whole tag it is thinking, whatever the format says.
            _ if text.starts_with("[a") => {
                seen[1] += 1;
                if let Some((answer, true)) = answer(&text).filter(|(answer, _)| !answer.is_empty())
                {
                    assert!("[b".starts_with(answer) || "[aa".starts_with(answer), "{text:?}");
                    seen[2] += 1;
                }
            }
            _ => assert!(text.is_empty() || text == "[", "{text:?}"),
        }
    }
    assert!(seen.iter().all(|count| *count > 10), "{seen:?}");
}

const SPELLINGS: [&str; 16] = [
    "a",
    "b",
    "<think>",
    "</think>",
    "<tool>",
    "<secret>",
    "c",
    "{}",
    "Ċ",
    "d",
    "e",
    "f",
    "g",
    "h",
    "i",
    "<|im_end|>",
];

/// Control tokens as some models have them for thinking and calls.
fn controls() -> Arc<TextModel> {
    let mut kinds = vec![TokenKind::Normal; SPELLINGS.len()];
    kinds[2..6].fill(TokenKind::Control);
    kinds[END as usize] = TokenKind::Control;
    let vocabulary = Vocabulary {
        model: "gpt2".into(),
        pre: "gpt-2".into(),
        tokens: SPELLINGS.iter().collect(),
        kinds,
        eos: Some(END),
        ..Vocabulary::default()
    };
    let template = "{{ messages[0].content }}{% if enable_thinking %}<think>\n{% endif %}";
    Arc::new(TextModel::new(vocabulary, Some(template)).expect("sound"))
}

fn says(prepared: Prepared, resume: &[u32]) -> Stream {
    let backend = FakeBackend::new(64, 128).with_vocabulary(&controls());
    let limits = EngineLimits { context_tokens: 200, ..limits(1, 128) };
    let mut engine = Engine::new(Box::new(backend), controls(), limits);
    let id = engine.submit(prepared, resume).expect("taken");
    drain(&mut engine).remove(&id).expect("emitted")
}

fn spelt(tokens: &[u32], hidden: &[&str]) -> String {
    let spelling = |&token: &u32| SPELLINGS[token as usize].replace('Ċ', "\n");
    tokens.iter().map(spelling).filter(|text| !hidden.contains(&text.as_str())).collect()
}

#[test]
fn control_tokens_are_text_where_they_are_asked_for_and_only_these() {
    let mut seen = 0;
    for seed in 0..40 {
        let options = Options {
            sampling: Sampling { seed, temperature: 2.0, ..Sampling::default() },
            predict: Predict::AtMost(30),
            shown: vec!["<tool>".into(), "<nobody>".into(), String::new()],
            ..Options::default()
        };
        let prompt = Prompt::Tokens(vec![0, 1, (seed % 2) as u32]);
        let shown = controls().prepare(&prompt, &options, 200).expect("sound");
        let stream = says(shown, &[]);
        let hidden = ["<think>", "</think>", "<secret>", "<|im_end|>"];
        assert_eq!(stream.text(), spelt(&stream.tokens(), &hidden));
        seen += usize::from(stream.text().contains("<tool>"));
        let none = Options { shown: Vec::new(), ..options.clone() };
        let plain = says(controls().prepare(&prompt, &none, 200).expect("sound"), &[]);
        assert_eq!(plain.tokens(), stream.tokens());
        assert!(!plain.text().contains('<'), "{}", plain.text());
        // The tags of thinking show, as if they had been named.
        let thinking = Options { thinking: Some(tags("<think>", "</think>")), ..none };
        let thinks = says(controls().prepare(&prompt, &thinking, 200).expect("sound"), &[]);
        assert_eq!(thinks.text(), spelt(&thinks.tokens(), &["<tool>", "<secret>", "<|im_end|>"]));
    }
    assert!(seen > 10, "only {seen} with the token");
}

#[test]
fn an_output_begins_with_the_tag_that_the_prompt_ends_with_once() {
    let chat = |think, content: &str| {
        let extra_json = String::new();
        let message = Message { role: "user".into(), content: content.into(), extra_json };
        Prompt::Chat(Chat { messages: vec![message], think, ..Chat::default() })
    };
    use ollamamax_proto::inference::Think;
    let options = Options {
        sampling: Sampling { seed: 3, temperature: 2.0, ..Sampling::default() },
        predict: Predict::AtMost(12),
        thinking: Some(tags("<think>", "</think>")),
        logprobs: Some(0),
        ..Options::default()
    };
    let prepare = |prompt: &Prompt, options: &Options| {
        controls().prepare(prompt, options, 200).expect("sound")
    };
    let opened = prepare(&chat(Some(Think::On), "a"), &options);
    let whole = says(opened.clone(), &[]);
    let said = spelt(&whole.tokens(), &["<tool>", "<secret>", "<|im_end|>"]);
    assert_eq!(whole.text(), format!("<think>{said}"));
    assert!(whole.pieces[0].1.starts_with("<think>") && whole.pieces[0].0.len() == 1);
    assert!(whole.logprobs.len() <= whole.tokens().len(), "the tag is no token");
    let resumed = says(opened, &whole.tokens()[..1]);
    assert!(whole.text().ends_with(&resumed.text()) && resumed.text().len() < whole.text().len());

    for (prompt, options) in [
        (chat(Some(Think::Off), "a"), options.clone()),
        (chat(None, "<think>a"), options.clone()),
        (chat(Some(Think::On), "a"), Options { thinking: None, ..options.clone() }),
    ] {
        assert_eq!(prepare(&prompt, &options).output.opening, "", "{prompt:?}");
    }
    let long = Prompt::Text(format!("<think>{}", "\n".repeat(50)));
    assert_eq!(prepare(&long, &options).output.opening, "<think>");
}

#[test]
fn tags_that_are_control_tokens_open_and_close_the_thinking() {
    let mut thought = 0;
    for (seed, opened) in (0..60).flat_map(|seed| [(seed, true), (seed, false)]) {
        let options = Options {
            sampling: Sampling { seed, temperature: 2.0, ..Sampling::default() },
            predict: Predict::AtMost(60),
            thinking: Some(tags("<think>", "</think>")),
            format: Some(grammar("start: \"{}\" \"a\"")),
            ..Options::default()
        };
        let prompt = Prompt::Tokens(if opened { vec![0, 2, 8] } else { vec![0, 1] });
        let stream = says(controls().prepare(&prompt, &options, 200).expect("sound"), &[]);
        let text = stream.text();
        let Some(thoughts) = text.strip_prefix("<think>") else {
            assert!(!opened && text == "{}a", "{text:?}");
            continue;
        };
        if stream.finished.expect("ended").reason == FinishReason::Stop {
            let (_, answer) = thoughts.split_once("</think>").expect("an end of the thinking");
            assert_eq!(answer.trim_start_matches('\n'), "{}a", "{text:?}");
            thought += 1;
        }
    }
    assert!(thought > 40, "only {thought} thought");
}
