//! Texts as vectors over whole processes: the three endpoints agree, a worker's death is not noticed, and a real model finds
//! what belongs together.

use crate::binary;
use ollamamax_engine::architecture::Architecture;
use ollamamax_engine::synth::Synth;
use ollamamax_tests::{Cluster, ClusterOptions, Member, model};
use serde_json::{Value, json};
use std::path::PathBuf;

/// A random encoder as a file in the cluster's directory.
pub fn tiny_encoder(cluster: &Cluster, family: &str) -> PathBuf {
    let path = cluster.directory().join(format!("{family}.gguf"));
    let family = Architecture::find(family).expect("a family");
    std::fs::write(&path, Synth::encoder(family, 5).to_gguf()).expect("written");
    path
}

async fn cluster(workers: usize) -> Cluster {
    let options = ClusterOptions { memory_bytes: 4 << 30, ..ClusterOptions::new(binary()) };
    Cluster::start(options.size(1, workers)).await.expect("a cluster")
}

fn floats(value: &Value) -> Vec<f64> {
    let values = value.as_array().expect("a vector").iter();
    values.map(|value| value.as_f64().expect("a number")).collect()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoints_agree_and_a_workers_death_is_not_noticed() {
    let mut cluster = cluster(2).await;
    for family in ["bert", "nomic-bert"] {
        let file = tiny_encoder(&cluster, family);
        let served = cluster.serve_file(&format!("{family}:tiny"), &file).await;
        served.expect("the model is served");
    }
    let api = cluster.api(0).clone();
    let texts: Vec<String> = (0..100).map(|i| format!("the cat and the dog, {i} times")).collect();
    let mut before = Vec::new();
    for model in ["bert:tiny", "nomic-bert:tiny"] {
        let shown = api.post("/api/show", &json!({"model": model})).await.expect("shown");
        assert_eq!(shown["capabilities"], json!(["embedding"]), "{shown}");
        let ask = json!({"model": model, "input": texts});
        let embedded = api.post("/api/embed", &ask).await.expect("vectors");
        let vectors = embedded["embeddings"].as_array().expect("vectors").clone();
        assert_eq!(vectors.len(), texts.len());
        assert!((cosine(&floats(&vectors[0]), &floats(&vectors[0])) - 1.0).abs() < 1e-5);
        assert!(embedded["prompt_eval_count"].as_u64().expect("tokens") > 1_000, "{embedded}");
        let old = json!({"model": model, "prompt": texts[7]});
        let old = api.post("/api/embeddings", &old).await.expect("a vector");
        assert_eq!(old["embedding"], vectors[7]);
        let openai = api.post("/v1/embeddings", &ask).await.expect("vectors");
        for (index, vector) in vectors.iter().enumerate() {
            assert_eq!(openai["data"][index]["embedding"], *vector);
        }
        let (status, error) = api
            .raw_post("/api/generate", json!({"model": model, "prompt": "hi"}).to_string())
            .await
            .expect("an answer");
        assert_eq!(status, 400);
        assert!(error.contains("does not support generate"), "{error}");
        before.push((ask, vectors));
    }
    cluster.kill9(Member::Worker(0));
    for (ask, vectors) in &before {
        for _ in 0..4 {
            let again = api.post("/api/embed", ask).await.expect("vectors");
            assert_eq!(again["embeddings"], json!(vectors));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_model_finds_what_belongs_together() {
    let cluster = cluster(1).await;
    cluster.serve_file("all-minilm:22m", model::minilm()).await.expect("the model is served");
    let reference = include_str!("../../worker/engine/tests/data/minilm.json");
    let reference: Value = serde_json::from_str(reference).expect("reference data");
    let cosines = reference["cosines"].as_array().expect("cosines");
    let texts = &reference["texts"].as_array().expect("texts")[..cosines.len()];
    let inputs: Vec<&Value> = texts.iter().map(|entry| &entry["text"]).collect();
    let ask = json!({"model": "all-minilm:22m", "input": inputs});
    let embedded = cluster.api(0).post("/api/embed", &ask).await.expect("vectors");
    let vectors: Vec<_> =
        embedded["embeddings"].as_array().expect("vectors").iter().map(floats).collect();
    for (a, row) in vectors.iter().zip(cosines) {
        for (b, expected) in vectors.iter().zip(floats(row)) {
            assert!((cosine(a, b) - expected).abs() < 2e-4, "{} {expected}", cosine(a, b));
        }
    }
    let tokens = |entry: &Value| entry["tokens"].as_array().map_or(0, Vec::len);
    assert_eq!(embedded["prompt_eval_count"], texts.iter().map(tokens).sum::<usize>());
    let long = json!({"model": "all-minilm:22m", "input": inputs.last(), "truncate": false});
    let (status, error) =
        cluster.api(0).raw_post("/api/embed", long.to_string()).await.expect("an answer");
    assert_eq!(status, 400);
    assert!(error.contains("the input length exceeds the context length"), "{error}");
}
