//! Texts as vectors: bodies, refusals, and workers that fail.

use crate::control::version;
use crate::http::{Bench, quick, steady, until};
use crate::worker::{FakeWorker, Script};
use ollamamax_gateway::Config;
use ollamamax_proto::inference::EmbedInput;
use ollamamax_proto::limits;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use tonic::Code;

fn text(text: &str) -> EmbedInput {
    EmbedInput::Text(text.to_owned())
}

#[tokio::test]
async fn embed_answers_vectors_and_figures() {
    let bench = Bench::new(&[Script::Answer]);
    let ask = json!({"model": "M", "input": ["a", "abcd", ""], "options": {"num_ctx": 64}});
    let answer = bench.post("/api/embed", ask).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.headers["content-type"], "application/json; charset=utf-8");
    assert_eq!(
        steady(answer.json()).to_string(),
        r#"{"model":"M","embeddings":[[1.0,0.0,0.0,0.0],[0.5,0.5,0.5,0.5],[1.0,0.0,0.0,0.0]],"total_duration":1,"load_duration":1,"prompt_eval_count":5}"#
    );
    let request = &bench.workers[0].embeds()[0];
    assert_eq!(request.inputs, [text("a"), text("abcd"), text("")]);
    assert_eq!((request.truncate, request.attempt), (true, 0));

    let ask = json!({"model": "m", "input": "abcd", "dimensions": 2, "truncate": false});
    let body = bench.post("/api/embed", ask).await.text;
    let expected = [0.5f32 / 0.5f32.sqrt(); 2];
    assert!(body.contains(&format!("[[{},{}]]", expected[0], expected[1])), "{body}");
    assert!(!bench.workers[0].embeds()[1].truncate);

    for nothing in [json!({"model": "m"}), json!({"model": "m", "input": ""})] {
        let body = bench.post("/api/embed", nothing).await.text;
        assert_eq!(body, r#"{"model":"m","embeddings":[]}"#);
    }
}

#[tokio::test]
async fn the_older_endpoint_answers_one_vector() {
    let bench = Bench::new(&[Script::Answer]);
    let body = bench.post("/api/embeddings", json!({"model": "m", "prompt": "abcd"})).await;
    assert_eq!((body.status.as_u16(), &*body.text), (200, r#"{"embedding":[0.5,0.5,0.5,0.5]}"#));
    let body = bench.post("/api/embeddings", json!({"model": "m", "prompt": ""})).await;
    assert_eq!((body.status.as_u16(), &*body.text), (200, r#"{"embedding":[]}"#));
}

#[tokio::test]
async fn openai_clients_get_floats_or_bytes() {
    let bench = Bench::new(&[Script::Answer]);
    let ask = json!({"model": "m", "input": ["abcd", "a"]});
    let answer = bench.post("/v1/embeddings", ask).await;
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(
        answer.text,
        r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5,0.5,0.5,0.5]},{"object":"embedding","index":1,"embedding":[1.0,0.0,0.0,0.0]}],"model":"m","usage":{"prompt_tokens":5,"total_tokens":5}}"#
    );
    let ask = json!({"model": "m", "input": "a", "encoding_format": "base64", "dimensions": 2});
    let body = bench.post("/v1/embeddings", ask).await.json();
    // 1.0 and 0.0: 00 00 80 3f 00 00 00 00.
    assert_eq!(body["data"][0]["embedding"], "AACAPwAAAAA=");

    let tokens = |ids: &[u32]| EmbedInput::Tokens(ids.to_vec());
    for (input, inputs) in [
        (json!([1, 2, 3]), vec![tokens(&[1, 2, 3])]),
        (json!([[1], [2, 3]]), vec![tokens(&[1]), tokens(&[2, 3])]),
        (json!(""), vec![text("")]),
        (json!("x"), vec![text("x")]),
    ] {
        let ask = json!({"model": "m", "input": input});
        assert_eq!(bench.post("/v1/embeddings", ask).await.status, 200, "{input}");
        assert_eq!(bench.workers[0].embeds().last().expect("asked").inputs, inputs);
    }
}

#[tokio::test]
async fn what_cannot_be_embedded_is_refused_in_each_apis_words() {
    let bench = Bench::new(&[Script::Answer]);
    let error = async |path: &str, body: Value, status: u16| {
        let answer = bench.post(path, body.clone()).await;
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.text);
        let error = answer.json()["error"].take();
        match &error {
            Value::String(text) => text.clone(),
            object => {
                assert!(object["type"].is_string() && object["param"].is_null(), "{object}");
                object["message"].as_str().expect("a message").to_owned()
            }
        }
    };
    for input in [json!(7), json!({"a": 1}), json!(["a", 1]), json!([["a"]])] {
        let body = json!({"model": "m", "input": input});
        assert_eq!(error("/api/embed", body, 400).await, "invalid input type");
    }
    assert_eq!(error("/api/embed", json!({"input": "a"}), 400).await, "model is required");
    for path in ["/api/embed", "/api/embeddings", "/v1/embeddings"] {
        let body = json!({"model": "gone", "input": "a", "prompt": "a"});
        let words = "model \"gone\" not found, try pulling it first";
        assert_eq!(error(path, body, 404).await, words);
    }
    let body = json!({"model": "m", "input": "a", "options": {"temperature": "hot"}});
    assert!(error("/api/embed", body, 400).await.contains("temperature"));
    let body = json!({"model": "m", "input": "a", "keep_alive": "x"});
    assert!(error("/api/embed", body, 400).await.contains("keep_alive"));
    let many = vec!["a"; limits::EMBED_INPUTS_COUNT + 1];
    let words = error("/api/embed", json!({"model": "m", "input": many}), 400).await;
    assert!(words.contains("`input` has 8193 entries, expected at most 8192"), "{words}");

    let openai = [
        (json!({}), "invalid input"),
        (json!({"input": []}), "invalid input"),
        (json!({"input": 1}), "invalid input"),
        (json!({"input": ["a", 1]}), "invalid input"),
        (json!({"input": [1, "a"]}), "invalid input"),
        (json!({"input": [[]]}), "invalid input"),
        (json!({"input": [-1]}), "invalid input"),
        (json!({"input": [1.5]}), "invalid input"),
        (json!({"input": "a", "encoding_format": "hex"}), "Invalid value for 'encoding_format'"),
        (json!({"input": "a", "dimensions": 0}), "`dimensions` is 0"),
        (json!({"input": "a", "dimensions": "x"}), "`dimensions`"),
    ];
    for (mut body, words) in openai {
        body["model"] = json!("m");
        let found = error("/v1/embeddings", body, 400).await;
        assert!(found.contains(words), "{found}");
    }

    let words = "the input length exceeds the context length";
    bench.workers[0].script(Script::Refuse(Code::InvalidArgument, words));
    let body = json!({"model": "m", "input": "a", "truncate": false});
    assert_eq!(error("/api/embed", body, 400).await, words);
    assert_eq!(bench.workers[0].embeds().last().expect("asked").attempt, 0, "nobody else is asked");
}

#[tokio::test]
async fn a_model_that_only_embeds_says_so_and_does_not_chat() {
    let bench = Bench::new(&[Script::Answer]);
    let mut encoder = version();
    encoder.facts.architecture = "bert".to_owned();
    encoder.facts.kv_bytes_per_token = 0;
    bench.control.put_version("encoder", encoder);
    let mut pooled = version();
    pooled.facts.metadata_json = r#"{"a":"x","llama.pooling_type":3}"#.to_owned();
    bench.control.put_version("pooled", pooled);
    for name in ["encoder", "pooled"] {
        let show = bench.post("/api/show", json!({"model": name})).await.json();
        assert_eq!(show["capabilities"], json!(["embedding"]), "{name}");
        let prompt = json!({"model": name, "prompt": "hi"});
        let words = format!("\"{name}:latest\" does not support generate");
        let answer = bench.post("/api/generate", prompt).await;
        assert_eq!((answer.status.as_u16(), answer.error()), (400, words));
        let chat = json!({"model": name, "messages": [{"role": "user", "content": "hi"}]});
        let words = format!("\"{name}:latest\" does not support chat");
        let answer = bench.post("/api/chat", chat.clone()).await;
        assert_eq!((answer.status.as_u16(), answer.error()), (400, words.clone()));
        let answer = bench.post("/v1/chat/completions", chat).await;
        assert_eq!(answer.status, 400);
        assert_eq!(answer.json()["error"]["message"], words);
        let embed = json!({"model": name, "input": "hi"});
        assert_eq!(bench.post("/api/embed", embed).await.status, 200);
    }
    let tags = bench.get("/api/tags").await.json();
    let of = |name: &str| {
        let models = tags["models"].as_array().expect("models");
        models.iter().find(|model| model["name"] == name).expect(name)["capabilities"].clone()
    };
    assert_eq!(of("encoder:latest"), json!(["embedding"]));
    assert_eq!(of("m:latest"), json!(["completion"]));
    // Loading and unloading by an empty prompt is for every model.
    let unload = json!({"model": "encoder", "keep_alive": 0});
    assert_eq!(bench.post("/api/generate", unload).await.status, 200);
}

/// Whichever of two workers is asked first fails; the other does it.
#[tokio::test]
async fn a_worker_that_fails_is_left_for_another() {
    let scripts = [
        Script::FailAfter(0),
        Script::HangAfter(0),
        Script::Skip,
        Script::Refuse(Code::FailedPrecondition, "moved"),
    ];
    for script in scripts {
        let config = Config { load_timeout: std::time::Duration::from_millis(500), ..quick() };
        let bench = Bench::with(&[script.clone(), script.clone()], config);
        let request = bench.post("/api/embed", json!({"model": "m", "input": "abcd"}));
        let heal = async {
            until("a worker is asked", || bench.workers.iter().any(|w| !w.embeds().is_empty()))
                .await;
            bench.workers.iter().for_each(|worker| worker.script(Script::Answer));
        };
        let (answer, ()) = tokio::join!(request, heal);
        assert_eq!(answer.status, 200, "{script:?}: {}", answer.text);
        assert_eq!(answer.json()["embeddings"][0], json!([0.5, 0.5, 0.5, 0.5]), "{script:?}");
        let attempts: Vec<_> =
            bench.workers.iter().flat_map(FakeWorker::embeds).map(|e| e.attempt).collect();
        assert!(attempts.contains(&0) && attempts.contains(&1), "{script:?}: {attempts:?}");
    }
}

#[tokio::test]
async fn a_full_worker_is_left_for_one_with_room_and_nobody_waits_when_all_are_full() {
    let full = Script::Refuse(Code::ResourceExhausted, "full");
    let ask = || json!({"model": "m", "input": "abcd"});
    let bench = Bench::new(&[full.clone(), Script::Answer]);
    for _ in 0..8 {
        assert_eq!(bench.post("/api/embed", ask()).await.status, 200);
    }
    let bench = Bench::new(&[full.clone(), full]);
    let answer = bench.post("/api/embed", ask()).await;
    assert_eq!((answer.status.as_u16(), answer.error()), (503, "full".to_owned()));
    assert_eq!(answer.headers["retry-after"], "1");
}

#[tokio::test]
async fn many_inputs_go_in_parts_and_come_back_in_order() {
    let bench = Bench::new(&[Script::Answer]);
    let inputs: Vec<String> = (0..150).map(|i| "x".repeat(1 + i % 4)).collect();
    let body = bench.post("/api/embed", json!({"model": "m", "input": inputs})).await.json();
    let vectors = body["embeddings"].as_array().expect("vectors");
    let ones = |vector: &Value| {
        vector.as_array().expect("numbers").iter().filter(|value| **value != json!(0.0)).count()
    };
    assert_eq!(
        vectors.iter().map(ones).collect::<Vec<_>>(),
        (0..150).map(|i| 1 + i % 4).collect::<Vec<_>>()
    );
    let parts: Vec<usize> = bench.workers[0].embeds().iter().map(|e| e.inputs.len()).collect();
    assert_eq!(parts, [64, 64, 22]);
    assert_eq!(body["prompt_eval_count"], inputs.iter().map(String::len).sum::<usize>());
}

#[tokio::test]
async fn a_client_that_goes_ends_its_call() {
    let bench = Bench::new(&[Script::HangAfter(0)]);
    let ask = json!({"model": "m", "input": "a"});
    {
        let request = bench.post("/api/embed", ask);
        tokio::pin!(request);
        let asked = until("the worker is asked", || bench.busy().is_some());
        tokio::select! {
            _ = &mut request => panic!("a worker that hangs has answered"),
            () = asked => {}
        }
    }
    let shared = &bench.workers[0].shared;
    until("the call is dropped", || shared.running.load(Ordering::SeqCst) == 0).await;
}
