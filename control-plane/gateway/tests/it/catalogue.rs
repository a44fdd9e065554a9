//! Models: uploads, creation, listings, removal.

use crate::control::gguf;
use crate::http::{Bench, steady};
use crate::worker::Script;
use ollamamax_proto::Digest;
use serde_json::json;

#[tokio::test]
async fn a_file_becomes_a_model() {
    let bench = Bench::new(&[]);
    let bytes = gguf();
    let digest = Digest::of(&bytes);
    let path = format!("/api/blobs/{digest}");
    assert_eq!(bench.send("HEAD", &path, "").await.status, 404);
    assert_eq!(bench.send("POST", &path, bytes.clone()).await.status, 201);
    assert_eq!(bench.send("POST", &path, bytes.clone()).await.status, 200);
    assert_eq!(bench.send("HEAD", &path, "").await.status, 200);

    let create = json!({"model": "Mine", "files": {"a.gguf": digest}, "license": "free",
        "system": "be brief", "parameters": {"temperature": 0.5, "stop": ["<a>", "<b>"]}});
    let answer = bench.post("/api/create", create).await;
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    let statuses: Vec<String> =
        answer.lines().iter().map(|line| line["status"].as_str().expect("status").into()).collect();
    assert_eq!(statuses[0], "parsing GGUF");
    assert_eq!(statuses.last().map(String::as_str), Some("success"));

    let show = bench.post("/api/show", json!({"name": "mine", "verbose": true})).await.json();
    assert_eq!(
        show["parameters"],
        "stop                           \"<a>\"\nstop                           \"<b>\"\ntemperature                    0.5"
    );
    assert_eq!(show["template"], "{{ tools }}{{ messages }}");
    assert_eq!(show["capabilities"], json!(["completion", "tools"]));
    assert_eq!(show["model_info"]["llama.context_length"], 64);
    assert_eq!(show["system"], "be brief");
    assert_eq!(show["license"], "free");
    assert_eq!(
        show["tensors"][0],
        json!({"name": "token_embd.weight", "type": "F32", "shape": [8, 8]})
    );
    let modelfile = show["modelfile"].as_str().expect("text");
    assert!(modelfile.contains(&format!("FROM {digest}\n")), "{modelfile}");
    assert!(modelfile.contains("PARAMETER stop \"<a>\"\n"), "{modelfile}");
    assert!(modelfile.contains("SYSTEM \"\"\"be brief\"\"\"\n"), "{modelfile}");
}

#[tokio::test]
async fn a_bad_file_is_refused_with_its_offset() {
    let bench = Bench::new(&[]);
    let good = gguf();
    let mut lying = good.clone();
    lying[8..16].fill(0xff);
    for (bytes, words) in [
        (b"not a model".to_vec(), "byte 0"),
        (good[..good.len() - 300].to_vec(), "byte "),
        (good[..40].to_vec(), "byte "),
        (lying, "byte 8"),
    ] {
        let digest = bench.blobs.add(&bytes);
        let create = json!({"model": "bad", "files": {"a.gguf": digest}});
        let answer = bench.post("/api/create", create).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
        assert!(answer.error().contains(words), "{}", answer.text);
    }
    assert_eq!(bench.get("/api/tags").await.json()["models"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn creation_refuses_what_it_cannot_do() {
    let bench = Bench::new(&[]);
    let digest = Digest::of(b"absent");
    let table = [
        (json!({"model": "a"}), 400, "neither 'from' or 'files' was specified"),
        (json!({"model": "a b", "from": "m"}), 400, "invalid model name"),
        (json!({"from": "m"}), 400, "model is required"),
        (json!({"model": "a", "from": "x"}), 404, "model 'x' not found"),
        (
            json!({"model": "a", "from": "m", "quantize": "q9"}),
            400,
            "unsupported quantization type",
        ),
        (json!({"model": "a", "from": "m", "adapters": {"a": "b"}}), 400, "invalid digest format"),
        (json!({"model": "a", "files": {"a": "b"}}), 400, "invalid digest format"),
        (json!({"model": "a", "files": {"../a": digest}}), 400, "file path must be relative"),
        (json!({"model": "a", "files": {"a": digest}}), 404, "not found"),
        (json!({"model": "a", "from": "m", "parameters": {"top_k": "x"}}), 400, "top_k"),
        (json!({"model": "a", "from": "m", "messages": [{"role": "root"}]}), 400, "role"),
        (json!({"model": "a", "from": "m", "system": "s".repeat(300_000)}), 400, "`system`"),
    ];
    for (body, status, words) in table {
        let answer = bench.post("/api/create", body).await;
        assert_eq!(answer.status, status, "{}", answer.text);
        assert!(answer.error().contains(words), "{} lacks {words}", answer.text);
    }
    let wrong = format!("/api/blobs/{digest}");
    let answer = bench.send("POST", &wrong, "other bytes").await;
    assert_eq!(answer.status, 400);
    let got = Digest::of(b"other bytes");
    assert_eq!(answer.error(), format!("digest mismatch, expected \"{digest}\", got \"{got}\""));
    let answer = bench.send("POST", "/api/blobs/x", "bytes").await;
    assert_eq!((answer.status.as_u16(), answer.error()), (400, "invalid digest format".into()));
}

#[tokio::test]
async fn listings_have_their_shape() {
    let bench = Bench::new(&[Script::Answer]);
    bench.post("/api/generate", json!({"model": "m"})).await;
    let id = crate::control::version().compute_digest().hex();
    let details = r#"{"parent_model":"","format":"gguf","family":"llama","families":["llama"],"parameter_size":"134.52M","quantization_level":"Q4_1","context_length":2048,"embedding_length":576}"#;
    let tags = steady(bench.get("/api/tags").await.json()).to_string();
    assert_eq!(
        tags,
        format!(
            r#"{{"models":[{{"name":"m:latest","model":"m:latest","modified_at":"T","size":250,"digest":"{id}","details":{details},"capabilities":["completion"]}}]}}"#
        )
    );
    let ps = steady(bench.get("/api/ps").await.json()).to_string();
    let worker = format!("{:032x}", 1);
    assert_eq!(
        ps,
        format!(
            r#"{{"models":[{{"name":"m:latest","model":"m:latest","size":1000,"digest":"{id}","details":{details},"expires_at":"T","size_vram":0,"context_length":4096,"workers":[{{"id":"{worker}","name":"w1","device":"cpu","resident_bytes":1000}}]}}]}}"#
        )
    );
    let models = steady(bench.get("/v1/models").await.json()).to_string();
    assert_eq!(
        models,
        r#"{"object":"list","data":[{"id":"m:latest","object":"model","created":1,"owned_by":"library"}]}"#
    );
    bench.control.put_model("me/x:1");
    for id in ["m", "me/x:1", "me%2Fx%3A1"] {
        let model = bench.get(&format!("/v1/models/{id}")).await;
        assert_eq!(model.status, 200, "{id}");
    }
    assert_eq!(bench.get("/v1/models/me/x:1").await.json()["owned_by"], "me");
    assert_eq!(bench.get("/v1/models/y").await.json()["error"]["type"], "not_found_error");
}

#[tokio::test]
async fn copies_and_deletions() {
    let bench = Bench::new(&[]);
    let copy = bench.post("/api/copy", json!({"source": "m", "destination": "me/n"})).await;
    assert_eq!((copy.status.as_u16(), copy.text.as_str()), (200, ""));
    let digest = |tags: &serde_json::Value, at: usize| tags["models"][at]["digest"].clone();
    let tags = bench.get("/api/tags").await.json();
    assert_eq!(digest(&tags, 0), digest(&tags, 1));
    let gone = bench.send("DELETE", "/api/delete", json!({"model": "me/n"}).to_string()).await;
    assert_eq!((gone.status.as_u16(), gone.text.as_str()), (200, ""));
    assert_eq!(bench.get("/api/tags").await.json()["models"].as_array().map(Vec::len), Some(1));
}
