//! Sources against a local server that misbehaves as real ones do.

use super::*;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What the server does with its n-th request; the last repeats.
#[derive(Clone, Copy)]
enum Manner {
    /// Sends this many bytes of the body, then closes.
    BreakOffAfter(usize),
    /// Honours ranges.
    Good,
    /// Sends everything whatever is asked.
    IgnoreRange,
}

/// Serves `body` and records the Range header of each request.
fn serve(body: Vec<u8>, manners: &'static [Manner]) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/dir/Tiny.Q4.gguf", listener.local_addr().expect("an address"));
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&ranges);
    std::thread::spawn(move || {
        for (count, stream) in listener.incoming().enumerate() {
            let manner = manners[count.min(manners.len() - 1)];
            if let Ok(stream) = stream {
                answer(stream, &body, manner, &seen);
            }
        }
    });
    (url, ranges)
}

fn answer(mut stream: TcpStream, body: &[u8], manner: Manner, seen: &Mutex<Vec<String>>) {
    let mut range = String::new();
    for line in BufReader::new(stream.try_clone().expect("a handle")).lines() {
        let line = line.unwrap_or_default().to_lowercase();
        if let Some(value) = line.strip_prefix("range: bytes=") {
            range = value.to_owned();
        }
        if line.is_empty() {
            break;
        }
    }
    seen.lock().expect("no panic").push(range.clone());
    let mut ends = range.split('-').map(|end| end.parse::<usize>());
    let from = ends.next().and_then(Result::ok);
    let end = ends.next().and_then(Result::ok).map_or(body.len(), |last| body.len().min(last + 1));
    let (status, start) = match (manner, from) {
        (Manner::Good | Manner::BreakOffAfter(_), Some(from)) => {
            let range = format!("content-range: bytes {from}-{}/{}", end - 1, body.len());
            (format!("206 Partial Content\r\n{range}"), from)
        }
        _ => ("200 OK".to_owned(), 0),
    };
    let rest = if start > 0 || status.starts_with("206") { &body[start..end] } else { body };
    let sent = if let Manner::BreakOffAfter(bytes) = manner { &rest[..bytes] } else { rest };
    let head = format!(
        "HTTP/1.1 {status}\r\netag: \"v1\"\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        rest.len()
    );
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(sent);
}

fn bytes() -> Vec<u8> {
    (0..100_000u32).flat_map(u32::to_le_bytes).collect()
}

async fn fetch_with(manners: &'static [Manner]) -> (Fetched, Vec<String>, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let (url, ranges) = serve(bytes(), manners);
    let fetched = fetch(&url, dir.path(), &Progress::on(false)).await.expect("it arrives");
    let ranges = ranges.lock().expect("no panic").clone();
    (fetched, ranges, dir)
}

#[tokio::test]
async fn a_download_that_broke_off_goes_on_where_it_was() {
    let (fetched, ranges, _dir) =
        fetch_with(&[Manner::BreakOffAfter(1000), Manner::BreakOffAfter(500), Manner::Good]).await;
    assert_eq!(std::fs::read(&fetched.path).expect("a file"), bytes());
    assert_eq!(fetched.digest, Digest::of(&bytes()));
    assert_eq!(fetched.name, "tiny.q4");
    assert!(ranges[1].starts_with("1000-") && ranges[2].starts_with("1500-"), "{ranges:?}");
}

#[tokio::test]
async fn a_server_without_ranges_is_asked_from_the_start() {
    let (fetched, ranges, _dir) =
        fetch_with(&[Manner::BreakOffAfter(1000), Manner::IgnoreRange]).await;
    assert_eq!(std::fs::read(&fetched.path).expect("a file"), bytes());
    assert!(ranges.len() >= 2, "{ranges:?}");
}

#[tokio::test]
async fn wrong_bytes_are_refused_and_not_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let (url, _) = serve(bytes(), &[Manner::Good]);
    let url = format!("{url}#sha256={}", Digest::of(b"something else").hex());
    let error = fetch(&url, dir.path(), &Progress::on(false)).await.expect_err("wrong bytes");
    assert!(error.to_string().contains("expected \"sha256:"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0);
}

#[tokio::test]
async fn an_unknown_name_is_refused_with_what_there_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let error = fetch("nonesuch", dir.path(), &Progress::on(false)).await.expect_err("unknown");
    assert!(error.to_string().contains("smollm2:135m"), "{error}");
}

#[test]
fn the_catalogue_ignores_case_and_knows_aliases() {
    assert!(is_known("SmolLM2:135M") && is_known("smollm2") && !is_known("llama3"));
}
