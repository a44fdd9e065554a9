//! `up`: from nothing to an answer, through deaths and a restart.

use crate::binary;
use ollamamax_tests::{Api, Process, model, ports, wait_until};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const START: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(60);

struct Up {
    process: Process,
    port: u16,
    data: PathBuf,
}

impl Up {
    async fn start(directory: &Path, port: u16, more: &[&str]) -> Self {
        let data = directory.join("data");
        let mut args: Vec<OsString> = vec!["up".into(), "--json".into()];
        args.extend(["--data-dir".into(), data.clone().into()]);
        args.extend(["--listen".into(), format!("127.0.0.1:{port}").into()]);
        args.extend(more.iter().map(OsString::from));
        let log = directory.join("up.log");
        let _ = std::fs::remove_file(&log);
        let process = Process::start("up", binary(), args, home(directory), &log);
        let mut up = Self { process: process.expect("started"), port, data };
        up.wait_ready().await;
        up
    }

    /// Waits for the line that says where everything is.
    async fn wait_ready(&mut self) -> Value {
        let ready = wait_until(START, "ready", async || {
            self.process.check().map_err(|error| error.to_string())?;
            let log = std::fs::read_to_string(self.process.log_path()).unwrap_or_default();
            let line = log.lines().find(|line| line.starts_with("{\"ready\":true"));
            let line = line.ok_or_else(|| self.process.tail())?;
            serde_json::from_str::<Value>(line).map_err(|error| error.to_string())
        });
        ready.await.expect("ready")
    }

    fn api(&self, node: u16) -> Api {
        let api = Api::new(&format!("http://127.0.0.1:{}", self.port + node)).expect("a client");
        let key = std::fs::read_to_string(self.data.join("node-1/admin.key")).expect("a key");
        api.with_key(key.trim())
    }

    async fn stop(mut self) {
        let code = self.process.stop(STOP).await.expect("it stops");
        assert_eq!(code, Some(0), "{}", self.process.tail());
    }
}

fn home(directory: &Path) -> Vec<(OsString, OsString)> {
    let below = |name: &str| directory.join(name).into_os_string();
    vec![("XDG_CACHE_HOME".into(), below("cache")), ("XDG_DATA_HOME".into(), below("share"))]
}

/// Runs a command against a node; its stdout.
fn command(directory: &Path, port: u16, args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(binary())
        .args(args)
        .envs(home(directory))
        .env("OLLAMA_HOST", format!("127.0.0.1:{port}"))
        .stdin(std::process::Stdio::null())
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    eprintln!("{args:?}: {said}");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_listens_where_ollama_would_with_ollamas_settings() {
    let directory = tempfile::tempdir().expect("a directory");
    let (dir, port) = (directory.path(), ports::free().expect("a port"));
    let data = dir.join("data");
    // What is said of daemons is not said of the processes that `up` starts: with this they would not start.
    let file = dir.join("ollamamax.toml");
    std::fs::write(&file, "[up]\nthreads = 1\n\n[control-plane]\nkeep-alive = \"soon\"\n")
        .expect("written");
    let mut args: Vec<OsString> = ["serve", "--json"].map(OsString::from).into();
    args.extend(["--data-dir".into(), data.clone().into()]);
    let mut env = home(dir);
    env.extend([
        ("OLLAMA_HOST".into(), format!("127.0.0.1:{port}").into()),
        ("OLLAMA_CONTEXT_LENGTH".into(), "1024".into()),
        ("OLLAMA_MODELS".into(), "/somewhere".into()),
        ("OLLAMAMAX_CONFIG".into(), file.into()),
    ]);
    let process = Process::start("serve", binary(), args, env, &dir.join("up.log"));
    let mut up = Up { process: process.expect("started"), port, data };
    let ready = up.wait_ready().await;
    assert_eq!(ready["endpoints"].as_array().map(Vec::len), Some(1), "{ready}");
    let log = std::fs::read_to_string(up.process.log_path()).expect("a log");
    assert_eq!(log.matches("OLLAMA_MODELS has no effect here").count(), 1, "{log}");
    let root = up.api(0).request(reqwest::Method::GET, "/").send().await.expect("an answer");
    assert_eq!(root.text().await.expect("text"), "Ollama is running");

    let file = model::smollm2().to_str().expect("utf-8");
    assert_eq!(command(dir, port, &["pull", file, "--as", "tiny"]).0, Some(0));
    let body =
        json!({"model": "tiny", "prompt": "a", "stream": false, "options": {"num_predict": 1}});
    let workers = up.api(0).get("/admin/v1/workers").await.expect("workers");
    assert_eq!(workers["workers"][0]["threads"], 1, "{workers}");
    up.api(0).post("/api/generate", &body).await.expect("an answer");
    let loaded = up.api(0).get("/api/ps").await.expect("loaded");
    assert_eq!(loaded["models"][0]["context_length"], 1024, "{loaded}");
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_one_node_cluster_answers_and_every_command_works_on_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let (dir, port) = (directory.path(), ports::free().expect("a port"));
    let file = model::smollm2().to_str().expect("utf-8");
    let up = Up::start(dir, port, &["--nodes", "1", "--threads", "1", "--model", file]).await;
    let status = up.api(0).status().await.expect("a status");
    assert_eq!((status.leader, status.nodes.len(), status.workers.len()), (Some(1), 1, 1));
    assert_eq!(
        (status.nodes[0].role.as_str(), status.workers[0].status.as_str()),
        ("leader", "ready")
    );

    let (code, tags) = command(dir, port, &["list", "--json"]);
    assert_eq!(code, Some(0));
    let tags: Value = serde_json::from_str(&tags).expect("JSON");
    let name = tags["models"][0]["name"].as_str().expect("a model").to_owned();
    let body = json!({"model": name, "prompt": "The capital of France is", "raw": true, "stream": false,
                      "options": {"temperature": 0, "num_predict": 4}});
    let answer = up.api(0).post("/api/generate", &body).await.expect("an answer");
    assert!(answer["response"].as_str().is_some_and(|text| text.starts_with(" Paris")), "{answer}");
    let ask = async || up.api(0).chat(&name, "Tell me a story.", 8).await.expect("a chat");
    let story = ask().await;
    assert!(!story.is_empty());
    assert_eq!(ask().await, story, "without chance, the same question has the same answer");

    let modelfile = dir.join("Modelfile");
    let from = format!(
        "FROM {name}\nPARAMETER temperature 0\nPARAMETER num_predict 12\nSYSTEM Be brief.\n"
    );
    std::fs::write(&modelfile, from).expect("written");
    let modelfile = modelfile.to_str().expect("utf-8");
    assert_eq!(command(dir, port, &["create", "brief", "-f", modelfile]).0, Some(0));
    let (code, shown) = command(dir, port, &["show", "brief"]);
    assert_eq!(code, Some(0));
    assert!(shown.contains("llama") && shown.contains("Be brief."), "{shown}");
    let (code, said) = command(dir, port, &["run", "brief", "Tell me a story."]);
    assert_eq!(code, Some(0));
    assert!(said.trim().len() > 3 && said.ends_with('\n'), "{said:?}");
    assert!(command(dir, port, &["ps"]).1.contains("100% CPU"));
    assert_eq!(command(dir, port, &["cp", "brief", "short"]).1, "copied 'brief' to 'short'\n");
    assert_eq!(command(dir, port, &["stop", "brief"]).0, Some(0));
    assert_eq!(
        command(dir, port, &["rm", "brief", "short"]).1,
        "deleted 'brief'\ndeleted 'short'\n"
    );
    assert_eq!(command(dir, port, &["rm", "brief"]).0, Some(5));
    assert_eq!(command(dir, port, &["run", "brief", "hi"]).0, Some(5));
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_a_model_survives_deaths_and_goes_on_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let (dir, port) = (directory.path(), ports::run_of(3).expect("three ports"));
    let up = Up::start(dir, port, &["--model", "none"]).await;
    let revision = up.api(0).put_checkpoint("mark", b"kept", Some(0)).await.expect("a write");
    let before = up.api(1).status().await.expect("a status");
    assert_eq!((before.nodes.len(), before.workers.len()), (3, 1));

    // A killed process is started again under its own name.
    let pid = before.nodes[2].pid;
    let killed = Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill runs");
    assert!(killed.success());
    wait_until(START, "the node comes back", async || {
        let status = up.api(2).status().await.map_err(|error| error.to_string())?;
        let own = status.nodes.iter().find(|node| node.id == status.node);
        let own = own.ok_or("the node does not know itself")?;
        if own.pid != pid && own.pid != 0 { Ok(()) } else { Err(format!("{own:?}")) }
    })
    .await
    .expect("it is supervised");

    // A second one in the same place is refused.
    let (code, _) =
        command(dir, port, &["up", "--data-dir", dir.join("data").to_str().expect("utf-8")]);
    assert_eq!(code, Some(1));
    up.stop().await;
    assert_eq!(command(dir, port, &["cluster", "status"]).0, Some(3));

    let up = Up::start(dir, port, &["--model", "none"]).await;
    let kept = up.api(2).get_checkpoint("mark").await.expect("a read").expect("it is there");
    assert_eq!((kept.value.as_slice(), kept.revision), (&b"kept"[..], revision));
    let fewer = dir.join("data");
    let fewer = fewer.to_str().expect("utf-8");
    up.stop().await;
    assert_eq!(command(dir, port, &["up", "--nodes", "1", "--data-dir", fewer]).0, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named_and_nothing_is_started() {
    let directory = tempfile::tempdir().expect("a directory");
    let (dir, port) = (directory.path(), ports::run_of(3).expect("three ports"));
    let _taken = std::net::TcpListener::bind(("127.0.0.1", port + 1)).expect("free until now");
    let data = dir.join("data");
    let listen = format!("127.0.0.1:{port}");
    let output = Command::new(binary())
        .args(["up", "--listen", &listen, "--data-dir"])
        .arg(&data)
        .envs(home(dir))
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("127.0.0.1:{}", port + 1)), "{said}");
    assert!(!data.join("node-1").exists());
}

/// HTTPS by one word: the command line believes the cluster by itself, others by its file, and nobody else does.
#[tokio::test(flavor = "multi_thread")]
async fn up_with_tls_serves_https_that_the_command_line_believes_by_itself() {
    let directory = tempfile::tempdir().expect("a directory");
    let (dir, port) = (directory.path(), ports::free().expect("a port"));
    let bare = ["--nodes", "1", "--workers", "0", "--model", "none"];
    let mut up = Up::start(dir, port, &[&bare[..], &["--tls"]].concat()).await;
    let ready = up.wait_ready().await;
    let url = format!("https://127.0.0.1:{port}");
    assert_eq!(ready["endpoints"][0], url);
    let ca_file = ready["ca_file"].as_str().expect("a file").to_owned();

    // On a busy machine a second for connecting may be too short: what works is asked for until it does.
    let works = async |home: &Path, args: &[&str]| {
        let (home, args) = (home.to_owned(), args.iter().map(ToString::to_string));
        let args: Vec<String> = args.collect();
        let done = wait_until(START, "the command works", async || {
            let run = Command::new(binary())
                .args(&args)
                .envs(self::home(&home))
                .env("OLLAMA_HOST", format!("127.0.0.1:{port}"))
                .output();
            let run = run.expect("it runs");
            let said = String::from_utf8_lossy(&run.stderr).into_owned();
            run.status.success().then_some(run.stdout).ok_or(said)
        });
        String::from_utf8_lossy(&done.await.expect("it works")).into_owned()
    };
    let list = works(dir, &["list", "--json"]).await;
    assert!(list.contains("\"models\""), "without a word of HTTPS: {list}");
    works(dir, &["--host", &url, "list"]).await;
    works(dir, &["--host", &format!("https://localhost:{port}"), "list"]).await;

    // Somebody else on this machine: knows of nothing, and is told what to do.
    let other = tempfile::tempdir().expect("a directory");
    let run = |args: &[&str]| {
        let run = Command::new(binary()).args(args).envs(home(other.path())).output();
        let run = run.expect("it runs");
        (run.status.code(), String::from_utf8_lossy(&run.stderr).into_owned())
    };
    let (code, said) = run(&["--host", &url, "list"]);
    assert!(code == Some(3) && said.contains("--ca-file"), "{code:?}: {said}");
    works(other.path(), &["--host", &url, "list", "--ca-file", &ca_file]).await;
    let (code, said) = run(&["--host", &url, "--ca-file", "/no/such/file", "list"]);
    assert!(code.is_some_and(|code| code != 0) && said.contains("/no/such/file"), "{said}");

    let pem = std::fs::read(&ca_file).expect("readable");
    let authority = reqwest::Certificate::from_pem(&pem).expect("a certificate");
    let client = reqwest::Client::builder().tls_certs_merge([authority]).build().expect("a client");
    let answer = client.get(format!("{url}/api/version")).send().await.expect("believed");
    assert_eq!(answer.status(), 200);
    let stranger = reqwest::Client::new().get(format!("{url}/api/version")).send().await;
    assert!(stranger.expect_err("nobody vouches for it").is_connect());
    let plain = reqwest::Client::new().get(format!("http://127.0.0.1:{port}/api/version"));
    let plain = plain.send().await.expect("an answer that says what is wrong");
    assert_eq!(plain.status(), 400, "no plain HTTP on that port");
    assert!(plain.text().await.expect("text").contains("HTTPS"));
    let key = up.data.join("tls/server.key");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&key).expect("there").permissions(),
    );
    assert_eq!(mode & 0o077, 0, "the key is its owner's alone");
    up.stop().await;

    // It stays so, with the same authority, until it is said otherwise.
    let mut again = Up::start(dir, port, &bare).await;
    assert_eq!(again.wait_ready().await["endpoints"][0], url);
    assert_eq!(std::fs::read(&ca_file).expect("readable"), pem);
    again.stop().await;
    let mut plain = Up::start(dir, port, &[&bare[..], &["--tls=false"]].concat()).await;
    assert_eq!(plain.wait_ready().await["endpoints"][0], format!("http://127.0.0.1:{port}"));
    works(dir, &["list"]).await;
    plain.stop().await;
}
