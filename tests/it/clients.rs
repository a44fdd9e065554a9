//! The official Python clients of Ollama and OpenAI against every node, as their users have them.

use crate::binary;
use crate::embed::tiny_encoder;
use ollamamax_tests::{Cluster, ClusterOptions, model};
use std::path::Path;
use std::process::Command;

const PACKAGES: &[&str] = &["ollama==0.6.3", "openai==3.54.0"];
const FALLBACK: &[&str] = &["ollama", "openai"];
const SCRIPT: &str = include_str!("../clients/official.py");

/// Installs the clients into a directory of their own.
fn install(directory: &Path) {
    let pip = |packages: &[&str]| {
        Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"])
            .arg(directory)
            .args(packages)
            .status()
            .expect("python3 with pip")
            .success()
    };
    // The pinned versions first; an index that lacks them has newer ones.
    assert!(pip(PACKAGES) || pip(FALLBACK), "pip could not install {PACKAGES:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_python_clients_talk_to_every_node() {
    let options = ClusterOptions { memory_bytes: 4 << 30, ..ClusterOptions::new(binary()) };
    let cluster = Cluster::start(options.size(3, 1)).await.expect("a cluster");
    cluster.serve_file("smollm2:135m", model::smollm2()).await.expect("the model is served");
    let encoder = tiny_encoder(&cluster, "bert");
    cluster.serve_file("encoder:tiny", &encoder).await.expect("the encoder is served");
    let packages = cluster.directory().join("python");
    let key = cluster.key().to_owned();
    let urls: Vec<String> = (0..3).map(|node| cluster.url(node)).collect();
    let output = tokio::task::spawn_blocking(move || {
        install(&packages);
        let mut python = Command::new("python3");
        python
            .args(["-c", SCRIPT])
            .args(urls)
            .env("PYTHONPATH", packages)
            .env("OLLAMAMAX_TEST_KEY", key)
            .output()
    })
    .await
    .expect("no panic")
    .expect("python3 runs");
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}\n{errors}\n{}", cluster.logs());
    assert_eq!(printed.lines().filter(|line| line.starts_with("ok ")).count(), 6, "{printed}");
}
