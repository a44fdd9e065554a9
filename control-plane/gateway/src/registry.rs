//! This node as a registry: what other clusters, and Ollama itself, pull from it. Reading alone; what is pushed comes by `/api/blobs`
//! and `/api/create`.
//!
//! A model is told as a manifest of its layers; the texts among them are made when they are asked for, and are the same bytes each
//! time. Names with a host are not served: under a host of this node they would be somebody else's.

use crate::Gateway;
use crate::auth::Caller;
use crate::error::{Failure, OllamaError};
use crate::layers::{manifest, texts};
use crate::request::Path;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use ollamamax_core::access::Action;
use ollamamax_core::record::ModelRecord;
use ollamamax_proto::{Digest, limits};
use ollamamax_sources::manifest::MANIFEST_TYPE;
use ollamamax_sources::push::Content;
use std::io::SeekFrom;
use std::ops::Range;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

impl Gateway {
    /// A model as its path names it, if the caller may have its bytes: whoever has them can have it answer elsewhere.
    fn served(&self, caller: &Caller, name: &str) -> Result<ModelRecord, Failure> {
        caller.model(&self.control.state(), name, Action::RunInference)
    }
}

/// What a model consists of, as a registry tells it.
#[utoipa::path(get, path = "/v2/{namespace}/{model}/manifests/{tag}",
    params(("namespace" = String, Path, description = "`library` for models without one."), ("model" = String, Path), ("tag" = String, Path)),
    responses((status = 200, description = "A manifest of Docker's version 2.", body = Object,
        content_type = "application/vnd.docker.distribution.manifest.v2+json")))]
pub(crate) async fn get_manifest(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path((namespace, model, tag)): Path<(String, String, String)>,
) -> Result<Response, OllamaError> {
    let record = gateway.served(&caller, &format!("{namespace}/{model}:{tag}"))?;
    let json = manifest(&record.version).to_json();
    let digest = Digest::of(&json).to_string();
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(MANIFEST_TYPE)),
        (header::HeaderName::from_static("docker-content-digest"), text(&digest)),
    ];
    Ok((headers, json).into_response())
}

/// The bytes of a layer, whole or a range of them.
#[utoipa::path(get, path = "/v2/{namespace}/{model}/blobs/{digest}",
    params(("namespace" = String, Path), ("model" = String, Path),
        ("digest" = String, Path, description = "`sha256:` and 64 hex digits, of a layer of one of the model's tags.")),
    responses((status = 200, description = "All of it.", content(("application/octet-stream"))),
        (status = 206, description = "The range that was asked for.", content(("application/octet-stream")))))]
pub(crate) async fn get_blob(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path((namespace, model, digest)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, OllamaError> {
    let unknown = || Failure::NotFound(format!("blob {digest:?} not found"));
    let digest: Digest = digest.parse().map_err(|_| unknown())?;
    let any = gateway.served_tags(&caller, &namespace, &model);
    let content = any.iter().find_map(|record| {
        let version = &record.version;
        let found = texts(version).into_iter().find(|(layer, _)| layer.digest == digest);
        found.map(|(_, content)| content)
    });
    if let Some(Content::Bytes(bytes)) = content {
        return Ok(bytes_of(bytes));
    }
    if !any.iter().any(|record| record.version.blob == digest) {
        return Err(unknown().into());
    }
    let hold = gateway.blobs.hold(digest);
    let path = gateway.blobs.open(digest).await?;
    let failed = |error: std::io::Error| Failure::Internal(format!("reading the blob: {error}"));
    let mut file = tokio::fs::File::open(path).await.map_err(failed)?;
    let total = file.metadata().await.map_err(failed)?.len();
    let asked = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let asked = asked.and_then(|value| range(value, total));
    let range = asked.clone().unwrap_or(0..total);
    file.seek(SeekFrom::Start(range.start)).await.map_err(failed)?;
    let length = range.end - range.start;
    let body =
        futures_util::stream::unfold((file, length, hold), async |(mut file, left, hold)| {
            let want = left.min(limits::TRANSFER_CHUNK_BYTES as u64);
            if want == 0 {
                return None;
            }
            let mut bytes = vec![0; usize::try_from(want).unwrap_or_default()];
            let read = file.read_exact(&mut bytes).await.map(|_| Bytes::from(bytes));
            let left = if read.is_ok() { left - want } else { 0 };
            Some((read, (file, left, hold)))
        });
    let mut response = Body::from_stream(body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if asked.is_some() {
        let said = format!("bytes {}-{}/{total}", range.start, range.end - 1);
        headers.insert(header::CONTENT_RANGE, text(&said));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

impl Gateway {
    /// The tags of a model that the caller may have.
    fn served_tags(&self, caller: &Caller, namespace: &str, model: &str) -> Vec<ModelRecord> {
        let state = self.control.state();
        let Ok(name) = crate::names::well_formed(&format!("{namespace}/{model}")) else {
            return Vec::new();
        };
        let same = |record: &&ModelRecord| {
            let of = &record.name;
            (of.host(), of.namespace(), of.model()) == (name.host(), name.namespace(), name.model())
        };
        let may = |record: &&ModelRecord| {
            caller.model(&state, &record.name.to_string(), Action::RunInference).is_ok()
        };
        state.models.values().filter(same).filter(may).cloned().collect()
    }
}

fn bytes_of(bytes: Bytes) -> Response {
    let kind = HeaderValue::from_static("application/octet-stream");
    ([(header::CONTENT_TYPE, kind)], bytes).into_response()
}

fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static(""))
}

/// `bytes=start-end`, half-open; other forms are answered with the whole, as they may be (RFC 9110).
fn range(value: &str, total: u64) -> Option<Range<u64>> {
    let (start, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    let start: u64 = start.parse().ok()?;
    let end = match last {
        "" => total,
        last => last.parse::<u64>().ok()?.checked_add(1)?.min(total),
    };
    (start < end).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_file_or_none() {
        for (text, expected) in [
            ("bytes=0-4", Some(0..5)),
            ("bytes=5-", Some(5..10)),
            ("bytes=5-100", Some(5..10)),
            ("bytes=10-", None),
            ("bytes=7-3", None),
            ("bytes=-3", None),
            ("bytes=0-4,6-7", None),
            ("bytes=0-18446744073709551615", None),
            ("lines=0-4", None),
        ] {
            assert_eq!(range(text, 10), expected, "{text}");
        }
    }
}
