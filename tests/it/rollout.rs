//! A name goes to another version while clients ask for it, and back when the new one is bad; as operators do it.

use crate::{binary, run_cli};
use ollamamax_tests::{Api, Cluster, ClusterOptions, model};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);
const MODEL: &str = "smollm2:135m";
const LOOPS: usize = 6;

/// The model with other bytes: the first letter of the text behind `key` in its metadata is another one.
fn changed(cluster: &Cluster, key: &str, name: &str) -> PathBuf {
    let mut bytes = std::fs::read(model::smollm2()).expect("the model");
    let found = bytes.windows(key.len()).position(|window| window == key.as_bytes());
    // Behind a key come four bytes of type and eight of length.
    let at = found.expect("the key is there") + key.len() + 12;
    bytes[at] ^= 1;
    let path = cluster.directory().join(name);
    std::fs::write(&path, bytes).expect("written");
    path
}

async fn put(cluster: &Cluster, file: &std::path::Path) {
    let bytes = std::fs::read(file).expect("the file");
    let digest = ollamamax_proto::Digest::of(&bytes);
    cluster.api(0).create_from_file(MODEL, file, &digest).await.expect("created");
}

async fn answer(api: &Api) -> Result<String, String> {
    let options = json!({"temperature": 0, "seed": 1, "num_predict": 6});
    let ask = json!({"model": MODEL, "raw": true, "prompt": "The capital of France is",
        "options": options});
    let records = api.stream("/api/generate", &ask).await.map_err(|error| error.to_string())?;
    records.text().await.map_err(|error| error.to_string())
}

async fn versions(cluster: &Cluster) -> Vec<Value> {
    let shown = cluster.api(1).get("/admin/v1/placement").await.expect("shown");
    shown["versions"].as_array().cloned().unwrap_or_default()
}

/// Waits until the name stands for one version again; all of them.
async fn settled(cluster: &Cluster) -> Vec<Value> {
    let over = cluster.wait("one version", PATIENCE, async || {
        let versions = versions(cluster).await;
        let over = versions.first().is_some_and(|version| version["state"] == "current");
        if over { Ok(versions) } else { Err(format!("{versions:?}")) }
    });
    over.await.expect("the rollout ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_rolled_forward_and_a_bad_one_back_while_clients_ask() {
    let options = ClusterOptions { memory_bytes: 4 << 30, ..ClusterOptions::new(binary()) };
    let cluster = Cluster::start(options.size(3, 2)).await.expect("a cluster");
    cluster.serve_file(MODEL, model::smollm2()).await.expect("the model is served");
    let expected = answer(cluster.api(0)).await.expect("an answer");
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let one = async |nth: usize| {
        while !stop.load(Ordering::SeqCst) {
            let got = answer(cluster.api(nth % cluster.nodes())).await;
            assert_eq!(got.as_ref(), Ok(&expected), "request {}", asked.load(Ordering::SeqCst));
            asked.fetch_add(1, Ordering::SeqCst);
        }
    };
    let story = async {
        let new = changed(&cluster, "general.name", "new.gguf");
        put(&cluster, &new).await;
        let after = settled(&cluster).await;
        assert_eq!(after.len(), 2, "{after:?}");
        assert_eq!(after[1]["state"], "former");
        let forward = after[0]["digest"].clone();

        let bad = changed(&cluster, "tokenizer.ggml.model", "bad.gguf");
        put(&cluster, &bad).await;
        let after = settled(&cluster).await;
        assert_eq!(after[0]["digest"], forward, "{after:?}");
        let failed = after.iter().find(|version| version["state"] == "failed");
        let failed = failed.expect("the bad one is remembered");
        assert!(failed["reason"].as_str().is_some_and(|reason| reason.contains("could not load")));

        let text =
            run_cli(&cluster, &["deploy", MODEL, "--rollback", "--wait"]).expect("rolled back");
        assert!(text.contains("WEIGHT"), "{text}");
        let after = settled(&cluster).await;
        assert_ne!(after[0]["digest"], forward, "{after:?}");
        let digest = forward.as_str().expect("a digest");
        run_cli(&cluster, &["deploy", MODEL, "--version", &digest[..12], "--weight", "30"])
            .expect("a share");
        let refused =
            run_cli(&cluster, &["deploy", MODEL, "--weight", "130"]).expect_err("too much");
        assert!(refused.contains("130"), "{refused}");
        run_cli(&cluster, &["deploy", MODEL, "--weight", "100", "--wait"]).expect("all of it");
        let shown = run_cli(&cluster, &["placement", "show"]).expect("shown");
        assert!(shown.contains("failed: "), "{shown}");
        let before = asked.load(Ordering::SeqCst);
        cluster
            .wait("more answers", PATIENCE, async || {
                let now = asked.load(Ordering::SeqCst);
                if now > before + 12 { Ok(()) } else { Err(format!("{now}")) }
            })
            .await
            .expect("it goes on");
        stop.store(true, Ordering::SeqCst);
    };
    tokio::join!(futures_util::future::join_all((0..LOOPS).map(one)), story);
    eprintln!("{} requests, none dropped", asked.load(Ordering::SeqCst));
}
