//! A model that no worker can hold alone, served by workers together, as users set it up.

use crate::{binary, run_cli};
use ollamamax_tests::stream::text_of;
use ollamamax_tests::{Cluster, ClusterOptions, Member, model};
use serde_json::{Value, json};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const MODEL: &str = "smollm2:135m";
/// Less than the model takes, and more than half of it.
const SMALL_BYTES: u64 = 100 << 20;

fn asks() -> [Value; 3] {
    let ask = |prompt: &str, tokens: u32| {
        let options = json!({"temperature": 0, "seed": 1, "num_predict": tokens});
        json!({"model": MODEL, "raw": true, "prompt": prompt, "options": options})
    };
    [
        ask("The capital of France is", 32),
        ask("Once upon a time, there was a little girl who", 48),
        ask("To make bread you need flour, water and", 32),
    ]
}

async fn answers(cluster: &Cluster) -> Vec<String> {
    let mut texts = Vec::new();
    for (index, ask) in asks().iter().enumerate() {
        let records = cluster.api(index % cluster.nodes()).stream("/api/generate", ask).await;
        texts.push(records.expect("a stream").text().await.expect("an answer"));
    }
    texts
}

/// A cluster of one node with one worker that holds the model alone and two that cannot.
async fn start() -> Cluster {
    let options = ClusterOptions { memory_bytes: 1 << 30, ..ClusterOptions::new(binary()) };
    let mut cluster = Cluster::start(options.size(1, 1)).await.expect("a cluster");
    for _ in 0..2 {
        cluster.add_worker_with(SMALL_BYTES).expect("a worker");
    }
    cluster.wait_for_workers(3, PATIENCE).await.expect("three workers");
    let bytes = std::fs::read(model::smollm2()).expect("the model");
    let digest = ollamamax_proto::Digest::of(&bytes);
    let api = cluster.api(0);
    api.create_from_file(MODEL, model::smollm2(), &digest).await.expect("created");
    for worker in ["worker-2", "worker-3"] {
        run_cli(&cluster, &["workers", "label", worker, "pool=small"]).expect("labelled");
    }
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_too_small_for_a_model_serve_it_in_every_way_it_can_be_cut() {
    let cluster = start().await;
    let deploy = ["deploy", MODEL, "--context", "512", "--wait"];
    run_cli(&cluster, &deploy).expect("deployed on the large worker");
    let expected = answers(&cluster).await;
    for strategy in ["layer", "pipeline", "tensor"] {
        let small = ["--strategy", strategy, "--label", "pool=small"];
        run_cli(&cluster, &[&deploy[..], &small[..]].concat()).expect(strategy);
        let plan = run_cli(&cluster, &["placement", "show", "--json"]).expect("shown");
        let plan: Value = serde_json::from_str(&plan).expect("JSON");
        let shown = plan.to_string();
        let large = plan["placements"].as_array().expect("a list");
        assert!(large.iter().all(|held| held["name"] != "worker-1"), "{strategy}: {shown}");
        assert!(shown.contains(strategy), "{strategy}: {shown}");
        assert_eq!(answers(&cluster).await, expected, "{strategy}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_outlives_a_stage_of_its_replica() {
    let mut cluster = start().await;
    cluster.add_worker_with(SMALL_BYTES).expect("a worker");
    cluster.wait_for_workers(4, PATIENCE).await.expect("four workers");
    run_cli(&cluster, &["workers", "label", "worker-4", "pool=small"]).expect("labelled");
    let deploy = ["deploy", MODEL, "--context", "512", "--wait", "--label", "pool=small"];
    run_cli(&cluster, &[&deploy[..], &["--strategy", "pipeline"]].concat()).expect("deployed");
    let mut ask = asks()[1].clone();
    ask["options"] = json!({"temperature": 0.8, "seed": 5, "num_predict": 300});
    let stream = async |cluster: &Cluster| cluster.api(0).stream("/api/generate", &ask).await;
    let expected = stream(&cluster).await.expect("a stream").text().await.expect("an answer");
    let mut records = stream(&cluster).await.expect("a stream");
    let mut text = String::new();
    while text.len() < expected.len() / 4 {
        let record = records.next().await.expect("no error").expect("not the end");
        text.push_str(text_of(&record));
    }
    // One of the two workers of the ring; the third takes its place.
    let status = cluster.status().await.expect("a status");
    let held = status.placements.iter().find(|placement| placement.model.starts_with("smollm2"));
    let held = held.expect("a stage").worker.clone();
    let name = status.workers.iter().find(|worker| worker.id == held).expect("its worker");
    let index: usize = name.name.trim_start_matches("worker-").parse().expect("a number");
    cluster.kill9(Member::Worker(index - 1));
    text.push_str(&records.text().await.expect("it goes on to its end"));
    assert_eq!(text, expected);
}

/// What is placed, once it is cut into `count` parts as `strategy` says, and ready.
fn parts(cluster: &Cluster, strategy: &str, count: usize) -> Result<Vec<Value>, String> {
    let shown = run_cli(cluster, &["placement", "show", "--json"])?;
    let shown: Value = serde_json::from_str(&shown).map_err(|error| error.to_string())?;
    let parts = shown["placements"].as_array().cloned().unwrap_or_default();
    let cut = |part: &Value| match strategy {
        "tensor" => part["stage"]["shards"] != 1,
        "data" => part["stage"]["layers"] == json!([0, 30]) && part["stage"]["shards"] == 1,
        _ => part["stage"]["layers"] != json!([0, 30]),
    };
    let all = parts.iter().all(|part| cut(part) && part["phase"] == "ready");
    if all && parts.len() == count { Ok(parts) } else { Err(shown.to_string()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_part_takes_more_memory_than_predicted_nor_much_less() {
    let cluster = start().await;
    let deploy = ["deploy", MODEL, "--context", "512", "--wait"];
    let ways: [(usize, &[&str]); 5] = [
        (1, &["--strategy", "data", "--replicas", "1"]),
        (2, &["--strategy", "layer", "--stages", "2", "--label", "pool=small"]),
        (3, &["--strategy", "pipeline", "--stages", "3"]),
        (2, &["--strategy", "tensor", "--shards", "2", "--label", "pool=small"]),
        (3, &["--strategy", "tensor", "--shards", "3"]),
    ];
    for (count, way) in ways {
        run_cli(&cluster, &[&deploy[..], way].concat()).expect("deployed");
        let parts =
            cluster.wait("all parts", PATIENCE, async || parts(&cluster, way[1], count)).await;
        let parts = parts.expect("the old replica is gone and the new one ready");
        for part in &parts {
            let bytes = |field: &str| part[field].as_u64().expect("a number") as f64;
            let (predicted, used) = (bytes("predicted_bytes"), bytes("resident_bytes"));
            assert!(used > 0.0 && used <= predicted, "{way:?}: {part}");
            assert!(predicted <= 1.35 * used, "{way:?}: {} times {part}", predicted / used);
            eprintln!("{way:?} {}: {:.3}", part["stage"], predicted / used);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_deployed_is_refused_with_the_reason_and_nothing_changes() {
    let cluster = start().await;
    let before = run_cli(&cluster, &["placement", "show", "--json"]).expect("shown");
    let refused: [(&[&str], &[&str]); 5] = [
        (&["--strategy", "tensor", "--shards", "2", "--label", "pool=none"], &["pool=none"]),
        (&["--strategy", "tensor", "--shards", "4"], &["3 key-value heads"]),
        (&["--strategy", "pipeline", "--stages", "31"], &["30"]),
        (&["--strategy", "data", "--label", "pool=small"], &["bytes"]),
        (&["--strategy", "diagonal"], &["diagonal", "layer"]),
    ];
    for (args, words) in refused {
        let all = [&["deploy", MODEL, "--context", "512"][..], args].concat();
        let error = run_cli(&cluster, &all).expect_err("it cannot be");
        for word in words {
            assert!(error.contains(word), "{args:?}: {error}");
        }
    }
    assert_eq!(run_cli(&cluster, &["placement", "show", "--json"]).expect("shown"), before);
    let explained = run_cli(&cluster, &["placement", "explain", MODEL]).expect("explained");
    assert!(!explained.trim().is_empty());
}
