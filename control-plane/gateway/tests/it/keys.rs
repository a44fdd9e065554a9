//! What an API key may do, and what it may not.

use crate::auth::{Secure, add_user, text};
use crate::http::until;
use axum::http::StatusCode;
use ollamamax_core::record::Lifetime;
use ollamamax_gateway::ports::ControlPlane as _;
use serde_json::{Value, json};

#[tokio::test]
async fn a_key_does_what_its_scope_says_and_makes_no_better_key() {
    let secure = Secure::new().await;
    secure.bench.control.put_model("private/other");
    let body = json!({"label": "ci", "scope": ["model:read@m:*", "inference:run@m:*"]});
    let made = secure.post(&secure.admin, "/admin/v1/keys", body).await.json();
    let key = text(&made, "key");
    assert!(key.starts_with(&text(&made, "prefix")));
    let names = secure.get(&key, "/api/tags").await.json()["models"].clone();
    assert_eq!(names.as_array().map(Vec::len), Some(1), "{names}");
    let show = async |model: &str| secure.post(&key, "/api/show", json!({"model": model})).await;
    assert_eq!(show("m").await.status, StatusCode::OK);
    let hidden = show("private/other").await;
    assert_eq!(hidden.status, StatusCode::NOT_FOUND);
    let absent = show("private/absent").await;
    assert_eq!(hidden.text.replace("other", "absent"), absent.text, "no telling which is there");
    let more = secure.post(&key, "/admin/v1/keys", json!({"label": "more"})).await;
    assert_eq!(more.status, StatusCode::FORBIDDEN);
    let list = secure.get(&secure.admin, "/admin/v1/keys").await;
    assert!(!list.text.contains(&key[21..]), "a key is shown once");
    let late = json!({"lifetime_s": 0});
    let expired = secure.post(&secure.admin, "/admin/v1/keys", late).await;
    assert_eq!(expired.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_key_ends_itself_but_neither_the_others_nor_the_logins() {
    let secure = Secure::new().await;
    secure.user("alice", &["user"]).await;
    let login = text(&secure.login("alice").await, "access_token");
    let make = async |body: Value| secure.post(&login, "/admin/v1/keys", body).await.json();
    let ci = make(json!({"scope": ["inference:run@m:*"]})).await;
    let other = make(json!({"label": "other"})).await;
    let (ci_key, other_id) = (text(&ci, "key"), text(&other, "id"));
    let delete = async |id: &str| {
        secure.ask(&ci_key, "DELETE", &format!("/admin/v1/keys/{id}"), "").await.status
    };
    assert_eq!(delete(&other_id).await, StatusCode::FORBIDDEN);
    let out = secure.post(&ci_key, "/admin/v1/users/alice/logout", json!({})).await;
    assert_eq!(out.status, StatusCode::FORBIDDEN);
    let seen = secure.get(&ci_key, "/admin/v1/keys").await.json();
    assert_eq!(seen["keys"].as_array().map(Vec::len), Some(1), "itself alone");
    assert_eq!(delete(&text(&ci, "id")).await, StatusCode::OK);
    assert_eq!(secure.get(&login, "/api/tags").await.status, StatusCode::OK);
}

#[tokio::test]
async fn who_may_only_use_a_model_neither_pins_it_nor_takes_away_what_others_pinned() {
    let secure = Secure::new().await;
    let alice = add_user(&secure.bench.control, "alice", "user", 30);
    let lifetime = || {
        let state = secure.bench.control.state();
        let name: ollamamax_proto::ModelName = "m".parse().expect("a name");
        state.demands.get(&name).map(|demand| demand.lifetime)
    };
    let ask = async |who: &str, keep_alive: i64| {
        let body = json!({"model": "m", "prompt": "x", "stream": false, "keep_alive": keep_alive,
            "options": {"num_predict": 1}});
        let answer = secure.post(who, "/api/generate", body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    };
    ask(&alice, -1).await;
    assert!(matches!(lifetime(), Some(Lifetime::Until(_))), "not for ever");
    ask(&secure.admin, -1).await;
    assert_eq!(lifetime(), Some(Lifetime::Forever));
    for keep_alive in [0, 1] {
        ask(&alice, keep_alive).await;
        let load = json!({"model": "m", "keep_alive": keep_alive});
        assert_eq!(secure.post(&alice, "/api/generate", load).await.status, StatusCode::OK);
        assert_eq!(lifetime(), Some(Lifetime::Forever), "keep_alive {keep_alive}");
    }
    let unload = json!({"model": "m", "keep_alive": 0});
    assert_eq!(secure.post(&secure.admin, "/api/generate", unload).await.status, StatusCode::OK);
    until("it is wanted no more", || lifetime().is_none()).await;
}
