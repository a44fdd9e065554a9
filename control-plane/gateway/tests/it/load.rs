//! Many clients, and slow ones.

use crate::http::{Bench, until};
use crate::worker::{Script, text};
use axum::body::Body;
use axum::http::Request;
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_clients_get_sixteen_different_answers_over_two_workers() {
    let bench = Bench::new(&[Script::Answer, Script::Answer]);
    let one = |seed: u64| {
        let bench = &bench;
        async move {
            let ask = json!({"model": "m", "prompt": "x", "stream": seed.is_multiple_of(2),
                "options": {"seed": seed, "num_predict": 40}});
            let answer = bench.post("/api/generate", ask).await;
            let got: String = answer
                .lines()
                .iter()
                .map(|line| line["response"].as_str().expect("a response").to_owned())
                .collect();
            assert_eq!(got, text(seed, 40));
        }
    };
    // Nothing is known of either worker while none has answered: how busy they are decides alone.
    let shares = || -> Vec<usize> { bench.workers.iter().map(|w| w.requests().len()).collect() };
    bench.workers.iter().for_each(|worker| worker.hold(true));
    let release = async {
        until("all have been sent", || shares().iter().sum::<usize>() == 16).await;
        bench.workers.iter().for_each(|worker| worker.hold(false));
    };
    tokio::join!(futures_util::future::join_all((0..16).map(one)), release);
    assert_eq!(shares(), [8, 8]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_holds_its_worker_back() {
    let bench = Bench::new(&[Script::Forever(Duration::ZERO)]);
    let ask = json!({"model": "m", "prompt": "x"}).to_string();
    let request =
        Request::post("/api/generate").header("host", "localhost").body(Body::from(ask)).unwrap();
    let response = bench.router.clone().oneshot(request).await.unwrap();
    let sent = || bench.workers[0].shared.sent.load(Ordering::SeqCst);
    // Flow control must stop the worker: wait until it sends nothing for a while.
    let mut before = 0;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = sent();
        if now == before && now > 0 {
            break;
        }
        before = now;
    }
    assert_eq!(sent(), before, "the worker never stopped");
    assert!(before < 50_000, "{before} chunks are too many to hold");
    drop(response);
    until("the worker is free", || bench.workers[0].running() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_closes_stops_its_worker() {
    let bench = Bench::new(&[Script::Forever(Duration::from_millis(2))]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = bench.router.clone();
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    let body = json!({"model": "m", "prompt": "x"}).to_string();
    let head = format!(
        "POST /api/generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write_all(head.as_bytes()).await.unwrap();
    let mut some = [0; 64];
    assert!(client.read(&mut some).await.unwrap() > 0);
    assert!(some.starts_with(b"HTTP/1.1 200 OK"));
    drop(client);
    until("the worker is free", || bench.workers[0].running() == 0).await;
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_gets_the_time_its_client_gave_it() {
    let bench = Bench::new(&[Script::Forever(Duration::from_millis(5))]);
    let timed = async |path: &str, seconds: &str, stream: bool| {
        let ask = json!({"model": "m", "prompt": "x", "stream": stream,
            "messages": [{"role": "user", "content": "x"}]});
        bench.send_with("POST", path, &[("x-request-timeout", seconds)], ask.to_string()).await
    };
    let whole = timed("/api/generate", "0.2", false).await;
    assert_eq!(whole.status, 504);
    assert!(whole.error().contains("`x-request-timeout` gave it"), "{}", whole.text);
    let worker = bench.workers[0].requests();
    assert!(worker[0].time_left.is_some_and(|left| left <= Duration::from_millis(200)));
    until("the worker is free", || bench.workers[0].running() == 0).await;

    let streamed = timed("/api/generate", "0.3", true).await;
    assert_eq!(streamed.status, 200);
    let lines = streamed.lines();
    assert!(lines.len() > 2 && lines[0]["response"].is_string(), "{}", streamed.text);
    assert!(lines.last().expect("a line")["error"].is_string(), "{}", streamed.text);

    for path in ["/api/generate", "/v1/chat/completions"] {
        for wrong in ["0", "-1", "soon", "1e9", "NaN", ""] {
            let refused = timed(path, wrong, false).await;
            assert_eq!(refused.status, 400, "{wrong}");
            assert!(refused.text.contains("x-request-timeout"), "{}", refused.text);
        }
    }
}
