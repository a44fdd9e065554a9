//! Who is let into a cluster of real processes, and that nothing of what lets them in is ever seen where it should not be.

use crate::{binary, run_cli};
use ollamamax_tests::{Cluster, ClusterOptions, Member};
use ollamamax_tls::JoinToken;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

pub fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("readable") {
        let path = entry.expect("readable").path();
        match path.is_dir() {
            true => files(&path, found),
            false => found.push(path),
        }
    }
}

/// Where secrets are meant to be.
fn is_private(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    matches!(name, "admin.key" | "sealing.key" | "identity.pem")
}

/// The bytes of a text in base64url or base64, without anything around them.
fn decoded(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'-' | b'+' => Some(62),
        b'_' | b'/' => Some(63),
        _ => None,
    };
    let (mut bits, mut count, mut bytes) = (0u32, 0, Vec::new());
    for value in text.bytes().filter_map(digit) {
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    bytes
}

pub fn contains(hay: &[u8], needle: &[u8]) -> bool {
    hay.windows(needle.len()).any(|window| window[0] == needle[0] && window == needle)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_a_log_a_database_or_an_argument() {
    let mut options = ClusterOptions::new(binary()).size(2, 1);
    options.env = vec![("OLLAMAMAX_LOG".into(), "debug".into())];
    options.anonymous = String::new();
    let cluster = Cluster::start(options).await.expect("a cluster");
    for n in 0..20 {
        let put = cluster.api(n % 2).put_checkpoint(&format!("k/{n}"), b"v", None).await;
        put.expect("a write");
    }
    let dir = |member| cluster.data_dir(member);
    let sealing = std::fs::read_to_string(dir(Member::Node(0)).join("sealing.key")).expect("there");
    let sealing = sealing.trim().to_owned();
    let key = cluster.key().rsplit_once('_').expect("an API key").1.to_owned();
    let token = cluster.worker_token().to_owned();
    let credential = JoinToken::parse(&token).expect("a token").credential.reveal().to_vec();
    let mut secrets: Vec<(String, Vec<u8>)> = vec![
        ("the API key".to_owned(), key.clone().into_bytes()),
        ("the sealing key".to_owned(), sealing.clone().into_bytes()),
        ("the sealing key's bytes".to_owned(), decoded(&sealing)),
        ("the join token".to_owned(), token.into_bytes()),
        // The id before it is no secret.
        ("the join token's secret".to_owned(), credential[8..].to_vec()),
        ("a private key".to_owned(), b"PRIVATE KEY".to_vec()),
    ];
    assert_eq!(secrets[2].1.len(), 32);
    for member in [Member::Node(0), Member::Node(1), Member::Worker(0)] {
        let pem = std::fs::read_to_string(dir(member).join("identity/identity.pem"));
        let pem = pem.expect("there");
        let body = pem.split("-----").nth(2).expect("a private key");
        let der = decoded(body);
        // What PKCS #8 begins with is the same for all.
        secrets.push((format!("the private key of {member:?}"), der[36..68].to_vec()));
    }
    let mut all = Vec::new();
    files(cluster.directory(), &mut all);
    let mut looked = 0;
    for path in all.iter().filter(|path| !is_private(path)) {
        let bytes = std::fs::read(path).unwrap_or_default();
        looked += bytes.len();
        for (what, secret) in &secrets {
            assert!(!contains(&bytes, secret), "{what} is in {}", path.display());
        }
    }
    assert!(all.iter().any(|path| path.ends_with("worker-1.log")), "{all:?}");
    assert!(looked > 10_000, "{looked} bytes");
    for member in [Member::Node(0), Member::Node(1), Member::Worker(0)] {
        let pid = cluster.process(member).pid().expect("it runs");
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).expect("readable");
        for (what, secret) in &secrets {
            assert!(!contains(&arguments, secret), "{what} is an argument of {member:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_credential_nothing_is_answered_and_a_restart_needs_no_token() {
    let mut options = ClusterOptions::new(binary()).size(3, 1);
    options.anonymous = String::new();
    let mut cluster = Cluster::start(options).await.expect("a cluster");
    let nobody = ollamamax_tests::Api::new(&cluster.url(0)).expect("a client");
    let refused = nobody.get("/admin/v1/cluster").await.expect_err("nobody asks");
    assert!(refused.to_string().contains("401"), "{refused}");
    cluster.api(1).put_checkpoint("kept", b"1", Some(0)).await.expect("a write");
    for node in 0..3 {
        cluster.kill9(Member::Node(node));
    }
    for node in 0..3 {
        // Whatever let it in is used up; the file alone counts.
        cluster.restart(Member::Node(node)).expect("started");
    }
    cluster.wait_for_quorum(3, PATIENCE).await.expect("it comes back");
    cluster.wait_for_workers(1, PATIENCE).await.expect("the worker finds it");
    let kept = cluster.api(2).get_checkpoint("kept").await.expect("a read");
    assert_eq!(kept.expect("it is there").value, b"1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_worker_ends_with_77_and_another_token_lets_it_in_again() {
    let mut cluster = Cluster::start(ClusterOptions::new(binary()).size(1, 1)).await.expect("up");
    let id = cluster.status().await.expect("a status").workers[0].id.clone();
    cluster.api(0).delete(&format!("/admin/v1/workers/{id}"), None).await.expect("removed");
    let worker = cluster.process_mut(Member::Worker(0));
    let code = worker.wait(PATIENCE).await.expect("it ends");
    assert_eq!(code, Some(77), "{}", worker.tail());
    assert!(worker.tail().contains("join-token create"), "{}", worker.tail());
    // The harness gives it a token that is good for many.
    cluster.restart(Member::Worker(0)).expect("started");
    cluster.wait_for_workers(1, PATIENCE).await.expect("it is let in again");
    assert_eq!(cluster.status().await.expect("a status").workers[0].id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_sealing_key_was_changed_ends_with_78_and_says_why() {
    let mut cluster = Cluster::start(ClusterOptions::new(binary()).size(1, 0)).await.expect("up");
    cluster.stop(Member::Node(0), PATIENCE).await.expect("it stops");
    let path = cluster.data_dir(Member::Node(0)).join("sealing.key");
    let other = "A".repeat(43);
    std::fs::write(&path, &other).expect("written");
    cluster.restart(Member::Node(0)).expect("started");
    let node = cluster.process_mut(Member::Node(0));
    assert_eq!(node.wait(PATIENCE).await.expect("it ends"), Some(78), "{}", node.tail());
    assert!(node.tail().contains("does not open the certificate authority"), "{}", node.tail());
    assert!(!node.tail().contains(&other));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_from_the_command_line_lets_in_a_worker_once() {
    let cluster = Cluster::start(ClusterOptions::new(binary()).size(1, 0)).await.expect("up");
    let home = cluster.directory().join("by-hand");
    std::fs::create_dir(&home).expect("made");
    let file = home.join("token");
    let output = file.to_str().expect("utf-8");
    let create = ["join-token", "create", "worker", "--label", "rack=a1", "-o", output];
    assert_eq!(run_cli(&cluster, &create).expect("created"), "");
    let token = std::fs::read_to_string(&file).expect("written").trim().to_owned();
    let listed = run_cli(&cluster, &["join-token", "list"]).expect("listed");
    assert!(listed.contains("rack=a1") && !listed.contains(&token), "{listed}");
    let start = |name: &str| {
        let mut worker = Command::new(binary());
        worker.args(["worker", "--listen", "127.0.0.1:0", "--name", name, "--threads", "1"]);
        worker.args(["--memory", "1000000000", "--exit-with-stdin", "--data-dir"]);
        worker.arg(home.join(name)).arg("--join-token-file").arg(&file);
        worker.stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        worker.spawn().expect("the binary runs")
    };
    // Everybody may read it as yet.
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("opened");
    let refused = start("early").wait_with_output().expect("it ends");
    assert_eq!(refused.status.code(), Some(78));
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("closed");
    let mut first = start("first");
    cluster.wait_for_workers(1, PATIENCE).await.expect("it is let in");
    let second = start("second").wait_with_output().expect("it ends");
    assert_eq!(second.status.code(), Some(77));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("join token") && !said.contains(&token), "{said}");
    let workers = run_cli(&cluster, &["workers", "list"]).expect("listed");
    assert!(workers.contains("rack=a1"), "{workers}");
    drop(first.stdin.take());
    first.wait().expect("it ends");
}
