//! What operators look at: `top` on a real terminal, `doctor`, and lists for programs.

use crate::binary;
use crate::run_cli;
use crate::terminal::Terminal;
use ollamamax_tests::{Cluster, ClusterOptions, Member, wait_until};
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

async fn cluster() -> Cluster {
    let options = ClusterOptions::new(binary());
    Cluster::start(options.size(3, 1)).await.expect("a cluster")
}

#[tokio::test(flavor = "multi_thread")]
async fn top_shows_the_cluster_and_goes_to_another_node_when_its_own_dies() {
    let mut cluster = cluster().await;
    let home = tempfile::tempdir().expect("a directory");
    let url = cluster.url(0);
    let env = [("OLLAMA_HOST", url.as_str())];
    let mut top = Terminal::start(&["top"], (24, 80), home.path(), &env);
    let first = url.trim_start_matches("http://").to_owned();
    let seen = top.shows(&format!("from {first}")).await;
    for part in ["3 of 3 nodes, leader", "WORKER", "ready", "leader", "follower", "q quit"] {
        assert!(seen.contains(part), "`{part}` is missing in\n{seen}");
    }
    top.keys("?");
    top.shows("Any key closes this.").await;
    top.keys("x/no-such-worker");
    top.shows("/no-such-worker_").await;
    top.shows("workers 0 of 1").await;
    top.keys("\r\x1b");
    top.wait("all workers", |text| !text.contains("0 of 1")).await;

    cluster.kill9(Member::Node(0));
    let moved = top.wait("another node's answers", |text| {
        text.contains("2 of 3 nodes, leader")
            && text.contains("from ")
            && !text.contains(&format!("from {first}"))
    });
    assert!(moved.await.contains("unreachable"));
    top.resize(18, 60);
    top.wait("less room, drawn anew", |text| {
        text.lines().all(|line| line.chars().count() <= 60) && text.contains("q quit")
    })
    .await;
    top.keys("q");
    assert_eq!(top.end().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_what_was_broken() {
    let mut cluster = cluster().await;
    let doctor = |cluster: &Cluster, node: usize| {
        let output = Command::new(binary())
            .args(["doctor", "-o", "json"])
            .env("OLLAMA_HOST", cluster.url(node))
            .output()
            .expect("it runs");
        let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (output.status.code(), found)
    };
    let about = |found: &Value, level: &str| -> Vec<String> {
        let findings = found["findings"].as_array().expect("findings").iter();
        let here = findings.filter(|finding| finding["level"] == level);
        here.map(|finding| finding["about"].as_str().expect("text").to_owned()).collect()
    };
    let (code, found) = doctor(&cluster, 1);
    assert_eq!((code, &found["problems"]), (Some(0), &Value::from(0)), "{found:#}");

    cluster.kill9(Member::Node(0));
    cluster.kill9(Member::Worker(0));
    let noticed = wait_until(Duration::from_secs(60), "both are missed", async || {
        let (code, found) = doctor(&cluster, 1);
        let problems = about(&found, "problem");
        let node = problems.iter().any(|about| about == "node 1");
        let worker = problems.iter().any(|about| about.starts_with("worker "));
        let quorum = about(&found, "warning").iter().any(|about| about == "quorum");
        if node && worker && quorum && code == Some(1) {
            Ok(found)
        } else {
            Err(format!("{found:#}"))
        }
    });
    let found = noticed.await.expect("found");
    let nexts: Vec<&str> = found["findings"]
        .as_array()
        .expect("findings")
        .iter()
        .filter_map(|f| f["next"].as_str())
        .collect();
    assert!(nexts.iter().any(|next| next.contains("ollamamax cluster remove 1")), "{nexts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_as_programs_want_them_and_slips_are_seen_through() {
    let cluster =
        Cluster::start(ClusterOptions::new(binary()).size(1, 1)).await.expect("a cluster");
    let run = |args: &[&str]| run_cli(&cluster, args).expect("it works");
    let name = run(&["workers", "list", "-o", "name"]);
    let name = name.trim();
    assert!(!name.is_empty() && name.lines().count() == 1, "{name:?}");
    let line: Value =
        serde_json::from_str(&run(&["workers", "list", "-o", "jsonl"])).expect("one object");
    assert_eq!(line["name"], name);
    let all: Value = serde_json::from_str(&run(&["workers", "list", "--json"])).expect("JSON");
    assert_eq!(all["workers"].as_array().map(Vec::len), Some(1));
    assert!(
        run(&["workers", "list", "-o", "wide"])
            .lines()
            .next()
            .expect("a header")
            .contains("ADDRESS")
    );
    assert_eq!(run(&["cluster", "members", "-o", "name"]), "1\n");
    assert_eq!(run(&["list", "-o", "jsonl"]), "");
    assert_eq!(run(&["roles", "list", "-o", "name"]).lines().next(), Some("admin"));
    let trail = run(&["audit", "tail", "-o", "jsonl"]);
    assert!(
        trail.lines().count() > 1 && trail.lines().all(|line| line.starts_with("{\"number\"")),
        "{trail}"
    );
    assert_eq!(run(&["audit", "tail", "--json"]).lines().next(), trail.lines().next());
    assert!(run(&["top", "--once"]).contains("1 of 1 nodes, leader 1"));

    let typo = format!("{name}x");
    let failed = run_cli(&cluster, &["workers", "drain", &typo]).expect_err("unknown");
    assert!(failed.contains(&format!("did you mean `{name}`?")), "{failed}");
    let failed = run_cli(&cluster, &["show", "nobody"]).expect_err("unknown");
    assert!(failed.contains("`ollamamax pull nobody` gets it"), "{failed}");
    let failed = run_cli(&cluster, &["push", "me/mine"]).expect_err("it cannot");
    assert!(failed.starts_with("Error: "), "{failed}");
}
