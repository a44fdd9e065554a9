//! The whole engine on a real model: it answers, alone and in company, and goes on where another
//! one stopped.

use crate::fake::{Stream, drain};
use ollamamax_engine::cpu::{CpuBackend, CpuOptions, NumericPath};
use ollamamax_engine::engine::{Engine, EngineLimits, PrepareError, Prepared, TextModel};
use ollamamax_gguf::Gguf;
use ollamamax_proto::inference::{
    Chat, FinishReason, Insert, Message, Options, OutputFormat, Predict, Prompt, Sampling, Tags,
    Think,
};
use ollamamax_proto::limits::STEP_TOKENS_CPU;
use ollamamax_tests::model::smollm2;
use std::sync::{Arc, OnceLock};

const CONTEXT_TOKENS: u32 = 256;

fn text() -> Arc<TextModel> {
    static TEXT: OnceLock<Arc<TextModel>> = OnceLock::new();
    let read = || {
        let bytes = std::fs::read(smollm2()).expect("the model file is readable");
        let gguf = Gguf::parse(&bytes).expect("a sound header");
        Arc::new(TextModel::from_gguf(&gguf).expect("a known tokenizer and template"))
    };
    Arc::clone(TEXT.get_or_init(read))
}

fn engine(path: NumericPath, kv_blocks: u32) -> Engine {
    engine_with(path, kv_blocks, 4, 0)
}

fn engine_with(
    path: NumericPath,
    kv_blocks: u32,
    sequences_max: u32,
    speculating_max: usize,
) -> Engine {
    let options = CpuOptions { path, kv_blocks, ..CpuOptions::default() };
    let backend = CpuBackend::load(smollm2(), &options).expect("a sound model");
    let limits = EngineLimits {
        context_tokens: CONTEXT_TOKENS,
        sequences_max,
        step_tokens: STEP_TOKENS_CPU,
        waiting_max: 16,
        speculating_max,
    };
    Engine::new(Box::new(backend), text(), limits)
}

fn ask(question: &str, sampling: Sampling, predict: u32) -> Prepared {
    ask_with(
        question,
        Options { sampling, predict: Predict::AtMost(predict), ..Options::default() },
    )
}

fn ask_with(question: &str, options: Options) -> Prepared {
    let message =
        Message { role: "user".into(), content: question.into(), extra_json: String::new() };
    let prompt = Prompt::Chat(Chat { messages: vec![message], ..Chat::default() });
    text().prepare(&prompt, &options, CONTEXT_TOKENS).expect("fits")
}

fn greedy() -> Sampling {
    Sampling { temperature: 0.0, ..Sampling::default() }
}

fn alone(path: NumericPath, request: &Prepared, resume: &[u32]) -> Stream {
    let mut engine = engine(path, 32);
    let id = engine.submit(request.clone(), resume).expect("taken");
    drain(&mut engine).remove(&id).expect("emitted")
}

#[test]
fn it_knows_the_capital_of_france() {
    let stream =
        alone(NumericPath::Fast, &ask("What is the capital of France?", greedy(), 64), &[]);
    assert!(stream.text().contains("Paris"), "{}", stream.text());
    assert!(!stream.text().contains("<|"), "{}", stream.text());
    assert_eq!(stream.finished.expect("ended").reason, FinishReason::Stop);
}

#[test]
fn streams_in_company_are_the_streams_alone() {
    let requests = [
        ask("Write a short poem about the ocean.", greedy(), 24),
        ask("Who are you?", Sampling { seed: 7, ..Sampling::default() }, 24),
        ask("Count to ten.", Sampling { seed: 8, repeat_penalty: 1.2, ..Sampling::default() }, 24),
    ];
    let alone = requests.each_ref().map(|request| alone(NumericPath::Fast, request, &[]));
    // Seven blocks hold two prompts and not much more: somebody is preempted.
    for blocks in [64, 7] {
        let mut engine = engine(NumericPath::Fast, blocks);
        let ids = requests.each_ref().map(|r| engine.submit(r.clone(), &[]).expect("taken"));
        let streams = drain(&mut engine);
        for (id, alone) in ids.iter().zip(&alone) {
            assert_eq!(streams[id].tokens(), alone.tokens(), "with {blocks} blocks");
            assert_eq!(streams[id].text(), alone.text());
        }
    }
}

/// Sixteen together, some with a known prefix, with and without guessing ahead, with and without room for all: every bit is
/// that of the stream alone.
#[test]
fn sixteen_streams_are_each_the_stream_alone() {
    let questions =
        ["Repeat after me: one two three one two three.", "Who are you?", "Count to ten."];
    let requests: Vec<Prepared> = (0..16)
        .map(|i| {
            let temperature = if i % 2 == 0 { 0.0 } else { 0.7 };
            let sampling = Sampling { seed: i, temperature, ..Sampling::default() };
            ask(questions[i as usize % questions.len()], sampling, 24)
        })
        .collect();
    let alone: Vec<Stream> =
        requests.iter().map(|request| alone(NumericPath::Fast, request, &[])).collect();
    for (blocks, speculating_max) in [(128, 0), (128, 16), (24, 16)] {
        let mut engine = engine_with(NumericPath::Fast, blocks, 16, speculating_max);
        // The second round finds the prompts of the first in the prefix cache.
        for round in 0..2 {
            let ids: Vec<_> =
                requests.iter().map(|r| engine.submit(r.clone(), &[]).expect("taken")).collect();
            let streams = drain(&mut engine);
            for (id, alone) in ids.iter().zip(&alone) {
                let case =
                    format!("{blocks} blocks, guessing up to {speculating_max}, round {round}");
                assert_eq!(streams[id].tokens(), alone.tokens(), "{case}");
                assert_eq!(streams[id].text(), alone.text(), "{case}");
            }
        }
    }
}

#[test]
fn a_stream_resumed_elsewhere_is_the_uninterrupted_one() {
    let sampling = Sampling { seed: 42, ..Sampling::default() };
    let request = ask("Tell me about \u{1F600} and caf\u{e9}s.", sampling, 32);
    let whole = alone(NumericPath::Fast, &request, &[]);
    for cut in [1, 7, whole.pieces.len() - 1] {
        let before = Stream { pieces: whole.pieces[..cut].to_vec(), ..Stream::default() };
        let resumed = alone(NumericPath::Fast, &request, &before.tokens());
        assert_eq!([before.tokens(), resumed.tokens()].concat(), whole.tokens(), "cut at {cut}");
        assert_eq!(before.text() + &resumed.text(), whole.text());
    }
}

/// Greedy, by chance, guessing ahead, cut anywhere: what is filled in stays the same, and is what was asked for.
#[test]
fn a_constrained_stream_is_what_its_schema_describes_and_goes_on_elsewhere() {
    let schema = serde_json::json!({
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 24},
            "inhabitants": {"type": "integer", "minimum": 0, "maximum": 99_000_000},
            "rivers": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 2},
            "continent": {"enum": ["Africa", "Asia", "Europe"]},
        },
        "required": ["city", "inhabitants", "rivers", "continent"],
        "additionalProperties": false,
    });
    for temperature in [0.0, 1.5] {
        let options = Options {
            sampling: Sampling { seed: 5, temperature, ..Sampling::default() },
            predict: Predict::AtMost(160),
            format: Some(OutputFormat::Schema(schema.to_string())),
            ..Options::default()
        };
        let request = ask_with("Describe the city of Vienna as JSON.", options);
        let whole = alone(NumericPath::Fast, &request, &[]);
        let text = whole.text();
        assert_eq!(whole.finished.as_ref().expect("ended").reason, FinishReason::Stop, "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let object = value.as_object().expect("an object");
        assert_eq!(
            object.keys().collect::<Vec<_>>(),
            ["city", "inhabitants", "rivers", "continent"]
        );
        assert!(object["city"].as_str().is_some_and(|city| city.chars().count() <= 24), "{text}");
        assert!(object["inhabitants"].as_u64().is_some_and(|n| n <= 99_000_000), "{text}");
        assert!(object["rivers"].as_array().is_some_and(|rivers| rivers.len() <= 2), "{text}");
        for cut in [1, whole.pieces.len() / 2, whole.pieces.len() - 1] {
            let before = Stream { pieces: whole.pieces[..cut].to_vec(), ..Stream::default() };
            let mut engine = engine_with(NumericPath::Fast, 32, 1, 1);
            let id = engine.submit(request.clone(), &before.tokens()).expect("taken");
            let after = drain(&mut engine).remove(&id).expect("emitted");
            assert_eq!([before.tokens(), after.tokens()].concat(), whole.tokens(), "cut at {cut}");
            assert_eq!(before.text() + &after.text(), text);
        }
    }
}

/// A sentence of thinking, and then what was asked for: the prompt opens the thinking, a full stop ends it.
#[test]
fn a_real_model_thinks_before_it_fills_in_a_schema() {
    let schema = r#"{"type":"object","properties":{"city":{"type":"string","maxLength":24}},"required":["city"]}"#;
    let tags = Tags { open: "<think>".into(), close: ".".into() };
    let options = Options {
        sampling: greedy(),
        predict: Predict::AtMost(120),
        format: Some(OutputFormat::Schema(schema.to_owned())),
        thinking: Some(tags),
        ..Options::default()
    };
    let content = "Which city is the capital of France? Think in one sentence.".to_owned();
    let extra_json = String::new();
    let message = Message { role: "user".into(), content, extra_json };
    let template = "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}\
                    <|im_start|>assistant\n{{ if .Think }}<think>\n{{ end }}";
    let prompt = Prompt::Chat(Chat {
        messages: vec![message],
        template: Some(template.to_owned()),
        think: Some(Think::On),
        ..Chat::default()
    });
    let request = text().prepare(&prompt, &options, CONTEXT_TOKENS).expect("fits");
    let whole = alone(NumericPath::Fast, &request, &[]);
    let said = whole.text();
    let (thoughts, answer) =
        said.strip_prefix("<think>").expect(&said).split_once('.').expect(&said);
    assert!(thoughts.len() > 10, "{said}");
    let value: serde_json::Value = serde_json::from_str(answer.trim_start()).expect(&said);
    assert!(value["city"].is_string(), "{said}");
    for cut in [1, 5, whole.pieces.len() - 1] {
        let before = Stream { pieces: whole.pieces[..cut].to_vec(), ..Stream::default() };
        let after = alone(NumericPath::Fast, &request, &before.tokens());
        assert_eq!([before.tokens(), after.tokens()].concat(), whole.tokens(), "cut at {cut}");
        assert_eq!(before.text() + &after.text(), said, "cut at {cut}");
    }
}

#[test]
fn a_go_template_gives_the_prompt_that_the_models_own_gives() {
    let message = |role: &str, content: &str| Message {
        role: role.into(),
        content: content.into(),
        extra_json: String::new(),
    };
    let messages = vec![
        message("system", "Be brief."),
        message("user", "Hi"),
        message("assistant", "Hello"),
        message("user", "Who are you?"),
    ];
    let own = Chat { messages, ..Chat::default() };
    let whole = "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n";
    let turns = "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}\
                 {{ if .Prompt }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n{{ end }}\
                 <|im_start|>assistant\n{{ .Response }}<|im_end|>\n";
    let tokens = |prompt: &Prompt| {
        text().prepare(prompt, &Options::default(), CONTEXT_TOKENS).map(|prepared| prepared.tokens)
    };
    let expected = tokens(&Prompt::Chat(own.clone())).expect("fits");
    for template in [whole, turns] {
        let chat = Chat { template: Some(template.to_owned()), ..own.clone() };
        assert_eq!(tokens(&Prompt::Chat(chat)).as_ref(), Ok(&expected), "{template}");
    }
    // It was not taught to fill gaps, but a template can ask it to.
    let gap = Insert { before: "1, 2, ".into(), after: ", 4".into(), template: None };
    assert_eq!(tokens(&Prompt::Insert(gap.clone())), Err(PrepareError::Insert));
    let template = Some("{{ .Prompt }}[{{ .Suffix }}]".to_owned());
    let asked = tokens(&Prompt::Insert(Insert { template, ..gap })).expect("fits");
    assert_eq!(asked, text().tokenizer().encode("1, 2, [, 4]", true).expect("text"));
}
