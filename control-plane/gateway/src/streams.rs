//! Streams that outlive their gateway: what is known of a long generation is kept in a checkpoint, once a second, and any node
//! can go on with it under its id.
//!
//! ```text
//! Run --tokens, text--> Recording --(running for a second? changed?)--> checkpoint `streams/<id>`, once a second
//! GET /api/streams/<id>?from=N --> the record --> Run from its tokens on --> text from byte N on
//! ```
//!
//! Where a client is, it tells itself, in bytes of the text it has (thinking and answer; a tool call counts as one): records of
//! a stream may be cut differently elsewhere, its text may not. A stream that ends before it was ever kept costs nothing; one that ends well is forgotten a little later, when
//! its client must have read it.

mod book;
pub(crate) mod handler;

pub use book::{Book, Hold};

use crate::answer::{Answer, Syntax};
use crate::dispatch::Generation;
use crate::error::Failure;
use crate::ollama::{chat, generate};
use crate::stream;
use crate::{anthropic, openai};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;

/// Tells the id under which a stream goes on elsewhere.
pub const ID: HeaderName = HeaderName::from_static("x-stream-id");
/// `off`: nothing of this stream is kept.
const CHECKPOINT: HeaderName = HeaderName::from_static("x-stream-checkpoint");
/// Before the id, in the name of a checkpoint.
pub const PREFIX: &str = "streams/";

/// A stream, for as long as anything of it is kept: 128 random bits, as whoever knows it gets the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(u128);

impl StreamId {
    fn draw() -> Self {
        Self(rand::random())
    }

    fn parse(text: &str) -> Option<Self> {
        let hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then(|| u128::from_str_radix(text, 16).ok().map(Self)).flatten()
    }

    /// The name of its checkpoint.
    fn name(self) -> String {
        format!("{PREFIX}{self}")
    }
}

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// How the events of a stream look to its client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "api", rename_all = "snake_case")]
pub enum Flavour {
    /// `/api/chat`.
    Chat(chat::Lines),
    /// `/api/generate`.
    Generate(generate::Lines),
    /// `/v1/chat/completions`.
    OpenAi(openai::chat::Frame),
    /// `/v1/completions`.
    Completion(openai::completions::Frame),
    /// `/v1/responses`.
    Responses(Box<openai::responses::Frame>),
    /// `/v1/messages`.
    Messages(anthropic::Frame),
}

/// How a stream's text is read, and how its events look.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Form {
    /// What of it is what.
    pub syntax: Syntax,
    /// How that looks.
    pub flavour: Flavour,
}

/// A stream that shall be kept.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its name.
    pub id: StreamId,
    /// How it is told.
    pub form: Form,
}

/// Whether a request wants its stream kept.
#[derive(Clone, Copy, Debug)]
pub struct Keep(bool);

impl<S: Sync> FromRequestParts<S> for Keep {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let off = parts.headers.get(CHECKPOINT).is_some_and(|value| value == "off");
        Ok(Self(!off))
    }
}

impl Keep {
    /// The stream to keep, where the request streams at all.
    pub fn stream(self, streams: bool, form: &Form) -> Option<Kept> {
        (self.0 && streams).then(|| Kept { id: StreamId::draw(), form: form.clone() })
    }
}

impl Form {
    /// A body of what a generation says, from the place on where its client is. Fails when that is no place in it.
    pub fn respond(
        self,
        generation: Generation,
        from: usize,
        id: Option<StreamId>,
    ) -> Result<Response, Failure> {
        let answer = Answer::begin(generation, &self.syntax, from)?;
        let mut response = match self.flavour {
            Flavour::Chat(lines) => stream::respond(answer, lines),
            Flavour::Generate(lines) => stream::respond(answer, lines),
            Flavour::OpenAi(frame) => stream::respond(answer, frame.events()),
            Flavour::Completion(frame) => stream::respond(answer, frame.events()),
            Flavour::Responses(frame) => stream::respond(answer, frame.events()),
            Flavour::Messages(frame) => stream::respond(answer, frame.events()),
        };
        let id = id.and_then(|id| HeaderValue::from_str(&id.to_string()).ok());
        if let Some(id) = id {
            response.headers_mut().insert(ID, id);
        }
        Ok(response)
    }
}
