//! What `docs/deploy` promises: units that systemd takes, configurations that are fine, a package whose parts are there, manifests
//! that follow Kubernetes' schemas, and pods that make one cluster and never two.

use crate::binary;
use crate::tutorial::{Walk, make_certificate, network};
use ollamamax_tests::{Process, wait_until};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);
/// The most that `systemd-analyze security` may find open, in tenths: 0 is closed, 100 is open.
const EXPOSURE: &str = "20";
const SCHEMAS: &[&str] = &["kubernetes-validate==1.37.0"];
/// An index that lacks them may have others.
const SCHEMAS_ELSE: &[&str] = &["kubernetes-validate"];

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/deploy")
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

#[test]
fn systemd_takes_the_units_and_finds_them_closed() {
    let directory = tempfile::tempdir().expect("a directory");
    let analyze = |args: &[&str]| {
        let output = Command::new("systemd-analyze").args(args).output();
        output.expect("systemd-analyze runs; without it: `apt-get install systemd`")
    };
    for unit in ["ollamamax-control-plane.service", "ollamamax-worker.service"] {
        let text = fs::read_to_string(deploy().join("systemd").join(unit)).expect("a unit");
        let own = text.replace("/usr/bin/ollamamax", binary().to_str().expect("utf-8"));
        assert_ne!(text, own, "it starts the binary");
        let path = directory.path().join(unit);
        fs::write(&path, own).expect("written");
        let path = path.to_str().expect("utf-8");
        let verified = analyze(&["verify", "--man=no", path]);
        // What it does not know it only says.
        assert!(verified.status.success() && said(&verified).is_empty(), "{}", said(&verified));
        let open = analyze(&["security", "--offline=yes", "--threshold", EXPOSURE, path]);
        assert!(open.status.success(), "{}", said(&open));
    }
    // Without these a worker could not confine itself: no group of calls has them everywhere.
    let worker = fs::read_to_string(deploy().join("systemd/ollamamax-worker.service"));
    let worker = worker.expect("a unit");
    let allowed = worker.lines().find_map(|line| line.strip_prefix("SystemCallFilter=@"));
    for call in
        ["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "seccomp"]
    {
        assert!(allowed.is_some_and(|allowed| allowed.contains(call)), "{call}");
    }
}

#[test]
fn the_example_configurations_are_fine() {
    let directory = tempfile::tempdir().expect("a directory");
    let check = |path: &Path| {
        let mut check = Command::new(binary());
        let output = check.args(["config", "check"]).arg(path).output().expect("the binary runs");
        assert!(output.status.success(), "{}", said(&output));
    };
    check(&deploy().join("debian/ollamamax.toml"));
    let example = deploy().join("ollamamax.toml");
    check(&example);
    // As it is on the first machine.
    let text = fs::read_to_string(example).expect("readable");
    let line = text.lines().find(|line| line.starts_with("join-token-file")).expect("a line");
    let first = directory.path().join("first.toml");
    fs::write(&first, text.replacen(line, "bootstrap = true", 1)).expect("written");
    check(&first);
}

#[test]
fn what_the_debian_package_consists_of_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("readable");
    let manifest: toml::Table = manifest.parse().expect("TOML");
    let package = &manifest["package"]["metadata"]["deb"];
    let build = fs::read_to_string(deploy().join("debian/build.sh")).expect("readable");
    let assets = package["assets"].as_array().expect("a list");
    assert!(assets.len() >= 9);
    for source in assets.iter().map(|asset| asset[0].as_str().expect("a path")) {
        match source.strip_prefix("target/deb/") {
            None => assert!(root.join(source).is_file(), "{source}"),
            Some(made) if made.starts_with("ollamamax.") => {
                let shell = made.trim_start_matches("ollamamax.");
                assert!(build.contains(shell), "{made}");
                let output = Command::new(binary()).args(["completions", shell]).output();
                let output = output.expect("the binary runs");
                assert!(output.status.success() && output.stdout.len() > 1_000, "{shell}");
            }
            Some(made) => assert!(["ollamamax", "man/*.1.gz"].contains(&made), "{made}"),
        }
    }
    let scripts = package["maintainer-scripts"].as_str().expect("a path");
    for script in ["postinst", "prerm", "postrm", "build.sh"] {
        let path = root.join(scripts).join(script);
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{script} can be run");
        let checked = Command::new("bash").arg("-n").arg(&path).output().expect("bash runs");
        assert!(checked.status.success(), "{}", said(&checked));
    }
    let users = fs::read_to_string(deploy().join("debian/sysusers.conf")).expect("readable");
    for unit in ["ollamamax-control-plane.service", "ollamamax-worker.service"] {
        let text = fs::read_to_string(deploy().join("systemd").join(unit)).expect("a unit");
        let user = text.lines().find_map(|line| line.strip_prefix("User=")).expect("a user");
        let made = users.lines().any(|line| line.split_whitespace().nth(1) == Some(user));
        assert!(made, "nobody makes the user {user}");
    }
}

#[test]
fn the_manifests_follow_the_schemas_of_kubernetes() {
    let directory = tempfile::tempdir().expect("a directory");
    let packages = directory.path().join("python");
    let pip = |names: &[&str]| {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]);
        pip.arg(&packages).args(names).status().expect("python3 with pip").success()
    };
    assert!(pip(SCHEMAS) || pip(SCHEMAS_ELSE), "pip could not install {SCHEMAS:?}");
    let validate = |path: &Path| {
        let mut python = Command::new("python3");
        python.args(["-m", "kubernetes_validate", "--strict"]).arg(path);
        python.env("PYTHONPATH", &packages).output().expect("python3 runs")
    };
    let mut manifests = 0;
    for entry in fs::read_dir(deploy().join("kubernetes")).expect("readable") {
        let path = entry.expect("readable").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let output = validate(&path);
            assert!(output.status.success(), "{}", said(&output));
            manifests += 1;
        }
    }
    assert!(manifests >= 5, "{manifests} manifests");
    // A mistake would show.
    let text = fs::read_to_string(deploy().join("kubernetes/worker.yaml")).expect("readable");
    let wrong = directory.path().join("wrong.yaml");
    fs::write(&wrong, text.replace("volumeMounts:", "volumeMonts:")).expect("written");
    assert!(!validate(&wrong).status.success());
}

/// A script of `start.yaml`.
fn script(name: &str) -> String {
    let text = fs::read_to_string(deploy().join("kubernetes/start.yaml")).expect("readable");
    let (_, rest) = text.split_once(&format!("  {name}: |\n")).expect("it is there");
    let lines = rest.lines().map_while(|line| match line.strip_prefix("    ") {
        None if line.is_empty() => Some(""),
        line => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Pods on one machine: each has a root and a loopback address of its own, which stands in for its name.
struct Pods {
    walk: Walk,
    network: String,
}

impl Pods {
    fn new() -> Self {
        let network = network(1);
        let pods = Self { walk: Walk::new("10.0.0.", &network), network };
        make_certificate(&pods.walk);
        // What the script calls is the binary; only the addresses of pods are made those of this machine.
        let bin = pods.walk.machine("bin");
        fs::create_dir(&bin).expect("made");
        let real = binary().display();
        let call = format!(
            "#!/bin/sh\nset -f\nexec {real} $(printf '%s\\n' \"$@\" | sed -e \"s/^0\\.0\\.0\\.0:/$ADDRESS:/\" \
             -e \"s/^[a-z0-9.-]*cluster\\.local:/$ADDRESS:/\")\n"
        );
        fs::write(bin.join("ollamamax"), call).expect("written");
        fs::set_permissions(bin.join("ollamamax"), PermissionsExt::from_mode(0o755)).expect("set");
        pods
    }

    fn root(&self, node: usize) -> PathBuf {
        self.walk.machine(&format!("pod-{node}"))
    }

    fn put(&self, node: usize, path: &str, text: &[u8]) {
        let path = self.root(node).join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        // As Kubernetes does it: a new file in place of the old one.
        let fresh = path.with_extension("new");
        fs::write(&fresh, text).expect("written");
        fs::set_permissions(&fresh, PermissionsExt::from_mode(0o440)).expect("set");
        fs::rename(fresh, path).expect("put");
    }

    fn start(&self, node: usize) -> Process {
        let read = |file: &str| fs::read(self.walk.machine("1").join(file)).expect("made");
        self.put(node, "run/ollamamax/sealing/key", "A".repeat(43).as_bytes());
        self.put(node, "run/ollamamax/tls/tls.crt", &read("gw.pem"));
        self.put(node, "run/ollamamax/tls/tls.key", &read("gw.key"));
        fs::create_dir_all(self.root(node).join("var/lib/ollamamax")).expect("made");
        let mut env = self.walk.env();
        let path = std::env::join_paths(
            [self.walk.machine("bin")]
                .into_iter()
                .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
        );
        env.retain(|(name, _)| name != "PATH");
        env.push(("PATH".into(), path.expect("a path")));
        env.push(("OLLAMAMAX_ROOT".into(), self.root(node).into_os_string()));
        env.push(("POD_NAME".into(), format!("ollamamax-node-{node}").into()));
        env.push(("POD_NAMESPACE".into(), "models".into()));
        env.push(("ADDRESS".into(), format!("{}{}", self.network, node + 1).into()));
        let args: Vec<OsString> = vec!["-c".into(), script("start-node.sh").into()];
        let log = self.root(node).join("log");
        let _ = fs::remove_file(&log);
        Process::start("pod", Path::new("sh"), args, env, &log).expect("started")
    }

    fn cli(&self, command: &str) -> Result<String, String> {
        let addresses: Vec<String> =
            (1..=3).map(|node| format!("https://{}{node}:11434", self.network)).collect();
        let host = format!("export OLLAMA_HOST={} OLLAMAMAX_CA_FILE=ca.pem", addresses.join(","));
        self.walk.run("1", &[host], command)
    }
}

impl Pods {
    /// Puts a token that lies at machine 1 into the Secret of all pods.
    fn give(&self, file: &str) {
        let token = fs::read(self.walk.machine("1").join(file)).expect("written");
        for node in 0..3 {
            self.put(node, "run/ollamamax/token/token", &token);
        }
    }

    async fn nodes_up(&self, count: &str) {
        let up = wait_until(PATIENCE, "nodes", async || {
            let status = self.cli("ollamamax cluster status")?;
            if status.contains(&format!("{count} nodes up")) { Ok(()) } else { Err(status) }
        });
        up.await.expect("so many nodes");
    }
}

async fn says(pod: &mut Process, what: &str) {
    let waited = wait_until(PATIENCE, what, async || {
        let log = fs::read_to_string(pod.log_path()).unwrap_or_default();
        log.contains(what).then_some(()).ok_or_else(|| pod.tail())
    });
    waited.await.expect("it says so");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_make_one_cluster_and_a_lost_volume_makes_no_second() {
    let pods = Pods::new();
    fs::write(pods.walk.machine("ollamamax.toml"), "").expect("written");
    let mut first = pods.start(0);
    let mut others = [pods.start(1), pods.start(2)];
    says(&mut first, "user `admin` has an API key").await;
    for pod in &mut others {
        says(pod, "waiting for the Secret").await;
        assert!(pod.is_running(), "{}", pod.tail());
    }
    let key = pods.root(0).join("var/lib/ollamamax/node/admin.key");
    pods.cli(&format!("ollamamax login --key < '{}'", key.display())).expect("logged in");
    pods.cli("ollamamax join-token create node --uses 2 -o token").expect("a token");
    pods.give("token");
    for pod in &mut others {
        says(pod, "node started").await;
    }
    pods.nodes_up("3 of 3").await;

    // With its volume it goes on; without, it begins no cluster of its own, and its token, which knows of nobody else, is no help.
    first.stop(PATIENCE).await.expect("it stops");
    let mut again = pods.start(0);
    says(&mut again, "node started").await;
    again.kill9();
    fs::remove_dir_all(pods.root(0).join("var/lib/ollamamax/node")).expect("removed");
    let mut lost = pods.start(0);
    let code = lost.wait(PATIENCE).await.expect("it ends");
    assert!(code.is_some_and(|code| code != 0), "{}", lost.tail());
    assert!(!key.exists() && lost.tail().contains("join token"), "{}", lost.tail());

    // What is to be done then.
    pods.cli("ollamamax cluster remove 1").expect("removed");
    pods.cli("ollamamax join-token create node -o another").expect("a token");
    pods.give("another");
    let _new = pods.start(0);
    pods.nodes_up("3 of 3").await;
}
