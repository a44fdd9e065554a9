//! Pulling from and pushing to registries.

use crate::auth::{Secure, add_user};
use crate::control::gguf;
use crate::http::{Bench, quick, until};
use ollamamax_core::Command;
use ollamamax_gateway::{Config, Sources};
use ollamamax_tests::registry::{Manner, Registry};
use serde_json::{Value, json};
use std::time::Duration;

/// A gateway whose operator allows hosts.
fn config(allowed: &[&str]) -> Config {
    let allowed = allowed.iter().map(|host| host.parse().unwrap()).collect();
    Config { sources: Sources { allowed, ..Sources::default() }, ..quick() }
}

/// A GGUF so large that it comes in several ranges.
fn large() -> Vec<u8> {
    let mut file = ollamamax_gguf::GgufWriter::new();
    let tokens: Vec<String> = (0..8).map(|token| format!("t{token}")).collect();
    use ollamamax_gguf::{Array, GgmlType, Value as Of};
    file.metadata("general.architecture", Of::Str("llama".into()))
        .metadata("llama.block_count", Of::U32(1))
        .metadata("llama.context_length", Of::U32(64))
        .metadata("llama.embedding_length", Of::U32(8))
        .metadata("llama.attention.head_count", Of::U32(2))
        .metadata("tokenizer.ggml.tokens", Of::Array(Array::Str(tokens.into())))
        .tensor("token_embd.weight", &[8, 1 << 20], GgmlType::F32, vec![7; 32 << 20])
        .tensor("blk.0.attn_q.weight", &[8, 8], GgmlType::F32, vec![0; 256]);
    file.to_bytes()
}

const TEXTS: [(&str, &str); 5] = [
    ("template", "{{ .Prompt }}"),
    ("system", "be brief"),
    ("license", "free"),
    ("params", r#"{"stop":["<a>","<b>"],"temperature":0.5,"num_gpu_of_1999":7}"#),
    ("messages", r#"[{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}]"#),
];

fn pull(name: &str) -> Value {
    json!({"model": name, "insecure": true})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_tells_what_ollama_tells_and_gives_what_create_gives() {
    let server = Registry::start().await.unwrap();
    let digest = server.put_model("Me/Tiny:Q4", gguf(), &TEXTS);
    let bench = Bench::with(&[], config(&[server.address()]));
    let name = format!("{}/Me/Tiny:Q4", server.address());
    let answer = bench.post("/api/pull", pull(&name)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    let lines: Vec<&str> = answer.text.lines().collect();
    assert_eq!(lines[0], r#"{"status":"pulling manifest"}"#);
    let (short, bytes) = (digest.short(), gguf().len());
    assert!(
        lines.contains(&&*format!(
            r#"{{"status":"pulling {short}","digest":"{digest}","total":{bytes},"completed":{bytes}}}"#
        )),
        "{}",
        answer.text
    );
    assert_eq!(
        lines[lines.len() - 3..],
        [
            r#"{"status":"verifying sha256 digest"}"#,
            r#"{"status":"writing manifest"}"#,
            r#"{"status":"success"}"#
        ]
    );
    let known = name.to_lowercase();
    let show = bench.post("/api/show", json!({"model": known})).await.json();
    assert_eq!(show["system"], "be brief");
    assert_eq!(show["template"], "{{ .Prompt }}");
    assert_eq!(show["license"], "free");
    assert_eq!(show["messages"][1]["content"], "ho");
    let parameters = show["parameters"].as_str().unwrap();
    assert!(parameters.contains("<b>") && parameters.contains("0.5"), "{parameters}");
    assert!(!parameters.contains("num_gpu_of_1999"), "{parameters}");
    assert_eq!(bench.blobs.incoming_count(), 0, "nothing is left behind");

    // Again: what is here is not fetched.
    let before = server.sent_bytes();
    let again = bench.post("/api/pull", json!({"model": name, "insecure": true, "stream": false}));
    let again = again.await;
    assert_eq!((again.status.as_u16(), &*again.text), (200, r#"{"status":"success"}"#));
    assert!(server.sent_bytes() - before < 1_000, "the texts alone");
    let rolled = |command: &Command| matches!(command, Command::RollOut { .. });
    assert_eq!(bench.control.proposed(rolled), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_pulled_is_refused_with_a_status_and_leaves_nothing() {
    let server = Registry::start().await.unwrap();
    let at = server.address().to_owned();
    server.put_model("a/good:latest", gguf(), &[]);
    server.put_model("a/nogguf:latest", "no model at all", &[]);
    server.put_model("a/odd:latest", gguf(), &[("adapter", "x")]);
    server.put_model("a/params:latest", gguf(), &[("params", "[1]")]);
    server.put_model("a/hot:latest", gguf(), &[("params", r#"{"temperature":"hot"}"#)]);
    let bench = Bench::with(&[], config(&[&at]));
    for (body, status, words) in [
        (json!({}), 400, "model is required"),
        (pull("a b"), 400, "names no model to fetch"),
        (pull("../../etc/passwd"), 400, "names no model to fetch"),
        (pull("file:///etc/passwd"), 400, "names no model to fetch"),
        (pull("https://169.254.169.254/latest/x.gguf"), 403, "no public address"),
        (pull("127.0.0.1:1/a/b"), 403, "plain HTTP is for hosts alone"),
        (json!({"model": "127.0.0.1:1/a/b"}), 403, "no public address"),
        (json!({"model": format!("http://{at}/a/good")}), 403, "without TLS only with `insecure`"),
        (pull("pip:x==1"), 400, "--pip-index"),
        (
            json!({"model": format!("{at}/a/good"), "insecure": true, "as": "a b"}),
            400,
            "invalid model name",
        ),
        (pull(&format!("{at}/a/absent")), 404, "pull model manifest"),
        (pull(&format!("{at}/a/nogguf")), 400, "supplied file cannot be used"),
        (pull(&format!("{at}/a/odd")), 400, "`adapter`"),
        (pull(&format!("{at}/a/params")), 502, "cannot be read"),
        (pull(&format!("{at}/a/hot")), 400, "temperature"),
    ] {
        for stream in [false, true] {
            let mut body = body.clone();
            body["stream"] = stream.into();
            let answer = bench.post("/api/pull", body.clone()).await;
            // What fails late in a stream ends it.
            let last = answer.lines().pop().unwrap();
            if !stream || answer.status != 200 {
                assert_eq!(answer.status, status, "{body}: {}", answer.text);
            }
            let error = last["error"].as_str().unwrap_or_else(|| panic!("{body}: {}", answer.text));
            assert!(error.contains(words), "{body}: {error} lacks {words}");
        }
    }
    server.behave(Manner::WrongBytes);
    let answer = bench.post(
        "/api/pull",
        json!({"model": format!("{at}/a/good"), "insecure": true, "stream": false}),
    );
    let answer = answer.await;
    assert_eq!(answer.status, 502);
    assert!(answer.error().contains("digest mismatch"), "{}", answer.text);
    assert!(bench.blobs.incoming_count() == 0, "nothing is left behind");
    let tags = bench.get("/api/tags").await.json();
    assert_eq!(tags["models"].as_array().map(Vec::len), Some(1), "{tags}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_pull_twice_is_done_once_and_ends_with_its_last_listener() {
    let server = Registry::start().await.unwrap();
    let bytes = large();
    let digest = server.put_model("a/b:latest", bytes.clone(), &[]);
    server.behave(Manner::Slow(4 << 20));
    let bench = Bench::with(&[], config(&[server.address()]));
    let name = format!("{}/a/b", server.address());
    let asked = || {
        let (bench, name) = (bench.share(), name.clone());
        tokio::spawn(async move { bench.post("/api/pull", pull(&name)).await })
    };
    let (first, second) = (asked(), asked());
    until("bytes come", || server.sent_bytes() > 2 << 20).await;
    first.abort();
    let sent = server.sent_bytes();
    until("it goes on for the other", || server.sent_bytes() > sent + (1 << 20)).await;
    second.abort();
    let _ = second.await;
    // Nobody listens: it stops, and what has come stays for whoever asks again.
    let mut still = 0;
    while still != server.sent_bytes() {
        still = server.sent_bytes();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(still < bytes.len() as u64, "it was cut off");
    assert!(bench.blobs.incoming_count() > 0);
    server.behave(Manner::Good);
    let (third, fourth) = (asked(), asked());
    for answer in [third.await.unwrap(), fourth.await.unwrap()] {
        assert_eq!(answer.text.lines().last(), Some(r#"{"status":"success"}"#), "{}", answer.text);
    }
    assert!(server.sent_bytes() < 2 * bytes.len() as u64, "{} bytes", server.sent_bytes());
    let manifests = server.requests().iter().filter(|line| line.contains("manifests")).count();
    assert_eq!(manifests, 2, "two pulls, each of two clients");
    assert_eq!(bench.blobs.incoming_count(), 0);
    let there = ollamamax_gateway::ports::Blobs::stat(&*bench.blobs, digest);
    assert_eq!(there, Some(bytes.len() as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_comes_back_the_same() {
    let server = Registry::start().await.unwrap();
    let bench = Bench::with(&[], config(&[server.address()]));
    let digest = bench.blobs.add(&gguf());
    let name = format!("{}/me/mine:1", server.address());
    let create = json!({"model": name, "files": {"a.gguf": digest}, "license": ["one", "two"],
        "system": "be brief", "template": "{{ .Prompt }}", "parameters": {"temperature": 0.5, "stop": ["<a>"], "num_ctx": 32},
        "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(bench.post("/api/create", create).await.status, 200);
    let of = |tags: Value| {
        let models = tags["models"].as_array().unwrap().clone();
        models.iter().find(|model| model["name"] == name).map(|model| model["digest"].clone())
    };
    let before = of(bench.get("/api/tags").await.json()).expect("there");
    let push = json!({"model": name, "insecure": true});
    let answer = bench.post("/api/push", push.clone()).await;
    let lines: Vec<&str> = answer.text.lines().collect();
    assert_eq!(lines[0], r#"{"status":"retrieving manifest"}"#);
    let (short, bytes) = (digest.short(), gguf().len());
    assert!(
        lines.contains(&&*format!(
            r#"{{"status":"pushing {short}","digest":"{digest}","total":{bytes},"completed":{bytes}}}"#
        )),
        "{}",
        answer.text
    );
    assert_eq!(
        lines[lines.len() - 2..],
        [r#"{"status":"pushing manifest"}"#, r#"{"status":"success"}"#]
    );
    let gone = bench.send("DELETE", "/api/delete", json!({"model": name}).to_string()).await;
    assert_eq!(gone.status, 200);
    let pulled = bench.post("/api/pull", json!({"model": name, "insecure": true, "stream": false}));
    assert_eq!(pulled.await.status, 200);
    assert_eq!(of(bench.get("/api/tags").await.json()), Some(before), "bit for bit");

    let refused = [
        (json!({"model": "absent"}), 404, "not found"),
        (json!({"model": "m", "insecure": true}), 403, "plain HTTP is for hosts alone"),
        (json!({"model": "https://x.lan/a.gguf"}), 400, "pushed to a registry"),
    ];
    for (body, status, words) in refused {
        let answer = bench.post("/api/push", body).await;
        assert_eq!(answer.status, status, "{}", answer.text);
        assert!(answer.error().contains(words), "{}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_use_a_models_bytes_gets_at_them_by_no_manifest() {
    let server = Registry::start().await.unwrap();
    let secret = gguf();
    // The thief knows the digest and not the bytes.
    let digest = server.put_model("thief/x:latest", secret.clone(), &[]);
    server.behave(Manner::WrongBytes);
    let secure = Secure::over(&[], config(&[server.address()])).await;
    secure.bench.blobs.add(&secret);
    let create = json!({"model": "secret/m", "files": {"a.gguf": digest}});
    assert_eq!(secure.post(&secure.admin, "/api/create", create).await.status, 200);
    let name = format!("{}/thief/x", server.address());
    let grants = ["model:manage", "inference:run", "model:read"].map(|of| format!("{of}@{name}*"));
    let role = json!({"grants": grants, "inherits": []}).to_string();
    let put = secure.ask(&secure.admin, "PUT", "/admin/v1/roles/thief", &role).await;
    assert_eq!(put.status, 200, "{}", put.text);
    let thief = add_user(&secure.bench.control, "thief", "thief", 30);
    let body = json!({"model": name, "insecure": true, "stream": false});
    let refused = secure.post(&thief, "/api/pull", body.clone()).await;
    assert_eq!(refused.status, 502, "{}", refused.text);
    assert!(refused.error().contains("digest mismatch"), "{}", refused.text);
    for (name, words) in [("other/m", "no permission"), ("secret/m", "no permission")] {
        let refused = secure.post(&thief, "/api/pull", json!({"model": name})).await;
        assert_eq!(refused.status, 403, "{}", refused.text);
        assert!(refused.error().contains(words), "{}", refused.text);
    }
    let hidden = secure.post(&thief, "/api/push", json!({"model": "secret/m"})).await;
    assert_eq!(hidden.status, 404, "{}", hidden.text);
    let admin = secure.post(&secure.admin, "/api/pull", body).await;
    assert_eq!(admin.status, 200, "who may use them need not fetch them: {}", admin.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_a_registry_for_those_who_may_have_its_models() {
    let secure = Secure::over(&[], config(&[])).await;
    let digest = secure.bench.blobs.add(&gguf());
    let create = json!({"model": "me/mine:1", "files": {"a.gguf": digest}, "system": "be brief"});
    assert_eq!(secure.post(&secure.admin, "/api/create", create).await.status, 200);
    let manifest = secure.get(&secure.admin, "/v2/me/mine/manifests/1").await;
    assert_eq!(manifest.status, 200, "{}", manifest.text);
    let layers = manifest.json()["layers"].clone();
    assert_eq!(layers[0]["digest"], digest.to_string());
    let system = layers[1]["digest"].as_str().expect("a digest");
    let text = secure.get(&secure.admin, &format!("/v2/me/mine/blobs/{system}")).await;
    assert_eq!(text.text, "be brief");
    let absent = ["/v2/me/mine/manifests/2", "/v2/me/other/manifests/1", "/v2/library/m/blobs/x"];
    let other = format!("/v2/library/m/blobs/{digest}");
    for path in absent.into_iter().chain([&*other]) {
        assert_eq!(secure.get(&secure.admin, path).await.status, 404, "{path}");
    }
    // Whoever may only look at it has none of its bytes.
    let reader = add_user(&secure.bench.control, "reader", "readonly", 30);
    let refused = secure.get(&reader, "/v2/me/mine/manifests/1").await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    let path = format!("/v2/me/mine/blobs/{digest}");
    assert_eq!(secure.get(&reader, &path).await.status, 404);
}
