//! `HEAD` and `POST /api/blobs/{digest}`: bytes by their digest.

use crate::Gateway;
use crate::auth::Caller;
use crate::error::{Failure, OllamaError};
use crate::request::Path;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt;
use ollamamax_proto::{Digest, limits};
use std::io;
use std::sync::{Arc, OnceLock};

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
    caller: Caller,
    Path(text): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, OllamaError> {
    let digest = digest(&text)?;
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let length = length.and_then(|length| length.parse::<u64>().ok());
    if length.is_some_and(|bytes| bytes > limits::BLOB_BYTES) {
        return Err(Failure::TooLarge { limit: limits::BLOB_BYTES }.into());
    }
    let mut upload = gateway.let_upload(&caller, length)?;
    let refused = Arc::new(OnceLock::new());
    let refuse = Arc::clone(&refused);
    let body = body.into_data_stream().map(move |chunk| {
        let chunk = chunk.map_err(io::Error::other)?;
        let counted = upload.more(chunk.len() as u64);
        counted.map(|()| chunk).map_err(|failure| {
            let _ = refuse.set(failure);
            io::Error::other("a quota is used up")
        })
    });
    let created = gateway.blobs.put(digest, body.boxed()).await;
    if let Some(failure) = refused.get() {
        return Err(Failure::clone(failure).into());
    }
    Ok(if created? { StatusCode::CREATED } else { StatusCode::OK })
}
