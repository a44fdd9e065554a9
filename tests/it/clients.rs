//! The official clients of Ollama, OpenAI and Anthropic, and what is built on them, against a cluster, as their users have them.
//!
//! ```text
//! pip, npm -> directories of this test     packages as pinned; an index that lacks a version has newer ones
//! official.py          against every node
//! *_suite.py, .mjs     each against a node of its own choice, all at once
//! ```

use crate::binary;
use crate::embed::tiny_encoder;
use ollamamax_tests::{Cluster, ClusterOptions, model};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

const PYTHON: &[&str] = &[
    "ollama==0.6.3",
    "openai==3.54.0",
    "anthropic==2.14.0",
    "langchain-ollama==1.1.0",
    "litellm==1.110.2",
];
const JAVASCRIPT: &[&str] = &["ollama@0.6.4", "openai@6.49.0"];
const SUITES: &[&str] = &[
    "ollama_suite.py",
    "openai_suite.py",
    "anthropic_suite.py",
    "langchain_suite.py",
    "litellm_suite.py",
    "ollama_suite.mjs",
    "openai_suite.mjs",
];
/// SmolLM2 with a template that knows tools and thinking.
const TOOLS_MODEL: &str = "tools:135m";
const TEMPLATE: &str = include_str!("../clients/tools.gotmpl");

/// Runs a program to its end; what it printed, or why not.
fn run(command: &mut Command, need: &str) -> Result<String, String> {
    // Without its environment, which has the key.
    let said = format!("{:?} {:?}", command.get_program(), command.get_args().collect::<Vec<_>>());
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{said}: {error}; this test needs {need}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!("{said}: {}\n{}", text(&output.stdout), text(&output.stderr))),
    }
}

/// The names without their versions.
fn unpinned(packages: &[&'static str], mark: &str) -> Vec<&'static str> {
    packages.iter().filter_map(|package| package.split(mark).next()).collect()
}

fn install_python(into: &Path) -> Result<(), String> {
    let pip = |packages: &[&str]| {
        let mut command = Command::new("python3");
        command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        command.args(["--no-compile", "--target"]).arg(into).args(packages);
        run(&mut command, "python3 with pip (Debian: python3-pip)")
    };
    pip(PYTHON).or_else(|_| pip(&unpinned(PYTHON, "=="))).map(drop)
}

fn install_javascript(into: &Path) -> Result<(), String> {
    const NEED: &str = "Node.js 18 or newer with npm (Debian: nodejs npm)";
    let version = run(Command::new("node").arg("--version"), NEED)?;
    let major = version.trim().trim_start_matches('v').split('.').next();
    if major.and_then(|major| major.parse::<u32>().ok()).is_none_or(|major| major < 18) {
        return Err(format!("node says {version:?}; this test needs {NEED}"));
    }
    let npm = |packages: &[&str]| {
        let mut command = Command::new("npm");
        command.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]);
        run(command.arg(into).args(packages).current_dir(into), NEED)
    };
    npm(JAVASCRIPT).or_else(|_| npm(&unpinned(JAVASCRIPT, "@"))).map(drop)
}

/// A directory with the packages and the suites.
fn install(into: &Path) -> Result<(), String> {
    let suites = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    for entry in std::fs::read_dir(&suites).expect("the suites") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            std::fs::copy(&path, into.join(path.file_name().expect("a name"))).expect("copied");
        }
    }
    thread::scope(|scope| {
        let python = scope.spawn(|| install_python(&into.join("python")));
        install_javascript(into)?;
        python.join().expect("no panic")
    })
}

/// Where one script is sent, and with what.
#[derive(Clone)]
struct Script {
    directory: PathBuf,
    key: String,
    encoder: &'static str,
    /// The file of a model to be uploaded.
    gguf: PathBuf,
}

impl Script {
    fn run(&self, file: &str, urls: &[String]) -> Result<String, String> {
        let interpreter = if file.ends_with(".mjs") { "node" } else { "python3" };
        let mut command = Command::new(interpreter);
        command
            .arg(self.directory.join(file))
            .args(urls)
            .env("PYTHONPATH", self.directory.join("python"))
            .env("OLLAMAMAX_TEST_URL", &urls[0])
            .env("OLLAMAMAX_TEST_KEY", &self.key)
            .env("OLLAMAMAX_TEST_ENCODER", self.encoder)
            .env("OLLAMAMAX_TEST_GGUF", &self.gguf);
        run(&mut command, interpreter)
    }

    /// The first client against every node, then all suites at once, spread over the nodes; the lines they print.
    fn all(&self, urls: &[String]) -> Result<String, String> {
        let mut printed = self.run("official.py", urls)?;
        thread::scope(|scope| {
            let spread = SUITES.iter().zip(urls.iter().cycle());
            let running = spread.map(|(suite, url)| {
                scope.spawn(move || self.run(suite, std::slice::from_ref(url)))
            });
            // All are started before the first is waited for.
            let running: Vec<_> = running.collect();
            for suite in running {
                printed += &suite.join().expect("no panic")?;
            }
            Ok(printed)
        })
    }
}

/// What it is, or the failure as it was said, with the cluster's logs.
fn good<T: Default>(result: Result<T, String>, cluster: &Cluster) -> T {
    let failed = result.as_ref().err().cloned().unwrap_or_default();
    assert!(failed.is_empty(), "{failed}\n{}", cluster.logs());
    result.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_clients_find_the_endpoints_as_they_know_them() {
    let installed = tempfile::tempdir().expect("a directory");
    let directory = installed.path().to_owned();
    let packages = tokio::task::spawn_blocking({
        let directory = directory.clone();
        move || install(&directory)
    });
    let options = ClusterOptions { memory_bytes: 4 << 30, ..ClusterOptions::new(binary()) };
    let cluster = Cluster::start(options.size(3, 1)).await.expect("a cluster");
    cluster.serve_file("smollm2:135m", model::smollm2()).await.expect("the model is served");
    let encoder = tiny_encoder(&cluster, "bert");
    cluster.serve_file("encoder:tiny", &encoder).await.expect("the encoder is served");
    let made = json!({"model": TOOLS_MODEL, "from": "smollm2:135m", "template": TEMPLATE, "stream": false});
    cluster.api(0).post("/api/create", &made).await.expect("a model with tools");
    good(packages.await.expect("no panic"), &cluster);

    let (key, gguf) = (cluster.key().to_owned(), tiny_encoder(&cluster, "nomic-bert"));
    let script = Script { directory, key, encoder: "encoder:tiny", gguf };
    let urls: Vec<String> = (0..3).map(|node| cluster.url(node)).collect();
    let printed = tokio::task::spawn_blocking(move || script.all(&urls)).await.expect("no panic");
    let printed = good(printed, &cluster);
    let good = printed.lines().filter(|line| line.starts_with("ok "));
    assert_eq!(good.count(), 6 + SUITES.len(), "{printed}");
}
