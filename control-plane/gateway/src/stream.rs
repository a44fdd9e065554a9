//! Answers that come in pieces: NDJSON for Ollama's endpoints, server-sent events for OpenAI's.
//!
//! A body pulls from its answer, so a slow client holds at most the chunks buffered there; what is ready when it reads
//! goes out in one write.

use crate::answer::{Answer, Part, Read};
use crate::error::Failure;
use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{BoxStream, Stream, StreamExt as _};
use ollamamax_proto::limits::{STREAM_PING_MS, STREAM_WRITE_BYTES};
use serde::Serialize;
use std::convert::Infallible;
use std::time::Duration;

/// How long a stream may be silent.
const SILENCE: Duration = Duration::from_millis(STREAM_PING_MS);
/// A comment, which clients of event streams leave out.
pub const COMMENT: &str = ": alive\n\n";
/// The content type of server-sent events.
pub const EVENT_STREAM: &str = "text/event-stream";

/// How events look on the wire.
pub trait Render: Send + 'static {
    /// The content type of the body.
    const CONTENT_TYPE: &'static str;

    /// Appends a part. Parts that the client has already come first, for what follows to fit: what they append goes nowhere.
    fn part(&mut self, part: Part, out: &mut Vec<u8>);

    /// What shows that a stream is alive while nothing comes, where the format has that.
    const PING: Option<&'static str> = None;

    /// Appends what a body ends with after a failure.
    fn failure(&mut self, failure: &Failure, out: &mut Vec<u8>);
}

/// A body of all parts of an answer.
pub(crate) fn respond<R: Render>(answer: Answer, render: R) -> Response {
    let body = futures_util::stream::unfold(Some((answer, render)), |state| async move {
        let (mut answer, mut render) = state?;
        let mut out = Vec::new();
        let mut next = match R::PING {
            None => answer.next().await,
            Some(ping) => match tokio::time::timeout(SILENCE, answer.next()).await {
                Ok(next) => next,
                Err(_) => {
                    return Some((Ok(Bytes::from_static(ping.as_bytes())), Some((answer, render))));
                }
            },
        };
        loop {
            match next {
                Some(Ok(Read::Had(part))) => render.part(part, &mut Vec::new()),
                Some(Ok(Read::New(part))) => {
                    let last = matches!(part, Part::Done(_));
                    render.part(part, &mut out);
                    if last {
                        return Some((Ok::<_, Infallible>(Bytes::from(out)), None));
                    }
                }
                Some(Err(failure)) => {
                    tracing::warn!(error = failure.to_string(), "the stream broke off");
                    render.failure(&failure, &mut out);
                    return Some((Ok(Bytes::from(out)), None));
                }
                None => {
                    let failure = Failure::Internal("the generation broke off".to_owned());
                    render.failure(&failure, &mut out);
                    return Some((Ok(Bytes::from(out)), None));
                }
            }
            if out.len() >= STREAM_WRITE_BYTES {
                break;
            }
            match answer.try_next() {
                Some(ready) => next = Some(ready),
                // What was read shows nothing: there is nothing to send yet.
                None if out.is_empty() => next = answer.next().await,
                None => break,
            }
        }
        Some((Ok(Bytes::from(out)), Some((answer, render))))
    });
    let body = Body::from_stream(body);
    if R::CONTENT_TYPE == EVENT_STREAM { event_stream(body) } else { typed(R::CONTENT_TYPE, body) }
}

/// A body of server-sent events.
pub fn event_stream(body: Body) -> Response {
    let mut response = typed(EVENT_STREAM, body);
    // The format asks for it: a cache on the way would hold events back.
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Events, with what shows that the stream is alive wherever it is silent.
pub fn alive(events: BoxStream<'static, Bytes>) -> impl Stream<Item = Bytes> + Send {
    futures_util::stream::unfold(events, async |mut events| {
        match tokio::time::timeout(SILENCE, events.next()).await {
            Ok(next) => Some((next?, events)),
            Err(_) => Some((Bytes::from_static(COMMENT.as_bytes()), events)),
        }
    })
}

/// A body with its content type.
pub fn typed(content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = body.into().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An Ollama JSON body.
pub fn ollama_json(value: &impl Serialize) -> Response {
    typed("application/json; charset=utf-8", encode(value))
}

/// An OpenAI JSON body, also that of our own endpoints.
pub fn plain_json(value: &impl Serialize) -> Response {
    typed("application/json", encode(value))
}

/// Appends one line of NDJSON.
pub fn line(value: &impl Serialize, out: &mut Vec<u8>) {
    out.extend_from_slice(&encode(value));
    out.push(b'\n');
}

/// Appends one server-sent event.
pub fn event(value: &impl Serialize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(&encode(value));
    out.extend_from_slice(b"\n\n");
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("our records have text keys and no failing serializers")
}

/// Now, as Ollama writes times: RFC 3339, UTC, nanoseconds.
pub fn timestamp() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}

/// The end of the year 9999, less a day for time zones.
const LAST_MOMENT_MS: i64 = 253_402_207_200_000;

/// A stored moment in the same form.
pub fn timestamp_of(moment: ollamamax_proto::Millis) -> String {
    // Moments past the year 9999 have no such form: "forever" is told as the last that has.
    let ms = i64::try_from(moment.0).unwrap_or(i64::MAX).min(LAST_MOMENT_MS);
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| timestamp(), |time| format!("{time:.9}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Syntax;
    use crate::dispatch::{Event, Generation, Piece};
    use http_body_util::BodyExt;
    use tokio::sync::mpsc;

    struct Bare<const PINGS: bool>;

    impl<const PINGS: bool> Render for Bare<PINGS> {
        const CONTENT_TYPE: &'static str = EVENT_STREAM;
        const PING: Option<&'static str> = if PINGS { Some(COMMENT) } else { None };

        fn part(&mut self, part: Part, out: &mut Vec<u8>) {
            if let Part::Text(piece) = part {
                out.extend_from_slice(piece.text.as_bytes());
            }
        }

        fn failure(&mut self, _: &Failure, out: &mut Vec<u8>) {
            out.extend_from_slice(b"broken");
        }
    }

    async fn body<const PINGS: bool>() -> String {
        let (sender, events) = mpsc::channel(4);
        let answer = Answer::begin(Generation::of(events), &Syntax::default(), 0).expect("begins");
        tokio::spawn(async move {
            let piece = Piece { text: "late".to_owned(), ..Piece::default() };
            tokio::time::sleep(SILENCE * 2 + SILENCE / 2).await;
            sender.send(Ok(Event::Text(piece))).await.expect("somebody reads");
        });
        let response = respond(answer, Bare::<PINGS>);
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        String::from_utf8(bytes.to_vec()).expect("text")
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_event_stream_shows_that_it_is_alive() {
        assert_eq!(body::<true>().await, format!("{COMMENT}{COMMENT}latebroken"));
        assert_eq!(body::<false>().await, "latebroken");
    }
}
