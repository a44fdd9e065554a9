//! Checkpoints, quantisation and adapters at `/api/create`.

use crate::http::{Answer, Bench};
use ollamamax_tests::checkpoint::{Tiny, safetensors};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Uploads files; their digests by name.
fn uploaded(bench: &Bench, files: BTreeMap<String, Vec<u8>>) -> Value {
    let digest = |(name, bytes): (String, Vec<u8>)| (name, json!(bench.blobs.add(&bytes)));
    Value::Object(files.into_iter().map(digest).collect::<Map<_, _>>())
}

fn statuses(answer: &Answer) -> Vec<String> {
    let status = |line: &Value| line["status"].as_str().unwrap_or_default().to_owned();
    let mut all: Vec<String> = answer.lines().iter().map(status).collect();
    all.dedup();
    all
}

async fn level(bench: &Bench, model: &str) -> Value {
    let show = bench.post("/api/show", json!({"model": model})).await;
    assert_eq!(show.status, 200, "{}", show.text);
    show.json()["details"]["quantization_level"].clone()
}

/// Names of all models but the one that every bench has.
async fn made(bench: &Bench) -> usize {
    bench.get("/api/tags").await.json()["models"].as_array().map_or(0, Vec::len) - 1
}

#[tokio::test]
async fn a_checkpoint_becomes_a_model_and_that_another_that_is_quantised() {
    let bench = Bench::new(&[]);
    let files = uploaded(&bench, Tiny::new("LlamaForCausalLM", 1).files());
    let create = json!({"model": "mine", "files": files, "system": "be brief"});
    let answer = bench.post("/api/create", create).await;
    let said = statuses(&answer);
    assert_eq!(said[0], "converting model", "{}", answer.text);
    assert!(said[1].starts_with("creating new layer sha256:"), "{said:?}");
    assert_eq!(said[2..], ["writing manifest", "success"]);
    let first = &answer.lines()[0];
    assert!(first["completed"].as_u64() <= first["total"].as_u64() && first["total"].is_u64());
    assert_eq!(level(&bench, "mine").await, "F16");

    let create = json!({"model": "small", "from": "mine", "quantize": "q8_0", "stream": false});
    let answer = bench.post("/api/create", create).await;
    assert_eq!(answer.json(), json!({"status": "success"}));
    assert_eq!(level(&bench, "small").await, "Q8_0");
    let show = bench.post("/api/show", json!({"model": "small"})).await.json();
    assert_eq!(
        (&show["system"], &show["details"]["parent_model"]),
        (&json!("be brief"), &json!("mine:latest"))
    );

    let files = uploaded(&bench, Tiny::new("Qwen2ForCausalLM", 2).files());
    let create = json!({"model": "both", "files": files, "quantize": "q4_K_M"});
    let said = statuses(&bench.post("/api/create", create).await);
    assert_eq!(said[..2], ["converting model", "quantizing F16 model to Q4_K_M"], "{said:?}");
    assert_eq!(said.last().map(String::as_str), Some("success"));
    assert_eq!(level(&bench, "both").await, "Q4_K_M");
}

#[tokio::test]
async fn what_a_model_is_already_is_not_done_again() {
    let bench = Bench::new(&[]);
    let files = uploaded(&bench, Tiny::new("LlamaForCausalLM", 3).files());
    bench.post("/api/create", json!({"model": "mine", "files": files})).await;
    let answer = bench
        .post("/api/create", json!({"model": "same", "from": "mine", "quantize": "f16"}))
        .await;
    let said = statuses(&answer);
    assert!(said[0].starts_with("using existing layer") && said.len() == 3, "{said:?}");
}

#[tokio::test]
async fn an_adapter_is_merged_and_one_that_does_not_fit_is_refused() {
    let bench = Bench::new(&[]);
    let files = uploaded(&bench, Tiny::new("LlamaForCausalLM", 4).files());
    let adapter = |rows: u64| {
        let name = |part: &str| format!("base_model.model.lm_head.lora_{part}.weight");
        let config = json!({"peft_type": "LORA", "lora_alpha": 4}).to_string().into_bytes();
        let weights = safetensors(&[
            (name("A"), vec![2, 64], vec![0.1; 128]),
            (name("B"), vec![rows, 2], vec![0.1; 2 * rows as usize]),
        ]);
        let files = [("adapter_config.json", config), ("adapter_model.safetensors", weights)];
        uploaded(&bench, files.map(|(name, bytes)| (name.to_owned(), bytes)).into())
    };
    bench.post("/api/create", json!({"model": "mine", "files": files})).await;
    let tuned = json!({"model": "tuned", "from": "mine", "adapters": adapter(300)});
    let answer = bench.post("/api/create", tuned).await;
    assert!(statuses(&answer).contains(&"merging adapter".to_owned()), "{}", answer.text);
    assert_eq!(statuses(&answer).last().map(String::as_str), Some("success"));
    let other = json!({"model": "other", "from": "mine", "adapters": adapter(299)});
    let answer = bench.post("/api/create", other).await;
    assert_eq!(answer.status, 400);
    assert!(answer.error().contains("the adapter does not fit the model"), "{}", answer.text);
    assert_eq!(made(&bench).await, 2);
}

#[tokio::test]
async fn what_cannot_be_imported_is_refused_before_the_first_record() {
    let bench = Bench::new(&[]);
    let whole = Tiny::new("LlamaForCausalLM", 5);
    let mut unknown = whole.clone();
    unknown.config["architectures"] = json!(["MambaForCausalLM"]);
    let mut cut = whole.files();
    cut.get_mut("model.safetensors").expect("there").pop();
    let mut bare = whole.files();
    bare.remove("tokenizer.json");
    for (files, words) in [
        (unknown.files(), "the architecture \"MambaForCausalLM\" is not supported"),
        (cut, "\"model.safetensors\" is no sound safetensors file"),
        (bare, "\"tokenizer.json\" is missing"),
    ] {
        let create = json!({"model": "bad", "files": uploaded(&bench, files)});
        let answer = bench.post("/api/create", create).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
        assert!(answer.error().contains(words), "{} lacks {words}", answer.text);
    }
    let files = uploaded(&bench, whole.files());
    bench.post("/api/create", json!({"model": "q", "files": files, "quantize": "q4_0"})).await;
    let again = json!({"model": "bad", "from": "q", "quantize": "q8_0"});
    let answer = bench.post("/api/create", again).await;
    assert_eq!(answer.status, 400);
    assert!(
        answer.error().starts_with("quantization is only supported for F16"),
        "{}",
        answer.text
    );
    assert_eq!(made(&bench).await, 1);
}

#[tokio::test]
async fn what_turns_out_bad_on_the_way_leaves_nothing() {
    let bench = Bench::new(&[]);
    let mut tiny = Tiny::new("LlamaForCausalLM", 6);
    tiny.tensors[3].2[7] = f32::INFINITY;
    let files = uploaded(&bench, tiny.files());
    let before = bench.blobs.count();
    let answer = bench.post("/api/create", json!({"model": "bad", "files": files})).await;
    assert_eq!(answer.status, 200, "it had begun");
    let last = answer.lines().pop().expect("a line");
    assert!(last["error"].as_str().is_some_and(|text| text.contains("no number")), "{last}");
    let whole = json!({"model": "bad", "files": files, "stream": false});
    assert_eq!(bench.post("/api/create", whole).await.status, 400);
    assert_eq!((bench.blobs.count(), made(&bench).await), (before, 0));
}
