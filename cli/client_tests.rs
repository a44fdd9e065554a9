//! The client against nodes that are down, slow or without a quorum.

use super::*;
use serde_json::json;
use std::sync::Mutex as StdMutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A server that answers every request with what `answer` makes of its first line, and closes.
struct Stub {
    endpoint: Endpoint,
    seen: Arc<StdMutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stub {
    async fn start(answer: impl Fn(&str) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::on(listener, answer)
    }

    fn on(listener: TcpListener, answer: impl Fn(&str) -> String + Send + 'static) -> Self {
        let address = listener.local_addr().expect("bound");
        let seen = Arc::new(StdMutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let request = read_request(&mut socket).await;
                let line = request.lines().next().unwrap_or_default().to_owned();
                log.lock().expect("not poisoned").push(line.clone());
                let _ = socket.write_all(answer(&line).as_bytes()).await;
                let _ = socket.shutdown().await;
            }
        });
        let endpoint = host::parse(&address.to_string()).expect("valid").remove(0);
        Self { endpoint, seen, task }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("not poisoned").clone()
    }
}

async fn read_request(socket: &mut tokio::net::TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .filter_map(|line| {
                    line.to_lowercase().strip_prefix("content-length: ")?.parse().ok()
                })
                .next()
                .unwrap_or(0);
            if body.len() >= length {
                return text;
            }
        }
        match socket.read(&mut piece).await {
            Ok(read) if read > 0 => bytes.extend_from_slice(&piece[..read]),
            _ => return text,
        }
    }
}

fn http(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// A port that refuses connections: nobody has listened on it since it was freed.
async fn dead() -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    host::parse(&address.to_string()).expect("valid").remove(0)
}

fn client(given: Vec<Endpoint>, directory: &Path) -> Client {
    Client::with(given, KnownNodes::at(directory), Trust::default()).expect("a client")
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_is_down() {
    let directory = tempfile::tempdir().expect("a directory");
    let stub = Stub::start(|_| http("200 OK", "{\"version\":\"1\"}")).await;
    let client = client(vec![dead().await, stub.endpoint.clone()], directory.path());
    let answer = client.get("/api/version").await.expect("the second answers");
    assert_eq!(answer, json!({"version": "1"}));
    // The one that answered comes first from now on.
    assert_eq!(client.candidates(true)[0], stub.endpoint);
}

#[tokio::test]
async fn a_write_goes_on_to_the_next_node_only_when_it_was_not_heard() {
    let directory = tempfile::tempdir().expect("a directory");
    let silent = Stub::start(|_| String::new()).await;
    let good = Stub::start(|_| http("200 OK", "{}")).await;
    let nodes = vec![silent.endpoint.clone(), good.endpoint.clone()];
    let client = client(nodes, directory.path());
    let failure = client.post("/api/copy", &json!({})).await.expect_err("it may have happened");
    assert!(matches!(failure, Failure::BrokenOff { .. }), "{failure}");
    assert_eq!(good.seen(), Vec::<String>::new());
    client.get("/api/tags").await.expect("a read may be asked again");
    assert_eq!(good.seen(), ["GET /api/tags HTTP/1.1"]);
}

#[tokio::test]
async fn an_answer_is_final_whatever_its_status() {
    let directory = tempfile::tempdir().expect("a directory");
    let lost = Stub::start(|_| {
        http("503 Service Unavailable", "{\"error\":\"the control plane has no quorum: 1 of 3\"}")
    })
    .await;
    let other = Stub::start(|_| http("200 OK", "{}")).await;
    let client = client(vec![lost.endpoint.clone(), other.endpoint.clone()], directory.path());
    let failure = client.post("/api/copy", &json!({})).await.expect_err("no quorum");
    assert_eq!(failure.exit(), crate::exit::Exit::NoQuorum, "{failure}");
    assert_eq!(lost.seen().len(), 1);
    assert_eq!(other.seen().len(), 0);
}

#[tokio::test]
async fn nodes_learnt_in_one_command_are_tried_in_the_next() {
    let directory = tempfile::tempdir().expect("a directory");
    let second = Stub::start(|_| http("200 OK", "{\"models\":[]}")).await;
    let status = json!({"nodes": ["127.0.0.1:1", second.endpoint.to_string()]});
    let status = status.to_string();
    let first = Stub::start(move |_| http("200 OK", &status)).await;
    let asked = first.endpoint.clone();
    {
        let client = client(vec![asked.clone()], directory.path());
        client.get("/api/tags").await.expect("the first answers");
        client.learn().await;
    }
    first.task.abort();
    drop(first);
    let client = client(vec![asked.clone()], directory.path());
    assert!(client.candidates(true).contains(&second.endpoint));
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    loop {
        match client.get("/api/tags").await {
            Ok(answer) if second.seen().is_empty() => {
                // The first stub's listener is closed a moment after its task is aborted.
                assert!(std::time::Instant::now() < deadline, "{answer}");
            }
            answer => {
                assert_eq!(answer.expect("the second answers"), json!({"models": []}));
                return;
            }
        }
    }
}

#[tokio::test]
async fn the_ports_after_an_unknown_loopback_address_are_tried() {
    let directory = tempfile::tempdir().expect("a directory");
    let stub = Stub::start(|_| http("200 OK", "{}")).await;
    let before = Endpoint { port: stub.endpoint.port - 1, ..stub.endpoint.clone() };
    let client = client(vec![before.clone()], directory.path());
    let candidates = client.candidates(true);
    assert_eq!(candidates.len(), 3);
    assert_eq!(candidates[1], stub.endpoint);
    let remote = host::parse("10.0.0.1,http://127.0.0.1:80/prefix").expect("valid");
    assert_eq!(
        super::Client::with(remote, KnownNodes::at(directory.path()), Trust::default())
            .expect("a client")
            .candidates(true)
            .len(),
        2
    );
}

#[tokio::test]
async fn nobody_there_is_said_with_the_addresses_tried() {
    let directory = tempfile::tempdir().expect("a directory");
    let nowhere = host::parse("http://127.0.0.1:1/x").expect("valid");
    let client = client(nowhere, directory.path());
    let failure = client.get("/api/tags").await.expect_err("nobody listens");
    assert_eq!(failure.exit(), crate::exit::Exit::Unreachable);
    assert!(
        failure.to_string().starts_with("no node answered at http://127.0.0.1:1/x: "),
        "{failure}"
    );
}

#[tokio::test]
async fn an_error_record_in_a_stream_is_a_failure() {
    let directory = tempfile::tempdir().expect("a directory");
    let stub =
        Stub::start(|_| http("200 OK", "{\"status\":\"a\"}\n{\"error\":\"disk full\"}\n")).await;
    let client = client(vec![stub.endpoint.clone()], directory.path());
    let mut records = client.stream("/api/create", &json!({})).await.expect("a stream");
    assert_eq!(records.next().await.expect("a record"), Some(json!({"status": "a"})));
    let failure = records.next().await.expect_err("an error record");
    assert_eq!(failure.to_string(), "disk full");
}

#[tokio::test]
async fn a_file_is_uploaded_once_and_its_progress_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("m.gguf");
    std::fs::write(&file, vec![7; 600_000]).expect("written");
    let stub = Stub::start(|line| {
        let status = if line.starts_with("HEAD") { "404 Not Found" } else { "201 Created" };
        http(status, "")
    })
    .await;
    let client = client(vec![stub.endpoint.clone()], directory.path());
    let progress = crate::progress::Progress::on(false);
    let digest = crate::upload::ensure(&client, &file, &progress).await.expect("uploaded");
    assert_eq!(digest, ollamamax_proto::Digest::of(&vec![7; 600_000]));
    assert_eq!(
        stub.seen(),
        [
            format!("HEAD /api/blobs/{digest} HTTP/1.1"),
            format!("POST /api/blobs/{digest} HTTP/1.1"),
        ]
    );
}

#[test]
fn error_answers_of_every_shape_are_put_in_words() {
    for (text, words) in [
        ("{\"error\":\"model 'x' not found\"}", "model 'x' not found"),
        ("{\"error\":{\"message\":\"bad\",\"code\":null}}", "bad"),
        ("{\"title\":\"Conflict\",\"detail\":\"plan again\"}", "plan again"),
        ("plain words\n", "plain words"),
        ("", "the server answered 404 Not Found"),
    ] {
        assert_eq!(error_text(StatusCode::NOT_FOUND, text), words);
    }
}

#[test]
fn a_loopback_address_told_by_another_machine_is_not_dialled() {
    let status = json!({"nodes": ["127.0.0.1:1", "10.0.0.2:11434", 7]});
    let remote = host::parse("10.0.0.1").expect("valid").remove(0);
    let local = host::parse("127.0.0.1").expect("valid").remove(0);
    assert_eq!(node_endpoints(&status, &remote).len(), 1);
    assert_eq!(node_endpoints(&status, &local).len(), 2);
}
