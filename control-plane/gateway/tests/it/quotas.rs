//! Quotas over HTTP: who is let in, who waits, and what two gateways tell each other.

use crate::auth::{Secure, add_user};
use crate::http::{Bench, local, quick, until};
use crate::worker::Script;
use axum::http::StatusCode;
use ollamamax_gateway::{Config, Gateway};
use ollamamax_proto::NodeId;
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
