//! The catalogue of bad input: what comes in that no client means, and what it gets. Nothing of it reaches a worker, and the
//! next request is answered as ever.

use crate::http::Bench;
use crate::worker::Script;
use ollamamax_proto::limits;
use serde_json::{Value, json};

const OLLAMA: [&str; 2] = ["/api/generate", "/api/chat"];
const OPENAI: &str = "/v1/chat/completions";

/// A good body with something of it replaced.
fn ask(more: Value) -> Value {
    let messages = json!([{"role": "user", "content": "hi"}]);
    let mut body = json!({"model": "m", "messages": messages, "prompt": "x", "stream": false});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn expect(bench: &Bench, path: &str, body: impl Into<Vec<u8>>, status: u16, what: &str) {
    let answer = bench.send("POST", path, body.into()).await;
    assert_eq!(answer.status, status, "{path} {what}: {}", answer.text);
    let error = &answer.json()["error"];
    let message = error.as_str().or(error["message"].as_str()).expect("an error text");
    assert!(!message.is_empty() && message.len() < 2_500, "{path} {what}: {message}");
    for leak in ["panicked", "src/", ".rs:", "/home", "/root"] {
        assert!(!message.contains(leak), "{path} {what}: {message}");
    }
}

/// Nothing of what was refused got any further, and good requests are answered.
async fn unharmed(bench: &Bench) {
    assert!(bench.workers[0].requests().is_empty(), "nothing of this reached a worker");
    assert_eq!(bench.post(OPENAI, ask(json!({}))).await.status, 200);
}

#[tokio::test]
async fn bytes_that_are_no_json_object_are_400() {
    let bench = Bench::new(&[Script::Answer]);
    let utf16: Vec<u8> = "{\"model\":\"m\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let deep = |levels: usize, open: &str, close: &str| {
        let (open, close) = (open.repeat(levels), close.repeat(levels));
        format!(r#"{{"model":"m","unread":{open}1{close}}}"#).into_bytes()
    };
    let table: [(&str, Vec<u8>); 20] = [
        ("nothing", vec![]),
        ("blanks", b" \n\t".to_vec()),
        ("null", b"null".to_vec()),
        ("a list", b"[]".to_vec()),
        ("a text", b"\"m\"".to_vec()),
        ("a number", b"7".to_vec()),
        ("half of it", b"{\"model\":\"m\"".to_vec()),
        ("more after it", b"{\"model\":\"m\"}{}".to_vec()),
        ("no UTF-8", b"{\"model\":\"\xff\xfe\"}".to_vec()),
        ("UTF-16", utf16),
        (
            "half a character",
            br#"{"model":"m","messages":[{"role":"user","content":"\ud800"}],"prompt":"\ud800"}"#
                .to_vec(),
        ),
        (
            "not a number",
            br#"{"model":"m","options":{"temperature":NaN},"temperature":NaN}"#.to_vec(),
        ),
        (
            "infinity",
            br#"{"model":"m","options":{"temperature":Infinity},"temperature":-Infinity}"#.to_vec(),
        ),
        (
            "a number too large",
            br#"{"model":"m","options":{"temperature":1e400},"temperature":1e400}"#.to_vec(),
        ),
        ("a field twice", br#"{"model":"m","model":"x"}"#.to_vec()),
        ("a control character", b"{\"model\":\"m\x00\"}".to_vec()),
        ("many lists", deep(128, "[", "]")),
        ("many objects", deep(128, "{\"a\":", "}")),
        ("a million lists", deep(1_000_000, "[", "]")),
        ("lists that do not end", b"[".repeat(60_000)),
    ];
    for (what, body) in table {
        // What is wrong inside of a field is seen by who reads that field.
        let inside = ["half a character", "a number too large"].contains(&what);
        let others = ["/api/show", "/admin/v1/workers/w1/label"].into_iter().filter(|_| !inside);
        for path in [OLLAMA[0], OLLAMA[1], OPENAI].into_iter().chain(others) {
            expect(&bench, path, body.clone(), 400, what).await;
        }
    }
    unharmed(&bench).await;
}

#[tokio::test]
async fn a_byte_order_mark_and_unknown_fields_are_let_pass() {
    let bench = Bench::new(&[Script::Answer]);
    for path in [OLLAMA[0], OLLAMA[1], OPENAI] {
        let body = format!("\u{feff}{}", ask(json!({"no_such_field": {"deep": [1]}})));
        assert_eq!(bench.send("POST", path, body).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn options_out_of_range_are_400_before_anything_is_reserved() {
    let bench = Bench::new(&[Script::Answer]);
    let long = "x".repeat(limits::STOP_BYTES + 1);
    let many = vec!["x"; 10_000];
    let options = [
        json!({"num_ctx": -1}),
        json!({"num_ctx": 1_u64 << 32}),
        json!({"num_ctx": u64::MAX}),
        json!({"num_ctx": "4096"}),
        json!({"temperature": -0.1}),
        json!({"temperature": 1e30}),
        json!({"top_p": -0.1}),
        json!({"top_p": 1.1}),
        json!({"min_p": 2}),
        json!({"repeat_penalty": -1}),
        json!({"num_predict": -3}),
        json!({"seed": u64::MAX}),
        json!({"seed": 1e300}),
        json!({"stop": many}),
        json!({"stop": [long]}),
        json!({"stop": [7]}),
        json!({"mirostat": 9}),
        json!({"grammar": "x".repeat(limits::OUTPUT_FORMAT_BYTES + 1)}),
    ];
    for options in options {
        for path in OLLAMA {
            let what: String = options.to_string().chars().take(60).collect();
            expect(&bench, path, ask(json!({"options": options})).to_string(), 400, &what).await;
        }
    }
    let biases: serde_json::Map<String, Value> =
        (0..=limits::BIASES_COUNT).map(|id| (id.to_string(), json!(1))).collect();
    let fields = [
        json!({"n": 1_000_000_000}),
        json!({"n": -1}),
        json!({"n": u64::MAX}),
        json!({"logprobs": 1_000_000_000}),
        json!({"logprobs": true, "top_logprobs": 1_000_000_000}),
        json!({"temperature": -1}),
        json!({"temperature": 2.1}),
        json!({"top_p": 1.5}),
        json!({"presence_penalty": 1e9}),
        json!({"seed": u64::MAX}),
        json!({"stop": many}),
        json!({"stop": long}),
        json!({"stop": {"a": 1}}),
        json!({"max_tokens": 0}),
        json!({"max_tokens": -5}),
        json!({"max_tokens": 1_u64 << 32}),
        json!({"max_completion_tokens": 0}),
        json!({"logit_bias": {"-1": 1}}),
        json!({"logit_bias": {"4294967296": 1}}),
        json!({"logit_bias": {"1": 1e9}}),
        json!({"logit_bias": {"1": "x"}}),
        json!({"logit_bias": biases}),
        json!({"grammar": "x".repeat(limits::OUTPUT_FORMAT_BYTES + 1)}),
        json!({"response_format": {"type": "json_schema"}}),
    ];
    for fields in fields {
        let what: String = fields.to_string().chars().take(60).collect();
        expect(&bench, OPENAI, ask(fields).to_string(), 400, &what).await;
    }
    unharmed(&bench).await;
}

#[tokio::test]
async fn a_context_larger_than_the_model_knows_is_cut_to_it() {
    let bench = Bench::new(&[Script::Answer]);
    let answer = bench.post(OLLAMA[0], ask(json!({"options": {"num_ctx": 2_000_000_000}}))).await;
    assert_eq!(answer.status, 200);
    let request = bench.workers[0].requests().remove(0);
    assert_eq!(request.options.context_tokens, Some(2048));
}

#[tokio::test]
async fn messages_that_are_none_are_400() {
    let bench = Bench::new(&[Script::Answer]);
    let message = json!({"role": "user", "content": "x"});
    let table = [
        json!([{"content": "x"}]),
        json!([{"role": "root", "content": "x"}]),
        json!([{"role": 7, "content": "x"}]),
        json!([{"role": "user", "content": {"text": "x"}}]),
        json!(["hi"]),
        json!({"role": "user", "content": "x"}),
        json!("hi"),
        Value::Array(vec![message; limits::MESSAGES_COUNT + 1]),
    ];
    for messages in table {
        let what: String = messages.to_string().chars().take(60).collect();
        for path in [OLLAMA[1], OPENAI] {
            expect(&bench, path, ask(json!({"messages": messages})).to_string(), 400, &what).await;
        }
    }
    expect(&bench, OPENAI, ask(json!({"messages": []})).to_string(), 400, "no message").await;
    let image = json!({"messages": [{"role": "user", "content": "x", "images": ["!"]}]});
    expect(&bench, OLLAMA[1], ask(image).to_string(), 400, "no image").await;
    unharmed(&bench).await;
}

#[tokio::test]
async fn names_that_no_model_has_lead_nowhere() {
    let bench = Bench::new(&[Script::Answer]);
    let long = "x".repeat(5_000);
    for name in ["../../etc/passwd", "a/b/c/d/e", &long, "m\0", "\u{202e}m", "C:\\m", "//m", "@m"] {
        for path in [OLLAMA[0], OLLAMA[1], OPENAI] {
            expect(&bench, path, ask(json!({"model": name})).to_string(), 404, name).await;
        }
        expect(&bench, "/api/create", json!({"model": name, "from": "m"}).to_string(), 400, name)
            .await;
        expect(
            &bench,
            "/api/copy",
            json!({"source": "m", "destination": name}).to_string(),
            400,
            name,
        )
        .await;
    }
    unharmed(&bench).await;
}

#[tokio::test]
async fn what_a_client_sent_is_quoted_but_not_at_any_length() {
    let bench = Bench::new(&[]);
    let huge = "\u{1b}[31m\r\nx".repeat(100_000);
    for body in [json!({"model": "m", "stream": huge}), json!({"model": "m", "think": huge})] {
        expect(&bench, OLLAMA[0], body.to_string(), 400, "a huge value").await;
    }
    expect(&bench, OLLAMA[0], json!({"model": huge}).to_string(), 404, "a huge name").await;
}

#[tokio::test]
async fn odd_paths_and_methods_get_plain_answers() {
    let bench = Bench::new(&[]);
    for path in ["//", "/%2e%2e/etc/passwd", "/api/tags;x", "/api//tags", "/v1", "/API/TAGS"] {
        assert_eq!(bench.get(path).await.status, 404, "{path}");
    }
    for (method, path, allowed) in [
        ("GET", "/api/chat", "POST"),
        ("POST", "/api/tags", "GET,HEAD"),
        ("PATCH", "/v1/models", "GET,HEAD"),
        ("TRACE", "/", "GET,HEAD"),
        ("BREW", "/", "GET,HEAD"),
    ] {
        let answer = bench.send(method, path, "").await;
        assert_eq!(answer.status, 405, "{method} {path}");
        assert_eq!(answer.headers["allow"], allowed, "{method} {path}");
    }
    let head = bench.send("HEAD", "/api/tags", "").await;
    assert_eq!((head.status.as_u16(), head.text.as_str()), (200, ""));
    let stream = format!("/api/streams/{}", "0".repeat(32));
    for (path, id, expected) in [
        (stream.as_str(), "garbage", 400),
        (stream.as_str(), "-1", 400),
        (stream.as_str(), "99999999999999999999999", 400),
        (stream.as_str(), "7", 404),
        ("/api/streams/x", "7", 400),
    ] {
        let answer = bench.send_with("GET", path, &[("last-event-id", id)], "").await;
        assert_eq!(answer.status, expected, "{path} {id}");
    }
}

/// Whatever is written where a digest belongs, in a body or in a path: what is none leads to no file.
#[tokio::test]
async fn ten_thousand_odd_digests_lead_to_no_file() {
    let bench = Bench::new(&[]);
    let hex = "0123456789abcdef".repeat(4);
    let pieces = [
        "sha256:",
        "sha256-",
        "SHA256:",
        "../",
        "..%2f",
        "%2e%2e/",
        "/etc/passwd",
        "\\",
        "\u{0}",
        "A",
        "g",
        ":",
        "-",
        "sha512:",
        " ",
        "%00",
    ];
    let mut seed = 0x5eed_u64;
    let mut below = |bound: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % bound
    };
    for nth in 0..10_000 {
        let mut text = format!("sha256:{hex}");
        for _ in 0..1 + below(3) {
            let (at, piece) = (below(text.len() + 1), pieces[below(pieces.len())]);
            match below(3) {
                0 => text.insert_str(at, piece),
                1 => text.truncate(at),
                _ => text.replace_range(at..(at + 1).min(text.len()), piece),
            }
        }
        if text.parse::<ollamamax_proto::Digest>().is_ok() {
            continue;
        }
        let body = json!({"model": "x", "files": {"a.gguf": text}, "stream": false});
        let answer = bench.post("/api/create", body).await;
        assert_eq!(answer.status, 400, "{text:?}: {}", answer.text);
        if nth % 10 == 0 {
            let segment: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let answer = bench.send("POST", &format!("/api/blobs/{segment}"), "x").await;
            assert!(answer.status.is_client_error(), "{text:?}: {}", answer.status);
        }
    }
    assert!(bench.blobs.is_empty(), "nothing was stored");
}
