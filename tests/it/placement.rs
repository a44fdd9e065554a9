//! An operator at work: deploys, drains, moves, and is told what cannot be.

use crate::binary;
use ollamamax_tests::{Cluster, ClusterOptions, model};
use serde_json::Value;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

const PATIENCE: Duration = Duration::from_secs(60);
const MODEL: &str = "smollm2:135m";

async fn ollamamax(cluster: &Cluster, line: &str) -> Output {
    let mut command = Command::new(binary());
    command
        .args(line.split(' '))
        .env("OLLAMA_HOST", cluster.url(0))
        .env("HOME", cluster.directory());
    tokio::time::timeout(PATIENCE, command.output()).await.expect("in time").expect("it runs")
}

/// What a command that succeeds prints.
async fn done(cluster: &Cluster, line: &str) -> String {
    let output = ollamamax(cluster, line).await;
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "`{line}`: {out}{err}\n{}", cluster.logs());
    out.into_owned()
}

/// What a command that is refused says.
async fn refused(cluster: &Cluster, line: &str) -> String {
    let output = ollamamax(cluster, line).await;
    assert!(!output.status.success(), "`{line}` was accepted");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The names of the workers that have the model ready.
async fn holders(cluster: &Cluster) -> Result<Vec<String>, String> {
    let shown = cluster.api(0).get("/admin/v1/placement").await;
    let shown = shown.map_err(|error| error.to_string())?;
    let placements = shown["placements"].as_array().cloned().unwrap_or_default();
    let ready = placements.iter().filter(|placement| placement["phase"] == "ready");
    let name = |placement: &Value| placement["name"].as_str().unwrap_or_default().to_owned();
    Ok(ready.map(name).collect())
}

async fn held_by(cluster: &Cluster, worker: &str) {
    let only = async || match holders(cluster).await? {
        found if found == [worker] => Ok(()),
        found => Err(format!("{found:?}")),
    };
    cluster.wait(&format!("{worker} alone holds it"), PATIENCE, only).await.expect("it moves");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_goes_where_operators_send_it_and_nowhere_it_cannot_be() {
    let options = ClusterOptions { memory_bytes: 4 << 30, ..ClusterOptions::new(binary()) };
    let cluster = Cluster::start(options.size(1, 2)).await.expect("a cluster");
    let file = model::smollm2();
    let bytes = std::fs::read(file).expect("the model is there");
    let digest = ollamamax_proto::Digest::of(&bytes);
    cluster.api(0).create_from_file(MODEL, file, &digest).await.expect("it is created");

    let why = refused(&cluster, &format!("deploy {MODEL} --strategy tensor --shards 4")).await;
    assert!(why.contains("4 shards over 3 key-value heads; 2 or 3 would work"), "{why}");
    let why = refused(&cluster, &format!("deploy {MODEL} --strategy pipeline --stages 31")).await;
    assert!(why.contains("31 stages over 30 layers"), "{why}");
    let why = refused(&cluster, &format!("deploy {MODEL} --label zone=nowhere")).await;
    assert!(why.contains("no worker has the label `zone=nowhere`"), "{why}");
    assert_eq!(done(&cluster, "placement plan").await, "nothing to do\n");

    let status = cluster.status().await.expect("a status");
    let [first, second] = [0, 1].map(|nth: usize| status.workers[nth].name.clone());
    done(&cluster, &format!("workers label {first} zone=here")).await;
    done(&cluster, &format!("deploy {MODEL} --strategy data --label zone=here --wait")).await;
    held_by(&cluster, &first).await;
    assert!(done(&cluster, "workers list").await.contains("zone=here"));
    assert!(done(&cluster, "placement show").await.contains("0-30"));
    assert!(done(&cluster, &format!("placement explain {MODEL}")).await.contains("cheapest: "));

    done(&cluster, &format!("deploy {MODEL} --wait")).await;
    done(&cluster, &format!("migrate {MODEL} --from {first} --to {second}")).await;
    held_by(&cluster, &second).await;
    done(&cluster, &format!("workers drain {second} --reason fans")).await;
    held_by(&cluster, &first).await;
    assert!(done(&cluster, &format!("workers show {second}")).await.contains("because    fans"));
    let why = refused(&cluster, &format!("migrate {MODEL} --from {first} --to {second}")).await;
    assert!(why.contains("draining"), "{why}");
    assert!(done(&cluster, &format!("workers resume {second}")).await.ends_with("is ready\n"));
    assert_eq!(done(&cluster, "rebalance").await, "nothing to move\n");
    let answer = cluster.api(0).chat(MODEL, "Say hello.", 8).await.expect("it still serves");
    assert!(!answer.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_a_change_and_ends_with_ctrl_c() {
    let options = ClusterOptions::new(binary());
    let cluster = Cluster::start(options.size(1, 1)).await.expect("a cluster");
    cluster.wait_for_workers(1, PATIENCE).await.expect("a worker");
    let mut watcher = Command::new(binary())
        .args(["workers", "list", "--watch"])
        .env("OLLAMA_HOST", cluster.url(0))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(watcher.stdout.take().expect("piped")).lines();
    let mut until = async |word: &str| {
        loop {
            let line = lines.next_line().await.expect("it can be read");
            if line.expect("it goes on").contains(word) {
                return;
            }
        }
    };
    let seen = async {
        until("no labels").await;
        let worker = cluster.status().await.expect("a status").workers[0].name.clone();
        done(&cluster, &format!("workers label {worker} zone=here")).await;
        until("zone=here").await;
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("the change is shown");
    let pid = watcher.id().expect("it runs on").to_string();
    Command::new("kill").args(["-INT", &pid]).status().await.expect("it is told");
    let ended = tokio::time::timeout(PATIENCE, watcher.wait()).await.expect("it ends");
    assert_eq!(ended.expect("a status").code(), Some(0));
}
