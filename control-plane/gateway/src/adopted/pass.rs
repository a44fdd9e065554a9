//! Answers that go on as they come: the server speaks what the client asked in.

use super::flow::Flow;
use super::lines::Lines;
use crate::error::Failure;
use crate::stream::{COMMENT, event, event_stream, line, typed};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use ollamamax_proto::limits::STREAM_PING_MS;
use serde_json::json;
use std::convert::Infallible;
use std::time::Duration;

/// How the pieces of an answer look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A record on each line.
    Records,
    /// OpenAI's events.
    Events,
    /// Those of responses, which have names.
    NamedEvents,
}

struct Passing {
    flow: Flow,
    lines: Lines,
    kind: Kind,
}

/// The body of a stream, every line as it came; after what broke it, a line that says so.
pub(super) fn stream(flow: Flow, kind: Kind) -> Response {
    let passing = Passing { flow, lines: Lines::default(), kind };
    let pieces = futures_util::stream::unfold(Some(passing), |passing| async move {
        let mut passing = passing?;
        let (bytes, goes_on) = passing.next().await;
        Some((Ok::<_, Infallible>(bytes), goes_on.then_some(passing)))
    });
    let body = Body::from_stream(pieces);
    match kind {
        Kind::Records => typed("application/x-ndjson", body),
        Kind::Events | Kind::NamedEvents => event_stream(body),
    }
}

impl Passing {
    /// What the client gets next, and whether there is more.
    async fn next(&mut self) -> (Bytes, bool) {
        loop {
            let next = match self.kind {
                Kind::Records => self.flow.next().await,
                Kind::Events | Kind::NamedEvents => {
                    let ping = Duration::from_millis(STREAM_PING_MS);
                    match tokio::time::timeout(ping, self.flow.next()).await {
                        Ok(next) => next,
                        Err(_) => return (Bytes::from_static(COMMENT.as_bytes()), true),
                    }
                }
            };
            let read = match next {
                Some(Ok(piece)) => {
                    let tally = &mut self.flow.tally;
                    self.lines.push(piece, |line| tally.line(line))
                }
                Some(Err(failure)) => return (self.failure(&failure), false),
                None => {
                    let tally = &mut self.flow.tally;
                    let rest = self.lines.finish(|line| tally.line(line));
                    let end = self.flow.ends().err().map(|failure| self.failure(&failure));
                    return ([rest, end.unwrap_or_default()].concat().into(), false);
                }
            };
            match read {
                Ok(lines) if lines.is_empty() => {}
                Ok(lines) => {
                    self.flow.pays();
                    return (lines, true);
                }
                Err(error) => {
                    let failure = self.flow.breaks(&error.to_string());
                    return (self.failure(&failure), false);
                }
            }
        }
    }

    /// What a client is told at the end of a stream that broke.
    fn failure(&self, failure: &Failure) -> Bytes {
        let mut out = Vec::new();
        match self.kind {
            Kind::Records => line(&failure.ollama_body(), &mut out),
            Kind::Events => event(&failure.openai_body(), &mut out),
            Kind::NamedEvents => {
                out.extend_from_slice(b"event: error\n");
                let body = failure.openai_body().error;
                let told =
                    json!({"type": "error", "code": "server_error", "message": body.message});
                event(&told, &mut out);
            }
        }
        out.into()
    }
}
