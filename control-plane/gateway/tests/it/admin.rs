//! Our own endpoints.

use crate::http::Bench;
use crate::worker::Script;
use ollamamax_core::Command;
use ollamamax_gateway::ports::ControlPlane as _;
use serde_json::json;
use std::sync::atomic::Ordering;

#[tokio::test]
async fn the_cluster_at_a_glance() {
    let bench = Bench::new(&[Script::Answer]);
    bench.post("/api/generate", json!({"model": "m"})).await;
    let cluster = bench.get("/admin/v1/cluster").await.json();
    assert_eq!((&cluster["leader"], &cluster["term"]), (&json!(1), &json!(3)));
    assert!(cluster["revision"].as_u64().expect("a number") > 3);
    let node = json!({"id": 1, "role": "leader", "http": "127.0.0.1:11434",
        "raft": "127.0.0.1:7400", "pid": 1, "applied": 9, "voter": true});
    assert_eq!(cluster["nodes"], json!([node]));
    let worker = &cluster["workers"][0];
    assert_eq!(worker["id"], format!("{:032x}", 1));
    assert_eq!(worker["status"], "ready");
    assert_eq!(worker["device"], "cpu");
    assert_eq!(worker["models"], json!(["m:latest"]));
    assert_eq!(worker["pid"], 7);
    assert_eq!(cluster["placements"][0]["phase"], "ready");
    assert_eq!(bench.get("/admin/v1/workers").await.json()["workers"][0], *worker);
    bench.control.quorum.store(false, Ordering::SeqCst);
    let cluster = bench.get("/admin/v1/cluster").await.json();
    assert_eq!(cluster["leader"], json!(null));
}

#[tokio::test]
async fn nodes_leave_but_the_last() {
    let bench = Bench::new(&[]);
    bench.control.apply(Command::AdmitNode {
        http: "127.0.0.1:11435".to_owned(),
        raft: "127.0.0.1:7401".to_owned(),
        voter: true,
    });
    assert_eq!(bench.send("DELETE", "/admin/v1/cluster/nodes/2", "").await.status, 200);
    assert_eq!(bench.send("DELETE", "/admin/v1/cluster/nodes/9", "").await.status, 404);
    assert_eq!(bench.send("DELETE", "/admin/v1/cluster/nodes/x", "").await.status, 400);
    let last = bench.send("DELETE", "/admin/v1/cluster/nodes/1", "").await;
    assert_eq!(last.status, 409);
    assert_eq!(last.headers["content-type"], "application/problem+json");
    let bad = bench.post("/admin/v1/join-tokens", json!({"role": 7})).await;
    assert!(bad.error().contains("`role`"), "{}", bad.text);
}

#[tokio::test]
async fn checkpoints_change_by_compare_and_set() {
    let bench = Bench::new(&[]);
    let path = "/admin/v1/checkpoints/jobs/sync";
    assert_eq!(bench.get(path).await.status, 404);
    let none = [("if-none-match", "*")];
    let first = bench.send_with("PUT", path, &none, "one").await;
    assert_eq!(first.status, 200);
    assert_eq!(first.json()["name"], "jobs/sync");
    let revision = first.json()["revision"].as_u64().expect("a number");
    assert_eq!(bench.send_with("PUT", path, &none, "two").await.status, 412);

    let read = bench.get(path).await;
    assert_eq!(read.text, "one");
    let tag = read.headers["etag"].to_str().expect("text").to_owned();
    assert_eq!(tag, format!("\"{revision}\""));
    let same = [("if-match", tag.as_str())];
    assert_eq!(bench.send_with("PUT", path, &same, "two").await.status, 200);
    assert_eq!(bench.send_with("PUT", path, &same, "three").await.status, 412);
    assert_eq!(bench.send_with("PUT", path, &[("if-match", "x")], "").await.status, 400);
    assert_eq!(bench.send("PUT", path, vec![0; 70_000]).await.status, 413);

    bench.control.quorum.store(false, Ordering::SeqCst);
    assert_eq!(bench.get(path).await.status, 503, "a linearizable read needs a quorum");
    let local = bench.get(&format!("{path}?consistency=local")).await;
    assert_eq!(local.text, "two");
    let at = bench.control.state().revision().to_string();
    assert_eq!(local.headers["x-revision"], at.as_str());
    assert_eq!(bench.get(&format!("{path}?consistency=odd")).await.status, 400);
    bench.control.quorum.store(true, Ordering::SeqCst);
    assert_eq!(bench.send_with("DELETE", path, &same, "").await.status, 412);
    assert_eq!(bench.send("DELETE", path, "").await.status, 200);
    assert_eq!(bench.get(path).await.status, 404);
}

#[tokio::test]
async fn a_model_is_deployed() {
    let bench = Bench::new(&[]);
    let deploy = json!({"replicas": 3, "keep_alive": "10m"});
    let answer = bench.post("/admin/v1/models/m/deploy", deploy).await;
    assert_eq!(answer.json()["replicas"], 3);
    let state = bench.control.state();
    let demand = state.demands.values().next().expect("a demand");
    assert_eq!((demand.replicas, demand.keep_alive_ms), (3, 600_000));
    assert_eq!(bench.send("POST", "/admin/v1/models/m/deploy", "").await.status, 200);
    let many = bench.post("/admin/v1/models/m/deploy", json!({"replicas": 1000})).await;
    assert_eq!(many.status, 400);
    assert_eq!(bench.post("/admin/v1/models/x/deploy", json!({})).await.status, 404);
    assert_eq!(bench.post("/admin/v1/models/m/other", json!({})).await.status, 404);
}
