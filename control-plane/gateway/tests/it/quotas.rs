//! Quotas over HTTP: who is let in, who waits, and what two gateways tell each other.

use crate::auth::{Secure, add_user};
use crate::http::{Bench, local, quick, until};
use crate::worker::Script;
use axum::http::StatusCode;
use ollamamax_gateway::{Config, Gateway};
use ollamamax_proto::{Digest, NodeId};
use serde_json::{Value, json};
use std::time::Duration;

async fn set(secure: &Secure, of: &str, quota: Value) {
    let path = format!("/admin/v1/quotas/{of}");
    let answer = secure.ask(&secure.admin, "PUT", &path, &quota.to_string()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
}

fn ask(tokens: usize) -> Value {
    json!({"model": "m", "prompt": "x", "stream": false, "options": {"seed": 1, "num_predict": tokens}})
}

#[tokio::test]
async fn requests_beyond_the_quota_are_429_with_when_to_come_back() {
    let secure = Secure::new().await;
    let alice = add_user(&secure.bench.control, "alice", "user", 30);
    let bob = add_user(&secure.bench.control, "bob", "user", 31);
    set(&secure, "anybody", json!({"requests_per_minute": 2})).await;
    set(&secure, "user:root", json!({})).await;
    for left in ["1", "0"] {
        let answer = secure.post(&alice, "/api/generate", ask(1)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        assert_eq!(answer.headers["x-ratelimit-remaining-requests"], left);
        assert_eq!(answer.headers["x-ratelimit-limit-requests"], "2");
    }
    let refused = secure.post(&alice, "/api/generate", ask(1)).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
    assert!(refused.error().contains("2 requests per minute"), "{}", refused.text);
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    let openai = secure.post(&alice, "/v1/chat/completions", chat).await;
    assert_eq!(openai.json()["error"]["type"], "rate_limit_error");
    assert_eq!(secure.post(&bob, "/api/generate", ask(1)).await.status, StatusCode::OK, "his own");
    for _ in 0..4 {
        let root = secure.post(&secure.admin, "/api/generate", ask(1)).await;
        assert_eq!(root.status, StatusCode::OK, "an own quota without limits is none");
    }
}

#[tokio::test]
async fn tokens_are_paid_for_as_they_come_and_a_model_has_a_quota_of_its_own() {
    let secure = Secure::new().await;
    let alice = add_user(&secure.bench.control, "alice", "user", 30);
    set(&secure, "user:alice", json!({"output_tokens_per_minute": 5})).await;
    let first = secure.post(&alice, "/api/generate", ask(10)).await;
    assert_eq!(first.status, StatusCode::OK, "what it will cost is not known yet");
    let refused = secure.post(&alice, "/api/generate", ask(1)).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.error().contains("output tokens"), "{}", refused.text);
    set(&secure, "model:m", json!({"requests_per_minute": 1})).await;
    assert_eq!(secure.post(&secure.admin, "/api/generate", ask(1)).await.status, StatusCode::OK);
    let refused = secure.post(&secure.admin, "/api/generate", ask(1)).await;
    assert!(refused.error().contains("model:m"), "{}", refused.text);
    let quota = secure.ask(&secure.admin, "DELETE", "/admin/v1/quotas/model:m", "").await;
    assert_eq!(quota.status, StatusCode::OK);
    assert_eq!(secure.post(&secure.admin, "/api/generate", ask(1)).await.status, StatusCode::OK);
    for wrong in ["nobody", "key:xyz", "key:00000000000000aa", "user:ghost", "model:a b"] {
        let path = format!("/admin/v1/quotas/{}", wrong.replace(' ', "%20"));
        let answer = secure.ask(&secure.admin, "PUT", &path, "{}").await;
        assert!(answer.status.is_client_error(), "{wrong}: {}", answer.text);
    }
}

#[tokio::test]
async fn who_hangs_up_before_the_answer_has_paid_for_the_prompt() {
    let secure = Secure::with(&[Script::Late(Duration::from_secs(60))]).await;
    let alice = add_user(&secure.bench.control, "alice", "user", 30);
    set(&secure, "user:alice", json!({"prompt_tokens_per_minute": 100})).await;
    let long = json!({"model": "m", "prompt": "word ".repeat(400), "stream": false});
    let running = secure.post(&alice, "/api/generate", long.clone());
    tokio::select! {
        answer = running => panic!("it answered: {}", answer.text),
        () = until("the worker has it", || secure.bench.busy().is_some()) => {}
    }
    let refused = secure.post(&alice, "/api/generate", long.clone()).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{}", refused.text);
    assert!(refused.error().contains("100 prompt tokens"), "{}", refused.text);
}

#[tokio::test]
async fn a_prompt_costs_what_the_worker_says_and_nothing_where_none_begins() {
    let secure = Secure::new().await;
    let alice = add_user(&secure.bench.control, "alice", "user", 30);
    set(&secure, "user:alice", json!({"prompt_tokens_per_minute": 1_000_000})).await;
    let long = json!({"model": "m", "prompt": "word ".repeat(40_000), "stream": false,
        "options": {"num_predict": 1}});
    let answer = secure.post(&alice, "/api/generate", long.clone()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let told = answer.json()["prompt_eval_count"].as_u64().expect("tokens");
    let left = async || {
        let load = json!({"model": "m"});
        let answer = secure.post(&alice, "/api/generate", load).await;
        answer.headers["x-ratelimit-remaining-tokens"].to_str().unwrap().parse::<u64>().unwrap()
    };
    let after = left().await;
    // Some come back meanwhile.
    assert!(after >= 1_000_000 - told && told < 1_000, "{after} left, {told} told");
    secure.bench.workers[0].script(Script::Refuse(tonic::Code::InvalidArgument, "no"));
    let refused = secure.post(&alice, "/api/generate", long).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.text);
    assert!(left().await >= after, "what no worker began costs nothing");
}

#[tokio::test]
async fn loading_and_unloading_count_as_requests() {
    let secure = Secure::new().await;
    let alice = add_user(&secure.bench.control, "alice", "developer", 30);
    set(&secure, "user:alice", json!({"requests_per_minute": 2})).await;
    let load = secure.post(&alice, "/api/generate", json!({"model": "m"})).await;
    assert_eq!(load.json()["done_reason"], "load");
    let unload = json!({"model": "m", "messages": [], "keep_alive": 0});
    let unloaded = secure.post(&alice, "/api/chat", unload.clone()).await;
    assert_eq!(unloaded.json()["done_reason"], "unload");
    let refused = secure.post(&alice, "/api/chat", unload).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{}", refused.text);
}

#[tokio::test]
async fn what_one_user_makes_in_a_day_is_bounded_and_the_refusal_says_what_to_do() {
    let secure = Secure::new().await;
    let alice = add_user(&secure.bench.control, "alice", "developer", 30);
    set(&secure, "user:alice", json!({"models_per_day": 2, "blob_bytes_per_day": 1_000})).await;
    let copy = async |who: &str, to: &str| {
        secure.post(who, "/api/copy", json!({"source": "m", "destination": to})).await
    };
    for nth in 0..2 {
        let answer = copy(&alice, &format!("copy-{nth}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    }
    let refused = copy(&alice, "copy-2").await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    let said = refused.error();
    let todo = "ollamamax quotas set user:alice --models-per-day";
    assert!(said.contains("2 models made per day") && said.contains(todo), "{said}");
    assert!(refused.headers.contains_key("retry-after"));
    let create = json!({"model": "own", "from": "m", "stream": false});
    let created = secure.post(&alice, "/api/create", create).await;
    assert_eq!(created.status, StatusCode::TOO_MANY_REQUESTS, "creating counts, too");
    assert_eq!(copy(&secure.admin, "other").await.status, StatusCode::OK, "others are others");
    let upload = async |bytes: usize, text: &str| {
        let body = text.repeat(bytes);
        let path = format!("/api/blobs/{}", Digest::of(body.as_bytes()));
        let headers =
            [("authorization", format!("Bearer {alice}")), ("content-length", bytes.to_string())];
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        secure.bench.send_with("POST", &path, &headers, body).await
    };
    assert_eq!(upload(600, "a").await.status, StatusCode::CREATED);
    assert_eq!(upload(600, "a").await.status, StatusCode::TOO_MANY_REQUESTS, "not before it came");
    assert_eq!(upload(300, "b").await.status, StatusCode::CREATED);
    let path = format!("/api/blobs/{}", Digest([9; 32]));
    let unsized_body = secure.ask(&alice, "POST", &path, &"x".repeat(2_000)).await;
    assert_eq!(unsized_body.status, StatusCode::TOO_MANY_REQUESTS, "{}", unsized_body.text);
    assert!(unsized_body.error().contains("--blob-bytes-per-day"), "{}", unsized_body.text);
    // What was said to come and did not is given back.
    let body = "y".repeat(50);
    let bearer = format!("Bearer {alice}");
    let headers = [("authorization", bearer.as_str()), ("content-length", "100")];
    let broken = secure.bench.send_with("POST", &path, &headers, body).await;
    assert!(broken.status.is_client_error() && broken.status != StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(upload(40, "c").await.status, StatusCode::CREATED);
    let listed = secure.get(&secure.admin, "/admin/v1/quotas").await.json();
    assert_eq!(listed["quotas"][0]["quota"]["models_per_day"], 2, "{listed}");
    let path = "/admin/v1/quotas/model:m";
    let answer = secure.ask(&secure.admin, "PUT", path, r#"{"models_per_day": 1}"#).await;
    assert!(answer.status.is_client_error(), "a model makes nothing: {}", answer.text);
}

#[tokio::test]
async fn a_key_has_so_many_answers_at_once_and_gets_them_back() {
    let secure = Secure::with(&[Script::Slow(Duration::from_millis(20))]).await;
    let alice = add_user(&secure.bench.control, "alice", "user", 30);
    set(&secure, "key:000000000000001e", json!({"streams": 1})).await;
    let long =
        json!({"model": "m", "prompt": "x", "stream": false, "options": {"num_predict": 50}});
    let running = secure.post(&alice, "/api/generate", long.clone());
    let meanwhile = async {
        until("the first runs", || secure.bench.busy().is_some()).await;
        secure.post(&alice, "/api/generate", long.clone()).await
    };
    let (first, second) = tokio::join!(running, meanwhile);
    assert_eq!((first.status, second.status), (StatusCode::OK, StatusCode::TOO_MANY_REQUESTS));
    assert_eq!(secure.post(&alice, "/api/generate", ask(1)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_one_gateway_let_in_counts_at_the_next_one() {
    let secure = Secure::new().await;
    let alice = add_user(&secure.bench.control, "alice", "user", 30);
    set(&secure, "user:alice", json!({"requests_per_minute": 3})).await;
    let config = || Config { anonymous: None, ..quick() };
    let gateways: Vec<_> = (0..2)
        .map(|_| Gateway::new(secure.bench.control.clone(), secure.bench.blobs.clone(), config()))
        .collect();
    let post = async |nth: usize| {
        let bench = Bench { router: local(gateways[nth].clone().router()), ..secure.bench.share() };
        let bearer = format!("Bearer {alice}");
        let headers = [("authorization", bearer.as_str())];
        bench.send_with("POST", "/api/generate", &headers, ask(1).to_string()).await.status
    };
    assert_eq!(post(0).await, StatusCode::OK);
    assert_eq!(post(0).await, StatusCode::OK);
    gateways[1].absorb_usage(NodeId(1), &gateways[0].usage_news());
    assert_eq!(post(1).await, StatusCode::OK);
    assert_eq!(post(1).await, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn who_pins_a_model_or_takes_it_out_of_memory_is_in_the_trail() {
    let secure = Secure::new().await;
    let alice = add_user(&secure.bench.control, "alice", "developer", 30);
    let told = || -> Vec<String> {
        let trail = secure.trail();
        let notes = trail.iter().map(|record| &record.note).filter(|n| n.actor == "user:alice");
        notes.map(|n| format!("{} {} {}", n.action, n.object, n.outcome)).collect()
    };
    let generate = async |keep_alive: Value, prompt: &str| {
        let ask = json!({"model": "m", "prompt": prompt, "stream": false, "keep_alive": keep_alive,
            "options": {"num_predict": 1}});
        let answer = secure.post(&alice, "/api/generate", ask).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    };
    generate(json!("5m"), "x").await;
    assert!(told().is_empty(), "being loaded is a matter of course: {:?}", told());
    generate(json!(-1), "").await;
    until("the pin is told", || told() == ["model.pin m:latest done"]).await;
    generate(json!(-1), "x").await;
    generate(json!("5m"), "x").await;
    until("and its end", || told().len() == 2).await;
    generate(json!(0), "").await;
    generate(json!(0), "").await;
    generate(json!(0), "x").await;
    let all = [
        "model.pin m:latest done",
        "model.unpin m:latest done",
        "model.unload m:latest done",
        "model.unload m:latest done",
    ];
    until("unloading is told, at once and at the end of a request", || told() == all).await;
    let pinned = secure.post(&alice, "/v1/embeddings", json!({"model": "m", "input": "x"})).await;
    assert!(pinned.status.is_success() || pinned.status.is_client_error());
    assert_eq!(told().len(), all.len(), "where nothing was unloaded there is nothing to tell");
}
