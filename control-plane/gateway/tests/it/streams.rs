//! Streams whose gateway goes: another one goes on with them, and nothing is lost or comes twice.

use crate::auth::{Secure, add_user};
use crate::control::FakeBlobs;
use crate::described;
use crate::http::{Answer, Bench, local, quick, until};
use crate::worker::{Script, text};
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use ollamamax_core::Command;
use ollamamax_gateway::Gateway;
use ollamamax_gateway::ports::ControlPlane;
use serde_json::{Value, json};
use std::time::Duration;
use tower::ServiceExt;

const TOKENS: usize = 300;
const SEED: u64 = 7;

fn bench() -> Bench {
    let slow = Script::Slow(Duration::from_millis(5));
    Bench::new(&[slow.clone(), slow])
}

/// Another node of the same cluster.
fn another(bench: &Bench) -> Router {
    local(Gateway::new(bench.control.clone(), FakeBlobs::new(), quick()).router())
}

fn kept(bench: &Bench) -> usize {
    bench.control.proposed(|command| matches!(command, Command::PutCheckpoint { .. }))
}

/// Reads a stream until something of it is kept and a little more, and lets its gateway go. Its id, and what was read.
async fn break_off(bench: &Bench, path: &str, body: Value) -> (String, String) {
    let request = Request::post(path)
        .header("host", "localhost")
        .body(Body::from(body.to_string()))
        .expect("a request");
    let response = bench.router.clone().oneshot(request).await.expect("an answer");
    let id = response.headers()["x-stream-id"].to_str().expect("an id").to_owned();
    let mut body = response.into_body();
    let (mut read, mut more) = (String::new(), 0);
    while more < 20 {
        let frame = body.frame().await.expect("not the end").expect("no error");
        read.push_str(std::str::from_utf8(frame.data_ref().expect("data")).expect("text"));
        more += usize::from(kept(bench) > 0);
    }
    (id, read)
}

async fn go_on(
    router: &Router,
    id: &str,
    from: Option<usize>,
    headers: &[(&str, String)],
) -> Answer {
    let query = from.map(|from| format!("?from={from}")).unwrap_or_default();
    let mut request = Request::get(format!("/api/streams/{id}{query}")).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let request = request.body(Body::empty()).expect("a request");
    let response = router.clone().oneshot(request).await.expect("an answer");
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.expect("a body").to_bytes();
    let text = String::from_utf8(bytes.to_vec()).expect("text");
    described::check("GET", "/api/streams/id", parts.status, &parts.headers, &text);
    Answer { status: parts.status, headers: parts.headers, text }
}

fn responses(lines: &[Value]) -> String {
    lines.iter().filter_map(|line| line["response"].as_str()).collect()
}

fn whole_lines(read: &str) -> Vec<Value> {
    read.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_at_another_gateway_from_any_byte() {
    let bench = bench();
    let options = json!({"seed": SEED, "num_predict": TOKENS});
    let ask = json!({"model": "m", "prompt": "x", "options": options});
    let (id, read) = break_off(&bench, "/api/generate", ask).await;
    let got = responses(&whole_lines(&read));
    let (whole, other) = (text(SEED, TOKENS), another(&bench));
    assert!(whole.starts_with(&got) && got.len() < whole.len());
    // From where the client is, from its begin, and from where no checkpoint was yet.
    for from in [got.len(), 0, 3, got.len() + 40] {
        let answer = go_on(&other, &id, Some(from), &[]).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let lines = answer.lines();
        assert_eq!(responses(&lines), whole[from..], "from {from}");
        let last = lines.last().expect("an end");
        assert_eq!((&last["done"], &last["eval_count"]), (&json!(true), &json!(TOKENS)));
        assert!(lines[..lines.len() - 1].iter().all(|line| line["done"] == false));
    }
    let answer = go_on(&other, &id, Some(whole.len()), &[]).await;
    assert_eq!((responses(&answer.lines()).as_str(), answer.lines().len()), ("", 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_source_goes_on_after_its_last_event() {
    let bench = bench();
    let ask = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "seed": SEED,
        "max_tokens": TOKENS, "stream": true, "stream_options": {"include_usage": true}});
    let (id, read) = break_off(&bench, "/v1/chat/completions", ask).await;
    let last = read.lines().rev().find_map(|line| line.strip_prefix("id: ")).expect("an id");
    let headers = [("last-event-id", last.to_owned())];
    let answer = go_on(&another(&bench), &id, None, &headers).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let events = |text: &str| -> Vec<Value> {
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter(|data| *data != "[DONE]")
            .map(|data| serde_json::from_str(data).expect("JSON"))
            .collect()
    };
    let (before, after) = (events(&read), events(&answer.text));
    let content = |events: &[Value]| -> String {
        events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect()
    };
    assert_eq!(content(&before) + &content(&after), text(SEED, TOKENS));
    assert_eq!(before[0]["id"], after[0]["id"], "it is the same answer");
    assert!(after.iter().all(|event| event["choices"][0]["delta"]["role"].is_null()));
    assert_eq!(after.last().expect("usage")["usage"]["completion_tokens"], TOKENS);
    assert!(answer.text.ends_with("data: [DONE]\n\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_short_or_not_wanted_is_not_kept_and_what_is_complete_is_forgotten() {
    let bench = Bench::new(&[Script::Answer]);
    let ask = json!({"model": "m", "prompt": "x", "options": {"seed": SEED, "num_predict": 20}});
    for _ in 0..5 {
        let answer = bench.post("/api/generate", ask.clone()).await;
        assert!(answer.headers.contains_key("x-stream-id"));
    }
    let whole = json!({"model": "m", "prompt": "x", "stream": false});
    let answer = bench.post("/api/generate", whole).await;
    assert!(!answer.headers.contains_key("x-stream-id"), "an answer in one piece is no stream");
    bench.workers[0].script(Script::Slow(Duration::from_millis(5)));
    let long =
        json!({"model": "m", "prompt": "x", "options": {"seed": SEED, "num_predict": TOKENS}});
    let off = [("x-stream-checkpoint", "off")];
    let answer = bench.send_with("POST", "/api/generate", &off, long.to_string()).await;
    assert!(!answer.headers.contains_key("x-stream-id"));
    assert_eq!(kept(&bench), 0);
    // The same without the header is kept, and its last state, too.
    let answer = bench.post("/api/generate", long).await;
    assert_eq!(responses(&answer.lines()), text(SEED, TOKENS));
    let id = answer.headers["x-stream-id"].to_str().expect("an id").to_owned();
    let held = || bench.control.state().checkpoints.keys().any(|name| name.ends_with(&id));
    until("it is kept", held).await;
    let listed = bench.get(&format!("/admin/v1/checkpoints/streams/{id}")).await;
    assert_eq!(listed.status, 400, "its text is for those who know its id: {}", listed.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_names_no_stream_or_no_place_in_it_is_refused() {
    let bench = bench();
    let options = json!({"seed": SEED, "num_predict": TOKENS});
    let ask = json!({"model": "m", "prompt": "x", "options": options});
    let (id, _) = break_off(&bench, "/api/generate", ask).await;
    let refused = async |path: String, headers: &[(&str, &str)]| {
        let answer = bench.send_with("GET", &path, headers, Body::empty()).await;
        (answer.status.as_u16(), answer.error())
    };
    let (status, error) = refused("/api/streams/nothex".to_owned(), &[]).await;
    assert!(status == 400 && error.contains("32 hex digits"), "{error}");
    let (status, error) = refused(format!("/api/streams/{:032x}", 5), &[]).await;
    assert!(status == 404 && error.contains("ask anew"), "{error}");
    let (status, error) = refused(format!("/api/streams/{id}?from=-1"), &[]).await;
    assert!(status == 400, "{error}");
    let (status, error) = refused(format!("/api/streams/{id}"), &[("last-event-id", "x")]).await;
    assert!(status == 400 && error.contains("last-event-id"), "{error}");
    // Other bytes under the same name would say something else.
    let mut version = crate::control::version();
    version.blob = ollamamax_proto::Digest::of(b"other");
    bench.control.put_version("m", version);
    let (status, error) = refused(format!("/api/streams/{id}"), &[]).await;
    assert!(status == 409 && error.contains("another version"), "{status} {error}");
}

/// Who sees an id in a log of a proxy has not got the stream with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_asked_is_for_nobody_else() {
    let secure = Secure::with(&[Script::Slow(Duration::from_millis(5))]).await;
    let alice = add_user(&secure.bench.control, "alice", "user", 7);
    let bob = add_user(&secure.bench.control, "bob", "user", 8);
    let options = json!({"seed": SEED, "num_predict": TOKENS});
    let ask = json!({"model": "m", "prompt": "x", "options": options});
    let answer = secure.post(&alice, "/api/generate", ask).await;
    let id = answer.headers["x-stream-id"].to_str().expect("an id").to_owned();
    let held = || secure.bench.control.state().checkpoints.keys().any(|name| name.ends_with(&id));
    until("it is kept", held).await;
    let path = format!("/api/streams/{id}");
    let foreign = secure.get(&bob, &path).await;
    assert!(foreign.status == 404 && foreign.error().contains("ask anew"), "{}", foreign.text);
    let own = secure.get(&alice, &path).await;
    assert_eq!((own.status.as_u16(), responses(&own.lines())), (200, text(SEED, TOKENS)));
    let past = secure.get(&alice, &format!("{path}?from=9999999")).await;
    assert!(past.text.contains("past the end of the stream"), "{}", past.text);
}
