//! `GET /api/streams/{id}?from=N`: a stream, from where its client has lost it.

use super::{Form, Kept, StreamId};
use crate::Gateway;
use crate::auth::Caller;
use crate::demand::Want;
use crate::dispatch::{Job, Resumed};
use crate::error::{Failure, OllamaError};
use crate::ollama::{chat, generate};
use crate::request::Asker;
use crate::request::{Path, Query};
use crate::versions;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName};
use axum::response::Response;
use ollamamax_core::access::{Action, Object};
use ollamamax_proto::inference::GenerateRequest;
use ollamamax_proto::{mutant, wire};
use prost::Message;
use serde::Deserialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// What browsers send when an event source connects again.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

#[derive(Debug, Deserialize)]
pub(crate) struct From {
    /// Bytes of text that the client has.
    #[serde(default)]
    from: Option<String>,
}

/// What is left of a stream of Ollama's endpoints.
#[derive(ToSchema)]
#[schema(as = StreamRecord)]
#[serde(untagged)]
#[expect(dead_code, reason = "it stands in the description for one of its variants")]
pub(crate) enum Rest<'a> {
    /// Of `/api/chat`.
    Chat(chat::Record<'a>),
    /// Of `/api/generate`.
    Generate(generate::Record<'a>),
}

/// Goes on with a stream, from where its client has lost it, on any node.
#[utoipa::path(get, path = "/api/streams/{id}",
    params(("id" = String, Path, description = "What `X-Stream-Id` said: 32 hex digits.", pattern = "^[0-9a-fA-F]{32}$"),
        ("from" = Option<usize>, Query, description = "Bytes of text that the client has."),
        ("last-event-id" = Option<usize>, Header, description = "The same, as event sources send it.")),
    responses((status = 200, description = "The rest, in the form in which it was asked for.", content(
        (Rest = "application/x-ndjson"), (Object = "text/event-stream"))), (status = 409)))]
pub(crate) async fn get(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
    Query(From { from }): Query<From>,
    asker: Asker,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, OllamaError> {
    let id = StreamId::parse(&id).ok_or_else(|| {
        let got: String = id.chars().take(50).collect();
        Failure::invalid(format!("`{got}` is no id of a stream, expected 32 hex digits"))
    })?;
    let from = match from {
        Some(from) => number("`from`", &from)?,
        None => last_event(&headers)?,
    };
    let record = gateway.record_of(id).await?;
    check(&caller, id, &record)?;
    let (job, form) = continued(&gateway, id, record, asker)?;
    let generation = gateway.generate(job).await?;
    let from = from + usize::from(mutant::planted("rest-too-short"));
    Ok(form.respond(generation, from, Some(id))?)
}

/// What somebody with a name asked is for nobody else; what nobody in particular asked, for whoever knows the id.
fn check(caller: &Caller, id: StreamId, record: &wire::StreamRecord) -> Result<(), Failure> {
    let whose = record.request.as_ref().map_or("", |request| &request.caller);
    let model = record.request.as_ref().map_or("", |request| &request.model);
    let is_own = !whose.starts_with("user:") || whose == caller.share();
    if is_own && caller.may(Action::RunInference, Object::Model(model)) {
        return Ok(());
    }
    Err(unknown(id))
}

fn unknown(id: StreamId) -> Failure {
    Failure::NotFound(format!(
        "stream `{id}` not found: streams are kept from their first second on, and for a while; ask anew"
    ))
}

fn last_event(headers: &HeaderMap) -> Result<usize, Failure> {
    match headers.get(LAST_EVENT_ID) {
        None => Ok(0),
        Some(value) => number("header `last-event-id`", &String::from_utf8_lossy(value.as_bytes())),
    }
}

fn number(what: &str, text: &str) -> Result<usize, Failure> {
    text.trim().parse().map_err(|_| {
        let got: String = text.chars().take(50).collect();
        Failure::invalid(format!(
            "{what} is {got:?}, expected the number of bytes of text received"
        ))
    })
}

fn continued(
    gateway: &Gateway,
    id: StreamId,
    record: wire::StreamRecord,
    asker: Asker,
) -> Result<(Job, Form), Failure> {
    let unreadable = |what: &str| Failure::Internal(format!("stream `{id}` is kept {what}"));
    let form: Form = serde_json::from_str(&record.form_json)
        .map_err(|error| unreadable(&format!("in an unknown form: {error}")))?;
    let request = record.request.ok_or_else(|| unreadable("without its request"))?;
    let request = GenerateRequest::try_from(request)
        .map_err(|error| unreadable(&format!("with an unsound request: {error}")))?;
    let model = versions::with_bytes(&gateway.control.state(), &request.model, request.blob);
    let model = model.ok_or_else(|| {
        let name = &request.model;
        Failure::Conflict(format!(
            "stream `{id}` was of another version of model '{name}'; ask anew"
        ))
    })?;
    let mu = request.options.sampling.mirostat.as_ref().and_then(|mirostat| mirostat.mu);
    let resumed = Resumed { tokens: request.resume, mu, text: record.text };
    let kept = Some(Kept { id, form: form.clone() });
    let job = Job {
        request_id: request.request_id,
        asker,
        model,
        prompt: request.prompt,
        options: request.options,
        want: Want::default(),
        kept,
        resumed: Some(resumed),
    };
    Ok((job, form))
}

impl Gateway {
    /// What is kept of a stream: as known here, or else as the leader knows it.
    async fn record_of(&self, id: StreamId) -> Result<wire::StreamRecord, Failure> {
        let name = id.name();
        let local = self.control.state().checkpoints.get(&name).cloned();
        let found = match local {
            Some(found) => Some(found),
            None => self.control.linearizable().await?.checkpoints.get(&name).cloned(),
        };
        let found = found.ok_or_else(|| unknown(id))?;
        wire::StreamRecord::decode(&found.value[..]).map_err(|error| {
            Failure::Internal(format!("stream `{id}` is kept in an unknown form: {error}"))
        })
    }
}
