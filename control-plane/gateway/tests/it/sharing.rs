//! Whose requests share cached prompts: told to workers with every request, and kept apart in where requests go.

use crate::auth::{Secure, add_user};
use crate::http::{Bench, quick};
use crate::worker::Script;
use axum::http::StatusCode;
use ollamamax_core::route::Policy;
use ollamamax_gateway::{Config, Sharing};
use ollamamax_proto::inference::{GenerateRequest, Salt};
use serde_json::json;

fn ask() -> serde_json::Value {
    let prompt = "Long enough for blocks of its own. ".repeat(60);
    json!({"model": "m", "prompt": prompt, "stream": false, "options": {"seed": 1, "num_predict": 1}})
}

/// The worker and the request of the last ask, with those that were there before.
fn newest(bench: &Bench, before: &mut [usize]) -> (usize, GenerateRequest) {
    let mut found = None;
    for (index, worker) in bench.workers.iter().enumerate() {
        let requests = worker.requests();
        if requests.len() > before[index] {
            found = Some((index, requests[requests.len() - 1].clone()));
        }
        before[index] = requests.len();
    }
    found.expect("a worker was asked")
}

#[tokio::test]
async fn each_user_shares_with_itself_alone_and_finds_its_own_again() {
    let config = Config { anonymous: None, balancing: Policy::Prefix, ..quick() };
    let bench = Bench::with(&[Script::Answer, Script::Answer, Script::Answer], config);
    let admin = add_user(&bench.control, "root", "admin", 1);
    let secure = Secure { bench, admin };
    let alice = add_user(&secure.bench.control, "alice", "user", 30);
    let bob = add_user(&secure.bench.control, "bob", "user", 31);
    let mut before = [0; 3];
    let mut asked = async |key: &str| {
        let answer = secure.post(key, "/api/generate", ask()).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        newest(&secure.bench, &mut before)
    };
    let (home, first) = asked(&alice).await;
    assert_ne!(first.salt, Salt::SHARED);
    assert!(first.prefix.hashes.len() > 3, "{:?}", first.prefix);
    let (_, other) = asked(&bob).await;
    assert_ne!(other.salt, first.salt);
    let common = other.prefix.hashes.iter().filter(|hash| first.prefix.hashes.contains(hash));
    assert_eq!(common.count(), 0, "no gateway mistakes his for hers");
    for _ in 0..5 {
        let (worker, again) = asked(&alice).await;
        assert_eq!((worker, again.salt), (home, first.salt), "hers are where hers were");
        assert_eq!(again.prefix, first.prefix);
    }
}

#[tokio::test]
async fn a_cluster_may_share_and_who_brings_no_credential_does() {
    let config = Config { sharing: Sharing::Cluster, anonymous: None, ..quick() };
    let bench = Bench::with(&[Script::Answer], config);
    let admin = add_user(&bench.control, "root", "admin", 1);
    let secure = Secure { bench, admin };
    let answer = secure.post(&secure.admin, "/api/generate", ask()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(secure.bench.workers[0].requests()[0].salt, Salt::SHARED);
    let open = Bench::with(&[Script::Answer], quick());
    let answer = open.send_with("POST", "/api/generate", &[], ask().to_string()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(open.workers[0].requests()[0].salt, Salt::SHARED);
}
