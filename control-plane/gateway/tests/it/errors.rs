//! The error table: statuses, words, and the field that is wrong.

use crate::control::version;
use crate::http::{Bench, quick};
use crate::worker::Script;
use ollamamax_gateway::Config;
use ollamamax_proto::limits;
use ollamamax_proto::placement::{Phase, WorkerStatus};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tonic::Code;

async fn refused(bench: &Bench, path: &str, body: Value, status: u16, words: &str) {
    let answer = bench.post(path, body.clone()).await;
    assert_eq!(answer.status, status, "{path} {body}: {}", answer.text);
    let error = &answer.json()["error"];
    let message = error.as_str().or(error["message"].as_str()).expect("an error text");
    assert!(message.contains(words), "{path} {body}: {message}");
}

#[tokio::test]
async fn bad_requests_are_400_with_the_field_named() {
    let bench = Bench::new(&[Script::Answer]);
    let user = json!([{"role": "user", "content": "hi"}]);
    let with = |more: Value| {
        let mut body = json!({"model": "m", "prompt": "x", "messages": user});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let table = [
        (
            with(json!({"options": {"temperature": "hot"}})),
            r#"option "temperature" must be of type float32"#,
        ),
        (with(json!({"options": {"num_predict": -3}})), "num_predict"),
        (with(json!({"options": 7})), "`options`"),
        (with(json!({"stream": "yes"})), "`stream`"),
        (with(json!({"keep_alive": "x"})), "time: invalid duration \"x\""),
        (with(json!({"keep_alive": "x"})), "`keep_alive`"),
        (with(json!({"think": true})), r#""m:latest" does not support thinking"#),
        (with(json!({"think": 3})), "invalid think value"),
        (with(json!({"format": "xml"})), "invalid format"),
        (with(json!({"top_logprobs": 21})), "top_logprobs must be between 0 and 20"),
        (with(json!({"top_logprobs": -1})), "top_logprobs must be between 0 and 20"),
        (with(json!({"options": {"temperature": -1}})), "\"temperature\" is -1, expected a number"),
        (with(json!({"options": {"temperature": 101}})), "a number from 0 to 100"),
        (with(json!({"options": {"top_p": 2}})), "\"top_p\" is 2, expected a number from 0 to 1"),
        (with(json!({"options": {"mirostat": 4}})), "\"mirostat\" is 4, expected 0 (off), 1 or 2"),
        (with(json!({"options": {"mirostat_eta": 0}})), "\"mirostat_eta\" is 0"),
    ];
    for (body, words) in table {
        refused(&bench, "/api/generate", body.clone(), 400, words).await;
        refused(&bench, "/api/chat", body, 400, words).await;
    }
    let table = [
        (json!({"messages": []}), "model is required"),
        (
            json!({"model": "m", "messages": [{"role": "root", "content": "x"}]}),
            "`messages[0].role`",
        ),
        (json!({"model": "m", "messages": [{"role": "user"}, {"content": "x"}]}), "`messages[1]`"),
        (
            json!({"model": "m", "messages": [{"role": "user", "images": ["AA=="]}]}),
            "does not support vision",
        ),
        (json!({"model": "m", "messages": user, "tools": [{}]}), "does not support tools"),
    ];
    for (body, words) in table {
        refused(&bench, "/api/chat", body, 400, words).await;
    }
    let raw = json!({"model": "m", "prompt": "x", "raw": true, "system": "s"});
    let words = "raw mode does not support template, system, or context";
    refused(&bench, "/api/generate", raw, 400, words).await;
    let suffix = json!({"model": "m", "prompt": "x", "suffix": "s"});
    refused(&bench, "/api/generate", suffix, 400, "does not support insert").await;
    for (template, words) in [
        ("{{ if .Prompt }}no end", "template error: the template cannot be read"),
        ("{{ .Prompt }}\n{{ .Colour }}", "`.Colour (line 2)`"),
        ("{% if %}", "template error: the template cannot be read"),
    ] {
        let asks = json!({"model": "m", "prompt": "x", "template": template});
        refused(&bench, "/api/generate", asks, 400, words).await;
        let makes = json!({"model": "made", "from": "m", "template": template, "stream": false});
        refused(&bench, "/api/create", makes, 400, words).await;
    }
    assert!(bench.workers[0].requests().is_empty(), "nothing of this reached a worker");
}

#[tokio::test]
async fn openai_errors_have_their_shape() {
    let bench = Bench::new(&[Script::Answer]);
    let path = "/v1/chat/completions";
    let with = |more: Value| {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let table = [
        (with(json!({"n": 17})), "`n` is 17"),
        (with(json!({"temperature": 1000})), "\"temperature\" is 1000"),
        (with(json!({"top_logprobs": 21})), "top_logprobs must be between 0 and 20"),
        (with(json!({"logit_bias": {"5": 101}})), "is 101, expected a number from -100 to 100"),
        (with(json!({"logit_bias": {"five": 1}})), "expected the id of a token"),
        (with(json!({"presence_penalty": 1e9})), "\"presence_penalty\" is 1000000000.0"),
        (with(json!({"temperature": "hot"})), "`temperature`"),
        (with(json!({"max_tokens": -1})), "`max_tokens`"),
        (with(json!({"max_completion_tokens": 0})), "`max_completion_tokens`"),
        (with(json!({"stop": 7})), "`stop`"),
        (with(json!({"messages": []})), "[] is too short - 'messages'"),
        (with(json!({"messages": [{"role": "user", "content": 7}]})), "`messages[0].content`"),
        (with(json!({"messages": [{"role": "user"}]})), "`messages[0].content`"),
        (with(json!({"reasoning_effort": "odd"})), "invalid reasoning value"),
        (
            with(json!({"messages": [{"role": "user", "content": [{"type": "image_url",
            "image_url": {"url": "https://x"}}]}]})),
            "image URLs are not currently supported",
        ),
    ];
    for (body, words) in table {
        refused(&bench, path, body, 400, words).await;
    }
    let unknown = bench.post(path, with(json!({"model": "x"}))).await;
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.json()["error"]["type"], "not_found_error");
    assert_eq!(unknown.json()["error"]["message"], "model 'x' not found");
    assert_eq!(bench.get("/v1/nothing").await.json()["error"]["type"], "not_found_error");
}

#[tokio::test]
async fn paths_methods_and_bodies_that_are_wrong() {
    let bench = Bench::with(&[], Config { body_bytes: 100, ..quick() });
    assert_eq!(bench.get("/nothing").await.status, 404);
    assert_eq!(bench.get("/api/chat").await.status, 405);
    assert_eq!(bench.post("/api/tags", json!({})).await.status, 405);
    for path in ["/api/generate", "/api/chat", "/api/show", "/v1/chat/completions"] {
        let empty = bench.send("POST", path, "").await;
        assert_eq!(empty.status, 400);
        assert!(empty.text.contains("missing request body"));
        assert!(bench.send("POST", path, "{\"model\":").await.text.contains("invalid JSON"));
        assert_eq!(bench.send("POST", path, "[]").await.status, 400);
        let large = bench.post(path, json!({"model": "m".repeat(100)})).await;
        assert_eq!(large.status, 413, "{}", large.text);
    }
}

#[tokio::test]
async fn unknown_models_are_404_in_ollamas_words() {
    let bench = Bench::new(&[]);
    for path in ["/api/generate", "/api/chat"] {
        let answer = bench.post(path, json!({"model": "x"})).await;
        assert_eq!((answer.status.as_u16(), answer.error()), (404, "model 'x' not found".into()));
    }
    let show = bench.post("/api/show", json!({"model": "x"})).await;
    assert_eq!((show.status.as_u16(), show.error()), (404, "model 'x:latest' not found".into()));
    let delete = bench.send("DELETE", "/api/delete", json!({"name": "x"}).to_string()).await;
    assert_eq!((delete.status.as_u16(), delete.error()), (404, "model 'x' not found".into()));
    let copy = bench.post("/api/copy", json!({"source": "x", "destination": "y"})).await;
    assert_eq!((copy.status.as_u16(), copy.error()), (404, "model \"x\" not found".into()));
}

#[tokio::test]
async fn no_worker_is_503_with_the_reason_and_when_to_come_back() {
    let bench = Bench::new(&[]);
    let answer = bench.post("/api/generate", json!({"model": "m", "prompt": "x"})).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.headers["retry-after"], "1");
    assert!(answer.error().contains("no worker has registered"), "{}", answer.text);

    let bench = Bench::new(&[Script::Answer]);
    bench.control.set_worker(1, WorkerStatus::Down);
    let answer = bench.post("/api/generate", json!({"model": "m", "prompt": "x"})).await;
    assert_eq!(answer.status, 503);
    assert!(answer.error().contains("worker w1 is down"), "{}", answer.text);
}

#[tokio::test]
async fn a_model_no_worker_can_hold_is_refused_with_both_sizes() {
    let bench = Bench::new(&[Script::Answer]);
    let mut large = version();
    large.facts.layer_bytes = vec![1 << 30, 1 << 30];
    bench.control.put_version("large", large);
    bench.control.auto_place.store(false, Ordering::SeqCst);
    let answer = bench.post("/api/generate", json!({"model": "large", "prompt": "x"})).await;
    assert_eq!(answer.status, 503);
    assert!(answer.error().contains("needs 2147483698 bytes"), "{}", answer.text);
}

#[tokio::test]
async fn a_load_that_failed_everywhere_is_500_with_the_workers_words() {
    let bench = Bench::new(&[Script::Answer]);
    bench.control.auto_place.store(false, Ordering::SeqCst);
    bench.control.place("m", 1, Phase::Failed { reason: "tensor `x` is missing".into() });
    let answer = bench.post("/api/generate", json!({"model": "m", "prompt": "x"})).await;
    assert_eq!(answer.status, 500);
    assert!(answer.error().contains("tensor `x` is missing"), "{}", answer.text);
}

#[tokio::test]
async fn a_model_that_does_not_load_in_time_is_503() {
    let config = Config { load_timeout: Duration::from_millis(100), ..quick() };
    let bench = Bench::with(&[Script::Answer], config);
    bench.control.auto_place.store(false, Ordering::SeqCst);
    let answer = bench.post("/api/generate", json!({"model": "m", "prompt": "x"})).await;
    assert_eq!(answer.status, 503);
    assert!(answer.error().contains("placed nowhere"), "{}", answer.text);
}

#[tokio::test]
async fn what_a_worker_refuses_is_not_tried_elsewhere() {
    let refusal = Script::Refuse(Code::InvalidArgument, "the prompt has 9 tokens, at most 4 fit");
    let bench = Bench::new(&[refusal.clone(), refusal]);
    let answer = bench.post("/api/generate", json!({"model": "m", "prompt": "x"})).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.error(), "the prompt has 9 tokens, at most 4 fit");
    let calls: usize = bench.workers.iter().map(|worker| worker.requests().len()).sum();
    assert_eq!(calls, 1);
}

#[tokio::test]
async fn a_prompt_no_worker_takes_is_413() {
    let bench = Bench::new(&[Script::Answer]);
    let prompt = "a".repeat(limits::RPC_MESSAGE_BYTES);
    let answer = bench.post("/api/generate", json!({"model": "m", "prompt": prompt})).await;
    assert_eq!(answer.status, 413, "{}", answer.text);
    assert_eq!(answer.error(), "the body has more than 16777216 bytes");
    assert!(bench.workers[0].requests().is_empty());
}

#[tokio::test]
async fn full_workers_are_503_after_each_was_asked_once() {
    let full = Script::Refuse(Code::ResourceExhausted, "256 requests wait");
    let bench = Bench::new(&[full.clone(), full]);
    let answer = bench.post("/api/generate", json!({"model": "m", "prompt": "x"})).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.headers["retry-after"], "1");
    assert!(bench.workers.iter().all(|worker| worker.requests().len() == 1));
}

#[tokio::test]
async fn a_full_queue_is_503_in_ollamas_words() {
    let bench = Bench::with(&[Script::HangAfter(0)], Config { requests_queued: 1, ..quick() });
    let ask = json!({"model": "m", "prompt": "x"});
    let waiting = bench.post("/api/generate", ask.clone());
    let second = async {
        crate::http::until("the first waits", || bench.busy().is_some()).await;
        bench.post("/api/generate", ask).await
    };
    tokio::select! {
        _ = waiting => panic!("the first request hangs"),
        answer = second => {
            assert_eq!(answer.status, 503);
            let words = "server busy, please try again.  maximum pending requests exceeded";
            assert_eq!(answer.error(), words);
        }
    }
}
