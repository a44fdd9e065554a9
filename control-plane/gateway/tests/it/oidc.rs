//! Tokens of an OpenID provider, which is a real server here.

use crate::http::{Bench, quick};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use ollamamax_gateway::{Config, OidcConfig};
use ollamamax_proto::Millis;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// A provider with one ES256 key at a time.
struct Provider {
    issuer: String,
    jwks: Arc<Mutex<Value>>,
    key: EncodingKey,
}

fn es256(kid: &str) -> (EncodingKey, Value) {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    let rng = aws_lc_rs::rand::SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
    let point = pair.public_key().as_ref();
    let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
    let jwk = json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid, "x": x, "y": y});
    (EncodingKey::from_ec_der(pkcs8.as_ref()), jwk)
}

impl Provider {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let (key, jwk) = es256("one");
        let secret = json!({"kty": "oct", "kid": "shared", "alg": "HS256", "k": "c2VjcmV0"});
        let jwks = Arc::new(Mutex::new(json!({"keys": [jwk, secret]})));
        let discovery = json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")});
        let served = Arc::clone(&jwks);
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(async || Json(discovery)))
            .route("/keys", get(async move || Json(served.lock().unwrap().clone())));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { issuer, jwks, key }
    }

    fn token(&self, kid: &str, change: impl FnOnce(&mut Value)) -> String {
        let now_s = Millis::now().0 / 1_000;
        let mut claims = json!({
            "iss": self.issuer, "aud": "ollamamax", "sub": "carol@example", "iat": now_s, "exp": now_s + 300,
            "realm_access": {"roles": ["ml-users", "staff"]},
        });
        change(&mut claims);
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, &claims, &self.key).unwrap()
    }

    fn config(&self) -> OidcConfig {
        OidcConfig {
            issuer: self.issuer.clone(),
            audience: "ollamamax".into(),
            roles_claim: "realm_access.roles".into(),
            roles: BTreeMap::from([("ml-users".to_owned(), "user".to_owned())]),
        }
    }
}

#[tokio::test]
async fn a_provider_is_believed_in_who_somebody_is_and_in_nothing_else() {
    let mut provider = Provider::start().await;
    let config = Config { anonymous: None, oidc: Some(provider.config()), ..quick() };
    let bench = Bench::with(&[], config);
    let get = async |token: &str, path: &str| {
        let bearer = format!("Bearer {token}");
        bench.send_with("GET", path, &[("authorization", bearer.as_str())], "").await
    };
    let good = provider.token("one", |_| {});
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while get(&good, "/auth/whoami").await.status != StatusCode::OK {
        assert!(std::time::Instant::now() < deadline, "its keys are read");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let me = get(&good, "/auth/whoami").await.json();
    assert_eq!((&me["actor"], &me["via"]), (&json!("user:oidc:carol@example"), &json!("openid")));
    assert_eq!(me["permissions"], json!(["model:read", "inference:run"]));
    assert_eq!(get(&good, "/admin/v1/users").await.status, StatusCode::FORBIDDEN);
    let nobody = provider.token("one", |claims| claims["realm_access"]["roles"] = json!(["staff"]));
    assert_eq!(get(&nobody, "/api/tags").await.status, StatusCode::FORBIDDEN, "no role here");
    let wrong: [fn(&mut Value); 6] = [
        |claims| claims["aud"] = json!("other"),
        |claims| claims["iss"] = json!("http://127.0.0.1:1"),
        |claims| claims["exp"] = json!(1),
        |claims| claims["exp"] = json!("9999999999"),
        |claims| claims["sub"] = json!(""),
        |claims| claims["sub"] = json!("a b\n"),
    ];
    for change in wrong {
        let token = provider.token("one", change);
        assert_eq!(get(&token, "/api/tags").await.status, StatusCode::UNAUTHORIZED);
    }
    let shared = Header { kid: Some("shared".into()), ..Header::new(Algorithm::HS256) };
    let claims = json!({"iss": provider.issuer, "aud": "ollamamax", "sub": "x", "exp": u32::MAX});
    let secret = EncodingKey::from_secret(b"secret").unwrap();
    let token = jsonwebtoken::encode(&shared, &claims, &secret).unwrap();
    assert_eq!(
        get(&token, "/api/tags").await.status,
        StatusCode::UNAUTHORIZED,
        "a published secret"
    );
    // Another key, of which nobody has told yet.
    let (key, jwk) = es256("two");
    provider.key = key;
    *provider.jwks.lock().unwrap() = json!({"keys": [jwk]});
    let fresh = provider.token("two", |_| {});
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while get(&fresh, "/api/tags").await.status != StatusCode::OK {
        assert!(std::time::Instant::now() < deadline, "the new key is read");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(
        get(&good, "/api/tags").await.status,
        StatusCode::UNAUTHORIZED,
        "its key is withdrawn"
    );
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let good = OidcConfig {
        issuer: "https://id.example/realms/x".into(),
        audience: "a".into(),
        roles_claim: "roles".into(),
        roles: BTreeMap::from([("a".to_owned(), "user".to_owned())]),
    };
    assert_eq!(good.validate(), Ok(()));
    for issuer in ["http://id.example", "ftp://x", "id.example", "", "file:///etc/passwd"] {
        assert!(
            OidcConfig { issuer: issuer.into(), ..good.clone() }.validate().is_err(),
            "{issuer}"
        );
    }
    assert!(OidcConfig { roles: BTreeMap::new(), ..good }.validate().is_err());
}
