//! Join tokens and authorities over the API.

use crate::http::{Bench, quick};
use crate::worker::CLUSTER;
use ollamamax_core::access::{AccessCommand, AuthorityRecord};
use ollamamax_core::{Command, State};
use ollamamax_gateway::ports::ControlPlane as _;
use ollamamax_gateway::{Config, join_token_id, seal_authority, unseal_authority};
use ollamamax_proto::{Digest, Millis};
use ollamamax_tls::{Authority, Certificate, JoinToken, Kind};
use serde_json::json;
use std::sync::Arc;

/// A gateway whose cluster has an authority.
fn bench() -> (Bench, Config) {
    let config = quick();
    let bench = Bench::with(&[], config.clone());
    let name = bench.control.state().cluster.as_ref().expect("a cluster").id.clone();
    let authority = Authority::create(&name.parse().expect("a label"), Millis::now());
    let record = seal_authority(&config.sealing, &authority.expect("made"), Millis::now());
    let put = AccessCommand::PutAuthority { authority: record, lifetime_ms: 1_000 };
    bench.control.apply(Command::Access(Box::new(put)));
    (bench, config)
}

fn active(state: &Arc<State>) -> AuthorityRecord {
    state.access.certifies(Millis::now()).expect("there is one").clone()
}

#[tokio::test]
async fn a_join_token_is_shown_once_and_says_where_the_cluster_is_and_how_to_know_it() {
    let (bench, _) = bench();
    let made = bench.post("/admin/v1/join-tokens", json!({"role": "worker"})).await;
    assert_eq!(made.status, 200, "{}", made.text);
    let made = made.json();
    let token = JoinToken::parse(made["token"].as_str().expect("a text")).expect("a token");
    let state = bench.control.state();
    assert_eq!(token.kind, Kind::Worker);
    assert_eq!(token.authority, Digest(active(&state).fingerprint));
    assert_eq!(token.addresses, ["127.0.0.1:7400"]);
    let kept = &state.access.join_tokens[&join_token_id(&token.credential)];
    assert!(token.credential.matches(&Digest(kept.hash.0)));
    assert_eq!(kept.uses_left, 1);
    let lifetime_ms = kept.expires_at.since(kept.created_at);
    assert!((890_000..=900_000).contains(&lifetime_ms), "{lifetime_ms}");
    let listed = bench.get("/admin/v1/join-tokens").await;
    let id = made["id"].as_str().expect("an id");
    assert_eq!(listed.json()["join_tokens"][0]["id"], id);
    assert!(!listed.text.contains("omj_"), "{}", listed.text);

    let labels = json!({"rack": "a1"});
    let body = json!({"role": "worker", "labels": labels, "uses": 5, "lifetime_s": 60});
    let made = bench.post("/admin/v1/join-tokens", body).await.json();
    assert_eq!((&made["labels"], &made["uses_left"]), (&labels, &json!(5)));
    let body = json!({"role": "node", "voter": false});
    assert_eq!(bench.post("/admin/v1/join-tokens", body).await.json()["voter"], false);

    let path = format!("/admin/v1/join-tokens/{id}");
    assert_eq!(bench.send("DELETE", &path, "").await.status, 200);
    assert_eq!(bench.send("DELETE", &path, "").await.status, 404);
    for bad in [
        json!({"role": "gateway"}),
        json!({"role": "worker", "voter": true}),
        json!({"role": "node", "labels": {}}),
        json!({"role": "node", "uses": 0}),
        json!({"role": "node", "lifetime_s": 10_000_000}),
        json!({"role": "node", "secret": "x"}),
        json!({}),
    ] {
        let status = bench.post("/admin/v1/join-tokens", bad.clone()).await.status;
        assert!(status.is_client_error(), "{bad}: {status}");
    }
}

#[tokio::test]
async fn without_an_authority_there_are_no_join_tokens() {
    let bench = Bench::new(&[]);
    let made = bench.post("/admin/v1/join-tokens", json!({"role": "worker"})).await;
    assert_eq!(made.status, 503, "{}", made.text);
    assert_eq!(CLUSTER.0.cluster().as_str(), "test");
}

#[tokio::test]
async fn an_authority_is_replaced_by_one_that_is_trusted_before_it_signs() {
    let (bench, config) = bench();
    let before = active(&bench.control.state());
    let rotated = bench.post("/admin/v1/authorities/rotate", json!({})).await;
    assert_eq!(rotated.status, 200, "{}", rotated.text);
    let state = bench.control.state();
    assert_eq!(active(&state).fingerprint, before.fingerprint, "it does not sign yet");
    let next = state.access.authorities.values().find(|one| one.fingerprint != before.fingerprint);
    let next = next.expect("another one");
    assert!(next.signs_from > Millis::now());
    let certificate = Certificate::from_pem(next.certificate.as_bytes()).expect("a certificate");
    let unsealed = unseal_authority(&config.sealing, &next.sealed.0).expect("sealed by this one");
    assert_eq!(unsealed.fingerprint(), certificate.fingerprint());
    let old = &state.access.authorities[&before.fingerprint];
    assert!(old.trusted_until.is_some_and(|end| end > next.signs_from));
    let again = bench.post("/admin/v1/authorities/rotate", json!({})).await;
    assert_eq!(again.status, 409, "{}", again.text);
    let listed = bench.get("/admin/v1/authorities").await;
    let states: Vec<_> = listed.json()["authorities"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["state"].as_str().expect("a state").to_owned())
        .collect();
    assert!(states.contains(&"active".to_owned()) && states.contains(&"next".to_owned()));
    assert!(!listed.text.contains("PRIVATE"), "{}", listed.text);
}
