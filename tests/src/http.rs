//! Requests to one node, as a client would send them.

use crate::error::HarnessError;
use crate::status::ClusterStatus;
use crate::stream::Records;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// How long a small request may take.
const SMALL: Duration = Duration::from_secs(20);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(2);

/// A client of one node.
#[derive(Clone, Debug)]
pub struct Api {
    http: reqwest::Client,
    base: String,
    key: Option<String>,
}

/// A checkpoint as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its value.
    pub value: Vec<u8>,
    /// The revision at which it was set.
    pub revision: u64,
}

impl Api {
    /// For `http://host:port`.
    pub fn new(base: &str) -> Result<Self, HarnessError> {
        let client = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT).build();
        let http = client.map_err(|error| HarnessError::Other(error.to_string()))?;
        Ok(Self { http, base: base.trim_end_matches('/').to_owned(), key: None })
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The same client with an API key, which every request brings.
    #[must_use]
    pub fn with_key(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    /// A request of any kind.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, self.url(path));
        self.key.iter().fold(request, |request, key| request.bearer_auth(key))
    }

    /// The text of a new join token.
    pub async fn join_token(&self, role: &str, uses: u32) -> Result<String, HarnessError> {
        let body = json!({"role": role, "uses": uses, "lifetime_s": 24 * 3_600});
        let answer = self.post("/admin/v1/join-tokens", &body).await?;
        let text = answer["token"].as_str().map(str::to_owned);
        // What came may hold a secret, so it is not shown.
        text.ok_or_else(|| HarnessError::Other("no join token came".to_owned()))
    }

    /// JSON from GET.
    pub async fn get(&self, path: &str) -> Result<Value, HarnessError> {
        self.json(path, self.request(Method::GET, path).timeout(SMALL)).await
    }

    /// JSON from POST; `null` when the answer is empty.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, HarnessError> {
        self.json(path, self.request(Method::POST, path).json(body)).await
    }

    /// JSON from DELETE.
    pub async fn delete(&self, path: &str, body: Option<&Value>) -> Result<Value, HarnessError> {
        let request = self.request(Method::DELETE, path).timeout(SMALL);
        let request = body.iter().fold(request, |request, body| request.json(body));
        self.json(path, request).await
    }

    /// The status and body of a POST, whatever they are.
    pub async fn raw_post(&self, path: &str, body: String) -> Result<(u16, String), HarnessError> {
        let request = self.request(Method::POST, path).timeout(SMALL);
        let request = request.header("content-type", "application/json").body(body);
        let response = self.send(path, request).await?;
        let status = response.status().as_u16();
        let text = response.text().await;
        Ok((status, text.map_err(|error| HarnessError::no_answer(&self.url(path), &error))?))
    }

    /// The records of a streamed POST.
    pub async fn stream(&self, path: &str, body: &Value) -> Result<Records, HarnessError> {
        let response = self.good(path, self.request(Method::POST, path).json(body)).await?;
        Ok(Records::new(self.url(path), response))
    }

    /// The same, with the id under which it goes on elsewhere.
    pub async fn stream_with_id(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<(String, Records), HarnessError> {
        let response = self.good(path, self.request(Method::POST, path).json(body)).await?;
        let id = response.headers().get("x-stream-id").and_then(|id| id.to_str().ok());
        let id = id.map(str::to_owned).ok_or_else(|| HarnessError::Shape {
            what: "a header `x-stream-id`".to_owned(),
            got: format!("{:?}", response.headers()),
        })?;
        Ok((id, Records::new(self.url(path), response)))
    }

    /// The records of a streamed GET.
    pub async fn records(&self, path: &str) -> Result<Records, HarnessError> {
        let response = self.good(path, self.request(Method::GET, path)).await?;
        Ok(Records::new(self.url(path), response))
    }

    /// What this node says of the cluster.
    pub async fn status(&self) -> Result<ClusterStatus, HarnessError> {
        let status = self.get("/admin/v1/cluster").await?;
        let shape = |error: serde_json::Error| HarnessError::Shape {
            what: "the cluster status".to_owned(),
            got: format!("{error} in {status}"),
        };
        <ClusterStatus as serde::Deserialize>::deserialize(&status).map_err(shape)
    }

    /// The answer to one user message, generated without chance: same model, same prompt, same text.
    pub async fn chat(
        &self,
        model: &str,
        prompt: &str,
        tokens: u32,
    ) -> Result<String, HarnessError> {
        self.chat_stream(model, prompt, tokens).await?.text().await
    }

    /// The same as it comes.
    pub async fn chat_stream(
        &self,
        model: &str,
        prompt: &str,
        tokens: u32,
    ) -> Result<Records, HarnessError> {
        let body = json!({
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "options": {"temperature": 0, "seed": 1, "num_predict": tokens},
        });
        self.stream("/api/chat", &body).await
    }

    /// The whole answer of `/api/generate` as one object.
    pub async fn generate(
        &self,
        model: &str,
        prompt: &str,
        options: Value,
    ) -> Result<Value, HarnessError> {
        let body = json!({"model": model, "prompt": prompt, "stream": false, "options": options});
        self.post("/api/generate", &body).await
    }

    /// Sets a checkpoint: whatever is there, or (with `expected`) only at that revision, 0 meaning absent. Its new revision.
    pub async fn put_checkpoint(
        &self,
        name: &str,
        value: &[u8],
        expected: Option<u64>,
    ) -> Result<u64, HarnessError> {
        let path = format!("/admin/v1/checkpoints/{name}");
        let request = self.request(Method::PUT, &path).timeout(SMALL).body(value.to_vec());
        let request = match expected {
            None => request,
            Some(0) => request.header("if-none-match", "*"),
            Some(revision) => request.header("if-match", format!("\"{revision}\"")),
        };
        let answer = self.json(&path, request).await?;
        answer["revision"].as_u64().ok_or_else(|| HarnessError::Shape {
            what: format!("the answer to PUT {path}"),
            got: answer.to_string(),
        })
    }

    /// Reads a checkpoint, linearizably; `None` when there is none.
    pub async fn get_checkpoint(&self, name: &str) -> Result<Option<Checkpoint>, HarnessError> {
        let path = format!("/admin/v1/checkpoints/{name}");
        let request = self.request(Method::GET, &path).timeout(SMALL);
        let response = match self.good(&path, request).await {
            Err(HarnessError::Refused { status: 404, .. }) => return Ok(None),
            response => response?,
        };
        let etag = response.headers().get("etag").and_then(|value| value.to_str().ok());
        let revision = etag.and_then(|etag| etag.trim_matches('"').parse().ok());
        let revision = revision.ok_or_else(|| HarnessError::Shape {
            what: format!("the etag of {path}"),
            got: format!("{etag:?}"),
        })?;
        let value = response.bytes().await;
        let value = value.map_err(|error| HarnessError::no_answer(&self.url(&path), &error))?;
        Ok(Some(Checkpoint { value: value.to_vec(), revision }))
    }

    /// Uploads a file as a blob and makes a model of it. The digest is computed by the caller.
    pub async fn create_from_file(
        &self,
        model: &str,
        file: &Path,
        digest: &ollamamax_proto::Digest,
    ) -> Result<(), HarnessError> {
        let bytes = std::fs::read(file).map_err(HarnessError::io(file))?;
        let path = format!("/api/blobs/{digest}");
        self.good(&path, self.request(Method::POST, &path).body(bytes)).await?;
        let body = json!({"model": model, "files": {"model.gguf": digest.to_string()}});
        let records = self.stream("/api/create", &body).await?.collect().await?;
        match records.last() {
            Some(last) if last["status"] == "success" => Ok(()),
            last => Err(HarnessError::Shape {
                what: "the last record of /api/create".to_owned(),
                got: format!("{last:?}"),
            }),
        }
    }

    /// Wants a model on so many workers, forever.
    pub async fn deploy(&self, model: &str, replicas: usize) -> Result<(), HarnessError> {
        let body = json!({"replicas": replicas, "keep_alive": -1});
        self.post(&format!("/admin/v1/models/{model}/deploy"), &body).await.map(drop)
    }

    async fn send(&self, path: &str, request: RequestBuilder) -> Result<Response, HarnessError> {
        let sent = request.send().await;
        sent.map_err(|error| HarnessError::no_answer(&self.url(path), &error))
    }

    async fn good(&self, path: &str, request: RequestBuilder) -> Result<Response, HarnessError> {
        let response = self.send(path, request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.text().await.unwrap_or_default();
        Err(HarnessError::Refused { url: self.url(path), status: status.as_u16(), body })
    }

    async fn json(&self, path: &str, request: RequestBuilder) -> Result<Value, HarnessError> {
        let response = self.good(path, request).await?;
        let bytes = response.bytes().await;
        let bytes = bytes.map_err(|error| HarnessError::no_answer(&self.url(path), &error))?;
        if bytes.trim_ascii().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| HarnessError::Shape {
            what: format!("the answer of {path}"),
            got: format!("{error} in {}", String::from_utf8_lossy(&bytes)),
        })
    }
}
