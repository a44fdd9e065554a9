//! Requests and credentials that nobody meant: mutants of good ones, against every route. Whatever comes, the answer is quick, is
//! no server error, and the next request is answered.
//!
//! `OLLAMAMAX_FUZZ=100000 cargo test --release -p ollamamax-gateway --test it fuzz` makes more of them; the seed is printed.

use crate::auth::{Secure, add_user};
use crate::described;
use crate::http::{Bench, quick};
use crate::worker::Script;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::BodyExt;
use ollamamax_gateway::{Config, Gateway, Policy};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tower::ServiceExt;

/// Splitmix64: the same mutants for the same seed.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

/// What breaks parsers: in place of a value, or in the middle of one.
const SPLINTERS: &[&[u8]] = &[
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1e400",
    b"18446744073709551616",
    b"NaN",
    b"\"\"",
    b"[]",
    b"{}",
    b"[[[[[[[[[[[[[[[[[[[[",
    b"{\"a\":{\"a\":{\"a\":{\"a\":",
    b"\"\\ud800\"",
    b"\"\\u0000\"",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"../../etc/passwd",
    b"%2e%2e%2f",
    b"\r\nx: y",
    b"' OR 1=1 --",
    b"{{7*7}}",
    b"${jndi:x}",
    b"\x1b[31m",
    b"omk_0000000000000001_",
    b"sha256:",
    b"9999999999999999999999",
    b"-0.0",
    b",",
    b":",
    b"\"",
];

/// A body for each route that takes one: what a client sends on a good day.
fn bodies() -> BTreeMap<&'static str, Vec<String>> {
    let options = json!({"seed": 1, "num_predict": 3, "temperature": 0.5, "stop": ["x"], "num_ctx": 64, "top_k": 3});
    let user = json!([{"role": "user", "content": "hi", "images": [], "tool_calls": []}]);
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    let text = |value: serde_json::Value| value.to_string();
    BTreeMap::from([
        (
            "/api/generate",
            vec![
                text(
                    json!({"model": "m", "prompt": "x", "stream": false, "options": options, "keep_alive": "5m", "raw": true}),
                ),
                text(
                    json!({"model": "m", "prompt": "x", "system": "s", "template": "{{ .Prompt }}", "context": [1, 2], "options": options}),
                ),
            ],
        ),
        (
            "/api/chat",
            vec![
                text(
                    json!({"model": "m", "messages": user, "stream": false, "format": schema, "options": options, "think": false}),
                ),
                text(
                    json!({"model": "m", "messages": user, "logprobs": true, "top_logprobs": 2, "options": options}),
                ),
            ],
        ),
        (
            "/api/embed",
            vec![text(
                json!({"model": "m", "input": ["a", "b"], "truncate": true, "dimensions": 3}),
            )],
        ),
        ("/api/embeddings", vec![text(json!({"model": "m", "prompt": "a"}))]),
        ("/api/show", vec![text(json!({"model": "m", "verbose": false}))]),
        (
            "/api/create",
            vec![text(
                json!({"model": "n", "from": "m", "system": "s", "parameters": {"stop": ["a"]}, "stream": false}),
            )],
        ),
        (
            "/api/pull",
            vec![
                text(json!({"model": "127.0.0.1:1/a/b", "as": "m", "insecure": true})),
                text(json!({"model": "https://127.0.0.1:1/a.gguf", "stream": false})),
            ],
        ),
        ("/api/push", vec![text(json!({"model": "127.0.0.1:1/a/b", "insecure": false}))]),
        ("/api/copy", vec![text(json!({"source": "m", "destination": "o"}))]),
        ("/api/delete", vec![text(json!({"model": "gone"}))]),
        (
            "/v1/chat/completions",
            vec![
                text(
                    json!({"model": "m", "messages": user, "max_tokens": 3, "n": 1, "stop": ["x"], "logit_bias": {"5": 1}, "seed": 1,
                "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}),
                ),
                text(
                    json!({"model": "m", "messages": user, "stream": true, "stream_options": {"include_usage": true}, "max_tokens": 3}),
                ),
            ],
        ),
        (
            "/v1/embeddings",
            vec![text(json!({"model": "m", "input": [[1, 2], [3]], "encoding_format": "base64"}))],
        ),
        ("/auth/token", vec![text(json!({"username": "alice", "password": "not the one"}))]),
        (
            "/auth/refresh",
            vec![text(json!({"refresh_token": "omr_0123456789abcdef0123456789abcdef_3_x"}))],
        ),
        ("/auth/revoke", vec![text(json!({"token": "omk_0000000000000001_x"}))]),
        ("/admin/v1/users", vec![text(json!({"name": "u", "service": true, "roles": ["user"]}))]),
        (
            "/admin/v1/users/{name}",
            vec![text(json!({"roles": ["user"]})), text(json!({"disabled": false}))],
        ),
        ("/admin/v1/users/{name}/password", vec![text(json!({"password": null, "current": "x"}))]),
        (
            "/admin/v1/keys",
            vec![text(
                json!({"owner": "alice", "label": "l", "scope": ["model:read@a*"], "lifetime_s": 60}),
            )],
        ),
        (
            "/admin/v1/roles/{name}",
            vec![text(
                json!({"grants": ["!model:read@a*"], "inherits": ["user"], "description": "d"}),
            )],
        ),
        (
            "/admin/v1/quotas/{*of}",
            vec![text(json!({"tokens_per_day": 1_000_000_000_000u64, "streams": 4_000_000}))],
        ),
        (
            "/admin/v1/workers",
            vec![text(
                json!({"url": "http://127.0.0.1:1", "name": "n", "api_key": "k", "labels": {"a": "b"}, "max_concurrent": 2}),
            )],
        ),
        ("/admin/v1/workers/{id}/drain", vec![text(json!({"reason": "r"}))]),
        ("/admin/v1/workers/{id}/label", vec![text(json!({"labels": {"a": "b", "c": null}}))]),
        ("/admin/v1/checkpoints/{*name}", vec!["value".to_owned()]),
        (
            "/admin/v1/models/{*rest}",
            vec![text(
                json!({"replicas": 1, "strategy": "auto", "keep_alive": "5m", "labels": {"a": "b"}}),
            )],
        ),
    ])
}

fn mutate(bytes: &mut Vec<u8>, chance: &mut Chance) {
    for _ in 0..1 + chance.below(3) {
        let at = chance.below(bytes.len() + 1);
        match chance.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
            1 => bytes.truncate(at),
            2 => drop(bytes.splice(at..at, chance.of(SPLINTERS).iter().copied())),
            3 => {
                // A value gives way to something else.
                let end =
                    bytes[at..].iter().position(|b| b",}]".contains(b)).map_or(at, |n| at + n);
                bytes.splice(at..end, chance.of(SPLINTERS).iter().copied());
            }
            4 => {
                let end = (at + chance.below(20)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => {
                let end = (at + chance.below(20)).min(bytes.len());
                bytes.drain(at..end);
            }
            6 => drop(bytes.splice(at..at, std::iter::repeat_n(b'9', chance.below(400)))),
            _ => drop(bytes.splice(at..at, std::iter::repeat_n(b'[', chance.below(300)))),
        }
    }
}

fn segment(chance: &mut Chance, good: &str) -> String {
    let mut bytes = good.as_bytes().to_vec();
    if chance.below(3) == 0 {
        mutate(&mut bytes, chance);
    }
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"-._~:@!$&'()*+,;=".contains(&b);
    bytes
        .iter()
        .take(9_000)
        .map(|b| if keep(*b) { char::from(*b).to_string() } else { format!("%{b:02x}") })
        .collect()
}

fn credential(chance: &mut Chance, good: &[String]) -> Option<HeaderValue> {
    let known = &good[chance.below(good.len())];
    let mut bytes = format!("Bearer {known}").into_bytes();
    match chance.below(4) {
        0 => return None,
        1 => {}
        _ => mutate(&mut bytes, chance),
    }
    HeaderValue::from_bytes(&bytes).ok()
}

fn request(
    chance: &mut Chance,
    route: &ollamamax_gateway::Route,
    bodies: &BTreeMap<&'static str, Vec<String>>,
    credentials: &[String],
) -> Option<Request<Body>> {
    let fill = [
        ("{digest}", format!("sha256:{}", "0".repeat(64))),
        ("{id}", "00000000000000aa".into()),
        ("{name}", "alice".into()),
        ("{*id}", "m".into()),
        ("{namespace}", "library".into()),
        ("{model}", "m".into()),
        ("{tag}", "latest".into()),
        ("{*model}", "m".into()),
        ("{*rest}", "m/deploy".into()),
        ("{*name}", "c/1".into()),
        ("{*of}", "user:alice".into()),
    ];
    let mut path = route.path.to_owned();
    for (name, good) in fill {
        if path.contains(name) {
            let text = segment(chance, &good);
            path = path.replace(name, &text);
        }
    }
    if chance.below(6) == 0 {
        let (name, value) = (segment(chance, "after"), segment(chance, "1"));
        path = format!("{path}?{name}={value}");
    }
    let uri = path.parse::<Uri>().ok()?;
    let none = vec![String::new()];
    let known = bodies.get(route.path).unwrap_or(&none);
    let mut body = known[chance.below(known.len())].clone().into_bytes();
    if chance.below(8) != 0 {
        mutate(&mut body, chance);
    }
    let method = match chance.below(30) {
        0 => Method::from_bytes(b"PROPFIND").ok()?,
        1 => Method::OPTIONS,
        _ => route.method.clone(),
    };
    let mut request = Request::builder().method(method).uri(uri).header("host", "localhost");
    if let Some(value) = credential(chance, credentials) {
        request = request.header("authorization", value);
    }
    let json = if chance.below(10) == 0 { "text/plain" } else { "application/json" };
    request = request.header("content-type", json);
    for _ in 0..chance.below(3) {
        let names = [
            "x-request-id",
            "x-priority",
            "x-request-timeout",
            "last-event-id",
            "if-match",
            "traceparent",
            "x-api-key",
            "origin",
            "content-encoding",
        ];
        let name = HeaderName::from_static(names[chance.below(names.len())]);
        let mut value = b"batch".to_vec();
        mutate(&mut value, chance);
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            request = request.header(name, value);
        }
    }
    // From many places, so that the throttle does not spare the rest of the code.
    let from = [127, chance.below(250) as u8, chance.below(250) as u8, 1];
    let from = ConnectInfo(SocketAddr::from((from, 1_000)));
    request.extension(from).body(Body::from(body)).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_comes_is_answered_quickly_and_is_nobodys_fault_but_the_clients() {
    let wanted = std::env::var("OLLAMAMAX_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(4_000);
    let seed = std::env::var("OLLAMAMAX_FUZZ_SEED").ok().and_then(|n| n.parse().ok());
    let seed: u64 = seed.unwrap_or(0x5eed);
    eprintln!("OLLAMAMAX_FUZZ={wanted} OLLAMAMAX_FUZZ_SEED={seed}");
    let secure = Secure::with(&[Script::Answer]).await;
    let user = add_user(&secure.bench.control, "alice", "user", 40);
    let bodies = bodies();
    let inventory =
        Gateway::new(secure.bench.control.clone(), secure.bench.blobs.clone(), Config::default())
            .inventory();
    let routes: Vec<_> = inventory
        .into_iter()
        // Making keys takes tenths of a second each; forgetting the only worker or model would make the rest boring.
        .filter(|route| {
            !route.path.ends_with("/rotate") && route.policy != Policy::Open
                || bodies.contains_key(route.path)
        })
        .collect();
    // Half of them with a gateway where nobody needs a credential, so that mutants get past the guard.
    let roles = Some(std::collections::BTreeSet::from(["admin".to_owned()]));
    let config = Config { anonymous: roles, load_timeout: Duration::from_millis(200), ..quick() };
    let open = Bench::with(&[Script::Answer], config);
    let mut chance = Chance(seed);
    let credentials = [secure.admin.clone(), user, "eyJhbGciOiJub25lIn0.e30.".to_owned()];
    let (mut sent, mut statuses) = (0, BTreeMap::<u16, usize>::new());
    while sent < wanted {
        let route = &routes[chance.below(routes.len())];
        let Some(mut request) = request(&mut chance, route, &bodies, &credentials) else {
            continue;
        };
        let bench = if chance.below(2) == 0 {
            &secure.bench
        } else {
            request.headers_mut().remove("authorization");
            request.headers_mut().remove("x-api-key");
            &open
        };
        if sent % 50 == 0 {
            // The model and its worker come back, whatever was done to them.
            open.control.put_model("m");
            open.control.add_worker(1, &open.workers[0].address);
        }
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        let told = format!("{} {} (mutant {sent}, seed {seed})", request.method(), request.uri());
        let answered = async {
            let response = bench.router.clone().oneshot(request).await.unwrap();
            let (parts, body) = response.into_parts();
            // A stream that breaks off is not looked into: it has its own tests.
            let body = tokio::time::timeout(Duration::from_secs(5), body.collect()).await;
            let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes().to_vec());
            if let Some(text) = body.and_then(|body| String::from_utf8(body).ok()) {
                described::check(&method, &path, parts.status, &parts.headers, &text);
            }
            parts.status
        };
        let status = tokio::time::timeout(Duration::from_secs(20), answered).await;
        let status = status.unwrap_or_else(|_| panic!("no answer: {told}"));
        // A mutant may name a registry that does not answer.
        let elsewhere = status.as_u16() == 502 && matches!(&*path, "/api/pull" | "/api/push");
        assert!(status.as_u16() < 500 || status.as_u16() == 503 || elsewhere, "{status}: {told}");
        *statuses.entry(status.as_u16()).or_default() += 1;
        sent += 1;
    }
    eprintln!("{statuses:?}");
    let unavailable = statuses.get(&503).copied().unwrap_or(0);
    assert!(unavailable * 100 <= wanted, "{unavailable} of {wanted} were 503: {statuses:?}");
    assert!(statuses.len() >= 6, "the mutants are too much alike: {statuses:?}");
    let alive = secure.get(&secure.admin, "/api/tags").await;
    assert_eq!(alive.status, 200);
}
