//! Logins, the tokens they give, and what ends them.

use crate::auth::{PASSWORD, Secure, text};
use crate::http::until;
use axum::http::StatusCode;
use serde_json::{Value, json};

#[tokio::test]
async fn a_login_gives_tokens_that_are_refreshed_and_end_with_it() {
    let secure = Secure::new().await;
    secure.user("alice", &["user"]).await;
    let first = secure.login("alice").await;
    let access = text(&first, "access_token");
    let me = secure.get(&access, "/auth/whoami").await.json();
    assert_eq!((&me["user"], &me["via"]), (&json!("alice"), &json!("access-token")));
    assert_eq!(me["permissions"], json!(["model:read", "inference:run"]));
    assert_eq!(secure.get(&access, "/api/tags").await.status, StatusCode::OK);
    let refused = secure.get(&access, "/admin/v1/users").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(refused.error().contains("`access:read`"), "{}", refused.text);
    // A refresh token is no access token, and the other way round.
    let refresh = text(&first, "refresh_token");
    assert_eq!(secure.get(&refresh, "/api/tags").await.status, StatusCode::UNAUTHORIZED);
    let swapped = secure.post("", "/auth/refresh", json!({"refresh_token": access})).await;
    assert_eq!(swapped.status, StatusCode::UNAUTHORIZED);
    let second = secure.post("", "/auth/refresh", json!({"refresh_token": refresh})).await.json();
    assert_ne!(text(&second, "refresh_token"), refresh);
    // As an OAuth 2 client sends it; and the answer that may have got lost comes again, the same.
    let form = format!("grant_type=refresh_token&refresh_token={refresh}");
    let kind = [("content-type", "application/x-www-form-urlencoded")];
    let again = secure.bench.send_with("POST", "/auth/refresh", &kind, form).await.json();
    assert_eq!(text(&again, "refresh_token"), text(&second, "refresh_token"));
    let logged_out = secure.post(&access, "/auth/logout", json!({})).await;
    assert_eq!(logged_out.status, StatusCode::OK);
    for token in [&access, &text(&second, "access_token")] {
        assert_eq!(secure.get(token, "/api/tags").await.status, StatusCode::UNAUTHORIZED);
    }
    let over = json!({"refresh_token": text(&second, "refresh_token")});
    assert_eq!(secure.post("", "/auth/refresh", over).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_refresh_token_that_was_replaced_ends_the_login_of_thief_and_owner() {
    let secure = Secure::new().await;
    secure.user("alice", &["user"]).await;
    let stolen = text(&secure.login("alice").await, "refresh_token");
    let refresh =
        async |token: &str| secure.post("", "/auth/refresh", json!({"refresh_token": token})).await;
    let second = refresh(&stolen).await.json();
    let third = refresh(&text(&second, "refresh_token")).await.json();
    assert_eq!(refresh(&stolen).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(refresh(&text(&third, "refresh_token")).await.status, StatusCode::UNAUTHORIZED);
    let access = text(&third, "access_token");
    assert_eq!(secure.get(&access, "/api/tags").await.status, StatusCode::UNAUTHORIZED);
    until("the reuse is in the trail", || {
        secure.trail().iter().any(|record| record.note.outcome.contains("had been replaced"))
    })
    .await;
}

#[tokio::test]
async fn what_is_revoked_is_refused_at_once_and_unknown_tokens_are_nobodys_business() {
    let secure = Secure::new().await;
    secure.user("alice", &["user"]).await;
    let login = secure.login("alice").await;
    let access = text(&login, "access_token");
    let revoke = async |token: &str| secure.post("", "/auth/revoke", json!({"token": token})).await;
    let unknown = revoke("whatever").await;
    let known = revoke(&access).await;
    assert_eq!((unknown.status, &unknown.text), (StatusCode::OK, &known.text));
    assert_eq!(secure.get(&access, "/api/tags").await.status, StatusCode::UNAUTHORIZED);
    // The login itself is still good.
    let refresh = text(&login, "refresh_token");
    let fresh = secure.post("", "/auth/refresh", json!({"refresh_token": refresh})).await.json();
    let access = text(&fresh, "access_token");
    assert_eq!(secure.get(&access, "/api/tags").await.status, StatusCode::OK);
    assert_eq!(revoke(&text(&fresh, "refresh_token")).await.status, StatusCode::OK);
    assert_eq!(secure.get(&access, "/api/tags").await.status, StatusCode::UNAUTHORIZED);
    // A key, by who holds it.
    let made = secure.post(&secure.admin, "/admin/v1/keys", json!({"owner": "alice"})).await.json();
    let key = text(&made, "key");
    assert_eq!(secure.get(&key, "/api/tags").await.status, StatusCode::OK);
    assert_eq!(revoke(&key.replace(&key[25..30], "AAAAA")).await.status, StatusCode::OK);
    assert_eq!(
        secure.get(&key, "/api/tags").await.status,
        StatusCode::OK,
        "not with a wrong secret"
    );
    assert_eq!(revoke(&key).await.status, StatusCode::OK);
    assert_eq!(secure.get(&key, "/api/tags").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn roles_count_as_they_are_now_and_a_disabled_user_is_nobody() {
    let secure = Secure::new().await;
    secure.user("alice", &["readonly"]).await;
    let access = text(&secure.login("alice").await, "access_token");
    let ask = json!({"model": "m", "prompt": "x", "stream": false});
    let generate = async || secure.post(&access, "/api/generate", ask.clone()).await.status;
    let patch = async |body: Value| {
        let path = "/admin/v1/users/alice";
        secure.ask(&secure.admin, "PATCH", path, &body.to_string()).await.status
    };
    assert_eq!(generate().await, StatusCode::FORBIDDEN);
    assert_eq!(patch(json!({"roles": ["user"]})).await, StatusCode::OK);
    assert_eq!(generate().await, StatusCode::OK);
    let role = json!({"inherits": ["user"], "grants": ["!inference:run@m:*"]}).to_string();
    let put = secure.ask(&secure.admin, "PUT", "/admin/v1/roles/careful", &role).await;
    assert_eq!(put.status, StatusCode::OK, "{}", put.text);
    assert_eq!(patch(json!({"roles": ["careful"]})).await, StatusCode::OK);
    assert_eq!(generate().await, StatusCode::FORBIDDEN, "not that model");
    assert_eq!(patch(json!({"disabled": true})).await, StatusCode::OK);
    assert_eq!(generate().await, StatusCode::UNAUTHORIZED);
    let login = json!({"username": "alice", "password": PASSWORD});
    assert_eq!(secure.post("", "/auth/token", login).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn everybody_has_the_own_keys_and_password_and_nobody_elses() {
    let secure = Secure::new().await;
    secure.user("alice", &["user"]).await;
    secure.user("bob", &["user"]).await;
    let alice = text(&secure.login("alice").await, "access_token");
    let bob = text(&secure.login("bob").await, "access_token");
    let made = secure.post(&alice, "/admin/v1/keys", json!({"label": "mine"})).await.json();
    let id = text(&made, "id");
    let others = secure.get(&bob, "/admin/v1/keys").await.json();
    assert_eq!(others["keys"], json!([]));
    let path = format!("/admin/v1/keys/{id}");
    for path in [&path[..], "/admin/v1/keys/00000000000000aa"] {
        let refused = secure.ask(&bob, "DELETE", path, "").await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "the same whether it is there or not");
    }
    let owner = secure.post(&bob, "/admin/v1/keys", json!({"owner": "alice"})).await;
    assert_eq!(owner.status, StatusCode::FORBIDDEN);
    let change = |body: Value| body.to_string();
    let path = "/admin/v1/users/alice/password";
    let new = "another long password";
    let by_bob = secure.ask(&bob, "PUT", path, &change(json!({"password": new}))).await;
    assert_eq!(by_bob.status, StatusCode::FORBIDDEN);
    let wrong = json!({"password": new, "current": "no"});
    assert_eq!(secure.ask(&alice, "PUT", path, &change(wrong)).await.status, StatusCode::FORBIDDEN);
    let short = json!({"password": "short", "current": PASSWORD});
    assert_eq!(
        secure.ask(&alice, "PUT", path, &change(short)).await.status,
        StatusCode::BAD_REQUEST
    );
    let right = json!({"password": new, "current": PASSWORD});
    assert_eq!(secure.ask(&alice, "PUT", path, &change(right)).await.status, StatusCode::OK);
    assert_eq!(
        secure.get(&alice, "/api/tags").await.status,
        StatusCode::UNAUTHORIZED,
        "logged out"
    );
    assert_eq!(
        secure.ask(&secure.admin, "DELETE", &format!("/admin/v1/keys/{id}"), "").await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn guessing_passwords_and_keys_is_slowed_down() {
    let secure = Secure::new().await;
    secure.user("alice", &["user"]).await;
    let guess = json!({"username": "alice", "password": "wrong password"});
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(secure.post("", "/auth/token", guess.clone()).await);
    }
    assert!(seen[..5].iter().all(|answer| answer.status == StatusCode::UNAUTHORIZED));
    assert_eq!(seen[5].status, StatusCode::TOO_MANY_REQUESTS);
    assert!(seen[5].headers.contains_key("retry-after"));
    // A name that is not there is slowed down as well, in the same words.
    let nobody = json!({"username": "nobody", "password": "wrong password"});
    let answer = secure.post("", "/auth/token", nobody).await;
    assert_eq!((answer.status, &answer.text), (StatusCode::UNAUTHORIZED, &seen[0].text));
    let mut refused = 0;
    for _ in 0..60 {
        refused += usize::from(
            secure.get("omk_x", "/api/tags").await.status == StatusCode::TOO_MANY_REQUESTS,
        );
    }
    assert!(refused > 0, "keys, too");
    let good = secure.get(&secure.admin, "/api/tags").await;
    assert_eq!(good.status, StatusCode::OK, "who has a good one is not kept out by the others");
}

#[tokio::test]
async fn rotating_signing_keys_breaks_no_token_but_in_an_emergency_all() {
    let secure = Secure::new().await;
    secure.user("alice", &["user"]).await;
    let access = text(&secure.login("alice").await, "access_token");
    let rotate = "/admin/v1/signing-keys/rotate";
    let next = secure.post(&secure.admin, rotate, json!({})).await.json();
    let jwks = secure.get("", "/.well-known/jwks.json").await.json();
    assert_eq!(jwks["keys"].as_array().map(Vec::len), Some(2), "published before it signs");
    assert!(jwks["keys"].as_array().expect("keys").iter().all(|key| key.get("d").is_none()));
    assert!(jwks.to_string().contains(&text(&next, "id")));
    assert_eq!(secure.get(&access, "/api/tags").await.status, StatusCode::OK);
    secure.post(&secure.admin, rotate, json!({"emergency": true})).await;
    assert_eq!(secure.get(&access, "/api/tags").await.status, StatusCode::UNAUTHORIZED);
    let fresh = text(&secure.login("alice").await, "access_token");
    assert_eq!(secure.get(&fresh, "/api/tags").await.status, StatusCode::OK);
}

#[tokio::test]
async fn one_password_is_not_tried_on_many_names() {
    let secure = Secure::new().await;
    let mut refused = 0;
    for nth in 0..20 {
        let guess = json!({"username": format!("user-{nth}"), "password": "wrong password"});
        let status = secure.post("", "/auth/token", guess).await.status;
        refused += usize::from(status == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!(refused > 0, "the address is slowed down, whatever the names");
}

#[tokio::test]
async fn signing_keys_are_of_the_algorithm_that_was_asked_for_and_their_successors_too() {
    use base64::Engine as _;
    let secure = Secure::new().await;
    secure.user("alice", &["user"]).await;
    let rotate = async |body: Value| {
        let path = "/admin/v1/signing-keys/rotate";
        secure.post(&secure.admin, path, body).await
    };
    let before = text(&secure.login("alice").await, "access_token");
    for (alg, kty) in [("EdDSA", "OKP"), ("ES256", "EC"), ("RS256", "RSA")] {
        let made = rotate(json!({"algorithm": alg, "emergency": true})).await;
        assert_eq!(made.json()["algorithm"], alg, "{}", made.text);
        let token = text(&secure.login("alice").await, "access_token");
        let head = token.split('.').next().expect("a header");
        let head = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(head).expect("base64");
        let head: Value = serde_json::from_slice(&head).expect("JSON");
        assert_eq!(head["alg"], alg);
        assert_eq!(secure.get(&token, "/api/tags").await.status, StatusCode::OK, "{alg}");
        assert_eq!(secure.get(&before, "/api/tags").await.status, StatusCode::UNAUTHORIZED);
        let keys = secure.get("", "/.well-known/jwks.json").await.json();
        assert_eq!(keys["keys"][0]["kty"], kty, "{keys}");
        assert_eq!(rotate(json!({})).await.json()["algorithm"], alg, "as the one before");
    }
    for wrong in ["none", "HS256", "rs256", ""] {
        let refused = rotate(json!({"algorithm": wrong})).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{wrong}: {}", refused.text);
        assert!(refused.text.contains("EdDSA"), "{}", refused.text);
    }
}
