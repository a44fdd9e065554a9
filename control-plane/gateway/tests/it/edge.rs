//! Who is answered at all: hosts, origins, forms of bodies, and what every answer carries.

use crate::http::{Bench, quick, until};
use crate::worker::Script;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Version};
use bytes::Bytes;
use ollamamax_core::Command;
use ollamamax_gateway::Config;
use ollamamax_gateway::edge::{EdgeConfig, LocalAddress};
use ollamamax_gateway::ports::ControlPlane as _;
use ollamamax_proto::limits;
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;
use tower::ServiceExt;

fn with(edge: EdgeConfig) -> Bench {
    Bench::with(&[Script::Answer], Config { edge, ..quick() })
}

async fn status(bench: &Bench, request: Request<Body>) -> u16 {
    bench.router.clone().oneshot(request).await.expect("an answer").status().as_u16()
}

#[tokio::test]
async fn only_requests_for_names_of_this_node_are_answered() {
    let allowed_hosts = vec!["models.example.com".to_owned(), "*.lan".to_owned()];
    let bench = with(EdgeConfig { allowed_hosts, ..EdgeConfig::default() });
    bench.control.apply(Command::AdmitNode {
        http: "node2.internal:11434".to_owned(),
        raft: "node2.internal:7400".to_owned(),
        voter: true,
    });
    let good = ["localhost:11434", "127.0.0.1", "models.example.com", "a.lan", "node2.internal"];
    for host in good {
        assert_eq!(bench.send_with("GET", "/", &[("host", host)], "").await.status, 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "10.0.0.9", ""] {
        for (path, key) in
            [("/api/tags", "error"), ("/v1/models", "error"), ("/admin/v1/cluster", "detail")]
        {
            let answer = bench.send_with("GET", path, &[("host", host)], "").await;
            assert_eq!(answer.status, 421, "{host} {path}");
            assert!(answer.json().get(key).is_some(), "in the shape of {path}: {}", answer.text);
            assert_eq!(answer.headers["connection"], "close");
        }
    }
}

#[tokio::test]
async fn a_request_names_its_host_once() {
    let bench = Bench::new(&[]);
    let get = |uri: &str| Request::get(uri.to_owned());
    let none = get("/").body(Body::empty()).unwrap();
    assert_eq!(status(&bench, none).await, 400);
    let old = get("/").version(Version::HTTP_10).body(Body::empty()).unwrap();
    assert_eq!(status(&bench, old).await, 200, "HTTP/1.0 knows no `Host`");
    let twice = get("/").header("host", "localhost").header("host", "localhost");
    assert_eq!(status(&bench, twice.body(Body::empty()).unwrap()).await, 400);
    for (url, host, expected) in [
        ("http://localhost/", "localhost", 200),
        ("http://evil.example/", "localhost", 421),
        ("http://localhost/", "evil.example", 421),
        ("http://user@localhost/", "localhost", 421),
    ] {
        let request = get(url).header("host", host).body(Body::empty()).unwrap();
        assert_eq!(status(&bench, request).await, expected, "{url} {host}");
    }
    for (url, expected) in [("http://localhost/", 200), ("http://evil.example/", 421)] {
        let request = get(url).version(Version::HTTP_2).body(Body::empty()).unwrap();
        assert_eq!(status(&bench, request).await, expected, "HTTP/2 {url}");
    }
}

#[tokio::test]
async fn the_address_a_connection_came_in_on_is_a_name_of_the_node() {
    let bench = Bench::new(&[]);
    for (local, host, expected) in [
        ("192.168.0.7:11434", "192.168.0.7:11434", 200),
        ("192.168.0.7:11434", "192.168.0.8", 421),
        ("192.168.0.7:11434", "0.0.0.0:11434", 421),
        ("127.0.0.1:11434", "0.0.0.0:11434", 200),
        ("[fd00::7]:1", "[fd00::7]:9", 200),
    ] {
        let local: SocketAddr = local.parse().unwrap();
        let request = Request::get("/").header("host", host).extension(LocalAddress(local));
        let request = request.body(Body::empty()).unwrap();
        assert_eq!(status(&bench, request).await, expected, "{local} {host}");
    }
}

#[tokio::test]
async fn foreign_pages_neither_read_nor_change_anything() {
    let allowed_origins = vec!["https://chat.example.com".to_owned()];
    let bench = with(EdgeConfig { allowed_origins, ..EdgeConfig::default() });
    let ask = json!({"model": "m", "prompt": "x", "stream": false}).to_string();
    for (origin, expected) in [
        ("http://localhost:3000", 200),
        ("http://127.0.0.1", 200),
        ("http://[::1]:8080", 200),
        ("app://obsidian.md", 200),
        ("vscode-webview://x", 200),
        ("https://chat.example.com", 200),
        ("https://evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("null", 403),
    ] {
        let headers = [("origin", origin)];
        let answer = bench.send_with("POST", "/api/generate", &headers, ask.clone()).await;
        assert_eq!(answer.status, expected, "{origin}: {}", answer.text);
        assert_eq!(bench.send_with("GET", "/api/tags", &headers, "").await.status, expected);
        let told = answer.headers.get("access-control-allow-origin");
        let told = told.map(|value| value.to_str().unwrap());
        assert_eq!(told, (expected == 200).then_some(origin), "{origin}");
        assert!(!answer.headers.contains_key("access-control-allow-credentials"));
        if expected == 200 {
            assert!(answer.headers["vary"].to_str().unwrap().contains("origin"));
        }
    }
    for (site, method, expected) in [
        ("cross-site", "POST", 403),
        ("cross-site", "GET", 200),
        ("same-origin", "POST", 200),
        ("none", "POST", 200),
    ] {
        let headers = [("sec-fetch-site", site)];
        let path = if method == "GET" { "/api/tags" } else { "/api/generate" };
        let answer = bench.send_with(method, path, &headers, ask.clone()).await;
        assert_eq!(answer.status, expected, "{site} {method}");
    }
    assert_eq!(bench.workers[0].requests().len(), 8, "no foreign page reached a worker");
}

#[tokio::test]
async fn a_preflight_is_answered_for_origins_that_may_ask() {
    let bench = Bench::new(&[]);
    let asked = [
        ("origin", "http://localhost:3000"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization, x-stainless-os"),
    ];
    let answer = bench.send_with("OPTIONS", "/v1/chat/completions", &asked, "").await;
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (204, ""));
    let header = |name: &str| answer.headers[name].to_str().unwrap();
    assert_eq!(header("access-control-allow-origin"), "http://localhost:3000");
    assert_eq!(header("access-control-allow-headers"), "authorization, x-stainless-os");
    assert!(header("access-control-allow-methods").contains("POST"));
    assert_eq!(header("access-control-max-age"), "600");
    let plain = bench.send_with("OPTIONS", "/api/chat", &asked[..2], "").await;
    assert!(
        plain.headers["access-control-allow-headers"].to_str().unwrap().contains("authorization")
    );
    let foreign = [("origin", "https://evil.example"), asked[1]];
    let answer = bench.send_with("OPTIONS", "/api/chat", &foreign, "").await;
    assert_eq!(answer.status, 403);
    assert!(!answer.headers.contains_key("access-control-allow-methods"));
    let none = bench.send("OPTIONS", "/api/chat", "").await;
    assert_eq!(none.status, 405);
    assert_eq!(none.headers["allow"], "POST");
}

#[tokio::test]
async fn every_answer_tells_browsers_to_be_careful() {
    let bench = Bench::new(&[]);
    for (path, status) in
        [("/", 200), ("/api/tags", 200), ("/nothing", 404), ("/admin/v1/cluster", 200)]
    {
        let answer = bench.get(path).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(answer.headers["referrer-policy"], "no-referrer", "{path}");
        let policy = "default-src 'none'; frame-ancestors 'none'";
        assert_eq!(answer.headers["content-security-policy"], policy, "{path}");
        let kept_out = answer.headers.get("cache-control").is_some_and(|v| v == "no-store");
        assert_eq!(kept_out, path.starts_with("/admin/"), "{path}");
    }
}

#[tokio::test]
async fn packed_and_doubly_framed_bodies_are_refused() {
    let bench = Bench::new(&[Script::Answer]);
    let ask = json!({"model": "m", "prompt": "x", "stream": false}).to_string();
    for (name, value, expected) in [
        ("content-encoding", "gzip", 415),
        ("content-encoding", "identity, br", 415),
        ("content-encoding", "identity", 200),
        ("transfer-encoding", "gzip, chunked", 400),
        ("transfer-encoding", "chunked", 200),
        ("content-type", "text/plain", 200),
    ] {
        let answer = bench.send_with("POST", "/api/generate", &[(name, value)], ask.clone()).await;
        assert_eq!(answer.status, expected, "{name}: {value}");
    }
}

#[tokio::test]
async fn our_own_endpoints_take_json_and_known_fields_only() {
    let bench = Bench::new(&[Script::Answer]);
    let worker = format!("/admin/v1/workers/{:032x}", 1);
    let (drain, label) = (format!("{worker}/drain"), format!("{worker}/label"));
    let table = [
        ("/admin/v1/join-tokens", json!({"role": "node", "admin": true})),
        ("/admin/v1/models/m/deploy", json!({"replicas": 1, "owner": "me"})),
        ("/admin/v1/models/m/migrate", json!({"from": "w1", "to": "w1", "force": true})),
        (&drain, json!({"reason": "x", "until": 1})),
        (&label, json!({"labels": {}, "role": "admin"})),
    ];
    for (path, body) in table {
        let answer = bench.post(path, body.clone()).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text);
        assert!(answer.error().contains("unknown field"), "{path}: {}", answer.text);
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
            let headers = [("content-type", kind)];
            let answer = bench.send_with("POST", path, &headers, body.to_string()).await;
            assert_eq!(answer.status, 415, "{path} {kind}");
        }
    }
    let deploy = json!({"replicas": 1}).to_string();
    for kind in ["application/json", "Application/JSON; charset=utf-8", "application/x+json"] {
        let headers = [("content-type", kind)];
        let path = "/admin/v1/models/m/deploy";
        assert_eq!(bench.send_with("POST", path, &headers, deploy.clone()).await.status, 200);
    }
}

#[tokio::test]
async fn long_urls_are_414() {
    let bench = Bench::new(&[]);
    let url = |bytes: usize| format!("/v1/models/{}", "x".repeat(bytes - "/v1/models/".len()));
    assert_eq!(bench.get(&url(limits::URL_BYTES)).await.status, 404);
    assert_eq!(bench.get(&url(limits::URL_BYTES + 1)).await.status, 414);
}

#[tokio::test]
async fn a_body_that_dawdles_is_408_whoever_reads_it() {
    let body_stall = Duration::from_millis(100);
    let bench = with(EdgeConfig { body_stall, ..EdgeConfig::default() });
    let digest = format!("/api/blobs/sha256:{}", "0".repeat(64));
    for path in ["/api/chat", "/v1/chat/completions", "/admin/v1/join-tokens", &digest] {
        let pieces = futures_util::stream::unfold(0, |n| async move {
            if n > 0 {
                std::future::pending::<()>().await;
            }
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"{")), n + 1))
        });
        let answer = bench.send("POST", path, Body::from_stream(pieces)).await;
        assert_eq!(answer.status, 408, "{path}: {}", answer.text);
        assert_eq!(answer.headers["connection"], "close");
        assert!(answer.text.contains("too slowly"), "{path}: {}", answer.text);
    }
}

#[tokio::test]
async fn only_a_trusted_proxy_says_who_asks() {
    for (trusted, from) in [(vec!["10.0.0.0/8"], "1.2.3.4"), (vec![], "10.0.0.1")] {
        let trusted_proxies = trusted.iter().map(|text| text.parse().unwrap()).collect();
        let bench = with(EdgeConfig { trusted_proxies, ..EdgeConfig::default() });
        let peer: SocketAddr = "10.0.0.1:5".parse().unwrap();
        let request = Request::get("/api/tags")
            .header("host", "localhost")
            .header("x-forwarded-for", "6.6.6.6, 1.2.3.4")
            .extension(ConnectInfo(peer));
        let request = request.body(Body::empty()).unwrap();
        assert_eq!(status(&bench, request).await, 401, "and nobody else is local");
        until("the refusal is in the trail", || {
            bench.control.state().access.trail.values().any(|record| record.note.from == from)
        })
        .await;
    }
}

#[tokio::test]
async fn an_id_of_a_request_is_one_short_plain_word() {
    let bench = Bench::new(&[]);
    let longest = "i".repeat(limits::REQUEST_ID_BYTES);
    for id in ["a", "0123-abc_DEF.7:9/x=", &longest] {
        let answer = bench.send_with("GET", "/", &[("x-request-id", id)], "").await;
        assert_eq!(answer.headers["x-request-id"], *id);
    }
    let long = format!("{longest}i");
    for id in ["", "a b", "a\tb", "a\"b", "a'b", "a\\nb", "a`b", "\u{e9}", &long] {
        let answer = bench.send_with("GET", "/", &[("x-request-id", id)], "").await;
        let drawn = answer.headers["x-request-id"].to_str().unwrap();
        assert!(drawn.len() == 32 && drawn.bytes().all(|b| b.is_ascii_hexdigit()), "{id:?}");
    }
}

#[test]
fn settings_that_mean_nothing_are_refused_by_name() {
    assert!(EdgeConfig::default().validate().is_ok());
    let hosts = EdgeConfig { allowed_hosts: vec!["http://x".into()], ..EdgeConfig::default() };
    assert_eq!(hosts.validate().unwrap_err().0, "allowed_host");
    let origins = EdgeConfig { allowed_origins: vec!["x.y".into()], ..EdgeConfig::default() };
    assert_eq!(origins.validate().unwrap_err().0, "allowed_origin");
}
