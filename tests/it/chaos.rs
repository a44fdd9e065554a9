//! The smoke of the chaos suite: a little of every kind of fault, and every checker; and the command for clusters in use.

use crate::{binary, run_cli};
use ollamamax_chaos::{Grade, run, scenario};
use ollamamax_tests::{Cluster, ClusterOptions};
use std::time::Duration;

/// Decides when what goes wrong.
const SEED: u64 = 11;
const PATIENCE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_keeps_its_promises_while_members_die_stop_and_are_cut_off() {
    let all = scenario::shipped().expect("scenarios");
    let smoke = all.iter().find(|scenario| scenario.smoke).expect("a smoke");
    let done = run(smoke, SEED, binary(), None).await.expect("the run can be made");
    assert_eq!(done.grade(), Grade::Pass, "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_of_a_cluster_in_use_are_drained_in_turn_only_when_that_is_said_and_possible() {
    let mut cluster =
        Cluster::start(ClusterOptions::new(binary()).size(1, 1)).await.expect("a cluster");
    let file = cluster.directory().join("tiny.gguf");
    let file_name = file.to_str().expect("a plain path");
    run_cli(&cluster, &["synth", "--shape", "tiny", "-o", file_name]).expect("made");
    cluster.serve_file("tiny:latest", &file).await.expect("served");
    let alone = run_cli(&cluster, &["chaos", "--yes"]).expect_err("an outage");
    assert!(alone.contains("two workers"), "{alone}");
    cluster.add_worker().expect("another one");
    cluster.wait_for_workers(2, PATIENCE).await.expect("both are ready");
    cluster.api(0).deploy("tiny:latest", 2).await.expect("wanted on both");
    cluster.wait_for_model("tiny:latest", 2, PATIENCE).await.expect("on both");
    let asked = run_cli(&cluster, &["chaos"]).expect_err("nothing is done unasked");
    assert!(asked.contains("worker-1") && asked.contains("--yes"), "{asked}");
    let url = cluster.url(0);
    let done = run_cli(&cluster, &["chaos", "--yes", "--against", &url, "--tokens", "16"]);
    let done = done.expect("no answer differs");
    assert!(done.contains("2 workers were drained, and no answer differed"), "{done}");
    cluster.wait_for_workers(2, PATIENCE).await.expect("both are back");
}
