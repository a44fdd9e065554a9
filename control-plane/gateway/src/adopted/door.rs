//! Which requests go to adopted servers: those for models that the catalogue does not have, and those that no worker could take.
//!
//! The catalogue's version of a name is the one that the name stands for: its workers answer first, so that the same seed
//! goes on giving the same text. Only where none of them could begin, a server that has a model of that name is asked.

use super::place::PASSED;
use super::server::Offered;
use super::tries::Errand;
use crate::Gateway;
use crate::auth::Caller;
use crate::family::Family;
use crate::keep_alive::KeepAlive;
use crate::request::{Asker, RequestId};
use crate::{body, names};
use axum::body::Body;
use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use ollamamax_core::State;
use ollamamax_core::access::Action;
use ollamamax_core::adopted::ServerKind;
use ollamamax_proto::ModelName;
use ollamamax_proto::placement::WorkerStatus;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use std::convert::Infallible;
use std::sync::Arc;

/// What is asked, by its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Generate,
    Chat,
    Embed,
    OldEmbed,
    Show,
    Completions,
    ChatCompletions,
    Embeddings,
    Responses,
    Messages,
    CountTokens,
}

impl Way {
    const ALL: [(Self, &'static str); 11] = [
        (Self::Generate, "/api/generate"),
        (Self::Chat, "/api/chat"),
        (Self::Embed, "/api/embed"),
        (Self::OldEmbed, "/api/embeddings"),
        (Self::Show, "/api/show"),
        (Self::Completions, "/v1/completions"),
        (Self::ChatCompletions, "/v1/chat/completions"),
        (Self::Embeddings, "/v1/embeddings"),
        (Self::Responses, "/v1/responses"),
        (Self::Messages, "/v1/messages"),
        (Self::CountTokens, "/v1/messages/count_tokens"),
    ];

    fn of(request: &Request) -> Option<Self> {
        let path = request.uri().path();
        let found = Self::ALL.iter().find(|(_, own)| *own == path).map(|(way, _)| *way);
        found.filter(|_| request.method() == Method::POST)
    }

    pub fn path(self) -> &'static str {
        Self::ALL.iter().find(|(way, _)| *way == self).map_or("/", |(_, path)| path)
    }

    /// Whether servers of that kind speak it, so that it goes on as it came.
    pub fn is_spoken_by(self, kind: ServerKind) -> bool {
        match Family::of(self.path()) {
            Family::Ollama => kind == ServerKind::Ollama,
            Family::OpenAi => true,
            Family::Anthropic | Family::Ours => false,
        }
    }

    /// What somebody must be allowed to do who goes it.
    pub fn needs(self) -> Action {
        if self == Self::Show { Action::ReadModels } else { Action::RunInference }
    }
}

/// Whether another gateway passed a request on: then this one answers by itself, so that clusters which adopt each other neither
/// send requests in circles nor tell each other of models that nobody has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passed(pub bool);

impl<S: Sync> FromRequestParts<S> for Passed {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.headers.contains_key(PASSED)))
    }
}

/// What of a request's body decides where it goes.
#[derive(Debug, Deserialize)]
struct Peek {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<IgnoredAny>,
    #[serde(default)]
    keep_alive: Option<KeepAlive>,
}

/// Lets a request through to its handler, or to an adopted server.
pub(crate) async fn through(
    gateway: &Arc<Gateway>,
    caller: &Caller,
    request: Request,
    next: Next,
) -> Response {
    let state = gateway.control.state();
    let is_ours = state.adopted.is_empty() || request.headers().contains_key(PASSED);
    let Some(way) = Way::of(&request).filter(|_| !is_ours) else {
        return next.run(request).await;
    };
    let (parts, body) = request.into_parts();
    let id = parts.extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
    let told = |failure| Family::of(way.path()).respond(failure, &id);
    let bytes = match body::read(body, gateway.config.body_bytes).await {
        Ok(bytes) => bytes,
        Err(failure) => return told(failure),
    };
    let asker = parts.extensions.get::<Asker>().cloned().unwrap_or_default();
    let again = Request::from_parts(parts, Body::from(bytes.clone()));
    // What is wrong with a body is for its handler to say.
    let Ok(peek) = body::parse::<Peek>(&bytes) else { return next.run(again).await };
    let asked = peek.model.as_ref().filter(|name| !name.is_empty()).or(peek.name.as_ref());
    let named = asked.and_then(|asked| Some((asked.clone(), names::meant(asked)?)));
    let Some((asked, name)) = named else { return next.run(again).await };
    let is_offered = gateway.has_offer(&state, &name);
    let is_known = state.models.contains_key(&name);
    if !is_offered && (is_known || gateway.all_were_seen(&state)) {
        return next.run(again).await;
    }
    let errand = Errand {
        way,
        hides_usage: peek.stream == Some(true)
            && peek.stream_options.is_none()
            && matches!(way, Way::Completions | Way::ChatCompletions),
        bytes: guarded(caller, &state, &name, peek.keep_alive, bytes),
        name,
        asked,
        asker,
    };
    if !is_known || (has_no_worker(&state) && way != Way::Show) {
        let sent = gateway.send_out(caller, errand).await;
        return sent.unwrap_or_else(told);
    }
    let response = next.run(again).await;
    let gives_up = response.status() == StatusCode::SERVICE_UNAVAILABLE && way != Way::Show;
    if !gives_up || errand.asker.trace.was_ended() {
        return response;
    }
    gateway.send_out(caller, errand).await.unwrap_or(response)
}

/// Who may only use a model neither pins it nor takes it from others, there as here.
fn guarded(
    caller: &Caller,
    state: &State,
    name: &ModelName,
    asked: Option<KeepAlive>,
    bytes: Bytes,
) -> Bytes {
    if asked.is_none() || caller.may_keep(state, name, asked).is_some() {
        return bytes;
    }
    changed(&bytes, |body| {
        body.shift_remove("keep_alive");
    })
}

/// A body with something in it changed; the rest means what it meant.
pub(super) fn changed(bytes: &Bytes, change: impl FnOnce(&mut Map<String, Value>)) -> Bytes {
    match body::parse::<Map<String, Value>>(bytes) {
        Ok(mut body) => {
            change(&mut body);
            Value::Object(body).to_string().into()
        }
        Err(_) => bytes.clone(),
    }
}

fn has_no_worker(state: &State) -> bool {
    let can = |status| matches!(status, WorkerStatus::Ready | WorkerStatus::Suspect);
    !state.workers.values().any(|worker| can(worker.status))
}

impl Gateway {
    /// Whether an adopted server has a model of that name, as far as is known.
    fn has_offer(&self, state: &State, name: &ModelName) -> bool {
        self.adopted.all(state).iter().any(|server| server.seen().models.contains_key(name))
    }

    /// Whether it is known of every adopted server what it has.
    fn all_were_seen(&self, state: &State) -> bool {
        self.adopted.all(state).iter().all(|server| server.seen().ever)
    }

    /// The first offer of that name, for whoever wants to know what it is.
    pub(crate) fn offer(&self, name: &ModelName) -> Option<Arc<Offered>> {
        self.offered().get(name).map(|(_, offered)| Arc::clone(offered))
    }
}
