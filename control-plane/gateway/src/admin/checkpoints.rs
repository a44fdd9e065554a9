//! `GET`, `PUT` and `DELETE /admin/v1/checkpoints/{name}`: small named values with compare-and-set.
//!
//! The revision of a value is its `ETag`; `If-Match` changes only what is still there, `If-None-Match: *` only what is not.

use super::users::Named;
use crate::auth::Caller;
use crate::error::{Failure, Problem};
use crate::request::{Path, Query};
use crate::streams::PREFIX;
use crate::{Gateway, body, stream};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use ollamamax_core::Command;
use ollamamax_core::access::{Action, Object};
use ollamamax_proto::{Revision, limits, mutant};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;

/// The revision of the whole state that a local read was answered from.
const READ_AT: HeaderName = HeaderName::from_static("x-revision");

/// How new the answer must be.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Consistency {
    /// `linearizable`, which sees everything acknowledged before, or `local`.
    #[serde(default)]
    #[param(example = "local")]
    consistency: Option<String>,
}

/// Reads a small named value. Everything acknowledged before is seen, unless `?consistency=local`.
#[utoipa::path(get, path = "/admin/v1/checkpoints/{name}",
    params(("name" = String, Path, description = "It may hold slashes.", example = "jobs/sync"), Consistency),
    responses((status = 200, description = "The value; `ETag` is its revision, `X-Revision` that of the state.", content(
        ("application/octet-stream"))), (status = 503)))]
pub(crate) async fn get(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(name): Path<String>,
    Query(Consistency { consistency }): Query<Consistency>,
) -> Result<Response, Problem> {
    check_name(&name)?;
    caller.check(Action::ManageSystem, Object::Named(&name), &name)?;
    let state = match consistency.as_deref() {
        None | Some("linearizable") => gateway.control.linearizable().await?,
        Some("local") => gateway.control.state(),
        Some(other) => {
            return Err(Failure::invalid(format!(
                "`consistency` is `{other}`, expected `linearizable` or `local`"
            ))
            .into());
        }
    };
    let unknown = || Failure::NotFound(format!("checkpoint `{name}` not found"));
    let checkpoint = state.checkpoints.get(&name).ok_or_else(unknown)?;
    let mut response = stream::typed("application/octet-stream", checkpoint.value.clone());
    let headers = response.headers_mut();
    headers.insert(header::ETAG, etag(checkpoint.revision));
    headers.insert(READ_AT, HeaderValue::from(state.revision().0));
    Ok(response)
}

/// Sets a small named value. `If-Match` changes only what is still there, `If-None-Match: *` only what is not.
#[utoipa::path(put, path = "/admin/v1/checkpoints/{name}",
    params(("name" = String, Path, description = "It may hold slashes.", example = "jobs/sync"),
        ("if-match" = Option<String>, Header, description = "The revision in quotes."),
        ("if-none-match" = Option<String>, Header, description = "`*`.")),
    request_body(content_type = "application/octet-stream"),
    responses((status = 200, description = "It is set; `ETag` is its revision.", body = Named), (status = 412)))]
pub(crate) async fn put(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    check_name(&name)?;
    caller.check(Action::ManageSystem, Object::Named(&name), &name)?;
    let expected = expected(&headers)?;
    let value = body::read(body, limits::CHECKPOINT_VALUE_BYTES).await?.to_vec();
    let command = Command::PutCheckpoint { name: name.clone(), value, expected };
    let revision = match planted(&gateway, &command) {
        Some(revision) => revision,
        None => caller.propose(&gateway, "checkpoint.put", &name, command).await?.revision(),
    };
    let mut response = stream::plain_json(&Named { name, revision });
    response.headers_mut().insert(header::ETAG, etag(revision));
    Ok(response)
}

/// Bugs of writes: see `docs/chaos.md`. One of them answers by itself.
fn planted(gateway: &Arc<Gateway>, command: &Command) -> Option<Revision> {
    if mutant::every("unproposed-write", 20) {
        return Some(Revision(gateway.control.state().revision().0 + 1));
    }
    if mutant::every("proposed-twice", 5) {
        let (gateway, command) = (Arc::clone(gateway), command.clone());
        tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            let _ = gateway.control.propose(command).await;
        });
    }
    if mutant::planted("leaked-memory") {
        Box::leak(vec![1u8; 1 << 20].into_boxed_slice());
    }
    if mutant::planted("leaked-descriptors") {
        std::mem::forget(std::fs::File::open("/dev/null"));
    }
    None
}

/// Removes a small named value.
#[utoipa::path(delete, path = "/admin/v1/checkpoints/{name}",
    params(("name" = String, Path, description = "It may hold slashes.", example = "jobs/sync"),
        ("if-match" = Option<String>, Header, description = "The revision in quotes."),
        ("if-none-match" = Option<String>, Header, description = "`*`.")),
    responses((status = 200, description = "It is gone.", body = Named), (status = 412)))]
pub(crate) async fn delete(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    check_name(&name)?;
    caller.check(Action::ManageSystem, Object::Named(&name), &name)?;
    let expected = expected(&headers)?;
    let command = Command::DeleteCheckpoint { name: name.clone(), expected };
    let proposed = caller.propose(&gateway, "checkpoint.delete", &name, command);
    let revision = proposed.await?.revision();
    Ok(stream::plain_json(&Named { name, revision }))
}

/// What streams keep holds prompts and answers: it is for those who know a stream's id.
fn check_name(name: &str) -> Result<(), Failure> {
    match name.starts_with(PREFIX) {
        true => Err(Failure::invalid(format!(
            "checkpoints under `{PREFIX}` belong to streams; `GET /api/streams/ID` goes on with one"
        ))),
        false => Ok(()),
    }
}

fn etag(revision: Revision) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{revision}\"")).expect("digits in quotes are a header value")
}

fn expected(headers: &HeaderMap) -> Result<Option<Revision>, Failure> {
    let text = |name: HeaderName| -> Result<Option<String>, Failure> {
        let value = headers.get(&name).map(|value| value.to_str().map(str::to_owned));
        value.transpose().map_err(|_| Failure::invalid(format!("`{name}` is not plain text")))
    };
    match (text(header::IF_MATCH)?, text(header::IF_NONE_MATCH)?) {
        (None, None) => Ok(None),
        (None, Some(any)) if any.trim() == "*" => Ok(Some(Revision(0))),
        (Some(tag), None) => {
            let digits = tag.trim().trim_matches('"').parse().ok();
            let revision = digits.filter(|revision| *revision > 0).map(Revision);
            let wrong = || {
                Failure::invalid(format!("`If-Match` is `{tag}`, expected a revision in quotes"))
            };
            revision.map(Some).ok_or_else(wrong)
        }
        _ => Err(Failure::invalid(
            "expected `If-Match` with a revision in quotes, or `If-None-Match: *`, or neither",
        )),
    }
}
