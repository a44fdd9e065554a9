//! What others of the same user see of running processes: nothing that is worth looking for.

use crate::binary;
use ollamamax_tests::{Api, ports, wait_until};
use serde_json::Value;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const START: Duration = Duration::from_secs(120);
/// Who runs it when root runs this: root may look at everything.
const NOBODY: u32 = 65_534;

fn owner() -> u32 {
    let own = std::fs::metadata("/proc/self").expect("readable").uid();
    if own == 0 { NOBODY } else { own }
}

fn as_owner(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    if owner() == NOBODY {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// `up` with a node and a worker. Ends with its `Drop`.
struct Up {
    child: Child,
    pids: [u32; 3],
}

impl Drop for Up {
    fn drop(&mut self) {
        // Its children end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Up {
    async fn start(directory: &Path, more: &[&str]) -> Self {
        let port = ports::free().expect("a port");
        let log = directory.join("log");
        let child = as_owner(binary())
            .args(["up", "--nodes", "1", "--workers", "1", "--model", "none"])
            .args(["--threads", "1", "--memory", "1000000000", "--data-dir"])
            .arg(directory.join("data"))
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .args(more)
            .env("HOME", directory)
            .env("OLLAMAMAX_JOIN_TOKEN", "a secret")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).expect("made"))
            .spawn()
            .expect("the binary runs");
        let mut up = Self { pids: [child.id(), 0, 0], child };
        let api = Api::new(&format!("http://127.0.0.1:{port}")).expect("a client");
        let ready = wait_until(START, "node and worker", async || {
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            let status = api.get("/admin/v1/cluster").await;
            let status = status.map_err(|error| format!("{error}: {}", said()))?;
            let pid = |of: &Value| of["pid"].as_u64().filter(|pid| *pid > 0).map(|pid| pid as u32);
            let worker = &status["workers"][0];
            pid(&status["nodes"][0]).zip(pid(worker)).ok_or_else(|| status.to_string())
        });
        let (node, worker) = ready.await.expect("ready");
        up.pids = [up.child.id(), node, worker];
        up
    }
}

fn directory() -> (tempfile::TempDir, PathBuf) {
    let made = tempfile::tempdir().expect("a directory");
    let path = made.path().to_owned();
    chown(&path, Some(owner()), None).expect("given");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("set");
    (made, path)
}

/// What another process of the same user reads there; `None` when it may not.
fn looks(pid: u32, file: &str) -> Option<Vec<u8>> {
    let output = as_owner("/bin/cat").arg(format!("/proc/{pid}/{file}")).output().expect("it runs");
    output.status.success().then_some(output.stdout)
}

/// The limit of core files: soft and hard.
fn core_limit(pid: &str) -> Vec<String> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let line = limits.lines().find(|line| line.starts_with("Max core file size"));
    let line = line.expect("there is one").trim_start_matches("Max core file size");
    line.split_whitespace().take(2).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_root_looks_into_a_running_process_and_no_crash_writes_it_down() {
    let (_made, path) = directory();
    let up = Up::start(&path, &[]).await;
    for pid in up.pids {
        assert_eq!(looks(pid, "environ"), None, "process {pid} shows its environment");
        assert!(looks(pid, "auxv").is_none(), "process {pid} can be traced");
        let owned = std::fs::metadata(format!("/proc/{pid}/environ")).expect("it runs").uid();
        assert_eq!(owned, 0, "its files belong to root");
        assert_eq!(core_limit(&pid.to_string()), ["0", "0"], "of process {pid}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_dumps_gets_them() {
    let (_made, path) = directory();
    let up = Up::start(&path, &["--allow-dumps"]).await;
    for pid in up.pids {
        let environ = looks(pid, "environ").expect("everything of the same user is shown");
        assert!(environ.windows(5).any(|piece| piece == b"HOME="), "of process {pid}");
        assert_eq!(core_limit(&pid.to_string())[1], core_limit("self")[1]);
    }
}
