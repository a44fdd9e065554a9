//! Bodies as clients read them.

use crate::http::{Bench, steady};
use crate::worker::{Script, text, token};
use ollamamax_proto::inference::{Chat, Message, Predict, Prompt};
use serde_json::{Value, json};

fn assert_shape(value: &Value, expected: &str) {
    assert_eq!(steady(value.clone()).to_string(), expected);
}

#[tokio::test]
async fn generate_streams_records_and_a_last_one_with_figures() {
    let bench = Bench::new(&[Script::Answer]);
    let ask = json!({"model": "M", "prompt": "hi", "options": {"seed": 7, "num_predict": 2}});
    let answer = bench.post("/api/generate", ask).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    let lines = answer.lines();
    assert_eq!(lines.len(), 3);
    let first =
        format!(r#"{{"model":"M","created_at":"T","response":"t{} ","done":false}}"#, token(7, 0));
    assert_shape(&lines[0], &first);
    assert_shape(
        &lines[2],
        r#"{"model":"M","created_at":"T","response":"","done":true,"done_reason":"length","context":[1,2,3],"total_duration":1,"load_duration":1,"prompt_eval_count":3,"prompt_eval_duration":11,"eval_count":2,"eval_duration":22}"#,
    );
    let request = &bench.workers[0].requests()[0];
    assert_eq!(request.options.predict, Predict::AtMost(2));
    assert_eq!(request.attempt, 0);
}

#[tokio::test]
async fn generate_answers_whole_and_raw_has_no_context() {
    let bench = Bench::new(&[Script::Answer]);
    let ask =
        json!({"model": "m", "prompt": "hi", "stream": false, "raw": true, "options": {"seed": 1}});
    let answer = bench.post("/api/generate", ask).await;
    assert_eq!(answer.headers["content-type"], "application/json; charset=utf-8");
    let body = answer.json();
    assert_eq!(body["response"], text(1, 8));
    assert_eq!(body["done_reason"], "stop");
    assert!(body.get("context").is_none());
    assert_eq!(bench.workers[0].requests()[0].prompt, Prompt::Text("hi".into()));
}

#[tokio::test]
async fn chat_streams_messages_and_answers_whole() {
    let bench = Bench::new(&[Script::Answer]);
    let mut ask = json!({"model": "m", "messages": [{"role": "User", "content": "hi"}],
        "tools": [], "format": "", "options": {"seed": 7, "num_predict": 1}});
    let lines = bench.post("/api/chat", ask.clone()).await.lines();
    let first = format!(
        r#"{{"model":"m","created_at":"T","message":{{"role":"assistant","content":"t{} "}},"done":false}}"#,
        token(7, 0)
    );
    assert_shape(&lines[0], &first);
    assert_shape(
        &lines[1],
        r#"{"model":"m","created_at":"T","message":{"role":"assistant","content":""},"done":true,"done_reason":"length","total_duration":1,"load_duration":1,"prompt_eval_count":3,"prompt_eval_duration":11,"eval_count":1,"eval_duration":22}"#,
    );
    ask["stream"] = json!(false);
    let whole = bench.post("/api/chat", ask).await.json();
    assert_eq!(whole["message"], json!({"role": "assistant", "content": text(7, 1)}));
}

#[tokio::test]
async fn a_model_puts_its_own_before_the_conversation() {
    let bench = Bench::new(&[Script::Answer]);
    let create = json!({"model": "mine", "from": "m", "system": "be brief", "template": "T",
        "parameters": {"temperature": 0.25, "stop": ["a"]},
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]});
    assert_eq!(bench.post("/api/create", create).await.status, 200);
    let ask = json!({"model": "mine", "messages": [{"role": "user", "content": "hi"}]});
    bench.post("/api/chat", ask).await;
    let request = bench.workers[0].requests().remove(0);
    let plain = |role: &str, content: &str| Message {
        role: role.into(),
        content: content.into(),
        extra_json: String::new(),
    };
    let messages = vec![
        plain("system", "be brief"),
        plain("user", "q"),
        plain("assistant", "a"),
        plain("user", "hi"),
    ];
    let template = Some("T".to_owned());
    assert_eq!(request.prompt, Prompt::Chat(Chat { messages, template, ..Chat::default() }));
    assert_eq!(request.options.sampling.temperature, 0.25);
    assert_eq!(request.options.stop, ["a"]);
}

#[tokio::test]
async fn nothing_to_continue_means_load_or_unload() {
    let bench = Bench::new(&[Script::Answer]);
    let load = bench.post("/api/generate", json!({"model": "m"})).await.json();
    assert_shape(
        &load,
        r#"{"model":"m","created_at":"T","response":"","done":true,"done_reason":"load"}"#,
    );
    assert_eq!(bench.get("/api/ps").await.json()["models"][0]["name"], "m:latest");
    let unload = json!({"model": "m", "messages": [], "keep_alive": 0});
    let unload = bench.post("/api/chat", unload).await.json();
    assert_shape(
        &unload,
        r#"{"model":"m","created_at":"T","message":{"role":"assistant","content":""},"done":true,"done_reason":"unload"}"#,
    );
    use ollamamax_gateway::ports::ControlPlane as _;
    assert!(bench.control.state().demands.is_empty());
}

#[tokio::test]
async fn openai_answers_whole() {
    let bench = Bench::new(&[Script::Answer]);
    let ask = json!({"model": "m", "seed": 3, "max_tokens": 2, "max_completion_tokens": 1,
        "stop": "x", "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]});
    let answer = bench.post("/v1/chat/completions", ask).await;
    assert_eq!(answer.headers["content-type"], "application/json");
    let expected = format!(
        r#"{{"id":"I","object":"chat.completion","created":1,"model":"m","system_fingerprint":"fp_ollama","choices":[{{"index":0,"message":{{"role":"assistant","content":"{}"}},"finish_reason":"length"}}],"usage":{{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}}}"#,
        text(3, 1)
    );
    assert_shape(&answer.json(), &expected);
    let options = &bench.workers[0].requests()[0].options;
    assert_eq!((options.sampling.temperature, options.sampling.top_p), (1.0, 1.0));
    assert_eq!(options.stop, ["x"]);
}

#[tokio::test]
async fn openai_streams_events_with_usage_and_done() {
    let bench = Bench::new(&[Script::Answer]);
    let ask = json!({"model": "m", "seed": 3, "max_tokens": 2, "stream": true,
        "stream_options": {"include_usage": true}, "messages": [{"role": "user", "content": "hi"}]});
    let answer = bench.post("/v1/chat/completions", ask).await;
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    assert_eq!(answer.headers["cache-control"], "no-cache");
    let events = answer.events();
    assert_eq!(events.len(), 5);
    assert_eq!(events[4], "[DONE]");
    let parsed: Vec<Value> = events[..4].iter().map(|e| serde_json::from_str(e).unwrap()).collect();
    let first = format!(
        r#"{{"id":"I","object":"chat.completion.chunk","created":1,"model":"m","system_fingerprint":"fp_ollama","choices":[{{"index":0,"delta":{{"role":"assistant","content":"t{} "}},"finish_reason":null}}]}}"#,
        token(3, 0)
    );
    assert_shape(&parsed[0], &first);
    assert_eq!(parsed[1]["choices"][0]["delta"], json!({"content": format!("t{} ", token(3, 1))}));
    assert_eq!(
        parsed[2]["choices"][0],
        json!({"index": 0, "delta": {}, "finish_reason": "length"})
    );
    assert_eq!(parsed[3]["choices"], json!([]));
    assert_eq!(
        parsed[3]["usage"],
        json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5})
    );
    assert!(parsed.iter().all(|event| event["id"] == parsed[0]["id"]));
}

#[tokio::test]
async fn the_small_endpoints_answer() {
    let bench = Bench::new(&[]);
    assert_eq!(bench.get("/").await.text, "Ollama is running");
    assert_eq!(bench.send("HEAD", "/", "").await.status, 200);
    assert_eq!(bench.send("HEAD", "/api/version", "").await.status, 200);
    assert_eq!(bench.get("/api/version").await.json()["version"], "0.33.0");
    assert_eq!(bench.get("/health/live").await.json()["status"], "live");
    assert_eq!(bench.get("/metrics").await.status, 200);
    let echoed = bench.send_with("GET", "/", &[("x-request-id", "abc")], "").await;
    assert_eq!(echoed.headers["x-request-id"], "abc");
}

#[tokio::test]
async fn readiness_tells_why() {
    use std::sync::atomic::Ordering;
    let bench = Bench::new(&[]);
    bench.control.quorum.store(false, Ordering::SeqCst);
    let answer = bench.get("/health/ready").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["reasons"][0], "no leader is known; changes have to wait");
    bench.control.quorum.store(true, Ordering::SeqCst);
    assert_eq!(bench.get("/health/ready").await.status, 200);
    bench.control.quorum.store(false, Ordering::SeqCst);
    assert_eq!(bench.get("/health/ready").await.status, 200, "it has served before");
}

#[tokio::test]
async fn log_probabilities_come_with_the_text_they_belong_to() {
    let bench = Bench::new(&[Script::Answer]);
    let mut ask = json!({"model": "m", "prompt": "hi", "logprobs": true, "top_logprobs": 2,
        "options": {"seed": 7, "num_predict": 2}});
    let lines = bench.post("/api/generate", ask.clone()).await.lines();
    let id = token(7, 0);
    let spelt = |id: u32| serde_json::to_string(format!("t{id} ").as_bytes()).unwrap();
    let first = format!(
        r#"{{"model":"m","created_at":"T","response":"t{id} ","done":false,"logprobs":[{{"token":"t{id} ","logprob":-0.5,"bytes":{0},"top_logprobs":[{{"token":"t{id} ","logprob":-0.5,"bytes":{0}}},{{"token":"t{next} ","logprob":-1.5,"bytes":{1}}}]}}]}}"#,
        spelt(id),
        spelt(id + 1),
        next = id + 1,
    );
    assert_shape(&lines[0], &first);
    assert!(lines[2].get("logprobs").is_none());
    ask["stream"] = json!(false);
    ask["top_logprobs"] = json!(0);
    let whole = bench.post("/api/generate", ask.clone()).await.json();
    let told = whole["logprobs"].as_array().expect("a list");
    assert_eq!(told.len(), 2);
    assert!(told[0].get("top_logprobs").is_none());
    ask["logprobs"] = json!(false);
    assert!(bench.post("/api/generate", ask).await.json().get("logprobs").is_none());

    let ask = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}],
        "stream": false, "logprobs": true, "options": {"seed": 7, "num_predict": 3}});
    let whole = bench.post("/api/chat", ask).await.json();
    assert_eq!(whole["logprobs"].as_array().map(Vec::len), Some(3));
    assert_eq!(whole["logprobs"][2]["token"], format!("t{} ", token(7, 2)));
    assert!(whole["message"].get("logprobs").is_none());
    let asked: Vec<_> = bench.workers[0].requests().iter().map(|r| r.options.logprobs).collect();
    assert_eq!(asked, [Some(2), Some(0), None, Some(0)]);
}

#[tokio::test]
async fn tokens_without_text_are_told_with_the_next_and_those_of_a_stop_never() {
    let bench = Bench::new(&[Script::Lag]);
    let ask = json!({"model": "m", "prompt": "hi", "logprobs": true,
        "options": {"seed": 7, "num_predict": 4}});
    let lines = bench.post("/api/generate", ask).await.lines();
    let told: Vec<usize> = lines
        .iter()
        .map(|line| line.get("logprobs").map_or(0, |told| told.as_array().expect("a list").len()))
        .collect();
    // The fourth token's text was held back for good, the third's with it.
    assert_eq!(told, [2, 0]);
}

#[tokio::test]
async fn openai_tells_log_probabilities_in_its_own_shape() {
    let bench = Bench::new(&[Script::Answer]);
    let mut ask = json!({"model": "m", "seed": 3, "max_tokens": 1, "logprobs": true,
        "top_logprobs": 1, "messages": [{"role": "user", "content": "hi"}]});
    let whole = bench.post("/v1/chat/completions", ask.clone()).await.json();
    let name = format!("t{} ", token(3, 0));
    let entry = json!({"token": name, "logprob": -0.5, "bytes": name.as_bytes()});
    let mut told = entry.clone();
    told["top_logprobs"] = json!([entry]);
    assert_eq!(whole["choices"][0]["logprobs"], json!({"content": [told]}));
    ask["stream"] = json!(true);
    ask["top_logprobs"] = json!(0);
    let events = bench.post("/v1/chat/completions", ask.clone()).await.events();
    let event: Value = serde_json::from_str(&events[0]).expect("JSON");
    told["top_logprobs"] = json!([]);
    assert_eq!(event["choices"][0]["logprobs"], json!({"content": [told]}));
    let last: Value = serde_json::from_str(&events[1]).expect("JSON");
    assert!(last["choices"][0].get("logprobs").is_none());
    ask["logprobs"] = json!(false);
    let events = bench.post("/v1/chat/completions", ask).await.events();
    assert!(!events[0].contains("logprobs"));
}

#[tokio::test]
async fn every_way_to_sample_reaches_the_worker() {
    use ollamamax_proto::inference::{Mirostat, MirostatVersion, Sampling};
    let bench = Bench::new(&[Script::Answer]);
    let ask = json!({"model": "m", "prompt": "x", "options": {"seed": 1, "mirostat": 2, "tfs_z": 0.9,
        "mirostat_tau": 3, "mirostat_eta": 0.5, "typical_p": 0.8, "min_p": 0.1}});
    bench.post("/api/generate", ask).await;
    let mirostat = Some(Mirostat::new(MirostatVersion::Two, Some(3.0), Some(0.5)));
    let expected = Sampling {
        seed: 1,
        mirostat,
        tfs_z: 0.9,
        typical_p: 0.8,
        min_p: 0.1,
        ..Sampling::default()
    };
    assert_eq!(bench.workers[0].requests()[0].options.sampling, expected);
    let ask = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "seed": -7,
        "presence_penalty": 1.5, "frequency_penalty": -0.5, "stop": ["a", "b"],
        "logit_bias": {"7": -100, "8": 2.5}});
    bench.post("/v1/chat/completions", ask).await;
    let options = &bench.workers[0].requests()[1].options;
    let expected = Sampling {
        seed: (-7i64).cast_unsigned(),
        temperature: 1.0,
        top_p: 1.0,
        presence_penalty: 1.5,
        frequency_penalty: -0.5,
        logit_bias: [(7, -100.0), (8, 2.5)].into(),
        ..Sampling::default()
    };
    assert_eq!(options.sampling, expected);
    assert_eq!(options.stop, ["a", "b"]);
}
