//! `HEAD` and `POST /api/blobs/{digest}`: bytes by their digest.

use crate::Gateway;
use crate::error::{Failure, OllamaError};
use crate::request::Path;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::{StreamExt, TryStreamExt};
use ollamamax_proto::{Digest, limits};
use std::io;
use std::sync::Arc;

fn digest(text: &str) -> Result<Digest, Failure> {
    text.parse().map_err(|_| Failure::invalid("invalid digest format"))
}

/// Whether the bytes are here.
#[utoipa::path(head, path = "/api/blobs/{digest}",
    params(("digest" = String, Path, description = "`sha256:` and 64 hex digits.", pattern = "^sha256[:-][0-9a-fA-F]{64}$")),
    responses((status = 200, description = "They are.")))]
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
#[utoipa::path(post, path = "/api/blobs/{digest}", request_body(content_type = "application/octet-stream"),
    params(("digest" = String, Path, description = "`sha256:` and 64 hex digits.", pattern = "^sha256[:-][0-9a-fA-F]{64}$")),
    responses((status = 201, description = "They are kept."), (status = 200, description = "They were here."),
        (status = 500), (status = 507)))]
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
