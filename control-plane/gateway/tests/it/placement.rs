//! Deployments, placement and workers under `/admin/v1/`.

use crate::control::version;
use crate::http::Bench;
use crate::worker::Script;
use ollamamax_core::Command;
use ollamamax_core::command::Transition;
use ollamamax_core::plan::{Observed, PlanLimits, plan};
use ollamamax_gateway::ports::ControlPlane as _;
use ollamamax_proto::Millis;
use ollamamax_proto::placement::Phase;
use serde_json::{Value, json};

/// Two workers of a gigabyte, and a model `big` of two layers that fits on neither alone.
fn bench() -> Bench {
    let bench = Bench::new(&[Script::Answer, Script::Answer]);
    let mut big = version();
    big.facts.layer_bytes = vec![700 << 20; 2];
    big.facts.metadata_json = r#"{"llama.attention.head_count":4,"llama.embedding_length":576,
        "llama.attention.head_count_kv":4,"llama.feed_forward_length":1536}"#
        .into();
    big.facts.quantization = "F16".into();
    big.facts.kv_bytes_per_token = 4 * (144 + 144) * 2 * 2;
    bench.control.put_version("big", big);
    bench
}

/// Plans as the leader would.
fn reconcile(bench: &Bench) {
    let state = bench.control.state();
    let planned = plan(&state, &Observed::default(), &PlanLimits::default(), Millis::now());
    bench.control.apply(Command::ApplyPlan { base: planned.base, steps: planned.steps });
}

#[tokio::test]
async fn a_model_is_deployed_in_stages_and_shown() {
    let bench = bench();
    let wish = json!({"strategy": "tensor", "shards": 2, "activations": "bf16",
        "context_length": 512, "labels": {}});
    let answer = bench.post("/admin/v1/models/big/deploy", wish).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.json()["deployment"]["strategy"], "tensor");
    let report = answer.json()["report"][0].as_str().expect("a line").to_owned();
    assert!(report.starts_with("big:latest: `tensor` of 2 shards on 2 workers"), "{report}");
    let planned = bench.get("/admin/v1/placement/plan").await.json();
    assert_eq!(planned["steps"][0]["step"], "add replica");
    reconcile(&bench);
    assert_eq!(bench.get("/admin/v1/placement/plan").await.json()["steps"], json!([]));
    let shown = bench.get("/admin/v1/placement").await.json();
    assert_eq!(shown["replicas"][0]["activations"], "bf16");
    assert_eq!(shown["replicas"][0]["members"][1]["stage"]["shard"], 1);
    assert_eq!(shown["placements"].as_array().map(Vec::len), Some(2));
    let explained = bench.get("/admin/v1/placement/explain/big").await.json();
    assert!(explained["best"]["map"]["latency_us"].as_u64() > Some(0), "{explained}");
    let alone = explained["others"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|other| other["form"] == "one whole");
    assert!(alone.is_some_and(|alone| alone["refused"].is_string()), "{explained}");
    let cleared = bench.send("DELETE", "/admin/v1/models/big/deploy", "").await;
    assert_eq!(cleared.status, 200);
    assert!(bench.control.state().deployments.is_empty());
    assert_eq!(bench.get("/admin/v1/placement/explain/nobody").await.status, 404);
}

#[tokio::test]
async fn a_replica_of_which_one_member_failed_is_not_waited_for() {
    let bench = bench();
    bench.control.auto_place.store(false, std::sync::atomic::Ordering::SeqCst);
    let wish = json!({"strategy": "layer", "context_length": 512});
    assert_eq!(bench.post("/admin/v1/models/big/deploy", wish).await.status, 200);
    reconcile(&bench);
    let state = bench.control.state();
    let first = state.placements.values().next().expect("a member");
    let reason = "tensor `x` is missing".to_owned();
    let transition = Transition {
        id: first.assignment.id,
        generation: first.assignment.generation,
        phase: Phase::Failed { reason },
        resident_bytes: 0,
        load_ns: 0,
    };
    bench.control.apply(Command::ReportPlacements {
        worker: first.worker,
        incarnation: state.workers[&first.worker].incarnation,
        transitions: vec![transition],
    });
    let answer = bench.post("/api/generate", json!({"model": "big", "prompt": "x"})).await;
    assert_eq!(answer.status, 500, "{}", answer.text);
    assert!(answer.error().contains("tensor `x` is missing"), "{}", answer.text);
}

#[tokio::test]
async fn what_cannot_serve_is_refused_with_what_could_and_changes_nothing() {
    let bench = bench();
    let before = bench.control.state();
    let refused: [(Value, &str); 8] = [
        (json!({"strategy": "odd"}), "expected data, layer, pipeline, tensor or auto"),
        (json!({"strategy": "data"}), "`layer` would work"),
        (json!({"strategy": "tensor", "shards": 3}), "2 or 4 would work"),
        (json!({"strategy": "pipeline", "stages": 3}), "at most 2 stages work"),
        (json!({"strategy": "layer", "labels": {"zone": "a"}}), "no worker has that key"),
        (
            json!({"strategy": "layer", "context_length": 2048}),
            "a context of 1024 tokens would fit",
        ),
        (json!({"balancing": "odd"}), "expected one of `round-robin`"),
        (json!({"replicas": 3, "replicas_max": 2}), "expected 1 or more, ascending"),
    ];
    // So much cache that the longest context does not fit.
    let mut version =
        before.models[&"big".parse::<ollamamax_proto::ModelName>().unwrap()].version.clone();
    version.facts.kv_bytes_per_token *= 80;
    for (wish, why) in refused {
        if why.contains("1024") {
            bench.control.put_version("big", version.clone());
        }
        let answer = bench.post("/admin/v1/models/big/deploy", wish.clone()).await;
        assert_eq!(answer.status, 400, "{wish}: {}", answer.text);
        assert!(answer.text.contains(why), "{wish}: {}", answer.text);
    }
    let after = bench.control.state();
    assert!(after.deployments.is_empty() && after.demands.is_empty());
}

#[tokio::test]
async fn workers_are_drained_resumed_and_labelled() {
    let bench = bench();
    let worker = "/admin/v1/workers/w1";
    let labels = json!({"labels": {"zone": "a", "rack": null}});
    let labelled = bench.post(&format!("{worker}/label"), labels).await;
    assert_eq!(labelled.json()["labels"], json!({"zone": "a"}));
    let drained = bench.post(&format!("{worker}/drain"), json!({"reason": "new fans"})).await;
    assert_eq!(drained.json()["status"], "draining");
    let shown = bench.get(worker).await.json();
    assert_eq!((&shown["drained"], &shown["labels"]), (&json!("new fans"), &json!({"zone": "a"})));
    let resumed = bench.send("POST", &format!("{worker}/resume"), "").await;
    assert_eq!(resumed.json()["status"], "ready");
    assert_eq!(bench.get("/admin/v1/workers/w9").await.status, 404);
    assert_eq!(bench.get("/admin/v1/workers/0000").await.status, 409, "it means both");
    let bad = json!({"labels": {"two words": "a"}});
    assert_eq!(bench.post(&format!("{worker}/label"), bad).await.status, 400);
}

#[tokio::test]
async fn a_model_moves_where_there_is_room() {
    let bench = bench();
    bench.control.auto_place.store(false, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(bench.post("/admin/v1/models/m/deploy", json!({"replicas": 1})).await.status, 200);
    reconcile(&bench);
    let state = bench.control.state();
    let holder = state.placements.values().next().expect("it is placed").worker.0;
    let (from, to) = if holder == 1 { ("w1", "w2") } else { ("w2", "w1") };
    let path = "/admin/v1/models/m/migrate";
    assert_eq!(bench.post(path, json!({"from": to, "to": from})).await.status, 400);
    let moved = bench.post(path, json!({"from": from, "to": to})).await;
    assert_eq!(moved.status, 200, "{}", moved.text);
    assert_eq!(bench.get("/admin/v1/placement").await.json()["migrations"][0]["model"], "m:latest");
    let even = bench.send("POST", "/admin/v1/rebalance", "").await;
    assert_eq!(even.json()["moves"], json!([]), "a small model on one of two is even enough");
}
