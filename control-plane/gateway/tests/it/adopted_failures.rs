//! Adopted servers that fail, hang, break, fall silent, or answer without end.

use crate::adopted::{MS, adopt, bench, chat, config, shown, until_status};
use crate::http::{Bench, local, until};
use crate::upstream::{Script, Upstream};
use axum::body::Body;
use axum::http::Request;
use futures_util::StreamExt;
use ollamamax_gateway::adopted::Adopting;
use ollamamax_gateway::{Config, Gateway};
use serde_json::json;
use std::time::Duration;
use tower::ServiceExt;

#[tokio::test]
async fn what_fails_before_the_first_byte_is_tried_elsewhere_and_told_when_nobody_can() {
    for script in [
        Script::Close,
        Script::Garbage,
        Script::Status(500, "{\"error\":\"boom\"}"),
        Script::Status(503, "{}"),
        Script::Status(401, "{\"error\":\"who\"}"),
        Script::Redirect("http://127.0.0.1:1/".to_owned()),
        Script::Breaks(0),
    ] {
        let bench = bench();
        let (bad, good) = (Upstream::ollama(&["x"]).await, Upstream::openai(&["x"]).await);
        bad.script(script.clone());
        adopt(&bench, &bad, "bad").await;
        adopt(&bench, &good, "good").await;
        for stream in [true, false, true, false] {
            let answer = bench.post("/api/chat", chat(stream)).await;
            assert_eq!(answer.status, 200, "{script:?}: {}", answer.text);
            assert!(answer.text.contains("you"), "{script:?}: {}", answer.text);
        }
        good.script(Script::Close);
        let answer = bench.post("/v1/chat/completions", chat(true)).await;
        assert_eq!(answer.status, 503, "{script:?}: {}", answer.text);
        assert!(answer.headers.contains_key("retry-after"));
        let error = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(error.contains("`good`") || error.contains("`bad`"), "{error}");
    }
}

#[tokio::test]
async fn what_a_server_refuses_is_refused_with_its_words_and_no_other_is_asked() {
    let bench = bench();
    let (one, other) = (Upstream::ollama(&["x"]).await, Upstream::ollama(&["x"]).await);
    for server in [&one, &other] {
        server.script(Script::Status(400, "{\"error\":\"bad option\"}"));
    }
    adopt(&bench, &one, "one").await;
    adopt(&bench, &other, "other").await;
    let answer = bench.post("/api/chat", chat(true)).await;
    assert_eq!((answer.status.as_u16(), answer.error().as_str()), (400, "bad option"));
    assert_eq!(one.asked().len() + other.asked().len(), 1);
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_an_honest_record() {
    let bench = bench();
    let server = Upstream::ollama(&["x"]).await;
    adopt(&bench, &server, "old").await;
    server.script(Script::Breaks(2));
    let records = bench.post("/api/chat", chat(true)).await;
    assert_eq!(records.status, 200);
    let lines = records.lines();
    assert_eq!(lines[1]["message"]["content"], "lo, ");
    let error = lines.last().unwrap()["error"].as_str().unwrap().to_owned();
    assert!(lines.len() == 3 && error.contains("adopted server `old` failed"), "{error}");
    let events = bench.post("/v1/chat/completions", chat(true)).await.events();
    assert!(events.last().unwrap().contains("adopted server `old` failed"), "{events:?}");
    let ask = json!({"model": "x", "max_tokens": 9, "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    let events = bench.post("/v1/messages", ask).await.named_events();
    assert_eq!(events.last().unwrap()["type"], "error");
    let requests = bench.get("/admin/v1/requests").await.json();
    for request in requests["requests"].as_array().unwrap() {
        assert_eq!(request["outcome"], "failed", "{request}");
        assert!(request["output_tokens"].as_u64() >= Some(2), "what came is counted: {request}");
    }
    // A whole answer that breaks was not begun: it is tried elsewhere.
    let other = Upstream::ollama(&["x"]).await;
    adopt(&bench, &other, "other").await;
    server.script(Script::Close);
    assert_eq!(bench.post("/api/chat", chat(false)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_noticed_before_and_in_the_middle_of_an_answer() {
    let bench = bench();
    let (hung, good) = (Upstream::ollama(&["x"]).await, Upstream::ollama(&["x"]).await);
    adopt(&bench, &hung, "hung").await;
    hung.script(Script::Hang);
    let ask = bench.post("/api/chat", chat(true));
    let turn = async {
        until("it is asked", || hung.running() == 1).await;
        adopt(&bench, &good, "good").await;
        hung.deaf(true);
    };
    let (answer, ()) = tokio::join!(ask, turn);
    assert!(answer.text.contains("you"), "another one answers: {}", answer.text);
    until_status(&bench, "hung", "down").await;
    assert!(shown(&bench, "hung").await["reason"].as_str().unwrap().contains("no answer within"));
    let before = hung.asked().len();
    for _ in 0..5 {
        assert_eq!(bench.post("/api/chat", chat(true)).await.status, 200);
    }
    assert_eq!(hung.asked().len(), before, "nobody asks who is down");
    good.script(Script::Stalls(1));
    let ask = bench.post("/api/chat", chat(true));
    let turn = async {
        until("it has begun", || good.running() == 1).await;
        good.deaf(true);
    };
    let (answer, ()) = tokio::join!(ask, turn);
    let lines = answer.lines();
    assert_eq!((lines.len(), &lines[0]["message"]["content"]), (2, &json!("Hel")));
    assert!(lines[1]["error"].as_str().unwrap().contains("`good` failed"), "{}", answer.text);
    until_status(&bench, "good", "down").await;
    let nobody = bench.post("/api/chat", chat(true)).await;
    assert_eq!(nobody.status, 503);
    assert!(
        nobody.text.contains("`hung` is down") && nobody.text.contains("`good` is down"),
        "{}",
        nobody.text
    );
    good.deaf(false);
    good.script(Script::Answer);
    until_status(&bench, "good", "ready").await;
    assert_eq!(bench.post("/api/chat", chat(true)).await.status, 200, "it serves again");
}

#[tokio::test]
async fn an_answer_that_is_silent_for_too_long_is_given_up() {
    let adopting = Adopting { silence: MS(200), first: MS(300), ..config().adopting };
    let bench = Bench::with(&[], Config { adopting, ..config() });
    let server = Upstream::ollama(&["x"]).await;
    adopt(&bench, &server, "old").await;
    server.script(Script::Stalls(1));
    let answer = bench.post("/api/chat", chat(true)).await;
    assert!(answer.lines()[1]["error"].as_str().unwrap().contains("silent for 200 ms"));
    server.script(Script::Hang);
    let answer = bench.post("/api/chat", chat(true)).await;
    assert!(answer.error().contains("within 300 ms"), "{}", answer.text);
    until("both requests are over there, too", || server.running() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_ends_the_request_at_the_server() {
    let bench = bench();
    let (ollama, vllm) = (Upstream::ollama(&["x"]).await, Upstream::openai(&["y"]).await);
    adopt(&bench, &ollama, "old").await;
    adopt(&bench, &vllm, "vllm").await;
    for (server, model) in [(&ollama, "x"), (&vllm, "y")] {
        for script in [Script::Endless(MS(5)), Script::Hang] {
            server.script(script.clone());
            let mut ask = chat(true);
            ask["model"] = json!(model);
            let request = Request::post("/api/chat")
                .header("host", "localhost")
                .body(Body::from(ask.to_string()))
                .unwrap();
            let client = tokio::spawn(bench.router.clone().oneshot(request));
            until("it is asked", || server.running() == 1).await;
            if script == Script::Hang {
                client.abort();
            } else {
                let mut body = client.await.unwrap().unwrap().into_body().into_data_stream();
                assert!(body.next().await.unwrap().is_ok());
            }
            until("it has ended there", || server.running() == 0).await;
        }
    }
    let requests = bench.get("/admin/v1/requests").await.json();
    let requests = requests["requests"].as_array().unwrap();
    assert!(requests.iter().all(|request| request["outcome"] == "cancelled"), "{requests:?}");
}

#[tokio::test]
async fn a_server_that_fails_again_and_again_is_left_alone() {
    let bench = bench();
    let (bad, good) = (Upstream::ollama(&["x"]).await, Upstream::ollama(&["x"]).await);
    bad.script(Script::Close);
    adopt(&bench, &bad, "bad").await;
    adopt(&bench, &good, "good").await;
    for nth in 0..40 {
        let mut ask = chat(false);
        ask["messages"][0]["content"] = json!(format!("{nth}"));
        assert_eq!(bench.post("/api/chat", ask).await.status, 200);
    }
    assert!(bad.asked().len() <= 8, "it was asked {} times", bad.asked().len());
}

#[tokio::test]
async fn a_line_or_an_answer_without_end_is_cut() {
    let bench = bench();
    let server = Upstream::ollama(&["x"]).await;
    adopt(&bench, &server, "old").await;
    let request = json!({"model": "x", "prompt": "a"});
    server.script(Script::Endless(Duration::ZERO));
    let headers = [("x-request-timeout", "0.5")];
    let answer = bench.send_with("POST", "/api/generate", &headers, request.to_string()).await;
    let last = answer.lines().pop().unwrap();
    assert!(last["error"].as_str().unwrap().contains("x-request-timeout"), "{last}");
    until("it has ended there", || server.running() == 0).await;
}

#[tokio::test]
async fn a_name_that_an_unseen_server_may_have_is_not_said_to_be_nobodys() {
    let bench = bench();
    let server = Upstream::ollama(&["x"]).await;
    adopt(&bench, &server, "old").await;
    server.deaf(true);
    let other = Gateway::new(bench.control.clone(), bench.blobs.clone(), config());
    let other = Bench { router: local(other.router()), ..bench.share() };
    let answer = other.post("/api/chat", chat(false)).await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert!(answer.text.contains("`old` is"), "{}", answer.text);
    server.deaf(false);
    until_status(&other, "old", "ready").await;
    assert_eq!(other.post("/api/chat", chat(false)).await.status, 200);
    let mut unknown = chat(false);
    unknown["model"] = json!("nobodys");
    assert_eq!(other.post("/api/chat", unknown).await.status, 404);
}
