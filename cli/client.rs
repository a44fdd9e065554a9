//! Talks to the cluster over HTTP and goes on to the next node when one is down.
//!
//! ```text
//! candidates: the addresses given -> nodes remembered for them -> (loopback only) the next two ports
//! ```
//!
//! Going on is safe only when the request cannot have been heard: a refused or timed-out connection. Reads are also tried again
//! when the connection breaks before an answer. An answer, whatever its status, is final: a node without quorum says so and the
//! others would say the same.

use crate::bearer::Credential;
use crate::credentials::Secret;
use crate::exit::Failure;
use crate::host::{self, Endpoint};
use crate::known_nodes::{KnownNodes, node_endpoints};
use crate::ndjson::Records;
use crate::trust::{self, Trust};
use futures_util::StreamExt;
use ollamamax_proto::limits;
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a small request may take in all.
const SMALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a read waits for one node before the next is asked.
const READ_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long asking for the other nodes' addresses may delay the end of a command.
const LEARN_TIMEOUT: Duration = Duration::from_millis(700);
/// How far ports are searched from a loopback address of which nothing is known.
const NEIGHBOUR_PORTS: u16 = 2;
/// Longest text of an error answer shown.
const ERROR_TEXT_CHARS: usize = 2_000;

/// How a request may be tried.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Changes nothing: may be asked again elsewhere.
    Read,
    /// May have been done although no answer came.
    Write,
    /// A write whose answer takes as long as it takes.
    Long,
}

/// What is sent along.
pub(crate) enum Body<'a> {
    None,
    Json(&'a Value),
    /// JSON with a password or a token in it.
    Secret(&'a Value),
    File(&'a Path, u64, Sent),
}

/// Hears how many bytes of an upload have gone out.
pub type Sent = Arc<dyn Fn(u64) + Send + Sync>;

/// A connection to the cluster, through whichever node answers.
pub struct Client {
    http: reqwest::Client,
    given: Vec<Endpoint>,
    known: KnownNodes,
    /// Whom it believes.
    trust: Trust,
    /// What is shown to servers.
    pub(crate) credential: tokio::sync::Mutex<Credential>,
    /// Whether other nodes than the given ones may be asked.
    goes_on: bool,
    answered: Mutex<Option<Endpoint>>,
}

/// An answer and who gave it.
pub struct Answer {
    /// The response, of any status below 400.
    pub response: Response,
    /// The node's address.
    pub node: Endpoint,
}

impl Client {
    /// For `--host`, else `OLLAMA_HOST`, else this machine; believing `ca_file`, too.
    pub fn new(host: Option<&str>, ca_file: Option<&Path>) -> Result<Self, Failure> {
        let host = host.unwrap_or_default();
        let mut given = host::parse(host)?;
        if !host.contains("://") {
            // Where `up --tls` serves on this machine, nobody has to say so.
            for endpoint in given.iter_mut().filter(|e| trust::left_for(e).is_some()) {
                endpoint.scheme = "https";
            }
        }
        let trust = Trust::of(ca_file).and_left_for(&given);
        Self::with(given, KnownNodes::of_user(), trust)
    }

    /// For given addresses and a given memory of nodes.
    pub fn with(given: Vec<Endpoint>, known: KnownNodes, trust: Trust) -> Result<Self, Failure> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_millis(limits::CONNECT_TIMEOUT_MS))
            .tcp_nodelay(true)
            .user_agent(concat!("ollamamax/", env!("CARGO_PKG_VERSION")));
        if given.iter().all(Endpoint::is_loopback) {
            builder = builder.no_proxy();
        }
        let trusted = trust.certificates()?;
        if !trusted.is_empty() {
            builder = builder.tls_certs_merge(trusted);
        }
        let http = builder.build().map_err(|error| Failure::Other(cause_of(&error)))?;
        let credential = tokio::sync::Mutex::new(Credential::of(&given)?);
        let answered = Mutex::new(None);
        Ok(Self { http, given, known, trust, credential, goes_on: true, answered })
    }

    /// For one node and no other, with an API key.
    pub fn with_key(node: Endpoint, key: &str, trust: Trust) -> Result<Self, Failure> {
        let client = Self::alone(node, trust)?;
        let credential = tokio::sync::Mutex::new(Credential::Text(Secret(key.to_owned().into())));
        Ok(Self { credential, ..client })
    }

    /// The address that was given first.
    pub fn first(&self) -> &Endpoint {
        self.given.first().expect("an empty list of hosts is this machine's address")
    }

    /// For one node and no other.
    pub fn alone(node: Endpoint, trust: Trust) -> Result<Self, Failure> {
        Ok(Self { goes_on: false, ..Self::with(vec![node], KnownNodes::nowhere(), trust)? })
    }

    /// Whom it believes.
    pub fn trust(&self) -> Trust {
        self.trust.clone()
    }

    /// A small JSON document.
    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        let answer = self.send(Method::GET, path, Body::None, Kind::Read).await?;
        read_json(answer, path).await
    }

    /// Sends JSON, answers JSON (`null` for an empty answer). Changes something.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let answer = self.send(Method::POST, path, Body::Json(body), Kind::Write).await?;
        read_json(answer, path).await
    }

    /// As [`Client::post`], for a request that changes nothing.
    pub async fn ask(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let answer = self.send(Method::POST, path, Body::Json(body), Kind::Read).await?;
        read_json(answer, path).await
    }

    /// As [`Client::post`], with `PATCH`.
    pub async fn patch(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let answer = self.send(Method::PATCH, path, Body::Json(body), Kind::Write).await?;
        read_json(answer, path).await
    }

    /// As [`Client::post`], with `PUT`.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let answer = self.send(Method::PUT, path, Body::Json(body), Kind::Write).await?;
        read_json(answer, path).await
    }

    /// As [`Client::post`], without any credential: to get one, or to be rid of one.
    pub async fn grant(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let body = Body::Secret(body);
        let answer = self.attempt(Method::POST, path, body, Kind::Write, None).await?;
        read_json(answer, path).await
    }

    /// Deletes, with a body when the API wants one.
    pub async fn delete(&self, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let body = body.map_or(Body::None, Body::Json);
        let answer = self.send(Method::DELETE, path, body, Kind::Write).await?;
        read_json(answer, path).await
    }

    /// Sends JSON and reads a stream of records, however long it takes.
    pub async fn stream(&self, path: &str, body: &Value) -> Result<Records, Failure> {
        let answer = self.send(Method::POST, path, Body::Json(body), Kind::Long).await?;
        Ok(Records::new(answer.response, answer.node.to_string()))
    }

    /// Whether something is there (HEAD answers 200 and not 404).
    pub async fn exists(&self, path: &str) -> Result<bool, Failure> {
        match self.send(Method::HEAD, path, Body::None, Kind::Read).await {
            Ok(_) => Ok(true),
            Err(Failure::Refused { status: 404, .. }) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Uploads a file; `sent` hears how many bytes have gone out.
    pub async fn upload(
        &self,
        path: &str,
        file: &Path,
        bytes: u64,
        sent: Sent,
    ) -> Result<(), Failure> {
        self.send(Method::POST, path, Body::File(file, bytes, sent), Kind::Long).await.map(drop)
    }

    /// The addresses in the order they are tried.
    ///
    /// Ports that are only guessed are left out where something secret would be sent.
    pub fn candidates(&self, guess: bool) -> Vec<Endpoint> {
        let mut all: Vec<Endpoint> = Vec::new();
        let mut add = |endpoint: Endpoint| {
            if !all.contains(&endpoint) {
                all.push(endpoint);
            }
        };
        let answered = self.answered.lock().ok().and_then(|guard| guard.clone());
        answered.into_iter().for_each(&mut add);
        self.given.iter().cloned().for_each(&mut add);
        let lead_on = |endpoint: &&Endpoint| self.goes_on && endpoint.path.is_empty();
        for endpoint in self.given.iter().filter(lead_on) {
            let remembered = self.known.recall(endpoint);
            let search = guess && remembered.is_empty() && endpoint.is_loopback();
            remembered.into_iter().for_each(&mut add);
            let steps = if search { NEIGHBOUR_PORTS } else { 0 };
            (1..=steps).filter_map(|step| endpoint.neighbour(step)).for_each(&mut add);
        }
        all
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Body<'_>,
        kind: Kind,
    ) -> Result<Answer, Failure> {
        let bearer = self.bearer().await?;
        self.attempt(method, path, body, kind, bearer.as_ref()).await
    }

    async fn attempt(
        &self,
        method: Method,
        path: &str,
        body: Body<'_>,
        kind: Kind,
        bearer: Option<&Secret>,
    ) -> Result<Answer, Failure> {
        let is_secret = matches!(body, Body::Secret(_));
        let candidates = self.candidates(!is_secret && bearer.is_none());
        let mut tried = Vec::new();
        let mut cause = String::new();
        for (at, node) in candidates.iter().enumerate() {
            let mut request = self.http.request(method.clone(), node.url(path));
            if let Some(bearer) = bearer {
                request = request.bearer_auth(bearer.0.as_str());
            }
            let last = at + 1 == candidates.len();
            match kind {
                Kind::Read if !last => request = request.timeout(READ_ATTEMPT_TIMEOUT),
                Kind::Read | Kind::Write => request = request.timeout(SMALL_TIMEOUT),
                Kind::Long => {}
            }
            request = match &body {
                Body::None => request,
                Body::Json(value) | Body::Secret(value) => request.json(value),
                Body::File(file, bytes, sent) => {
                    file_body(request, file, *bytes, sent.clone()).await?
                }
            };
            match request.send().await {
                Ok(response) => {
                    self.remember_answer(node);
                    return accept(response, node.clone()).await;
                }
                Err(error) if error.is_connect() || (kind == Kind::Read && !last) => {
                    // Another node that is not there says less than one that is not believed.
                    if !trust::is_doubt(&cause) {
                        cause = cause_of(&error);
                    }
                }
                Err(error) if error.is_timeout() => {
                    return Err(Failure::Timeout {
                        what: format!("an answer from {node}"),
                        seconds: SMALL_TIMEOUT.as_secs(),
                    });
                }
                Err(error) => {
                    let cause = cause_of(&error);
                    return Err(Failure::BrokenOff { node: node.to_string(), cause });
                }
            }
            tried.push(node.to_string());
        }
        Err(Failure::Unreachable { tried, cause: trust::explain(cause) })
    }

    /// The node that answered last.
    pub fn answered_by(&self) -> Option<Endpoint> {
        self.answered.lock().ok().and_then(|guard| guard.clone())
    }

    fn remember_answer(&self, node: &Endpoint) {
        if let Ok(mut answered) = self.answered.lock() {
            *answered = Some(node.clone());
        }
    }

    /// Asks the node that answered for the others, for the next command. Best effort, short.
    pub async fn learn(&self) {
        let Some(node) = self.answered.lock().ok().and_then(|guard| guard.clone()) else { return };
        let plain = |endpoint: &Endpoint| endpoint.path.is_empty();
        if !plain(&node) {
            return;
        }
        let mut request = self.http.get(node.url("/auth/whoami")).timeout(LEARN_TIMEOUT);
        if let Ok(Some(bearer)) = self.bearer().await {
            request = request.bearer_auth(bearer.0.as_str());
        }
        let Ok(response) = request.send().await else { return };
        let Ok(status) = response.json::<Value>().await else { return };
        let nodes = node_endpoints(&status, &node);
        for endpoint in self.given.iter().filter(|endpoint| plain(endpoint)) {
            if !nodes.is_empty() {
                self.known.remember(endpoint, &nodes);
            }
        }
    }
}

async fn file_body(
    request: reqwest::RequestBuilder,
    file: &Path,
    bytes: u64,
    sent: Sent,
) -> Result<reqwest::RequestBuilder, Failure> {
    let opened = tokio::fs::File::open(file).await.map_err(Failure::file("read", file))?;
    let mut total = 0;
    let pieces = tokio_util::io::ReaderStream::with_capacity(opened, limits::TRANSFER_CHUNK_BYTES)
        .inspect(move |piece| {
            total += piece.as_ref().map_or(0, |piece| piece.len() as u64);
            sent(total);
        });
    Ok(request
        .header(reqwest::header::CONTENT_LENGTH, bytes)
        .body(reqwest::Body::wrap_stream(pieces)))
}

async fn accept(response: Response, node: Endpoint) -> Result<Answer, Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(Answer { response, node });
    }
    let text = response.text().await.unwrap_or_default();
    Err(Failure::Refused { status: status.as_u16(), message: error_text(status, &text) })
}

/// The words of an error answer: Ollama's and OpenAI's `error`, problem details, or the text itself.
fn error_text(status: StatusCode, text: &str) -> String {
    let parsed: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    let found =
        [&parsed["error"], &parsed["error"]["message"], &parsed["detail"], &parsed["title"]]
            .into_iter()
            .find_map(|value| value.as_str().map(str::to_owned));
    let words = found.unwrap_or_else(|| text.trim().to_owned());
    let words: String = words.chars().take(ERROR_TEXT_CHARS).collect();
    if words.is_empty() { format!("the server answered {status}") } else { words }
}

pub(crate) async fn read_json(answer: Answer, path: &str) -> Result<Value, Failure> {
    let node = answer.node.to_string();
    let bytes = answer
        .response
        .bytes()
        .await
        .map_err(|error| Failure::BrokenOff { node: node.clone(), cause: cause_of(&error) })?;
    if bytes.trim_ascii().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        Failure::Other(format!("{node}{path} answered something that is no JSON: {error}"))
    })
}

/// The innermost reason of an error: "Connection refused" says more than "error sending request".
pub fn cause_of(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
