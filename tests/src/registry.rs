//! A registry to pull from and push to, which speaks the protocol for real and misbehaves on request.
//!
//! It listens on the loopback interface, keeps everything in memory, tells upper from lower case, counts the bytes it sends and
//! what it was told of who asks.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use ollamamax_proto::Digest;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The media type of a manifest.
pub const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Bytes up to which a blob is a text.
const TEXT_BYTES: usize = 512;
/// Bytes of a piece of a body.
const PIECE_BYTES: usize = 64 * 1024;

/// What the registry does with a request for a blob that is no short text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// Answers with the range that was asked for.
    #[default]
    Good,
    /// Sends so many bytes of each answer, then cuts the connection.
    CutAfter(usize),
    /// As `CutAfter`, for the first so many requests.
    CutFirst(usize, usize),
    /// Sends everything, whatever was asked for.
    NoRanges,
    /// Other bytes than the digest says.
    WrongBytes,
    /// Says that the whole has so many more bytes.
    LyingTotal(u64),
    /// Sends for ever, without a length.
    Endless,
    /// Sends a packed body.
    Packed,
    /// Sends the way to another place.
    Redirect(String),
    /// Sends so many bytes a second.
    Slow(usize),
}

/// What the registry has and has seen.
#[derive(Debug, Default)]
struct Shelf {
    blobs: HashMap<Digest, Bytes>,
    manifests: BTreeMap<String, Bytes>,
    uploads: HashMap<u64, Vec<u8>>,
    manner: Manner,
    /// What who asks must bring, as the token of a challenge or itself.
    token: Option<String>,
    /// Where tokens are, when not here.
    realm: Option<String>,
    /// `Basic` that gets a token here.
    basic: Option<String>,
    requests: Vec<String>,
    authorizations: Vec<String>,
    sent_bytes: u64,
    blob_requests: usize,
    next_upload: u64,
}

/// A running registry; dropping it ends it.
#[derive(Debug)]
pub struct Registry {
    address: String,
    shelf: Arc<Mutex<Shelf>>,
    task: JoinHandle<()>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let shelf: Arc<Mutex<Shelf>> = Arc::default();
        let state = (Arc::clone(&shelf), address.clone());
        let router = Router::new().fallback(answer).with_state(state);
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, shelf, task })
    }

    /// Its host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Keeps bytes.
    pub fn put(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        lock(&self.shelf).blobs.insert(digest, bytes);
        digest
    }

    /// Keeps a manifest under `namespace/model:tag`, as it is.
    pub fn put_manifest(&self, name: &str, text: impl Into<Bytes>) {
        lock(&self.shelf).manifests.insert(name.to_owned(), text.into());
    }

    /// Keeps a model: its GGUF, and other layers by the end of their media type.
    pub fn put_model(&self, name: &str, gguf: impl Into<Bytes>, layers: &[(&str, &str)]) -> Digest {
        let gguf = gguf.into();
        let layer = |kind: &str, digest: Digest, bytes: usize| {
            let media_type = format!("application/vnd.ollama.image.{kind}");
            json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes})
        };
        let bytes = gguf.len();
        let digest = self.put(gguf);
        let mut all = vec![layer("model", digest, bytes)];
        for (kind, text) in layers {
            let bytes = Bytes::from((*text).to_owned());
            all.push(layer(kind, self.put(bytes.clone()), bytes.len()));
        }
        let config = Bytes::from_static(b"{\"model_format\":\"gguf\"}");
        let config_type = "application/vnd.docker.container.image.v1+json";
        let size = config.len();
        let config =
            json!({"mediaType": config_type, "digest": self.put(config).to_string(), "size": size});
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": all});
        self.put_manifest(name, manifest.to_string());
        digest
    }

    /// What it does with blobs from now on.
    pub fn behave(&self, manner: Manner) {
        let mut shelf = lock(&self.shelf);
        shelf.manner = manner;
        shelf.blob_requests = 0;
    }

    /// Asks who comes for a token, which its own endpoint (or `realm`) gives.
    pub fn ask_for_token(&self, token: &str, realm: Option<&str>, basic: Option<&str>) {
        let mut shelf = lock(&self.shelf);
        shelf.token = Some(token.to_owned());
        shelf.realm = realm.map(str::to_owned);
        shelf.basic = basic.map(str::to_owned);
    }

    /// Bytes of blobs that it has sent.
    pub fn sent_bytes(&self) -> u64 {
        lock(&self.shelf).sent_bytes
    }

    /// The requests so far: `GET /v2/...`.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.shelf).requests.clone()
    }

    /// What it was told of who asks.
    pub fn authorizations(&self) -> Vec<String> {
        lock(&self.shelf).authorizations.clone()
    }

    /// The manifest under `namespace/model:tag`.
    pub fn manifest(&self, name: &str) -> Option<Bytes> {
        lock(&self.shelf).manifests.get(name).cloned()
    }

    /// The bytes of a digest.
    pub fn blob(&self, digest: Digest) -> Option<Bytes> {
        lock(&self.shelf).blobs.get(&digest).cloned()
    }
}

type Shared = (Arc<Mutex<Shelf>>, String);

async fn answer(State((shelf, address)): State<Shared>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let (method, uri, headers) = (parts.method, parts.uri, parts.headers);
    let told = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let told = told.map(str::to_owned);
    {
        let mut shelf = lock(&shelf);
        shelf.requests.push(format!("{method} {uri}"));
        shelf.authorizations.extend(told.clone());
        if uri.path() == "/token" {
            let may = shelf.basic.is_none() || shelf.basic == told;
            let token = shelf.token.clone();
            return match may {
                true => axum::Json(json!({"token": token})).into_response(),
                false => StatusCode::UNAUTHORIZED.into_response(),
            };
        }
        if let Some(token) = &shelf.token
            && told.as_deref() != Some(&format!("Bearer {token}"))
        {
            let own = format!("http://{address}/token");
            let realm = shelf.realm.clone().unwrap_or(own);
            let challenge = format!("Bearer realm=\"{realm}\",service=\"{address}\"");
            return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)])
                .into_response();
        }
    }
    let path = uri.path().strip_prefix("/v2/").unwrap_or_default().to_owned();
    let parts: Vec<&str> = path.split('/').collect();
    let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    match parts[..] {
        [namespace, model, "manifests", tag] | [namespace, model, "manifests", tag, ""] => {
            let name = format!("{namespace}/{model}:{tag}");
            if method == Method::PUT {
                lock(&shelf).manifests.insert(name, bytes);
                return StatusCode::CREATED.into_response();
            }
            let found = lock(&shelf).manifests.get(&name).cloned();
            found.map_or(StatusCode::NOT_FOUND.into_response(), |bytes| {
                ([(header::CONTENT_TYPE, MANIFEST_TYPE)], bytes).into_response()
            })
        }
        [namespace, model, "blobs", "uploads", id] => {
            let place = format!("/v2/{namespace}/{model}/blobs/uploads");
            upload(&shelf, &method, &uri, &place, id, &bytes)
        }
        [_, _, "blobs", digest] => {
            let found = digest.parse::<Digest>().ok();
            let found = found.and_then(|digest| lock(&shelf).blobs.get(&digest).cloned());
            let Some(bytes) = found else { return StatusCode::NOT_FOUND.into_response() };
            match method {
                Method::HEAD => {
                    let length = [(header::CONTENT_LENGTH, bytes.len().to_string())];
                    (length, Body::empty()).into_response()
                }
                _ => blob(&shelf, &headers, bytes),
            }
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn upload(
    shelf: &Mutex<Shelf>,
    method: &Method,
    uri: &Uri,
    place: &str,
    id: &str,
    bytes: &Bytes,
) -> Response {
    let mut shelf = lock(shelf);
    let at = |id: u64, len: usize| {
        let range = format!("0-{}", len.saturating_sub(1));
        [(header::LOCATION, format!("{place}/{id}?state=x")), (header::RANGE, range)]
    };
    if *method == Method::POST {
        shelf.next_upload += 1;
        let id = shelf.next_upload;
        shelf.uploads.insert(id, Vec::new());
        return (StatusCode::ACCEPTED, at(id, 0)).into_response();
    }
    let Some(id) = id.parse::<u64>().ok().filter(|id| shelf.uploads.contains_key(id)) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let upload = shelf.uploads.entry(id).or_default();
    match *method {
        Method::PATCH => {
            upload.extend_from_slice(bytes);
            let len = upload.len();
            (StatusCode::ACCEPTED, at(id, len)).into_response()
        }
        Method::GET => (StatusCode::NO_CONTENT, at(id, upload.len())).into_response(),
        Method::PUT => {
            let got = Digest::of(upload);
            let query = uri.query().unwrap_or_default().replace("%3A", ":");
            if !query.contains(&format!("digest={got}")) {
                return StatusCode::BAD_REQUEST.into_response();
            }
            let whole = shelf.uploads.remove(&id).unwrap_or_default();
            shelf.blobs.insert(got, whole.into());
            StatusCode::CREATED.into_response()
        }
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

/// A range as it was asked for, half-open.
fn range(headers: &HeaderMap, len: usize) -> Option<(usize, usize)> {
    let text = headers.get(header::RANGE)?.to_str().ok()?;
    let (start, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let start = start.parse().ok()?;
    let last: usize = last.parse().unwrap_or(len - 1);
    (start < len).then_some((start, (last + 1).min(len)))
}

fn blob(shelf: &Arc<Mutex<Shelf>>, headers: &HeaderMap, mut bytes: Bytes) -> Response {
    let (manner, nth) = {
        let mut shelf = lock(shelf);
        shelf.blob_requests += 1;
        // Texts come as they are, for what is done to the large ones to show.
        let manner = if bytes.len() > TEXT_BYTES { shelf.manner.clone() } else { Manner::Good };
        (manner, shelf.blob_requests)
    };
    let mut total = bytes.len() as u64;
    let mut asked = range(headers, bytes.len());
    let (mut cut, mut pause) = (None, Duration::ZERO);
    match manner {
        Manner::Good => {}
        Manner::CutAfter(len) => cut = Some(len),
        Manner::CutFirst(count, len) => cut = (nth <= count).then_some(len),
        Manner::NoRanges => asked = None,
        Manner::WrongBytes => bytes = bytes.iter().map(|byte| byte ^ 1).collect(),
        Manner::LyingTotal(more) => total += more,
        Manner::Endless => {
            let zeroes = Bytes::from(vec![0; PIECE_BYTES]);
            let shelf = Arc::clone(shelf);
            let body = futures_util::stream::repeat_with(move || {
                lock(&shelf).sent_bytes += PIECE_BYTES as u64;
                Ok::<_, io::Error>(zeroes.clone())
            });
            return Body::from_stream(body).into_response();
        }
        Manner::Packed => {
            return ([(header::CONTENT_ENCODING, "gzip")], bytes).into_response();
        }
        Manner::Redirect(to) => {
            return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response();
        }
        Manner::Slow(bytes_per_s) => {
            pause = Duration::from_secs_f64(PIECE_BYTES as f64 / bytes_per_s as f64);
        }
    }
    let (start, end) = asked.unwrap_or((0, bytes.len()));
    let mut part = bytes.slice(start..end);
    let length = part.len();
    if let Some(len) = cut {
        part.truncate(len);
    }
    let shelf = Arc::clone(shelf);
    let pieces: Vec<Bytes> = (0..part.len())
        .step_by(PIECE_BYTES)
        .map(|at| part.slice(at..part.len().min(at + PIECE_BYTES)))
        .collect();
    let body = futures_util::stream::iter(pieces).then(move |piece| {
        let shelf = Arc::clone(&shelf);
        async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            lock(&shelf).sent_bytes += piece.len() as u64;
            Ok(piece)
        }
    });
    let broken = cut.filter(|len| *len < length).map(|_| Err(io::Error::other("cut")));
    let body = body.chain(futures_util::stream::iter(broken));
    let mut response = Body::from_stream(body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::ETAG, HeaderValue::from_static("\"edition 1\""));
    if asked.is_some() {
        let text = format!("bytes {start}-{}/{total}", end - 1);
        headers.extend(HeaderValue::from_str(&text).ok().map(|text| (header::CONTENT_RANGE, text)));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}
