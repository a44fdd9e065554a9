//! Models from a registry into a cluster, and back.

use crate::{binary, run_cli};
use ollamamax_proto::Digest;
use ollamamax_tests::registry::{Manner, Registry};
use ollamamax_tests::{Cluster, ClusterOptions, Member, model};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);

async fn start(registry: &str, nodes: usize, workers: usize) -> Cluster {
    let mut options = ClusterOptions::new(binary()).size(nodes, workers);
    options.node_args = vec!["--pull-allow".into(), registry.into()];
    Cluster::start(options).await.expect("a cluster")
}

/// Files that are coming, or were left where they come.
fn incoming(cluster: &Cluster, node: usize) -> usize {
    let dir = cluster.data_dir(Member::Node(node)).join("blobs/incoming");
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

fn blob(cluster: &Cluster, node: usize, digest: Digest) -> Option<u64> {
    let path = cluster.data_dir(Member::Node(node)).join("blobs").join(digest.hex());
    std::fs::metadata(path).ok().map(|found| found.len())
}

async fn digest_of(cluster: &Cluster, name: &str) -> String {
    let tags = cluster.api(0).get("/api/tags").await.expect("tags");
    let all = tags["models"].as_array().expect("models").clone();
    let found = all.iter().find(|model| model["name"] == name);
    found.expect("the model is listed")["digest"].as_str().expect("text").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_pulls_from_a_registry_goes_on_after_a_kill_answers_and_pushes_back_the_same() {
    let server = Registry::start().await.expect("a registry");
    let bytes = std::fs::read(model::smollm2()).expect("the model");
    let total = bytes.len() as u64;
    let texts =
        [("system", "Be brief."), ("params", r#"{"temperature":0.1}"#), ("license", "free")];
    let digest = server.put_model("Me/Smol:135M", bytes, &texts);
    let mut cluster = start(server.address(), 3, 1).await;
    let name = format!("{}/Me/Smol:135M", server.address());
    let request = json!({"model": name, "insecure": true, "stream": true});

    // Killed in the middle; what has come is not fetched again.
    server.behave(Manner::Slow(6 << 20));
    let api = cluster.api(0).clone();
    let asked = request.clone();
    let broken =
        tokio::spawn(async move { api.stream("/api/pull", &asked).await?.collect().await });
    cluster
        .wait("half of it has come", PATIENCE, async || match server.sent_bytes() {
            sent if sent > total / 2 => Ok(()),
            sent => Err(format!("{sent} bytes")),
        })
        .await
        .expect("it comes");
    cluster.kill9(Member::Node(0));
    assert!(broken.await.expect("ended").is_err(), "the pull broke off");
    assert!(incoming(&cluster, 0) > 0, "what came is there");
    cluster.restart(Member::Node(0)).expect("restarted");
    cluster.wait_for_quorum(3, PATIENCE).await.expect("it comes back");
    server.behave(Manner::Good);
    let before = server.sent_bytes();
    run_cli(&cluster, &["pull", &name, "--insecure"]).expect("pulled");
    let again = server.sent_bytes() - before;
    assert!(again < total * 3 / 4, "{again} of {total} bytes came again");
    assert_eq!(incoming(&cluster, 0), 0, "nothing is left behind");

    // Every node has it, and a worker answers.
    for node in 0..3 {
        cluster
            .wait("the bytes are on every node", PATIENCE, async || {
                blob(&cluster, node, digest)
                    .filter(|len| *len == total)
                    .map(drop)
                    .ok_or("not yet".to_owned())
            })
            .await
            .expect("replicated");
    }
    let known = name.to_lowercase();
    let ask =
        json!({"model": known, "prompt": "Hello", "stream": false, "options": {"num_predict": 4}});
    let answer = cluster.api(1).post("/api/generate", &ask).await;
    let answer = answer.expect("an answer");
    assert!(!answer["response"].as_str().expect("text").is_empty(), "{answer}");

    // Back to the registry under another name, away, and here again: the same version.
    let copy = format!("{}/me/copy:1", server.address());
    run_cli(&cluster, &["cp", &known, &copy]).expect("copied");
    let pushed = digest_of(&cluster, &copy).await;
    run_cli(&cluster, &["push", &copy, "--insecure"]).expect("pushed");
    run_cli(&cluster, &["rm", &copy]).expect("removed");
    run_cli(&cluster, &["pull", &copy, "--insecure"]).expect("pulled");
    assert_eq!(digest_of(&cluster, &copy).await, pushed, "bit for bit");
    let refused = run_cli(&cluster, &["pull", "127.0.0.1:1/a/b"]).expect_err("not allowed");
    assert!(refused.contains("--pull-allow"), "{refused}");
    // Refusals are gathered before they are written.
    cluster
        .wait("the trail tells of all", PATIENCE, async || {
            let trail = run_cli(&cluster, &["audit", "tail"]).expect("a trail");
            let told = ["model.pull", "model.push", "access.refused"].map(|a| trail.contains(a));
            if told == [true; 3] { Ok(()) } else { Err(trail) }
        })
        .await
        .expect("told");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_cluster_pulls_from_another_with_a_key_of_its_own() {
    let head = start("127.0.0.1:1", 1, 0).await;
    let file = model::smollm2().to_str().expect("utf-8");
    run_cli(&head, &["pull", file, "--as", "office/smol:1"]).expect("uploaded");
    let address = head.url(0).trim_start_matches("http://").to_owned();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("registries.json");
    let key = head.key();
    let text = json!({"auths": {address.clone(): {"registrytoken": key}}}).to_string();
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("closed");
    let mut options = ClusterOptions::new(binary()).size(1, 0);
    options.node_args = vec!["--pull-allow".into(), address.clone().into()];
    options.node_args.extend(["--pull-credentials".into(), path.into()]);
    let site = Cluster::start(options).await.expect("a cluster");
    run_cli(&site, &["pull", &format!("{address}/office/smol:1"), "--insecure"]).expect("pulled");
    let name = format!("{address}/office/smol:1");
    assert_eq!(digest_of(&site, &name).await, digest_of(&head, "office/smol:1").await);
}

/// Debian's `docker-registry`, which speaks the protocol as its authors meant it.
struct Distribution {
    child: std::process::Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Drop for Distribution {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn distribution() -> Distribution {
    let dir = tempfile::tempdir().expect("a directory");
    let port = ollamamax_tests::ports::free().expect("a port");
    let (address, root) = (format!("127.0.0.1:{port}"), dir.path().join("data"));
    let config = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
        root.display()
    );
    let path = dir.path().join("config.yml");
    std::fs::write(&path, config).expect("written");
    let log = std::fs::File::create(dir.path().join("log")).expect("a log");
    let child = std::process::Command::new("docker-registry")
        .arg("serve")
        .arg(&path)
        .stdout(log.try_clone().expect("a handle"))
        .stderr(log)
        .spawn();
    let child = child.expect("`docker-registry` is installed: `tests/run` brings it");
    Distribution { child, address, _dir: dir }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_to_dockers_registry_comes_back_the_same() {
    let server = distribution();
    let cluster = start(&server.address, 1, 0).await;
    let file = model::smollm2().to_str().expect("utf-8");
    let name = format!("{}/me/smol:135m", server.address);
    run_cli(&cluster, &["pull", file, "--as", &name]).expect("uploaded");
    let before = digest_of(&cluster, &name).await;
    let reached = cluster.wait("the registry answers", PATIENCE, async || {
        run_cli(&cluster, &["push", &name, "--insecure"]).map(drop)
    });
    reached.await.expect("pushed");
    run_cli(&cluster, &["rm", &name]).expect("removed");
    // Another cluster, which has none of the bytes.
    let other = start(&server.address, 1, 0).await;
    run_cli(&other, &["pull", &name, "--insecure"]).expect("pulled");
    assert_eq!(digest_of(&other, &name).await, before, "bit for bit");
    assert_eq!(incoming(&other, 0), 0);
}
