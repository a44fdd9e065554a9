//! Keys that sign access tokens, replaced while they are used at every node.

use crate::support::Cluster;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ollamamax_control_plane::NodeConfig;
use ollamamax_core::Command;
use ollamamax_core::access::AccessCommand;
use ollamamax_gateway::auth::jwt::{Alg, new_signing_key};
use ollamamax_gateway::secrets::SealingKey;
use ollamamax_proto::Millis;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const PASSWORD: &str = "correct horse battery";

/// The `kid` that an access token was signed with.
fn signed_with(token: &str) -> String {
    let header = token.split('.').next().expect("a header");
    let bytes = URL_SAFE_NO_PAD.decode(header).expect("base64url");
    let header: Value = serde_json::from_slice(&bytes).expect("JSON");
    header["kid"].as_str().expect("a kid").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_keys_are_replaced_under_load_and_no_good_token_is_refused() {
    let brief = |config: &mut NodeConfig| config.gateway.access_token_ms = 3_000;
    let cluster = Cluster::start_with(3, brief).await;
    let client = reqwest::Client::new();
    let url = |node: u64, path: &str| format!("http://{}{path}", cluster.nodes[&node].http_addr());
    let key = std::fs::read_to_string(cluster.data_dir(1).join("admin.key")).expect("there");
    let user = json!({"name": "alice", "password": PASSWORD, "roles": ["user"]});
    let made = client.post(url(1, "/admin/v1/users")).bearer_auth(key.trim()).json(&user);
    assert_eq!(made.send().await.expect("an answer").status(), 200);
    let login = async |node: u64| -> String {
        let until = Instant::now() + Duration::from_secs(15);
        loop {
            let body = json!({"username": "alice", "password": PASSWORD});
            let answer = client.post(url(node, "/auth/token")).json(&body).send().await;
            let answer = answer.expect("an answer");
            if answer.status() == 200 {
                let granted: Value = answer.json().await.expect("JSON");
                return granted["access_token"].as_str().expect("a token").to_owned();
            }
            // It may not have heard of her yet, or has no key yet.
            assert!(Instant::now() < until, "{}", answer.status());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let first = login(1).await;
    let sealing = std::fs::read_to_string(cluster.data_dir(1).join("sealing.key")).expect("there");
    let sealing = SealingKey::parse(&sealing).expect("a key");
    let next = new_signing_key(&sealing, Alg::EdDsa, Millis::now().plus(1_500)).expect("a key");
    let next_id = next.id;
    let put = AccessCommand::PutSigningKey { key: next, lifetime_ms: 4_000, emergency: false };
    cluster.control(2).propose(Command::Access(Box::new(put))).await.expect("accepted");
    let (mut token, mut since, mut node) = (first.clone(), Instant::now(), 0u64);
    let (mut checked, mut seen) = (0u32, BTreeSet::new());
    let gone = |cluster: &Cluster| {
        let keys = cluster.control(3).state().access.signing_keys.clone();
        keys.len() == 1 && keys.contains_key(&next_id)
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while !gone(&cluster) {
        assert!(Instant::now() < deadline, "the old key is dropped");
        // A login is replaced well before its token ends.
        if since.elapsed() > Duration::from_millis(1_200) {
            token = login(node % 3 + 1).await;
            since = Instant::now();
        }
        node += 1;
        let at = node % 3 + 1;
        let asked = client.get(url(at, "/api/tags")).bearer_auth(&token).send().await;
        let status = asked.expect("an answer").status();
        if status == 401 && since.elapsed() < Duration::from_millis(500) {
            // This node may not have heard of the login yet: that is no token of a wrong key.
            continue;
        }
        assert_eq!(status, 200, "node {at}, signed with {}", signed_with(&token));
        seen.insert(signed_with(&token));
        checked += 1;
    }
    assert_eq!(seen.len(), 2, "tokens of both keys were used");
    assert!(checked > 100, "{checked} requests");
    let old = client.get(url(1, "/api/tags")).bearer_auth(&first).send().await;
    assert_eq!(old.expect("an answer").status(), 401, "what the old key signed is good no more");
    cluster.stop().await;
}
