//! The description of the API against a cluster that runs: `schemathesis` asks everything that is described, with good and bad data,
//! and looks whether each answer is as described. Nothing may be an error of the server but that it is busy.
//!
//! `OLLAMAMAX_SCHEMATHESIS=200 cargo test --test it openapi` asks more of each operation; `OLLAMAMAX_SCHEMATHESIS_SEED` asks else.

use crate::binary;
use crate::embed::tiny_encoder;
use ollamamax_tests::{Cluster, ClusterOptions, model};
use serde_json::json;
use std::path::Path;
use std::process::{Command, Output};

const PACKAGES: &[&str] = &["schemathesis==4.32.5", "openapi-spec-validator==0.9.0"];
const HOOKS: &str = include_str!("../clients/openapi_hooks.py");
const SETTINGS: &str = include_str!("../clients/schemathesis.toml");
/// Requests for each operation and kind of data.
const EXAMPLES: &str = "12";

/// Python with the packages in `directory`.
fn python(directory: &Path) -> Command {
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", directory.join("python")).current_dir(directory);
    python
}

fn install(directory: &Path) {
    let mut pip = python(directory);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]);
    let status =
        pip.arg(directory.join("python")).args(PACKAGES).status().expect("python3 with pip");
    assert!(status.success(), "pip could not install {PACKAGES:?}");
}

/// Asks the cluster at `url` as an administrator.
fn ask(directory: &Path, url: &str, key: &str) -> Output {
    let variable =
        |name: &str, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
    let examples = variable("OLLAMAMAX_SCHEMATHESIS", EXAMPLES);
    let seed = variable("OLLAMAMAX_SCHEMATHESIS_SEED", "20");
    std::fs::write(directory.join("openapi_hooks.py"), HOOKS).expect("written");
    // The key stands in a file, and in no argument.
    let settings = format!(
        "headers = {{ Authorization = \"Bearer {key}\", X-Request-Timeout = \"3\" }}\n{SETTINGS}"
    );
    std::fs::write(directory.join("schemathesis.toml"), settings).expect("written");
    let mut schemathesis = python(directory);
    schemathesis
        .env("SCHEMATHESIS_HOOKS", "openapi_hooks")
        .env("OLLAMAMAX_SPARED_KEY", key.split('_').nth(1).expect("the id of the key"))
        .env(
            "PYTHONPATH",
            format!("{}:{}", directory.join("python").display(), directory.display()),
        )
        .args(["-m", "schemathesis.cli", "--config-file", "schemathesis.toml", "run"])
        .arg(format!("{url}/openapi.json"))
        .args(["--max-examples", &examples, "--seed", &seed, "--workers", "1", "--no-color"])
        .args(["--generation-database", "none", "--no-shrink", "--warnings", "off"])
        .output()
        .expect("python3 runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_described_is_what_a_cluster_does() {
    let anonymous = String::new();
    let options =
        ClusterOptions { anonymous, memory_bytes: 4 << 30, ..ClusterOptions::new(binary()) };
    let cluster = Cluster::start(options.size(1, 1)).await.expect("a cluster");
    cluster.serve_file("small:latest", model::smollm2()).await.expect("the model is served");
    let encoder = tiny_encoder(&cluster, "bert");
    cluster.serve_file("encoder:latest", &encoder).await.expect("the encoder is served");
    let directory = cluster.directory().to_owned();
    let description = cluster.api(0).get("/openapi.json").await.expect("a description");
    std::fs::write(directory.join("openapi.json"), description.to_string()).expect("written");
    let (url, key) = (cluster.url(0), cluster.key().to_owned());
    let asked = tokio::task::spawn_blocking(move || {
        install(&directory);
        let mut validator = python(&directory);
        let valid = validator.args(["-m", "openapi_spec_validator", "openapi.json"]).output();
        let valid = valid.expect("python3 runs");
        assert!(valid.status.success(), "{}", String::from_utf8_lossy(&valid.stdout));
        ask(&directory, &url, &key)
    });
    let output = asked.await.expect("no panic");
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}\n{errors}\n{}", cluster.logs());
    // What was asked has ended nothing: the administrator is there, and the model answers.
    let ask =
        json!({"model": "small", "prompt": "x", "stream": false, "options": {"num_predict": 2}});
    let answer = cluster.api(0).post("/api/generate", &ask).await.expect("an answer");
    assert_eq!(answer["done"], true, "{answer}");
}
