//! Streams while members die: nobody who was not talking to the dead notices more than a pause.

use crate::binary;
use ollamamax_tests::stream::text_of;
use ollamamax_tests::{Cluster, ClusterOptions, Member, model};
use serde_json::Value;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// What a survivor may take to accept a write after the leader's death, beside the streams.
const TAKEOVER: Duration = Duration::from_secs(2);
/// What the cluster may take to show a dead worker as down, and to serve its model again.
const REPAIR: Duration = Duration::from_secs(5);
const MODEL: &str = "smollm2:135m";
const PROMPT: &str = "Count from one to one hundred in words.";
const TOKENS: u32 = 96;
/// More than can be generated before a stream is kept.
const LONG: u32 = 700;

/// A cluster that serves the real model on `workers` workers.
async fn serving(workers: usize) -> Cluster {
    let options = ClusterOptions { memory_bytes: 4 << 30, ..ClusterOptions::new(binary()) };
    let cluster = Cluster::start(options.size(3, workers)).await.expect("a cluster");
    cluster.serve_file(MODEL, model::smollm2()).await.expect("the model is served");
    cluster
}

/// Runs `count` streams over the given gateways, does `fault` after the first record of each came, and returns the texts.
async fn streams_through(
    cluster: &mut Cluster,
    gateways: &[usize],
    count: usize,
    fault: impl AsyncFnOnce(&mut Cluster),
) -> Vec<String> {
    let mut running = Vec::new();
    for index in 0..count {
        let api = cluster.api(gateways[index % gateways.len()]).clone();
        let mut records = api.chat_stream(MODEL, PROMPT, TOKENS).await.expect("a stream");
        let first = records.next().await.expect("a record").expect("not the end");
        running.push((first, records));
    }
    fault(cluster).await;
    let mut texts = Vec::new();
    for (first, records) in running {
        let rest = records.text().await.expect("the stream ends well");
        texts.push(content(&first).to_owned() + &rest);
    }
    texts
}

fn content(record: &Value) -> &str {
    record["message"]["content"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_stream_breaks_when_the_leader_is_killed_and_writes_go_on() {
    let mut cluster = serving(1).await;
    let reference = cluster.api(0).chat(MODEL, PROMPT, TOKENS).await.expect("an answer");
    let leader = cluster.leader(PATIENCE).await.expect("a leader");
    let survivors = [(leader + 1) % 3, (leader + 2) % 3];
    let fault = async |cluster: &mut Cluster| {
        cluster.kill9(Member::Node(leader));
        let killed = Instant::now();
        let put = cluster.wait("a write on a survivor", TAKEOVER, async || {
            let put = cluster.api(survivors[0]).put_checkpoint("after", b"1", None).await;
            put.map_err(|error| error.to_string())
        });
        put.await.expect("a survivor takes over");
        eprintln!("a write succeeded {:?} after the kill", killed.elapsed());
    };
    let texts = streams_through(&mut cluster, &survivors, 8, fault).await;
    assert!(texts.iter().all(|text| *text == reference), "{texts:#?}\nexpected {reference}");
    cluster.restart(Member::Node(leader)).expect("restarted");
    cluster.wait_for_quorum(3, PATIENCE).await.expect("it catches up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_with_the_same_text_when_its_worker_is_killed() {
    let mut cluster = serving(2).await;
    let reference = cluster.api(0).chat(MODEL, PROMPT, TOKENS).await.expect("an answer");
    let fault = async |cluster: &mut Cluster| cluster.kill9(Member::Worker(0));
    let texts = streams_through(&mut cluster, &[0, 1, 2], 4, fault).await;
    assert!(texts.iter().all(|text| *text == reference), "{texts:#?}\nexpected {reference}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_is_down_within_five_seconds_and_the_model_served_again() {
    let mut cluster = serving(1).await;
    let spare = cluster.add_worker().expect("a second worker");
    cluster.wait_for_workers(spare + 1, PATIENCE).await.expect("both ready");
    let before = cluster.status().await.expect("a status");
    let victim = before.worker("worker-1").expect("the first worker").id.clone();
    cluster.kill9(Member::Worker(0));
    let killed = Instant::now();
    let down = cluster.wait("the worker is shown down", REPAIR, async || {
        let status = cluster.status().await.map_err(|error| error.to_string())?;
        let worker = status.workers.iter().find(|worker| worker.id == victim);
        match worker.map(|worker| worker.status.as_str()) {
            Some("down") => Ok(()),
            other => Err(format!("it is {other:?}")),
        }
    });
    down.await.expect("down in time");
    eprintln!("down {:?} after the kill", killed.elapsed());
    let served = cluster.api(0).chat(MODEL, PROMPT, 8).await.expect("the other worker serves");
    let again = killed.elapsed();
    eprintln!("served again {again:?} after the kill");
    assert!(again < REPAIR, "served again only {again:?} after the kill");
    assert!(!served.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_two_of_three_nodes_dead_streams_and_new_requests_go_on() {
    let mut cluster = serving(1).await;
    let reference = cluster.api(0).chat(MODEL, PROMPT, TOKENS).await.expect("an answer");
    let leader = cluster.leader(PATIENCE).await.expect("a leader");
    let last = (leader + 1) % 3;
    let fault = async |cluster: &mut Cluster| {
        cluster.kill9(Member::Node(leader));
        cluster.kill9(Member::Node((leader + 2) % 3));
    };
    let texts = streams_through(&mut cluster, &[last], 2, fault).await;
    assert!(texts.iter().all(|text| *text == reference), "{texts:#?}\nexpected {reference}");
    let asked = Instant::now();
    let refused = cluster.api(last).put_checkpoint("x", b"1", None).await.expect_err("no quorum");
    assert!(refused.to_string().contains("quorum"), "{refused}");
    assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?}", asked.elapsed());
    let again = cluster.api(last).chat(MODEL, PROMPT, TOKENS).await.expect("a new request");
    assert_eq!(again, reference);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_at_another_node_when_its_gateway_is_killed() {
    let mut cluster = serving(1).await;
    let ask = serde_json::json!({
        "model": MODEL, "raw": true, "prompt": "Once upon a time",
        "options": {"num_predict": LONG, "temperature": 0.8, "seed": 3},
    });
    let reference = cluster.api(0).stream("/api/generate", &ask).await.expect("a stream");
    let reference = reference.text().await.expect("an answer");
    let leader = cluster.leader(PATIENCE).await.expect("a leader");
    // The gateway that dies is the leader, too: the worst one.
    let (id, mut records) =
        cluster.api(leader).stream_with_id("/api/generate", &ask).await.expect("a stream");
    let mut text = String::new();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1_800) {
        let record = records.next().await.expect("no error").expect("it is not at its end");
        text.push_str(text_of(&record));
    }
    cluster.kill9(Member::Node(leader));
    // What had arrived before is read, up to the break.
    while let Ok(Some(record)) = records.next().await {
        text.push_str(text_of(&record));
    }
    assert!(text.len() < reference.len(), "the stream was over before the kill");
    let other = cluster.api((leader + 1) % 3);
    let path = format!("/api/streams/{id}?from={}", text.len());
    let rest = other.records(&path).await.expect("it goes on").text().await.expect("to its end");
    assert_eq!(text + &rest, reference);
}
