//! A model to a registry: each layer that it lacks in pieces, then the manifest.
//!
//! An upload that breaks off goes on where the registry says that it is; where it does not say, it begins again.

use crate::error::SourceError;
use crate::guard::shown;
use crate::http::{Ask, refused};
use crate::manifest::{Layer, MANIFEST_TYPE, Manifest};
use crate::registry::Registry;
use bytes::Bytes;
use futures_util::StreamExt;
use ollamamax_proto::backoff::delay_ms;
use ollamamax_proto::limits;
use reqwest::header::{
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE,
};
use reqwest::{Body, Method, Response, StatusCode, Url};
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;

/// The bytes of a layer.
#[derive(Clone, Debug)]
pub enum Content {
    /// Here.
    Bytes(Bytes),
    /// In a file.
    File(PathBuf),
}

/// How far a layer is: bytes that the registry has, of so many.
pub type Tell<'a> = &'a (dyn Fn(&Layer, u64) + Send + Sync);

/// Gives the registry a layer, unless it has it.
///
/// # Errors
/// When it cannot be given.
pub async fn layer(
    registry: &Registry,
    layer: &Layer,
    content: &Content,
    tell: Tell<'_>,
) -> Result<(), SourceError> {
    tell(layer, 0);
    let url = registry.url(&format!("blobs/{}", layer.digest))?;
    let ask = Ask { method: Method::HEAD, ..Ask::get(url.clone(), registry.insecure()) };
    let known = registry.ask(ask).await?;
    match known.status() {
        StatusCode::OK => {
            tell(layer, layer.bytes);
            return Ok(());
        }
        StatusCode::NOT_FOUND => {}
        status => return Err(refused(&url, status)),
    }
    let mut upload: Option<Upload> = None;
    let mut tries = 0;
    loop {
        let before = upload.as_ref().map_or(0, |upload| upload.done);
        match step(registry, layer, content, &mut upload, tell).await {
            Ok(true) => return Ok(()),
            Ok(false) => tries = 0,
            Err(error) if error.may_pass() && tries + 1 < limits::PULL_ATTEMPTS_COUNT => {
                tracing::debug!(%error, "an upload is tried again");
                let (first, most) = (limits::PULL_RETRY_FIRST_MS, limits::PULL_RETRY_MOST_MS);
                let wait = delay_ms(tries, first, most, rand::random());
                tokio::time::sleep(Duration::from_millis(wait)).await;
                tries += 1;
                if let Some(begun) = upload.take() {
                    upload = resume(registry, begun).await;
                }
                if upload.as_ref().is_some_and(|upload| upload.done > before) {
                    tries = 0;
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Tells the registry what the model consists of.
///
/// # Errors
/// When it does not take it.
pub async fn manifest(registry: &Registry, manifest: &Manifest) -> Result<(), SourceError> {
    let url = registry.url(&format!("manifests/{}", registry.repository().tag()))?;
    let json = Bytes::from(manifest.to_json());
    let body = || Body::from(json.clone());
    let mut ask = Ask {
        method: Method::PUT,
        body: Some(&body),
        ..Ask::get(url.clone(), registry.insecure())
    };
    ask.headers.insert(CONTENT_TYPE, HeaderValue::from_static(MANIFEST_TYPE));
    let answer = registry.ask(ask).await?;
    if answer.status().is_success() { Ok(()) } else { Err(refused(&url, answer.status())) }
}

/// An upload that has begun.
struct Upload {
    location: Url,
    done: u64,
}

/// One piece more, or the end of it: then `true`.
async fn step(
    registry: &Registry,
    layer: &Layer,
    content: &Content,
    upload: &mut Option<Upload>,
    tell: Tell<'_>,
) -> Result<bool, SourceError> {
    let insecure = registry.insecure();
    let Some(begun) = upload else {
        let url = registry.url("blobs/uploads/")?;
        let mut ask =
            Ask { method: Method::POST, body: Some(&empty), ..Ask::get(url.clone(), insecure) };
        ask.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let answer = registry.ask(ask).await?;
        if answer.status() != StatusCode::ACCEPTED {
            return Err(refused(&url, answer.status()));
        }
        *upload = Some(Upload { location: location(&answer)?, done: 0 });
        return Ok(false);
    };
    if begun.done < layer.bytes {
        let end = layer.bytes.min(begun.done + limits::PUSH_PIECE_BYTES);
        let range = begun.done..end;
        let body = || piece(content, range.start, range.end);
        let mut ask = Ask {
            method: Method::PATCH,
            body: Some(&body),
            ..Ask::get(begun.location.clone(), insecure)
        };
        ask.headers = of_bytes(end - range.start);
        let text = format!("{}-{}", range.start, end - 1);
        ask.headers.extend(HeaderValue::from_str(&text).ok().map(|text| (CONTENT_RANGE, text)));
        let answer = registry.ask(ask).await?;
        if answer.status() != StatusCode::ACCEPTED {
            return Err(refused(&begun.location, answer.status()));
        }
        *begun = Upload { location: location(&answer)?, done: end };
        tell(layer, end);
        return Ok(false);
    }
    let mut url = begun.location.clone();
    url.query_pairs_mut().append_pair("digest", &layer.digest.to_string());
    let mut ask =
        Ask { method: Method::PUT, body: Some(&empty), ..Ask::get(url.clone(), insecure) };
    ask.headers = of_bytes(0);
    let answer = registry.ask(ask).await?;
    if answer.status() != StatusCode::CREATED {
        return Err(refused(&url, answer.status()));
    }
    tell(layer, layer.bytes);
    Ok(true)
}

fn empty() -> Body {
    Body::from(Bytes::new())
}

fn of_bytes(count: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(count));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers
}

fn location(answer: &Response) -> Result<Url, SourceError> {
    let text = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let url = text.and_then(|text| answer.url().join(text).ok());
    let what = "does not say where an upload goes".to_owned();
    url.ok_or_else(|| SourceError::Lied { host: shown(answer.url()), what })
}

/// Asks how far an upload is.
async fn resume(registry: &Registry, begun: Upload) -> Option<Upload> {
    let answer = registry.ask(Ask::get(begun.location, registry.insecure())).await.ok()?;
    if answer.status() != StatusCode::NO_CONTENT {
        return None;
    }
    let range = answer.headers().get(RANGE)?.to_str().ok()?;
    let last: u64 = range.trim_start_matches("bytes=").strip_prefix("0-")?.parse().ok()?;
    // `0-0` is what an upload says that has nothing yet.
    let done = if last == 0 { 0 } else { last + 1 };
    Some(Upload { location: location(&answer).ok()?, done })
}

/// A body of `[start, end)` of a layer.
fn piece(content: &Content, start: u64, end: u64) -> Body {
    match content {
        Content::Bytes(bytes) => {
            let at = |offset: u64| usize::try_from(offset).unwrap_or(bytes.len()).min(bytes.len());
            Body::from(bytes.slice(at(start)..at(end)))
        }
        Content::File(path) => {
            let (sender, receiver) = mpsc::channel(4);
            let path = path.clone();
            tokio::task::spawn_blocking(move || {
                let read = || -> std::io::Result<()> {
                    let mut file = std::fs::File::open(&path)?;
                    file.seek(SeekFrom::Start(start))?;
                    let mut left = end - start;
                    while left > 0 {
                        let len = left.min(limits::TRANSFER_CHUNK_BYTES as u64);
                        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
                        file.read_exact(&mut bytes)?;
                        left -= len;
                        if sender.blocking_send(Ok(Bytes::from(bytes))).is_err() {
                            return Ok(());
                        }
                    }
                    Ok(())
                };
                if let Err(error) = read() {
                    let _ = sender.blocking_send(Err(error));
                }
            });
            let pieces = futures_util::stream::unfold(receiver, async |mut receiver| {
                Some((receiver.recv().await?, receiver))
            });
            Body::wrap_stream(pieces.boxed())
        }
    }
}
