//! Requests against a router, answers as values.

use crate::control::{FakeBlobs, FakeControl};
use crate::worker::{CLUSTER, FakeWorker, Script};
use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::middleware::{Next, from_fn};
use http_body_util::BodyExt;
use ollamamax_gateway::{Config, Gateway};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tower::ServiceExt;

/// A gateway with everything around it.
pub struct Bench {
    pub control: Arc<FakeControl>,
    pub blobs: Arc<FakeBlobs>,
    pub router: Router,
    pub workers: Vec<FakeWorker>,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    pub fn lines(&self) -> Vec<Value> {
        self.text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// The `data:` events of an event stream.
    pub fn events(&self) -> Vec<String> {
        let data = |event: &str| {
            event
                .lines()
                .find_map(|line| line.strip_prefix("data: ").map(str::to_owned))
                .expect(event)
        };
        self.text.split("\n\n").filter(|event| !event.is_empty()).map(data).collect()
    }

    /// The events of a stream that names them, as values; each has its name as `type`, too.
    pub fn named_events(&self) -> Vec<Value> {
        let names = self.text.lines().filter_map(|line| line.strip_prefix("event: "));
        let events = self.events();
        let values: Vec<Value> =
            events.iter().map(|event| serde_json::from_str(event).expect(event)).collect();
        let types: Vec<&str> =
            values.iter().map(|value| value["type"].as_str().expect("a type")).collect();
        assert_eq!(names.collect::<Vec<_>>(), types);
        values
    }

    pub fn error(&self) -> String {
        self.json()["error"].as_str().expect("an error").to_owned()
    }
}

pub fn quick() -> Config {
    Config {
        load_timeout: Duration::from_secs(5),
        no_worker_timeout: Duration::from_millis(200),
        stall: Duration::from_millis(300),
        resume_timeout: Duration::from_secs(5),
        anonymous: Some(BTreeSet::from(["admin".to_owned()])),
        tls: Some(CLUSTER.node(1)),
        ..Config::default()
    }
}

/// A router whose clients are on this machine.
pub fn local(router: Router) -> Router {
    router.layer(from_fn(async |mut request: Request<Body>, next: Next| {
        let here = ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 50_000)));
        let peer = *request.extensions().get().unwrap_or(&here);
        request.extensions_mut().insert(peer);
        next.run(request).await
    }))
}

impl Bench {
    /// A model `m:latest` and one worker for each script.
    pub fn new(scripts: &[Script]) -> Self {
        Self::with(scripts, quick())
    }

    pub fn with(scripts: &[Script], config: Config) -> Self {
        let (control, blobs) = (FakeControl::new(), FakeBlobs::new());
        control.put_model("m");
        let workers: Vec<FakeWorker> = (1..)
            .zip(scripts)
            .map(|(id, script)| FakeWorker::start_as(id, script.clone()))
            .collect();
        for (id, worker) in (1..).zip(&workers) {
            control.add_worker(id, &worker.address);
        }
        let router = local(Gateway::new(control.clone(), blobs.clone(), config).router());
        Self { control, blobs, router, workers }
    }

    /// The same surroundings for another router; the workers stay with the first.
    pub fn share(&self) -> Self {
        let (control, blobs) = (self.control.clone(), self.blobs.clone());
        Self { control, blobs, router: self.router.clone(), workers: Vec::new() }
    }

    pub async fn send(&self, method: &str, path: &str, body: impl Into<Body>) -> Answer {
        self.send_with(method, path, &[], body).await
    }

    pub async fn send_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if headers.iter().all(|(name, _)| *name != "host") {
            request = request.header("host", "localhost");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        assert!(parts.headers.contains_key("x-request-id"), "{path} has no request id");
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        crate::described::check(method, path, parts.status, &parts.headers, &text);
        Answer { status: parts.status, headers: parts.headers, text }
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, body.to_string()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, Body::empty()).await
    }

    /// The worker that has a request running.
    pub fn busy(&self) -> Option<usize> {
        self.workers.iter().position(|worker| worker.running() > 0)
    }
}

/// Waits until something is so.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "not so within 30 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Replaces what differs from run to run, after checking its form.
pub fn steady(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        for (key, value) in fields.iter_mut() {
            match key.as_str() {
                "created_at" | "modified_at" | "expires_at" => {
                    let time = value.as_str().expect("a time");
                    assert_eq!(time.len(), "2026-01-01T00:00:00.000000000Z".len(), "{time}");
                    *value = "T".into();
                }
                "total_duration" | "load_duration" => {
                    assert!(value.as_u64().expect("nanoseconds") > 0);
                    *value = 1.into();
                }
                "created" => *value = 1.into(),
                "id" if value.as_str().is_some_and(|id| id.starts_with("chatcmpl-")) => {
                    *value = "I".into();
                }
                _ => *value = steady(value.take()),
            }
        }
    } else if let Value::Array(values) = &mut value {
        values.iter_mut().for_each(|value| *value = steady(value.take()));
    }
    value
}
