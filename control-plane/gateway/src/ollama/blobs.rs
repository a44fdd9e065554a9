//! `HEAD` and `POST /api/blobs/{digest}`: bytes by their digest.

use crate::Gateway;
use crate::error::{Failure, OllamaError};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::{StreamExt, TryStreamExt};
use ollamamax_proto::{Digest, limits};
use std::io;
use std::sync::Arc;

fn digest(text: &str) -> Result<Digest, Failure> {
    text.parse().map_err(|_| Failure::invalid("invalid digest format"))
}

/// Whether the bytes are here.
pub(crate) async fn head(
    State(gateway): State<Arc<Gateway>>,
    Path(text): Path<String>,
) -> Result<StatusCode, OllamaError> {
    let digest = digest(&text)?;
    match gateway.blobs.stat(digest) {
        Some(_) => Ok(StatusCode::OK),
        None => Err(Failure::NotFound(format!("blob {text:?} not found")).into()),
    }
}

/// Takes bytes in, as a stream straight to the store.
pub(crate) async fn post(
    State(gateway): State<Arc<Gateway>>,
    Path(text): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, OllamaError> {
    let digest = digest(&text)?;
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if length.and_then(|length| length.parse().ok()).is_some_and(|n: u64| n > limits::BLOB_BYTES) {
        return Err(Failure::TooLarge { limit: limits::BLOB_BYTES }.into());
    }
    let body = body.into_data_stream().map_err(io::Error::other).boxed();
    let created = gateway.blobs.put(digest, body).await?;
    Ok(if created { StatusCode::CREATED } else { StatusCode::OK })
}
