//! HTTPS on the gateway's port: what is served, what is refused at the start, and certificates that change.

use crate::edge::{Door, rest};
use crate::support::PATIENCE;
use ollamamax_control_plane::{ConnectionLimits, ControlPlaneNode, NodeConfig, TlsFiles};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

fn certificate() -> CertifiedKey<KeyPair> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    generate_simple_self_signed(names).expect("a certificate")
}

fn write(dir: &Path, made: &CertifiedKey<KeyPair>) -> TlsFiles {
    let files = TlsFiles { cert: dir.join("cert.pem"), key: dir.join("key.pem") };
    fs::write(&files.cert, made.cert.pem()).expect("written");
    fs::write(&files.key, made.signing_key.serialize_pem()).expect("written");
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o640)).expect("set");
    files
}

/// A client that trusts this certificate only, and keeps no connection.
fn client(trusted: &CertifiedKey<KeyPair>) -> reqwest::ClientBuilder {
    let trusted = reqwest::Certificate::from_pem(trusted.cert.pem().as_bytes()).expect("valid");
    reqwest::Client::builder().tls_certs_only([trusted]).pool_max_idle_per_host(0)
}

async fn with_tls(made: &CertifiedKey<KeyPair>, limits: ConnectionLimits) -> (Door, TlsFiles) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let files = write(dir.path(), made);
    let tls = files.clone();
    let door = Door::open(|config| (config.tls, config.connections) = (Some(tls), limits)).await;
    // The files go with the node's directory, and stay where they are.
    std::mem::forget(dir);
    (door, files)
}

#[tokio::test]
async fn https_is_served_over_both_versions_of_http() {
    let made = certificate();
    let (door, _files) = with_tls(&made, ConnectionLimits::default()).await;
    let url = format!("https://{}/health/live", door.address());
    let one = client(&made).http1_only().build().expect("a client");
    for (client, version) in [
        (client(&made).build().expect("a client"), reqwest::Version::HTTP_2),
        (one, reqwest::Version::HTTP_11),
    ] {
        let answer = client.get(&url).send().await.expect("an answer");
        assert_eq!((answer.status().as_u16(), answer.version()), (200, version));
    }
    let stranger = client(&certificate()).build().expect("a client");
    assert!(stranger.get(&url).send().await.is_err(), "it is this certificate and no other");
    door.node.stop().await;
}

#[tokio::test]
async fn plain_http_on_a_port_with_tls_is_told_so() {
    let header_timeout = Duration::from_millis(500);
    let limits = ConnectionLimits { header_timeout, ..ConnectionLimits::default() };
    let (door, _files) = with_tls(&certificate(), limits).await;
    let mut socket = TcpStream::connect(door.address()).await.expect("connected");
    socket.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("written");
    let answer = rest(&mut socket).await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(
        answer.ends_with("\r\n\r\nthis port speaks HTTPS: ask again with https://\r\n"),
        "{answer}"
    );
    for silence in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let mut socket = TcpStream::connect(door.address()).await.expect("connected");
        socket.write_all(silence).await.expect("written");
        let mut answer = Vec::new();
        let read = timeout(PATIENCE, socket.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "a handshake that does not go on is cut");
    }
}

#[tokio::test]
async fn a_new_certificate_is_served_and_a_bad_one_is_not() {
    let (old, new) = (certificate(), certificate());
    let tls_reload = Duration::from_millis(50);
    let limits = ConnectionLimits { tls_reload, ..ConnectionLimits::default() };
    let (door, files) = with_tls(&old, limits).await;
    let url = format!("https://{}/health/live", door.address());
    let serves = |made: &CertifiedKey<KeyPair>| {
        let asked = client(made).build().expect("a client").get(&url).send();
        async { asked.await.is_ok() }
    };
    assert!(serves(&old).await);
    // Half of a renewal, then garbage: the old one stays.
    fs::write(&files.cert, new.cert.pem()).expect("written");
    tokio::time::sleep(5 * tls_reload).await;
    assert!(serves(&old).await, "a certificate without its key is not taken");
    fs::write(&files.cert, "garbage").expect("written");
    tokio::time::sleep(5 * tls_reload).await;
    assert!(serves(&old).await, "garbage is not taken");
    let dir = files.cert.parent().expect("a directory");
    write(dir, &new);
    let deadline = Instant::now() + PATIENCE;
    while !serves(&new).await {
        assert!(Instant::now() < deadline, "the new one is served");
    }
    assert!(!serves(&old).await);
}

#[tokio::test]
async fn a_hang_up_signal_reads_the_certificate_again() {
    let (old, new) = (certificate(), certificate());
    // Whatever comes first, the signal must not end this process.
    let _hang_up = signal(SignalKind::hangup()).expect("a handler");
    let tls_reload = Duration::from_secs(3_600);
    let limits = ConnectionLimits { tls_reload, ..ConnectionLimits::default() };
    let (door, files) = with_tls(&old, limits).await;
    write(files.cert.parent().expect("a directory"), &new);
    let url = format!("https://{}/health/live", door.address());
    let deadline = Instant::now() + PATIENCE;
    while client(&new).build().expect("a client").get(&url).send().await.is_err() {
        assert!(Instant::now() < deadline, "the new one is served");
        let pid = std::process::id().to_string();
        let sent = Command::new("kill").args(["-HUP", &pid]).status().expect("kill runs");
        assert!(sent.success());
    }
}

#[tokio::test]
async fn files_that_cannot_serve_are_refused_by_name_before_anything_is_made() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| dir.path().join(name);
    let (made, other) = (certificate(), certificate());
    let good = write(dir.path(), &made);
    fs::write(path("other.pem"), other.signing_key.serialize_pem()).expect("written");
    fs::write(path("garbage.pem"), "garbage").expect("written");
    fs::write(path("open.pem"), made.signing_key.serialize_pem()).expect("written");
    fs::write(path("large.pem"), vec![b'x'; 2 << 20]).expect("written");
    let mode = |name: &str, mode| {
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).expect("set");
    };
    mode("other.pem", 0o600);
    mode("garbage.pem", 0o600);
    mode("large.pem", 0o600);
    mode("open.pem", 0o644);
    let key = |name: &str| TlsFiles { key: path(name), ..good.clone() };
    let cert = |name: &str| TlsFiles { cert: path(name), ..good.clone() };
    for (files, names, says) in [
        (key("other.pem"), "other.pem", "not the key of the certificate"),
        (key("open.pem"), "open.pem", "everybody may use this key (mode 644)"),
        (key("garbage.pem"), "garbage.pem", "no private key"),
        (key("large.pem"), "large.pem", "more than 1048576 bytes"),
        (key("nothing.pem"), "nothing.pem", "cannot be read"),
        (cert("garbage.pem"), "garbage.pem", "no certificate"),
        (cert("nothing.pem"), "nothing.pem", "cannot be read"),
        (cert("."), "", "not a file"),
    ] {
        let data = path("node");
        let config =
            NodeConfig { bootstrap: true, tls: Some(files), ..NodeConfig::new(data.clone()) };
        let error = ControlPlaneNode::start(config).await.err().expect("refused");
        let text = error.to_string();
        assert_eq!(error.exit_code(), 78, "{text}");
        assert!(text.contains(names) && text.contains(says), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!data.exists(), "nothing is made");
    }
}
