//! The format an output shall have, from each API's field to the worker, and what is refused on the way.

use crate::http::Bench;
use crate::worker::Script;
use ollamamax_proto::inference::OutputFormat;
use ollamamax_proto::limits::OUTPUT_FORMAT_BYTES;
use serde_json::{Value, json};
use tonic::Code;

fn ask(more: &Value) -> Value {
    let user = json!([{"role": "user", "content": "hi"}]);
    let mut body = json!({"model": "m", "prompt": "x", "messages": user, "stream": false});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The order of a schema's properties is the order of the answer's.
const SCHEMA: &str =
    r#"{"type":"object","properties":{"z":{"type":"string"},"a":{"type":"integer"}}}"#;

fn schema() -> Value {
    serde_json::from_str(SCHEMA).unwrap()
}

#[tokio::test]
async fn each_field_that_names_a_format_reaches_the_worker() {
    let grammar = "start: \"a\"";
    let given = |format: OutputFormat| Some(format);
    let schema_text = || given(OutputFormat::Schema(SCHEMA.into()));
    let lark = || given(OutputFormat::Grammar(grammar.into()));
    let ollama = [
        (json!({"format": "json"}), given(OutputFormat::Json)),
        (json!({"format": schema()}), schema_text()),
        (json!({"options": {"grammar": grammar}}), lark()),
        (json!({"format": "", "options": {"grammar": grammar}}), lark()),
        (json!({"format": "json", "options": {"grammar": ""}}), given(OutputFormat::Json)),
        (json!({"format": ""}), None),
        (json!({"format": null}), None),
        (json!({"options": {"grammar": null}}), None),
        (json!({}), None),
    ];
    let openai = [
        (json!({"response_format": {"type": "json_object"}}), given(OutputFormat::Json)),
        (
            json!({"response_format": {"type": "json_schema",
                "json_schema": {"name": "answer", "schema": schema(), "strict": true}}}),
            schema_text(),
        ),
        (json!({"grammar": grammar}), lark()),
        (json!({"grammar": grammar, "response_format": {"type": "text"}}), lark()),
        (json!({"response_format": {"type": "text"}}), None),
        (json!({"response_format": null, "grammar": ""}), None),
    ];
    let ollama = ollama.iter().flat_map(|row| [("/api/generate", row), ("/api/chat", row)]);
    let openai = openai.iter().map(|row| ("/v1/chat/completions", row));
    let bench = Bench::new(&[Script::Answer]);
    for (path, (more, expected)) in ollama.chain(openai) {
        let answer = bench.post(path, ask(more)).await;
        assert_eq!(answer.status, 200, "{path} {more}: {}", answer.text);
        let last = bench.workers[0].requests().pop().unwrap();
        assert_eq!(&last.options.format, expected, "{path} {more}");
    }
}

#[tokio::test]
async fn a_grammar_of_the_model_yields_to_a_format_of_the_request() {
    let bench = Bench::new(&[Script::Answer]);
    let parameters = json!({"grammar": "start: \"a\""});
    let create = json!({"model": "mine", "from": "m", "parameters": parameters});
    assert_eq!(bench.post("/api/create", create).await.status, 200);
    for (more, expected) in [
        (json!({"model": "mine"}), OutputFormat::Grammar("start: \"a\"".into())),
        (json!({"model": "mine", "format": "json"}), OutputFormat::Json),
    ] {
        bench.post("/api/chat", ask(&more)).await;
        let last = bench.workers[0].requests().pop().unwrap();
        assert_eq!(last.options.format, Some(expected), "{more}");
    }
}

#[tokio::test]
async fn what_is_no_format_is_400_with_the_field_named() {
    let bench = Bench::new(&[Script::Answer]);
    let words = "expected \"json\" or a valid JSON Schema object";
    let long = "a".repeat(OUTPUT_FORMAT_BYTES);
    let table = [
        (json!({"format": "xml"}), "invalid format: \"xml\"; expected"),
        (json!({"format": 7}), words),
        (json!({"format": true}), words),
        (json!({"format": ["json"]}), words),
        (json!({"format": "x".repeat(1_000)}), words),
        (json!({"format": {"title": long}}), "`format` has 32780 bytes, at most 32768"),
        (json!({"options": {"grammar": 7}}), r#"option "grammar" must be of type string"#),
        (json!({"options": {"grammar": format!("{long}b")}}), "`options.grammar` has 32769 bytes"),
        (
            json!({"format": "json", "options": {"grammar": "start: \"a\""}}),
            "`format` and `options.grammar` are both given",
        ),
    ];
    for (more, words) in &table {
        for path in ["/api/generate", "/api/chat"] {
            let answer = bench.post(path, ask(more)).await;
            assert_eq!(answer.status, 400, "{path} {more:.100}");
            let error = answer.error();
            assert!(error.contains(words) && error.len() < 250, "{path} {more:.100}: {error}");
        }
    }
    let kind = "response_format.type";
    let schema = "response_format.json_schema.schema";
    let table = [
        (json!({"response_format": {"type": "xml"}}), kind, "expected \"text\", \"json_object\""),
        (json!({"response_format": {"type": "json_schema"}}), schema, "expected an object"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": "x"}}}),
            schema,
            "expected an object",
        ),
        (
            json!({"response_format": {"type": "json_schema",
                "json_schema": {"schema": {"title": long}}}}),
            schema,
            "has 32780 bytes",
        ),
        (
            json!({"response_format": {"type": "json_object"}, "grammar": "start: \"a\""}),
            "response_format",
            "are both given",
        ),
        (json!({"grammar": format!("{long}b")}), "grammar", "has 32769 bytes"),
    ];
    for (more, param, words) in table {
        let answer = bench.post("/v1/chat/completions", ask(&more)).await;
        assert_eq!(answer.status, 400, "{more:.100}");
        let error = &answer.json()["error"];
        assert_eq!(
            (&error["type"], &error["param"]),
            (&json!("invalid_request_error"), &json!(param))
        );
        assert!(error["message"].as_str().unwrap().contains(words), "{error}");
    }
    let odd = bench.post("/v1/chat/completions", ask(&json!({"response_format": "json"}))).await;
    assert!(odd.status == 400 && odd.text.contains("`response_format`"), "{}", odd.text);
    assert!(bench.workers[0].requests().is_empty(), "nothing of this reached a worker");
}

#[tokio::test]
async fn a_format_the_worker_cannot_follow_is_400_with_its_words_and_tried_once() {
    let words = "the output `schema` cannot be used: Unimplemented keys: [\"uniqueItems\"]";
    let refusal = Script::Refuse(Code::InvalidArgument, words);
    let bench = Bench::new(&[refusal.clone(), refusal]);
    let answer = bench.post("/api/chat", ask(&json!({"format": {"uniqueItems": true}}))).await;
    assert_eq!((answer.status.as_u16(), answer.error().as_str()), (400, words));
    let calls: usize = bench.workers.iter().map(|worker| worker.requests().len()).sum();
    assert_eq!(calls, 1);
}
