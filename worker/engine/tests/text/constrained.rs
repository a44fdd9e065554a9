//! Outputs with a format, from a model that wants to write anything but that: logits are a hash of what came before.

use crate::fake::{FakeBackend, Stream, drain, limits};
use ollamamax_engine::engine::{Engine, EngineLimits, Prepared, TextModel};
use ollamamax_engine::vocabulary::{TokenKind, Vocabulary};
use ollamamax_proto::inference::{
    FinishReason, Mirostat, MirostatVersion, Options, OutputFormat, Predict, Prompt, Sampling,
};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

pub const END: u32 = 0;
pub const CONTEXT_TOKENS: u32 = 200;

/// What JSON is made of, in pieces that do not end where its parts do. All that these tests ask for can be spelt letter by
/// letter; no token has a `z`.
const SPELLINGS: &str = "<|im_end|> <|im_start|> { } [ ] : , \" \\ Ġ Ċ {\" \": \", \"} \"},Ġ }Ċ }} [] 0 1 2 7 42 - . e a b c d f g l m \
    n r s t u ab true fal se null name Ã © Ã©";

pub fn model() -> Arc<TextModel> {
    static MODEL: OnceLock<Arc<TextModel>> = OnceLock::new();
    let build = || {
        let tokens: Vec<String> = SPELLINGS.split_whitespace().map(str::to_owned).collect();
        let mut kinds = vec![TokenKind::Normal; tokens.len()];
        kinds[..2].fill(TokenKind::Control);
        let vocabulary = Vocabulary {
            model: "gpt2".into(),
            pre: "gpt-2".into(),
            tokens: tokens.into(),
            kinds,
            eos: Some(END),
            ..Vocabulary::default()
        };
        Arc::new(TextModel::new(vocabulary, None).expect("a sound vocabulary"))
    };
    Arc::clone(MODEL.get_or_init(build))
}

pub fn engine(blocks: u32, limits: EngineLimits) -> Engine {
    let limits = EngineLimits { context_tokens: CONTEXT_TOKENS, ..limits };
    let tokens = limits.step_tokens.max(limits.sequences_max as usize);
    let backend = FakeBackend::new(blocks, tokens).with_vocabulary(&model());
    Engine::new(Box::new(backend), model(), limits)
}

pub fn schema(schema: &Value) -> OutputFormat {
    OutputFormat::Schema(schema.to_string())
}

pub fn grammar(text: &str) -> OutputFormat {
    OutputFormat::Grammar(text.to_owned())
}

pub fn person() -> OutputFormat {
    schema(&json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 6},
            "age": {"type": "integer", "minimum": 7, "maximum": 142},
            "tags": {"type": "array", "items": {"enum": ["a", "b", true]}, "maxItems": 2},
        },
        "required": ["name", "age"],
        "additionalProperties": false,
    }))
}

/// Every way of choosing, by turns.
pub fn sampling(seed: u64) -> Sampling {
    let base = Sampling { seed, temperature: 0.9, ..Sampling::default() };
    match seed % 6 {
        0 => Sampling { temperature: 0.0, logit_bias: [((seed % 40) as u32, 3.0)].into(), ..base },
        1 => Sampling { top_k: 1, repeat_penalty: 1.4, ..base },
        2 => Sampling { top_p: 0.1, presence_penalty: 100.0, ..base },
        3 => Sampling { mirostat: Some(Mirostat::new(MirostatVersion::One, None, None)), ..base },
        4 => Sampling { mirostat: Some(Mirostat::new(MirostatVersion::Two, None, None)), ..base },
        _ => Sampling { top_k: 0, temperature: 2.0, typical_p: 0.5, min_p: 0.2, ..base },
    }
}

fn prepare(options: &Options) -> Prepared {
    let seed = options.sampling.seed as u32;
    let prompt = Prompt::Tokens(vec![1, 2 + seed % 40, 2 + seed / 40 % 40, 5]);
    model().prepare(&prompt, options, CONTEXT_TOKENS).expect("a sound request")
}

fn request(format: &OutputFormat, seed: u64) -> Prepared {
    let predict = Predict::AtMost(120);
    let options = Options {
        sampling: sampling(seed),
        format: Some(format.clone()),
        predict,
        ..Options::default()
    };
    prepare(&options)
}

pub fn solo(request: &Prepared, resume: &[u32], speculating_max: usize) -> Stream {
    let mut engine = engine(64, EngineLimits { speculating_max, ..limits(1, 128) });
    let id = engine.submit(request.clone(), resume).expect("taken");
    drain(&mut engine).remove(&id).expect("emitted")
}

/// Texts that ended by themselves.
fn whole_texts(format: &OutputFormat, seeds: u64) -> Vec<String> {
    let ended = (0..seeds).filter_map(|seed| {
        let stream = solo(&request(format, seed), &[], 0);
        let reason = stream.finished.as_ref().expect("ended").reason;
        (reason == FinishReason::Stop).then(|| stream.text())
    });
    ended.collect()
}

#[test]
fn json_that_ends_by_itself_is_an_object() {
    let texts = whole_texts(&OutputFormat::Json, 300);
    assert!(texts.len() > 100, "only {} of 300 ended", texts.len());
    for text in &texts {
        // JSON knows numbers that no double holds.
        let read: Result<IgnoredAny, _> = serde_json::from_str(text);
        assert!(read.is_ok() && text.starts_with('{'), "{text:?}: {read:?}");
    }
    assert!(texts.iter().any(|text| text.len() > 20), "nothing but short ones: {texts:?}");
}

#[test]
fn an_output_is_what_its_schema_describes() {
    let texts = whole_texts(&person(), 200);
    assert!(texts.len() > 150, "only {} of 200 ended", texts.len());
    for text in &texts {
        let value: Value = serde_json::from_str(text).expect(text);
        let object = value.as_object().expect(text);
        assert!(object.keys().all(|key| ["name", "age", "tags"].contains(&key.as_str())), "{text}");
        assert!(object["name"].as_str().is_some_and(|name| name.chars().count() <= 6), "{text}");
        assert!(object["age"].as_i64().is_some_and(|age| (7..=142).contains(&age)), "{text}");
        if let Some(tags) = object.get("tags") {
            let tags = tags.as_array().expect(text);
            let known = [json!("a"), json!("b"), json!(true)];
            assert!(tags.len() <= 2 && tags.iter().all(|tag| known.contains(tag)), "{text}");
        }
    }
    let choice = schema(&json!({"anyOf": [{"const": {"a": [1, null]}}, {"enum": ["ab", 42]}]}));
    for text in whole_texts(&choice, 30) {
        let value: Value = serde_json::from_str(&text).expect(&text);
        assert!([json!({"a": [1, null]}), json!("ab"), json!(42)].contains(&value), "{text}");
    }
}

#[test]
fn an_output_is_a_text_of_its_grammar() {
    let format =
        grammar("start: item (\",\" item)*\nitem: \"a\" | \"b\" NUMBER\nNUMBER: /[0-2]{1,2}/");
    let texts = whole_texts(&format, 60);
    assert!(!texts.is_empty());
    for text in texts {
        let item = |item: &str| {
            item == "a"
                || item.strip_prefix('b').is_some_and(|digits| {
                    (1..3).contains(&digits.len()) && digits.chars().all(|c| "012".contains(c))
                })
        };
        assert!(text.split(',').all(item), "{text}");
    }
}

fn wanting(token: u32, format: &OutputFormat) -> Options {
    let logit_bias = [(token, 100.0)].into();
    let sampling = Sampling { logit_bias, temperature: 0.0, ..Sampling::default() };
    Options {
        sampling,
        format: Some(format.clone()),
        predict: Predict::AtMost(40),
        ..Options::default()
    }
}

#[test]
fn the_end_comes_where_it_may_and_only_there() {
    let ending = wanting(END, &grammar("start: \"ab\" \"c\"*"));
    for ignore_end in [false, true] {
        let stream = solo(&prepare(&Options { ignore_end, ..ending.clone() }), &[], 0);
        assert_eq!(stream.text(), "ab");
        assert_eq!(stream.tokens().last(), Some(&END));
        assert_eq!(stream.finished.expect("ended").reason, FinishReason::Stop);
    }
    // Where nothing else may follow, the end needs no token: not even one from the limit.
    let whole = grammar("start: \"ab\" \"c\"");
    let mut options = wanting(END, &whole);
    options.predict = Predict::AtMost(solo(&prepare(&options), &[], 0).tokens().len() as u32);
    let stream = solo(&prepare(&options), &[], 0);
    assert_eq!((stream.text().as_str(), stream.tokens().contains(&END)), ("abc", false));
    assert_eq!(stream.finished.expect("ended").reason, FinishReason::Stop);
}

#[test]
fn a_limit_and_a_stop_text_end_what_is_not_complete() {
    let format = grammar("start: /[ab]{100}/");
    let limited = Options { predict: Predict::AtMost(3), ..wanting(END, &format) };
    let stream = solo(&prepare(&limited), &[], 0);
    assert_eq!(stream.tokens().len(), 3);
    assert_eq!(stream.finished.expect("ended").reason, FinishReason::Length);
    let stopped = Options { stop: vec!["b".into()], ..wanting(END, &format) };
    let stream = solo(&prepare(&stopped), &[], 0);
    assert!(stream.text().chars().all(|c| c == 'a'), "{}", stream.text());
    assert_eq!(stream.finished.expect("ended").reason, FinishReason::Stop);
}

#[test]
fn log_probabilities_are_those_of_the_model_without_a_format() {
    let free = Options { format: None, logprobs: Some(3), ..wanting(30, &OutputFormat::Json) };
    let bound = Options { format: Some(OutputFormat::Json), ..free.clone() };
    let (free, bound) = (solo(&prepare(&free), &[], 0), solo(&prepare(&bound), &[], 0));
    assert_eq!(free.logprobs[0].top, bound.logprobs[0].top, "the same logits");
    assert_ne!(free.logprobs[0].chosen, bound.logprobs[0].chosen);
    let told: Vec<u32> = bound.logprobs.iter().map(|told| told.chosen.token).collect();
    let shown: Vec<u32> = bound.tokens().into_iter().filter(|token| *token != END).collect();
    assert_eq!(told, shown);
}

#[test]
fn a_constrained_stream_goes_on_elsewhere_from_any_cut() {
    for (format, seed) in
        [(person(), 3), (person(), 8), (OutputFormat::Json, 5), (OutputFormat::Json, 12)]
    {
        let request = request(&format, seed);
        let whole = solo(&request, &[], 0);
        for cut in 0..=whole.pieces.len() {
            let before = Stream { pieces: whole.pieces[..cut].to_vec(), ..Stream::default() };
            let mut rest = request.clone();
            if let Some(mirostat) = &mut rest.options.sampling.mirostat {
                mirostat.mu = cut.checked_sub(1).and_then(|last| whole.mus[last]);
            }
            let after = solo(&rest, &before.tokens(), cut % 3);
            assert_eq!([before.tokens(), after.tokens()].concat(), whole.tokens(), "cut at {cut}");
            assert_eq!(before.text() + &after.text(), whole.text(), "cut at {cut}");
            assert_eq!(after.finished, whole.finished, "cut at {cut}");
        }
    }
}

/// Guesses are taken from an output that repeats itself, which these have to.
#[test]
fn guessing_ahead_changes_no_constrained_stream() {
    let list = schema(&json!({"type": "array", "items": {"enum": [1, {"a": 1}]}, "minItems": 12}));
    let mut several = 0;
    for (format, seed) in (0..40).flat_map(|seed| [(&list, seed), (&OutputFormat::Json, seed)]) {
        let request = request(format, seed);
        let (plain, guessed) = (solo(&request, &[], 0), solo(&request, &[], 1));
        assert_eq!(plain.tokens(), guessed.tokens(), "seed {seed}");
        assert_eq!(
            (plain.text(), plain.finished),
            (guessed.text(), guessed.finished),
            "seed {seed}"
        );
        several += guessed.pieces.iter().filter(|(tokens, _)| tokens.len() > 1).count();
    }
    assert!(several > 20, "only {several} steps brought more than one token");
}

/// The whole of each stream, and of those that failed the reason.
pub fn run(engine: &mut Engine) -> (BTreeMap<u64, Stream>, BTreeMap<u64, String>, bool) {
    let (mut streams, mut failed) = (BTreeMap::<u64, Stream>::new(), BTreeMap::new());
    let (mut before, mut preempted) = (engine.waiting(), false);
    while !engine.is_idle() {
        for emission in engine.step().expect("a sound backend") {
            let id = emission.sequence.0;
            assert!(!failed.contains_key(&id), "an emission after the end");
            failed.extend(emission.failed.clone().map(|reason| (id, reason)));
            streams.entry(id).or_default().take(emission);
        }
        preempted |= engine.waiting() > before;
        before = engine.waiting();
    }
    assert_eq!(engine.kv_usage().used, 0, "blocks are leaked");
    (streams, failed, preempted)
}

#[test]
fn company_and_preemption_change_no_constrained_stream() {
    let free = |seed| {
        prepare(&Options {
            sampling: sampling(seed),
            predict: Predict::AtMost(60),
            ..Options::default()
        })
    };
    let requests: Vec<Prepared> = (0..18)
        .map(|seed| match seed % 3 {
            0 => request(&person(), seed),
            1 => request(&OutputFormat::Json, seed),
            _ => free(seed),
        })
        .collect();
    let mut preempted = false;
    for (blocks, sequences_max, speculating_max) in [(400, 18, 0), (400, 2, 2), (52, 9, 9)] {
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
            assert_eq!(streams[id].finished, alone.finished);
        }
    }
    assert!(preempted, "nobody had to wait again");
}

#[test]
fn a_stream_that_cannot_go_on_ends_with_the_reason_and_harms_no_other() {
    // No token of this vocabulary spells what has to come after the first letters.
    let dead_end = request(&grammar("start: \"ab\" \"ab\" \"z\""), 1);
    let other = request(&person(), 3);
    let mut engine = engine(100, limits(4, 40));
    let ids = [&other, &dead_end, &other].map(|r| engine.submit(r.clone(), &[]).expect("taken").0);
    let (streams, failed, _) = run(&mut engine);
    assert_eq!(failed.keys().collect::<Vec<_>>(), [&ids[1]]);
    let reason = &failed[&ids[1]];
    assert!(reason.contains("no token may follow"), "{reason}");
    assert_eq!(streams[&ids[1]].text(), "abab", "what was said stands");
    assert!(streams[&ids[1]].finished.is_none());
    for id in [ids[0], ids[2]] {
        assert_eq!(streams[&id].tokens(), solo(&other, &[], 0).tokens());
    }
}
