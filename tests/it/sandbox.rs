//! Workers as they are started: confined to their own directory, and serving from there.

use crate::binary;
use ollamamax_tests::{Cluster, ClusterOptions, Member, model, ports, wait_until};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A line of `/proc/PID/status`.
fn status(pid: u32, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.expect("there is such a line").trim().to_owned()
}

struct Worker {
    child: Child,
    log: std::path::PathBuf,
}

impl Worker {
    /// A worker with this directory.
    fn start(cluster: &Cluster, data: &Path, more: &[&str]) -> Self {
        let log = data.with_extension("log");
        let port = ports::free().expect("a port");
        let child = Command::new(binary())
            .args(["worker", "--threads", "1", "--memory", "1000000000", "--exit-with-stdin"])
            .args(["--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
            .arg(data)
            .args(more)
            .env("OLLAMAMAX_JOIN_TOKEN", cluster.worker_token())
            .stdin(Stdio::piped())
            .stderr(std::fs::File::create(&log).expect("made"))
            .spawn()
            .expect("the binary runs");
        Self { child, log }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn says(&self, what: &str) {
        let said = async || match self.said() {
            text if text.contains(what) => Ok(()),
            text => Err(text),
        };
        wait_until(PATIENCE, what, said).await.expect("it says so");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_confined_and_serve_and_only_who_asks_for_it_goes_without() {
    const MODEL: &str = "smollm2:135m";
    let options = ClusterOptions { memory_bytes: 4 << 30, ..ClusterOptions::new(binary()) };
    let cluster = Cluster::start(options.size(1, 1)).await.expect("a cluster");
    let pid = cluster.process(Member::Worker(0)).pid().expect("it runs");
    assert_eq!(status(pid, "Seccomp"), "2", "calls are filtered");
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    let log = std::fs::read_to_string(cluster.process(Member::Worker(0)).log_path());
    let log = log.expect("a log");
    let tells = ["only this worker's own files can be written", "this kernel has no Landlock"];
    let told = tells.iter().map(|words| log.matches(words).count()).sum::<usize>();
    assert_eq!(told, 1, "what holds is said once: {log}");
    cluster.serve_file(MODEL, model::smollm2()).await.expect("it fetches and loads");
    let text = cluster.api(0).chat(MODEL, "Say hello.", 8).await.expect("an answer");
    assert!(!text.is_empty());
    let free = Worker::start(&cluster, &cluster.directory().join("free"), &["--no-sandbox"]);
    free.says("worker started").await;
    assert_eq!(status(free.child.id(), "Seccomp"), "0");
    assert_eq!(free.said().matches("whatever its user may").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_writes_nothing_where_a_link_leads_out_of_its_directory() {
    const MODEL: &str = "smollm2:135m";
    let cluster = Cluster::start(ClusterOptions::new(binary()).size(1, 0)).await.expect("up");
    let (data, outside) = (cluster.directory().join("data"), cluster.directory().join("outside"));
    std::fs::create_dir(&data).expect("made");
    std::fs::create_dir(&outside).expect("made");
    std::os::unix::fs::symlink(&outside, data.join("blobs")).expect("linked");
    let bytes = std::fs::read(model::smollm2()).expect("the model");
    let digest = ollamamax_proto::Digest::of(&bytes);
    let api = cluster.api(0);
    api.create_from_file(MODEL, model::smollm2(), &digest).await.expect("created");
    let confined = Worker::start(&cluster, &data, &[]);
    cluster.wait_for_workers(1, PATIENCE).await.expect("it comes");
    if confined.said().contains("has no Landlock") {
        eprintln!("this kernel has no Landlock");
        return;
    }
    api.deploy(MODEL, 1).await.expect("deployed");
    let place = async |phase: &str, words: &str| {
        let status = cluster.status().await.map_err(|error| error.to_string())?;
        let held = status.placements.iter().find(|place| place.phase == phase);
        let reason = held.map(|place| place.reason.clone().unwrap_or_default());
        match reason {
            Some(reason) if reason.contains(words) => Ok(()),
            _ => Err(format!("{:?}", status.placements)),
        }
    };
    let refused = async || place("failed", "Permission denied").await;
    cluster.wait("a refusal", PATIENCE, refused).await.expect("it may not write there");
    assert_eq!(std::fs::read_dir(&outside).expect("readable").count(), 0, "something is there");
    drop(confined);
    // Without the sandbox the same worker follows the link.
    let _free = Worker::start(&cluster, &data, &["--no-sandbox"]);
    let written = async || match std::fs::read_dir(&outside).expect("readable").count() {
        0 => Err("nothing is there yet".to_owned()),
        _ => Ok(()),
    };
    cluster.wait("a blob outside", PATIENCE, written).await.expect("it is written there");
}
