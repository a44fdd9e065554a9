//! The gateway's port, as somebody who means it no good sees it: slow, silent, endless, doubly framed, too many.

use crate::support::PATIENCE;
use ollamamax_control_plane::{ConnectionLimits, ControlPlaneNode, NodeConfig, Running};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

const GOOD: &str = "GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// A node with its port.
pub struct Door {
    pub node: Running,
    _dir: TempDir,
}

impl Door {
    pub async fn open(tune: impl FnOnce(&mut NodeConfig)) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let mut config = NodeConfig::new(dir.path().join("node"));
        config.bootstrap = true;
        config.gateway.anonymous = Some(["admin".to_owned()].into());
        tune(&mut config);
        Self { node: ControlPlaneNode::start(config).await.expect("the node starts"), _dir: dir }
    }

    async fn with(limits: ConnectionLimits) -> Self {
        Self::open(|config| config.connections = limits).await
    }

    pub fn address(&self) -> SocketAddr {
        self.node.http_addr()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address()).await.expect("connected")
    }

    /// All that comes back until the node closes.
    async fn say(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut socket = self.connect().await;
        // It may close before it has read everything.
        let _ = socket.write_all(bytes.as_ref()).await;
        rest(&mut socket).await
    }

    /// A good request on a connection of its own.
    async fn is_served(&self) -> bool {
        let mut socket = self.connect().await;
        ask(&mut socket).await
    }
}

/// A good request; whether it is answered.
async fn ask(socket: &mut TcpStream) -> bool {
    if socket.write_all(GOOD.as_bytes()).await.is_err() {
        return false;
    }
    let mut answer = Vec::new();
    while !answer.ends_with(b"{\"status\":\"live\"}") {
        match timeout(PATIENCE, socket.read_buf(&mut answer)).await.expect("an answer in time") {
            Ok(count) if count > 0 => {}
            _ => return false,
        }
    }
    answer.starts_with(b"HTTP/1.1 200 OK\r\n")
}

pub async fn rest(socket: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // Being cut off by a reset is an end as well.
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("closed in time");
    String::from_utf8_lossy(&answer).into_owned()
}

fn limits() -> ConnectionLimits {
    ConnectionLimits::default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_are_cut_and_good_requests_are_answered_meanwhile() {
    let header_timeout = Duration::from_secs(2);
    let door =
        Door::with(ConnectionLimits { header_timeout, connections_per_address: 2_000, ..limits() })
            .await;
    let mut attack = JoinSet::new();
    let began = Instant::now();
    for index in 0..1_000 {
        let address = door.address();
        attack.spawn(async move {
            let mut socket = TcpStream::connect(address).await.expect("connected");
            // Some say nothing at all, some begin like HTTP/2, the rest drips a head.
            let first =
                [&b""[..], b"PRI * HT", b"GET / HTTP/1.1\r\nhost: localhost\r\n"][index % 3];
            let _ = socket.write_all(first).await;
            let (mut reader, mut writer) = socket.into_split();
            let drip = tokio::spawn(async move {
                while index % 3 == 2 && writer.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                std::future::pending::<()>().await;
            });
            let mut answer = Vec::new();
            let _ = timeout(PATIENCE, reader.read_to_end(&mut answer)).await.expect("cut in time");
            drip.abort();
            if index % 3 == 2 {
                let answer = String::from_utf8_lossy(&answer);
                assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
            }
        });
    }
    let mut slowest = Duration::ZERO;
    while let Some(cut) = {
        let asked = Instant::now();
        assert!(door.is_served().await, "good requests are answered all the while");
        slowest = slowest.max(asked.elapsed());
        attack.join_next().await
    } {
        cut.expect("it was cut");
    }
    assert!(began.elapsed() >= header_timeout, "not before its time");
    assert!(slowest < Duration::from_secs(1), "slowest answer {slowest:?}");
}

#[tokio::test]
async fn heads_that_are_too_much_are_431_and_the_client_learns_it() {
    let door = Door::with(limits()).await;
    let head = |headers: &str| format!("GET / HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
    let few = "a: b\r\n".repeat(63);
    let answer = door.say(head(&format!("{}connection: close\r\n", &few[6..]))).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    for (what, headers) in [
        ("too many", "a: b\r\n".repeat(64)),
        ("ten thousand", "a: b\r\n".repeat(10_000)),
        ("a long one", format!("a: {}\r\n", "x".repeat(17 * 1024))),
        ("an endless one", format!("a: {}\r\n", "x".repeat(60 * 1024))),
    ] {
        let answer = door.say(head(&headers)).await;
        let status = "HTTP/1.1 431 Request Header Fields Too Large\r\n";
        assert!(answer.starts_with(status), "{what}: {answer}");
    }
    let answer = door.say(head(&format!("a: {}\r\n", "x".repeat(1024 * 1024)))).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let url = format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "x".repeat(9 * 1024));
    let answer = door.say(url).await;
    assert!(answer.starts_with("HTTP/1.1 414 URI Too Long\r\n"), "{answer}");
    assert!(door.is_served().await);
}

#[tokio::test]
async fn a_body_has_one_length_and_nothing_hides_behind_it() {
    let door = Door::with(limits()).await;
    let hidden = "GET /api/version HTTP/1.1\r\nhost: localhost\r\n\r\n";
    for (headers, body) in [
        ("content-length: 5\r\ncontent-length: 6", "hello!"),
        ("content-length: 5, 6", "hello!"),
        ("content-length: -1", ""),
        ("content-length: 1e3", ""),
        ("content-length: 99999999999999999999", ""),
        ("transfer-encoding: x", ""),
        ("transfer-encoding: chunked, x", "0\r\n\r\n"),
        ("transfer-encoding: gzip, chunked", "0\r\n\r\n"),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked", "0\r\n\r\n"),
        ("content-length : 5", "hello"),
        ("a: b\r\n c: d", ""),
        ("a\0b: c", ""),
        ("host: localhost", ""),
    ] {
        let head = format!("POST /api/show HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n\r\n");
        let answer = door.say(format!("{head}{body}{hidden}")).await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{headers:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{headers:?}: {answer}");
    }
    // Both lengths: the chunks count, and nothing after them (RFC 9112, 6.3).
    for headers in [
        "content-length: 5\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 500",
    ] {
        let head = format!("POST /api/show HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n\r\n");
        let answer = door.say(format!("{head}0\r\n\r\n{hidden}")).await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{headers:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{headers:?}: {answer}");
    }
    assert!(door.is_served().await);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_408_and_the_end() {
    let door = Door::open(|config| {
        config.gateway.edge.body_stall = Duration::from_millis(200);
    })
    .await;
    for length in ["content-length: 100", "transfer-encoding: chunked"] {
        let head = format!("POST /api/chat HTTP/1.1\r\nhost: localhost\r\n{length}\r\n\r\n");
        let answer = door.say(head).await;
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
        assert!(answer.contains("too slowly"), "{answer}");
    }
}

#[tokio::test]
async fn a_body_that_says_it_is_too_large_is_413_before_it_is_sent() {
    let door = Door::with(limits()).await;
    for (path, bytes) in [("/api/chat", 1_u64 << 40), ("/admin/v1/checkpoints/x", 1 << 20)] {
        let method = if path.starts_with("/admin") { "PUT" } else { "POST" };
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
        let asks = format!("{head}content-length: {bytes}\r\nexpect: 100-continue\r\n\r\n");
        let answer = door.say(asks).await;
        assert!(answer.starts_with("HTTP/1.1 413 Payload Too Large\r\n"), "{answer}");
        // And who sends it all the same learns it, too.
        let sent = format!("{head}content-length: {bytes}\r\n\r\n{}", "x".repeat(30_000));
        let answer = door.say(sent).await;
        assert!(answer.starts_with("HTTP/1.1 413 Payload Too Large\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut() {
    let write_stall = Duration::from_millis(300);
    let door = Door::with(ConnectionLimits { write_stall, ..limits() }).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("a small buffer");
    let mut socket = socket.connect(door.address()).await.expect("connected");
    let asks = "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(100);
    let flood = async { while socket.write_all(asks.as_bytes()).await.is_ok() {} };
    timeout(PATIENCE, flood).await.expect("it is cut");
    assert!(door.is_served().await);
}

#[tokio::test]
async fn quiet_connections_end_and_others_may_think_between_requests() {
    let (header_timeout, idle) = (Duration::from_millis(200), Duration::from_millis(1_500));
    let door = Door::with(ConnectionLimits { header_timeout, idle, ..limits() }).await;
    let mut socket = door.connect().await;
    for _ in 0..3 {
        assert!(ask(&mut socket).await, "a pause is no slow head");
        tokio::time::sleep(2 * header_timeout).await;
    }
    let asked = Instant::now();
    assert_eq!(rest(&mut socket).await, "", "closed without a word");
    assert!(asked.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_more_are_closed_at_once() {
    let door = Door::with(ConnectionLimits { connections_per_address: 3, ..limits() }).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut socket = door.connect().await;
        assert!(ask(&mut socket).await);
        held.push(socket);
    }
    for _ in 0..3 {
        assert!(!door.is_served().await, "one too many");
    }
    assert!(ask(&mut held[0]).await, "those that are there go on");
    held.pop();
    let deadline = Instant::now() + PATIENCE;
    while !door.is_served().await {
        assert!(Instant::now() < deadline, "a place that is free again is taken");
    }
}

#[tokio::test]
async fn connections_without_a_request_make_room_for_others() {
    let door = Door::with(ConnectionLimits { connections: 4, ..limits() }).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut socket = door.connect().await;
        assert!(ask(&mut socket).await);
        held.push(socket);
    }
    assert!(door.is_served().await, "it waited, and was served");
}

#[tokio::test]
async fn foreign_names_are_421_on_the_wire_too() {
    let door = Door::with(limits()).await;
    let own = door.address();
    for (line, host, expected) in [
        ("GET /api/tags HTTP/1.1", own.to_string().as_str(), "200"),
        ("GET /api/tags HTTP/1.1", "evil.example", "421"),
        ("GET http://localhost/api/tags HTTP/1.1", "localhost", "200"),
        ("GET http://evil.example/api/tags HTTP/1.1", "localhost", "421"),
        ("GET http://localhost/api/tags HTTP/1.1", "evil.example", "421"),
        ("CONNECT evil.example:80 HTTP/1.1", "evil.example:80", "421"),
    ] {
        let answer = door.say(format!("{line}\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{line} {host}: {answer}");
    }
    let answer = door.say("GET /api/tags HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

/// What a client begins HTTP/2 with, and then frames.
fn http2(frames: &[u8]) -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frame(4, 0, 0, &[]).as_slice(), frames].concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The last error code of a `GOAWAY` frame in what came back.
async fn goaway(door: &Door, bytes: &[u8]) -> Option<u32> {
    let mut socket = door.connect().await;
    let _ = socket.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("ended in time");
    let (mut code, mut rest) = (None, answer.as_slice());
    while let [a, b, c, kind, _, _, _, _, _, more @ ..] = rest {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let (payload, after) = more.split_at_checked(length)?;
        if *kind == 7 {
            code = payload.get(4..8).map(|code| u32::from_be_bytes(code.try_into().expect("four")));
        }
        rest = after;
    }
    code
}

#[tokio::test]
async fn floods_of_http2_end_the_connection_that_sends_them() {
    const ENHANCE_YOUR_CALM: u32 = 11;
    let door = Door::with(limits()).await;
    // GET http://localhost/ from HPACK's static table.
    let head = [&[0x82, 0x86, 0x84, 0x41, 9], &b"localhost"[..]].concat();
    let rapid: Vec<u8> = (0..5_000_u32)
        .flat_map(|index| {
            let stream = 2 * index + 1;
            [frame(1, 5, stream, &head), frame(3, 0, stream, &8_u32.to_be_bytes())].concat()
        })
        .collect();
    assert_eq!(goaway(&door, &http2(&rapid)).await, Some(ENHANCE_YOUR_CALM), "rapid reset");
    // A literal header that never ends.
    let piece = [&[0x40, 1, b'a', 0x7f, 0xff, 0x7f], &[b'x'; 16_000][..]].concat();
    let endless = (0..100).map(|_| frame(9, 0, 1, &[b'x'; 16_000]));
    let endless = [vec![frame(1, 0, 1, &piece)], endless.collect()].concat().concat();
    assert!(goaway(&door, &http2(&endless)).await.is_some_and(|code| code != 0), "continuations");
    let garbage = frame(1, 5, 1, &[0xff; 100]);
    assert!(goaway(&door, &http2(&garbage)).await.is_some_and(|code| code != 0), "no headers");
    assert!(door.is_served().await);
}

#[tokio::test]
async fn http2_heads_that_are_too_much_are_431() {
    let door = Door::with(limits()).await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
    let url = format!("http://{}/health/live", door.address());
    let good = client.get(&url).send().await.expect("an answer");
    assert_eq!((good.status().as_u16(), good.version()), (200, reqwest::Version::HTTP_2));
    let large = client.get(&url).header("a", "x".repeat(20 * 1024)).send().await;
    assert_eq!(large.expect("an answer").status(), 431);
    let evil = client.get(&url).header("host", "evil.example").send().await;
    assert!(evil.expect("an answer").status().is_client_error());
}

#[tokio::test]
async fn a_client_of_http2_that_takes_nothing_is_cut() {
    let write_stall = Duration::from_millis(300);
    let door = Door::with(ConnectionLimits { write_stall, ..limits() }).await;
    let head = [&[0x82, 0x86, 0x84, 0x41, 9], &b"localhost"[..]].concat();
    // SETTINGS_INITIAL_WINDOW_SIZE 0: not a byte of a body may come.
    let nothing = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let asked = Instant::now();
    goaway(&door, &http2(&[nothing, frame(1, 5, 1, &head)].concat())).await;
    assert!(asked.elapsed() >= write_stall, "not before its time");
    assert!(asked.elapsed() < Duration::from_secs(8), "and before its pings would tell");
}
