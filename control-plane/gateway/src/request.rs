//! What every request brings beside its body: an id, who asks, and how long it may take.

use crate::edge::ClientAddress;
use crate::error::Failure;
use crate::history::Trace;
use crate::quotas::Payer;
use axum::extract::{self, FromRequestParts, MatchedPath, Request};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use ollamamax_proto::audit::Note;
use ollamamax_proto::limits;
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use tokio::time::{Duration, Instant};

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const PRIORITY: HeaderName = HeaderName::from_static("x-priority");
const TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");

/// The id of a request: the client's own when it is short and printable, else that of its trace, else drawn.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

impl<S: Sync> FromRequestParts<S> for RequestId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_else(Self::draw))
    }
}

impl RequestId {
    fn draw() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    fn of(request: &Request) -> Self {
        let given = request.headers().get(HEADER).and_then(|value| value.to_str().ok());
        // It is written to logs and sent on to workers: nothing in it may look like more than one word.
        let word = |byte: u8| byte.is_ascii_graphic() && !b"\"'`\\".contains(&byte);
        let short = |id: &&str| !id.is_empty() && id.len() <= limits::REQUEST_ID_BYTES;
        let given = given.filter(short).filter(|id| id.bytes().all(word)).map(str::to_owned);
        let traced = || Traceparent::of(request).map(|parent| parent.trace);
        given.or_else(traced).map_or_else(Self::draw, Self)
    }
}

/// What the path names. One that is no text is refused in the shape of its family.
#[derive(Clone, Debug)]
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let found = extract::Path::<T>::from_request_parts(parts, state).await;
        found.map(|path| Self(path.0)).map_err(|rejection| wrong(parts, rejection.body_text()))
    }
}

fn wrong(parts: &Parts, text: String) -> Response {
    let id = parts.extensions.get::<RequestId>().map_or("", |id| &id.0);
    crate::shaped_at(parts.uri.path(), id, Failure::invalid(text))
}

/// What stands after the `?`. What is wrong with it is told in the shape of its family.
#[derive(Clone, Debug)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let found = extract::Query::<T>::from_request_parts(parts, state).await;
        found.map(|query| Self(query.0)).map_err(|rejection| wrong(parts, rejection.body_text()))
    }
}

/// The trace a request belongs to, as W3C's Trace Context tells it: `00-<trace>-<span>-<flags>`, in hex.
struct Traceparent {
    trace: String,
    flags: String,
}

impl Traceparent {
    /// What is not well-formed is as good as none.
    fn of(request: &Request) -> Option<Self> {
        let mut all = request.headers().get_all(TRACEPARENT).iter();
        let (Some(value), None) = (all.next(), all.next()) else { return None };
        let parts: Vec<&str> = value.to_str().ok()?.split('-').collect();
        let [version, trace, span, flags, ..] = parts[..] else { return None };
        let is_hex = |text: &str, digits: usize| {
            let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            text.len() == digits && text.bytes().all(hex)
        };
        let is_id =
            |text: &str, digits| is_hex(text, digits) && text.bytes().any(|byte| byte != b'0');
        // Later versions may have more behind, this one has not.
        let is_known =
            is_hex(version, 2) && version != "ff" && (version != "00" || parts.len() == 4);
        let is_sound = is_known && is_id(trace, 32) && is_id(span, 16) && is_hex(flags, 2);
        is_sound.then(|| Self { trace: trace.to_owned(), flags: flags.to_owned() })
    }

    /// The same trace, with a span of our own.
    fn answer(&self) -> Option<HeaderValue> {
        let span = rand::random::<u64>().max(1);
        HeaderValue::from_str(&format!("00-{}-{span:016x}-{}", self.trace, self.flags)).ok()
    }
}

/// Who asks, and until when.
#[derive(Clone, Debug, Default)]
pub struct Asker {
    /// The address the request came from: workers share their places out among these.
    pub caller: String,
    /// Whose quotas it uses.
    pub payer: Payer,
    /// Who it is and from where, for the trail.
    pub by: Note,
    /// How urgent it is.
    pub class: Class,
    /// When the answer is of no use any more, if the client said so.
    pub deadline: Option<Deadline>,
    /// What is remembered of it.
    pub trace: Trace,
}

/// How urgent a request is, as `X-Priority` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// Somebody waits for it.
    #[default]
    Interactive,
    /// It takes the places that others leave.
    Batch,
}

impl Class {
    fn of(request: &Request) -> Result<Self, Failure> {
        match request.headers().get(PRIORITY).map(HeaderValue::as_bytes) {
            None | Some(b"interactive") => Ok(Self::Interactive),
            Some(b"batch") => Ok(Self::Batch),
            Some(other) => {
                let got: String = String::from_utf8_lossy(other).chars().take(50).collect();
                Err(Failure::invalid(format!(
                    "header `{PRIORITY}` is {got:?}, expected `interactive` or `batch`"
                )))
            }
        }
    }
}

/// A point in time, and how far it was away at first.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    /// When.
    pub at: Instant,
    /// How long the client gave.
    pub given: Duration,
}

impl Deadline {
    /// What a client is told when the time is over.
    pub fn late(self) -> Failure {
        Failure::Late(format!(
            "the request was not complete after the {} s that `{TIMEOUT}` gave it; give it more or ask for less",
            self.given.as_secs_f64()
        ))
    }
}

impl<S: Sync> FromRequestParts<S> for Asker {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

impl Asker {
    fn of(request: &Request, now: Instant, trace: Trace) -> Result<Self, Failure> {
        let client = request.extensions().get::<ClientAddress>();
        let caller = client.map(|client| client.0.to_string()).unwrap_or_default();
        let deadline = match request.headers().get(TIMEOUT) {
            None => None,
            Some(value) => {
                let seconds = value.to_str().ok().and_then(|text| text.trim().parse::<f64>().ok());
                let most = limits::REQUEST_TIMEOUT_S;
                let seconds = seconds.filter(|seconds| *seconds > 0.0 && *seconds <= most);
                let given = seconds.map(Duration::from_secs_f64).ok_or_else(|| {
                    let got: String = String::from_utf8_lossy(value.as_bytes()).chars().take(50).collect();
                    Failure::invalid(format!(
                        "header `{TIMEOUT}` is {got:?}, expected a number of seconds above 0, at most {most}"
                    ))
                })?;
                Some(Deadline { at: now + given, given })
            }
        };
        let class = Class::of(request)?;
        Ok(Self { caller, payer: Payer::default(), by: Note::default(), class, deadline, trace })
    }

    /// A note of what it has done, to be completed by what came of it.
    pub fn note(&self, action: &str, object: impl ToString) -> Note {
        Note { action: action.to_owned(), object: object.to_string(), ..self.by.clone() }
    }
}

/// Gives each request its id, each answer the same, and counts both.
pub async fn observe(mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = RequestId::of(&request);
    let parent = Traceparent::of(&request);
    // Methods are the client's to invent, label values are not.
    let method = match request.method() {
        m @ (&Method::GET
        | &Method::HEAD
        | &Method::POST
        | &Method::PUT
        | &Method::PATCH
        | &Method::DELETE) => m.to_string(),
        _ => "other".to_owned(),
    };
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("unmatched", MatchedPath::as_str).to_owned();
    let trace = Trace::of(&id.0, &route);
    let mut response = match Asker::of(&request, started, trace.clone()) {
        Ok(asker) => {
            request.extensions_mut().insert(id.clone());
            request.extensions_mut().insert(asker);
            next.run(request).await
        }
        Err(failure) => crate::shaped(&request, failure),
    };
    trace.tell(response.headers_mut());
    if let Some(value) = parent.and_then(|parent| parent.answer()) {
        response.headers_mut().insert(TRACEPARENT, value);
    }
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(HEADER, value);
    }
    let status = response.status().as_u16();
    tracing::debug!(request = %id.0, %method, route, status, "answered");
    crate::telemetry::request(&route, &method, status, started.elapsed());
    response
}
