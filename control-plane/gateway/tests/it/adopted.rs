//! Adopted servers: what becomes of requests for their models. What they do wrong has a file of its own.

use crate::http::{Answer, Bench, local, quick, until};
use crate::upstream::{Script, Upstream};
use crate::worker;
use axum::body::Body;
use ollamamax_core::Command;
use ollamamax_core::access::{AccessCommand, Quota, QuotaOf};
use ollamamax_gateway::adopted::Adopting;
use ollamamax_gateway::ports::ControlPlane;
use ollamamax_gateway::{Config, Gateway};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

pub const MS: fn(u64) -> Duration = Duration::from_millis;

pub fn config() -> Config {
    let adopting =
        Adopting { every: MS(100), look: MS(400), first: MS(60_000), silence: MS(60_000) };
    Config { adopting, ..quick() }
}

pub fn bench() -> Bench {
    Bench::with(&[], config())
}

pub async fn adopt(bench: &Bench, server: &Upstream, name: &str) -> Answer {
    let answer = bench.post("/admin/v1/workers", json!({"url": server.url, "name": name})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer
}

pub fn chat(stream: bool) -> Value {
    json!({"model": "x", "messages": [{"role": "user", "content": "hi"}], "stream": stream})
}

pub async fn shown(bench: &Bench, name: &str) -> Value {
    bench.get(&format!("/admin/v1/workers/{name}")).await.json()
}

pub async fn until_status(bench: &Bench, name: &str, status: &str) {
    let deadline = tokio::time::Instant::now() + MS(10_000);
    loop {
        let now = shown(bench, name).await;
        if now["status"] == status {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "not {status} within 10 s: {now}");
        tokio::time::sleep(MS(10)).await;
    }
}

#[tokio::test]
async fn a_server_is_known_for_what_it_is_listed_and_let_go() {
    let bench = bench();
    let (ollama, vllm) = (
        Upstream::ollama(&["x:latest", "m:latest"]).await,
        Upstream::openai(&["org/Big.Model", "/models/f.gguf", "a b"]).await,
    );
    let told = adopt(&bench, &ollama, "old").await.json();
    assert_eq!((&told["adopted"]["kind"], &told["status"]), (&json!("ollama"), &json!("ready")));
    assert_eq!(told["models"], json!(["m:latest", "x:latest"]));
    let ask = json!({"url": format!("{}/v1/", vllm.url), "name": "vllm", "api_key": "geheim",
        "labels": {"rack": "a"}, "max_concurrent": 2});
    let told = bench.post("/admin/v1/workers", ask).await;
    assert!(!told.text.contains("geheim"), "{}", told.text);
    let told = told.json();
    assert_eq!((&told["device"], &told["adopted"]["url"]), (&json!("openai"), &json!(vllm.url)));
    assert_eq!((&told["adopted"]["unnamed"], &told["labels"]["rack"]), (&json!(1), &json!("a")));
    let state = bench.control.state();
    let kept = state.adopted.values().find(|server| server.name == "vllm").unwrap();
    let sealed = &kept.key.as_ref().unwrap().0;
    assert!(!sealed.windows(6).any(|window| window == b"geheim"), "it is sealed");

    let workers = bench.get("/admin/v1/workers").await.json();
    assert_eq!(workers["workers"].as_array().unwrap().len(), 2);
    let tags = bench.get("/api/tags").await.json();
    let named = |name: &str| {
        tags["models"].as_array().unwrap().iter().filter(|m| m["name"] == name).count()
    };
    assert_eq!(
        (named("x:latest"), named("org/big.model:latest"), named("f.gguf:latest")),
        (1, 1, 1)
    );
    assert_eq!(named("m:latest"), 1, "the catalogue has it");
    let models = bench.get("/v1/models").await.json();
    let ids: Vec<&str> =
        models["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert!(ids.contains(&"org/Big.Model") && ids.contains(&"x:latest"), "{ids:?}");
    let one = bench.get("/v1/models/org/Big.Model").await;
    assert_eq!((one.status.as_u16(), &one.json()["owned_by"]), (200, &json!("vllm")));
    let ps = bench.get("/api/ps").await.json();
    assert_eq!(ps["models"][0]["workers"][0]["name"], "vllm");
    for (model, key) in [("x", "llama.context_length"), ("org/Big.Model", "unknown.context_length")]
    {
        let shown = bench.post("/api/show", json!({"model": model})).await;
        assert_eq!(shown.status, 200, "{}", shown.text);
        assert!(shown.json()["model_info"][key].as_u64() > Some(0), "{}", shown.text);
    }

    let again = bench.post("/admin/v1/workers", json!({"url": ollama.url, "name": "other"})).await;
    assert_eq!(again.status, 409, "{}", again.text);
    assert_eq!(bench.send("DELETE", "/admin/v1/workers/old", Body::empty()).await.status, 200);
    assert_eq!(bench.post("/api/chat", chat(false)).await.status, 404);
    assert_eq!(bench.get("/admin/v1/workers/old").await.status, 404);
}

#[tokio::test]
async fn what_is_no_server_or_no_place_for_one_is_refused_with_the_reason() {
    let bench = bench();
    let server = Upstream::ollama(&["x"]).await;
    for (url, expected) in [
        (format!("http://user:geheim@{}", &server.url[7..]), "credentials"),
        ("http://169.254.169.254".to_owned(), "not asked"),
        ("gopher://h".to_owned(), "only http and https"),
        ("http://127.0.0.1:1".to_owned(), "neither Ollama nor"),
    ] {
        let answer = bench.post("/admin/v1/workers", json!({"url": url})).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
        assert!(answer.text.contains(expected), "{}", answer.text);
        assert!(!answer.text.contains("geheim"), "{}", answer.text);
    }
    let key = json!({"url": server.url, "api_key": "two\nlines"});
    assert_eq!(bench.post("/admin/v1/workers", key).await.status, 400);
    let label = json!({"url": server.url, "labels": {"two words": "x"}});
    assert_eq!(bench.post("/admin/v1/workers", label).await.status, 400);
    assert!(bench.control.state().adopted.is_empty(), "all of it, or nothing");
    server.deaf(true);
    let deaf = bench.post("/admin/v1/workers", json!({"url": server.url})).await;
    assert!(deaf.text.contains("no answer within 400 ms"), "{}", deaf.text);
    bench.control.apply(Command::AdmitNode {
        http: "10.0.0.2:11434".into(),
        raft: "10.0.0.2:7400".into(),
        voter: true,
    });
    let own = bench.post("/admin/v1/workers", json!({"url": server.url})).await;
    assert!(own.text.contains("means that node itself"), "{}", own.text);
}

#[tokio::test]
async fn requests_go_as_they_came_and_answers_come_as_they_go() {
    let bench = bench();
    let server = Upstream::ollama(&["x:latest"]).await;
    let ask = json!({"url": server.url, "name": "old", "api_key": "k-1"});
    assert_eq!(bench.post("/admin/v1/workers", ask).await.status, 200);
    // Spaces, order and unknown fields are the client's.
    let body = r#"{ "stream":true,"unknown":[1.10],"model":"x", "messages":[{"role":"user","content":"hi"}]}"#;
    let answer = bench.send("POST", "/api/chat", body).await;
    let lines = answer.lines();
    assert_eq!((lines.len(), &lines[0]["message"]["content"]), (4, &json!("Hel")));
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    assert_eq!(answer.headers["x-ollamamax-worker"], "old");
    assert_eq!(answer.headers["x-ollamamax-strategy"], "adopted-ollama");
    let asked = server.asked();
    assert_eq!(asked[0].text, body);
    assert!(asked[0].head.contains("authorization: bearer k-1"), "{}", asked[0].head);
    let whole =
        bench.post("/api/generate", json!({"model": "x", "prompt": "a", "stream": false})).await;
    assert_eq!(whole.json()["response"], "Hello, you");
    let embedded = bench.post("/api/embed", json!({"model": "x", "input": "a"})).await;
    assert_eq!(embedded.json()["embeddings"], json!([[0.6, 0.8]]));
    let openai = bench.post("/v1/chat/completions", chat(false)).await;
    assert_eq!(openai.json()["choices"][0]["message"]["content"], "Hello, you");
    let requests = bench.get("/admin/v1/requests").await.json();
    let last = &requests["requests"][3];
    assert_eq!((&last["prompt_tokens"], &last["output_tokens"]), (&json!(7), &json!(3)));
    assert_eq!((&last["outcome"], &last["reason"]), (&json!("done"), &json!("stop")));
    assert_eq!(last["workers"][0]["name"], "old");
}

#[tokio::test]
async fn what_a_stream_took_is_counted_and_told_only_who_asked() {
    let bench = bench();
    let server = Upstream::openai(&["x"]).await;
    adopt(&bench, &server, "vllm").await;
    let quiet = bench.post("/v1/chat/completions", chat(true)).await;
    assert!(!quiet.text.contains("usage"), "{}", quiet.text);
    assert_eq!(quiet.events().last().unwrap(), "[DONE]");
    assert_eq!(quiet.events().len(), 5);
    assert_eq!(server.asked()[0].json()["stream_options"]["include_usage"], true);
    let mut ask = chat(true);
    ask["stream_options"] = json!({"include_usage": true});
    let told = bench.post("/v1/chat/completions", ask).await;
    assert!(told.text.contains("\"completion_tokens\":3"), "{}", told.text);
    let requests = bench.get("/admin/v1/requests").await.json();
    for request in requests["requests"].as_array().unwrap() {
        assert_eq!((&request["prompt_tokens"], &request["output_tokens"]), (&json!(7), &json!(3)));
    }
}

#[tokio::test]
async fn a_name_without_the_case_and_tag_of_its_server_is_told_to_it_as_it_wants() {
    let bench = bench();
    let server = Upstream::openai(&["org/Big.Model"]).await;
    adopt(&bench, &server, "vllm").await;
    for asked in ["org/Big.Model", "org/big.model", "org/big.model:latest"] {
        let mut ask = chat(false);
        ask["model"] = json!(asked);
        assert_eq!(bench.post("/v1/chat/completions", ask).await.status, 200, "{asked}");
    }
    assert!(server.asked().iter().all(|asked| asked.json()["model"] == "org/Big.Model"));
}

#[tokio::test]
async fn clients_of_every_api_are_answered_by_a_server_that_speaks_openais_alone() {
    let bench = bench();
    let server = Upstream::openai(&["x"]).await;
    adopt(&bench, &server, "vllm").await;
    let whole = bench.post("/api/chat", chat(false)).await.json();
    assert_eq!(whole["message"], json!({"role": "assistant", "content": "Hello, you"}));
    assert_eq!((&whole["prompt_eval_count"], &whole["eval_count"]), (&json!(7), &json!(3)));
    let lines = bench.post("/api/chat", chat(true)).await.lines();
    let text: String = lines.iter().map(|l| l["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(
        (text.as_str(), &lines.last().unwrap()["done_reason"]),
        ("Hello, you", &json!("stop"))
    );
    let ask = json!({"model": "x", "prompt": "a", "system": "s", "options": {"num_predict": 5}});
    let lines = bench.post("/api/generate", ask).await.lines();
    let text: String = lines.iter().map(|l| l["response"].as_str().unwrap()).collect();
    assert_eq!(text, "Hello, you");
    let asked = server.asked().pop().unwrap();
    assert_eq!(
        (asked.path.as_str(), &asked.json()["max_tokens"]),
        ("/v1/chat/completions", &json!(5))
    );
    assert_eq!(asked.json()["messages"][0], json!({"role": "system", "content": "s"}));
    let raw = json!({"model": "x", "prompt": "a", "raw": true, "stream": false});
    assert_eq!(bench.post("/api/generate", raw).await.json()["response"], "Hello, you");
    assert_eq!(server.asked().pop().unwrap().path, "/v1/completions");
    let ask = json!({"model": "x", "input": ["a", "b"]});
    let vectors = bench.post("/api/embed", ask).await.json();
    assert_eq!(vectors["embeddings"], json!([[0.6, 0.8], [0.6, 0.8]]), "at unit length");
    assert_eq!(vectors["prompt_eval_count"], 4);
    let old = bench.post("/api/embeddings", json!({"model": "x", "prompt": "a"})).await;
    assert_eq!(old.json()["embedding"], json!([0.6, 0.8]));
    let ask =
        json!({"model": "x", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]});
    let message = bench.post("/v1/messages", ask.clone()).await.json();
    assert_eq!(message["content"][0]["text"], "Hello, you");
    assert_eq!(
        (&message["usage"]["input_tokens"], &message["stop_reason"]),
        (&json!(7), &json!("end_turn"))
    );
    let mut streamed = ask.clone();
    streamed["stream"] = json!(true);
    let events = bench.post("/v1/messages", streamed).await.named_events();
    assert_eq!(events.last().unwrap()["type"], "message_stop");
    server.script(Script::Calls);
    let called = bench.post("/api/chat", chat(false)).await.json();
    assert_eq!(called["message"]["tool_calls"][0]["function"]["arguments"], json!({"x": 1}));
    let before = server.asked().len();
    for (path, ask, named) in [
        ("/api/generate", json!({"model": "x", "prompt": "a", "context": [1]}), "context"),
        ("/api/generate", json!({"model": "x", "prompt": "a", "template": "t"}), "template"),
        ("/v1/messages/count_tokens", ask, "count tokens"),
    ] {
        let refused = bench.post(path, ask).await;
        assert_eq!(refused.status, 400, "{}", refused.text);
        assert!(refused.text.contains(named), "{}", refused.text);
    }
    assert_eq!(server.asked().len(), before, "what cannot be said is not sent");
    let loaded = bench.post("/api/generate", json!({"model": "x"})).await.json();
    assert_eq!(loaded["done_reason"], "load");
}

#[tokio::test]
async fn the_catalogue_answers_first_and_others_where_no_worker_can() {
    let bench = Bench::with(&[worker::Script::Answer], config());
    let server = Upstream::ollama(&["m"]).await;
    adopt(&bench, &server, "old").await;
    let ask = json!({"model": "m", "prompt": "a", "stream": false});
    let own = bench.post("/api/generate", ask.clone()).await;
    assert_eq!((own.status.as_u16(), server.asked().len()), (200, 0));
    bench.workers[0].script(worker::Script::Refuse(tonic::Code::Unavailable, "gone"));
    let other = bench.post("/api/generate", ask.clone()).await;
    assert_eq!(other.json()["response"], "Hello, you", "{}", other.text);
    bench.control.set_worker(1, ollamamax_proto::placement::WorkerStatus::Down);
    let other = bench.post("/api/generate", ask.clone()).await;
    assert_eq!(other.json()["response"], "Hello, you", "{}", other.text);
    server.script(Script::Close);
    assert_eq!(bench.post("/api/generate", ask).await.status, 503);
}

#[tokio::test]
async fn who_may_not_use_a_model_is_told_so_and_its_server_is_not_asked() {
    let bench = Bench::with(&[], config());
    let server = Upstream::ollama(&["x", "secret"]).await;
    adopt(&bench, &server, "old").await;
    let grants = ["inference:run@x", "model:read@x", "node:read"].map(|g| g.parse().unwrap());
    bench.control.apply(Command::Access(Box::new(AccessCommand::PutRole {
        role: ollamamax_core::access::RoleRecord {
            name: "few".into(),
            description: String::new(),
            inherits: BTreeSet::new(),
            grants: BTreeSet::from(grants),
        },
    })));
    let config = Config { anonymous: Some(BTreeSet::from(["few".to_owned()])), ..config() };
    let gateway = Gateway::new(bench.control.clone(), bench.blobs.clone(), config);
    let few = Bench { router: local(gateway.router()), ..bench.share() };
    until("it was looked at", || !server.url.is_empty()).await;
    until_status(&few, "old", "ready").await;
    assert_eq!(few.post("/api/chat", chat(false)).await.status, 200);
    let mut ask = chat(false);
    ask["model"] = json!("secret");
    for path in ["/api/chat", "/v1/chat/completions"] {
        let refused = few.post(path, ask.clone()).await;
        assert_eq!(refused.status, 404, "{}", refused.text);
    }
    assert_eq!(few.post("/api/show", json!({"model": "secret"})).await.status, 404);
    assert_eq!(few.get("/v1/models/secret").await.status, 404);
    assert!(!few.get("/api/tags").await.text.contains("secret"));
    assert_eq!(shown(&few, "old").await["models"], json!(["x:latest"]));
    assert_eq!(server.asked().len(), 1);
    let adopt = few.post("/admin/v1/workers", json!({"url": server.url})).await;
    assert_eq!(adopt.status, 403, "{}", adopt.text);
    assert_eq!(few.send("DELETE", "/admin/v1/workers/old", Body::empty()).await.status, 403);
}

#[tokio::test]
async fn quotas_hold_and_are_paid_by_what_the_server_tells() {
    let bench = bench();
    let server = Upstream::ollama(&["x"]).await;
    adopt(&bench, &server, "old").await;
    let quota = Quota { output_tokens_per_minute: Some(3), ..Quota::default() };
    let of = QuotaOf::Model("x:latest".to_owned());
    bench
        .control
        .apply(Command::Access(Box::new(AccessCommand::SetQuota { of, quota: Some(quota) })));
    assert_eq!(bench.post("/api/chat", chat(true)).await.status, 200);
    let refused = bench.post("/api/chat", chat(true)).await;
    assert_eq!(refused.status, 429, "{}", refused.text);
    assert_eq!(server.asked().len(), 1, "who is refused costs nobody anything");
}

#[tokio::test]
async fn what_is_drained_or_full_gets_nothing() {
    let bench = bench();
    let server = Upstream::ollama(&["x"]).await;
    let ask = json!({"url": server.url, "name": "old", "max_concurrent": 1});
    assert_eq!(bench.post("/admin/v1/workers", ask).await.status, 200);
    let drained = bench.post("/admin/v1/workers/old/drain", json!({"reason": "dust"})).await;
    assert_eq!(drained.json()["status"], "draining", "{}", drained.text);
    let nobody = bench.post("/api/chat", chat(false)).await;
    assert_eq!(nobody.status, 503);
    assert!(nobody.text.contains("`old` drains: dust"), "{}", nobody.text);
    assert_eq!(
        bench.post("/admin/v1/workers/old/resume", json!({})).await.json()["status"],
        "ready"
    );
    server.script(Script::Hang);
    let first = bench.post("/api/chat", chat(false));
    let second = async {
        until("it is asked", || server.running() == 1).await;
        let full = bench.post("/api/chat", chat(false)).await;
        assert!(full.text.contains("no place free"), "{}", full.text);
    };
    tokio::select! {
        _ = first => unreachable!("it hangs"),
        () = second => {}
    }
}

#[tokio::test]
async fn clusters_that_adopt_each_other_send_nothing_in_circles() {
    let bench = bench();
    let server = Upstream::ollama(&["x"]).await;
    adopt(&bench, &server, "old").await;
    let passed = [("x-ollamamax-passed", "1")];
    let answer = bench.send_with("POST", "/api/chat", &passed, chat(false).to_string()).await;
    assert_eq!(answer.status, 404, "{}", answer.text);
    let tags = bench.send_with("GET", "/api/tags", &passed, Body::empty()).await;
    assert!(!tags.text.contains("x:latest"), "{}", tags.text);
    assert_eq!(bench.post("/api/chat", chat(false)).await.status, 200);
    assert!(server.asked()[0].head.contains("x-ollamamax-passed: 1"));
}
