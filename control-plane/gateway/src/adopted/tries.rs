//! A request on its way to adopted servers: one after the other, until the first byte of an answer is there.

use super::call::{Call, Other, call};
use super::door::Way;
use super::flow::{Flow, Pieces, Trip, named};
use super::hear;
use super::pass::{self, Kind};
use super::pick::shape;
use super::place::{cause, read};
use super::server::{InFlight, Server};
use super::tally::Tally;
use crate::auth::Caller;
use crate::dispatch::lateness;
use crate::error::Failure;
use crate::ollama::{chat, generate};
use crate::request::Asker;
use crate::stream::typed;
use crate::streams::Flavour;
use crate::{Gateway, anthropic, telemetry};
use axum::http::{HeaderValue, Method, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::StreamExt;
use ollamamax_proto::{Millis, ModelName, limits};
use std::sync::Arc;
use tokio::time::{Duration, Instant};

/// A request for a server.
pub(super) struct Errand {
    pub way: Way,
    pub name: ModelName,
    /// The name, as the client has it.
    pub asked: String,
    pub bytes: Bytes,
    pub asker: Asker,
    /// The client did not ask to be told what a stream took; the server is asked, and the client is not told.
    pub hides_usage: bool,
}

/// After how long a server that failed is asked again, where there is no other.
const SECOND_CHANCE: Duration = Duration::from_millis(250);

/// What came back.
enum Head {
    Whole(Bytes),
    Stream(Kind, Bytes, Pieces),
}

/// Why a try at a server brought nothing.
enum Lost {
    /// It failed.
    Broken(String),
    /// It has no room.
    Busy(String),
    /// It has the model no more.
    Absent(String),
    /// It will not do it, and no other would.
    Refused(Failure),
}

impl Gateway {
    /// Has a request answered by an adopted server.
    pub(super) async fn send_out(
        self: &Arc<Self>,
        caller: &Caller,
        errand: Errand,
    ) -> Result<Response, Failure> {
        caller.named(&errand.name, &errand.asked, errand.way.needs())?;
        if errand.way == Way::Show {
            return self.show_offered(&errand.name, &errand.asked, errand.bytes).await;
        }
        let asker = &errand.asker;
        let charge = self.let_in(asker, &errand.name, 0)?;
        let digest = self.offer(&errand.name).map(|offered| offered.digest.clone());
        let running = self.remember_as(asker, &errand.name, digest.unwrap_or_default());
        running.note(|record| record.load_ms = Some(0.0));
        let mut trip = Trip {
            gateway: Arc::clone(self),
            running,
            charge,
            deadline: asker.deadline,
            model: errand.name.to_string(),
            started: Instant::now(),
            _in_flight: telemetry::InFlight::new(),
        };
        let told = trip.running.entry();
        let deadline = trip.deadline;
        let begun = tokio::select! {
            begun = self.begin(&errand, &mut trip) => begun,
            failure = told.ended() => {
                trip.running.ended();
                return Err(failure);
            }
            failure = lateness(deadline) => Err(failure),
        };
        match begun {
            Ok((other, server, work, head)) => {
                self.answer(errand, other, trip, (server, work), head).await
            }
            Err(failure) => {
                trip.charge.failed();
                trip.running.failed(&failure);
                Err(failure)
            }
        }
    }

    /// Tries servers until one has begun.
    async fn begin(
        &self,
        errand: &Errand,
        trip: &mut Trip,
    ) -> Result<(Option<Other>, Arc<Server>, InFlight, Head), Failure> {
        let now = Millis::now();
        self.adopted.budget(|budget| budget.deposit(now));
        let policy = self.config.policy(&errand.name, None);
        let shape = shape(&errand.bytes);
        let (mut tried, mut last, mut again) = (Vec::new(), None, false);
        let mut other = None;
        for attempt in 0..self.config.attempts {
            let state = self.control.state();
            let mut picked = self.adopted.pick(&state, &errand.name, policy, &shape, &tried);
            if picked.is_none() && matches!(last, Some(Failure::Unavailable { .. })) && !again {
                // One that failed may only have lost a connection: it gets a second chance.
                tokio::time::sleep(SECOND_CHANCE).await;
                (tried, again) = (Vec::new(), true);
                picked = self.adopted.pick(&state, &errand.name, policy, &shape, &tried);
            }
            let Some((server, work)) = picked else { break };
            if attempt > 0 && !self.adopted.budget(|budget| budget.take(Millis::now())) {
                telemetry::retry_refused();
                break;
            }
            tried.push(server.record.id);
            let seen = server.seen();
            let Some(offered) = seen.models.get(&errand.name) else { continue };
            let call = call(errand, &server, &offered.id, &mut other)?;
            trip.charge.sent(shape.prompt_tokens.into());
            trip.running.taken_by(&server.record, policy);
            let Some(call) = call else {
                // There is nothing to ask: what such a server has is in memory.
                return Ok((other, server, work, Head::Whole(Bytes::new())));
            };
            let lost = match self.ask(&server, call, other.is_some()).await {
                Ok(head) => return Ok((other, server, work, head)),
                Err(lost) => lost,
            };
            let failure = match lost {
                Lost::Refused(failure) => {
                    // It answered.
                    server.tried(true, Millis::now());
                    telemetry::attempt("refused");
                    return Err(failure);
                }
                Lost::Busy(why) => {
                    telemetry::attempt("busy");
                    named(&server, &why)
                }
                Lost::Absent(why) => {
                    telemetry::attempt("stale");
                    server.look.notify_one();
                    let name = &server.record.name;
                    Failure::NotFound(format!("adopted server `{name}`: {why}"))
                }
                Lost::Broken(why) => {
                    telemetry::attempt("broken");
                    let name = &server.record.name;
                    tracing::warn!(server = name, attempt, why, "an adopted server failed");
                    server.tried(false, Millis::now());
                    named(&server, &why)
                }
            };
            last = Some(failure);
        }
        Err(last.unwrap_or_else(|| self.nobody(&errand.name, tried.is_empty())))
    }

    /// Asks one server; returns with the first byte.
    async fn ask(&self, server: &Arc<Server>, call: Call, is_other: bool) -> Result<Head, Lost> {
        let pace = self.adopted.pace;
        let path = server.place.request(&self.adopted.http, Method::POST, call.path);
        let request = request(path, call.body);
        let asked = async {
            let broken = |error: reqwest::Error| Lost::Broken(cause(&error));
            let response = request.send().await.map_err(broken)?;
            if !response.status().is_success() {
                return Err(refusal(response, is_other).await);
            }
            let value = response.headers().get(header::CONTENT_TYPE);
            let value = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
            let kind = match value.split(';').next().unwrap_or_default().trim() {
                "text/event-stream" if call.path == "/v1/responses" => Some(Kind::NamedEvents),
                "text/event-stream" => Some(Kind::Events),
                "application/x-ndjson" => Some(Kind::Records),
                _ => None,
            };
            let Some(kind) = kind else {
                let whole = read(response, limits::ADOPTED_ANSWER_BYTES).await;
                return whole.map(Head::Whole).map_err(Lost::Broken);
            };
            let mut pieces: Pieces = response.bytes_stream().boxed();
            match pieces.next().await {
                Some(Ok(first)) => Ok(Head::Stream(kind, first, pieces)),
                Some(Err(error)) => Err(broken(error)),
                None => Err(Lost::Broken("its answer is empty".to_owned())),
            }
        };
        tokio::select! {
            head = asked => head,
            () = server.gone() => Err(Lost::Broken(server.seen().reason.clone())),
            () = tokio::time::sleep(pace.first) => {
                let ms = pace.first.as_millis();
                Err(Lost::Broken(format!("nothing of an answer came within {ms} ms")))
            }
        }
    }

    /// Tells the client what came.
    async fn answer(
        &self,
        errand: Errand,
        other: Option<Other>,
        trip: Trip,
        at: (Arc<Server>, InFlight),
        head: Head,
    ) -> Result<Response, Failure> {
        let (first, rest, kind) = match head {
            Head::Stream(kind, first, rest) => (first, rest, Some(kind)),
            Head::Whole(bytes) => (bytes, futures_util::stream::empty().boxed(), None),
        };
        let Some(kind) = kind else {
            let mut tally = Tally::default();
            tally.whole(&first);
            let (server, whole) = (Arc::clone(&at.0), first.clone());
            let output = tally.output_tokens;
            let mut flow = Flow::new(trip, tally, at, (first, rest));
            if let Some(Ok(_)) = flow.next().await {
                flow.ends()?;
            }
            tracing::debug!(output, server = server.record.name, "answered whole");
            return match other {
                None => Ok(json_of(errand.way, whole)),
                Some(Other::Embed(wish)) => wish.tell(&whole).map_err(|why| named(&server, &why)),
                Some(Other::Wish(wish)) => match wish.flavour {
                    Flavour::Chat(_) if whole.is_empty() => Ok(chat::loaded(&errand.asked)),
                    Flavour::Generate(_) if whole.is_empty() => Ok(generate::loaded(&errand.asked)),
                    _ => Err(named(&server, "it answered at once, expected events")),
                },
            };
        };
        trip.running.note(|record| record.queue_ms = Some(0.0));
        let hides = errand.hides_usage && other.is_none();
        let flow = Flow::new(trip, Tally::new(hides), at, (first, rest));
        let Some(other) = other else { return Ok(pass::stream(flow, kind)) };
        let Other::Wish(wish) = other else {
            return Err(Failure::Internal("vectors do not come as a stream".to_owned()));
        };
        let generation = hear::listen(flow, wish.wants_thoughts()).await?;
        let form = wish.form();
        if wish.streamed {
            return form.respond(generation, 0, None);
        }
        match &form.flavour {
            Flavour::Messages(frame) => anthropic::whole(frame, generation).await,
            Flavour::Generate(_) => {
                generate::whole(&errand.asked, generation, &form.syntax, true).await
            }
            _ => chat::whole(&errand.asked, generation, &form.syntax).await,
        }
    }

    /// Why nobody could be asked.
    fn nobody(&self, name: &ModelName, untried: bool) -> Failure {
        let servers = self.adopted_servers();
        let state = self.control.state();
        let mut reasons: Vec<String> = Vec::new();
        for server in servers.iter() {
            let seen = server.seen();
            if seen.ever && !seen.models.contains_key(name) {
                continue;
            }
            let own = &server.record.name;
            let drained = state.orders.get(&server.record.id).and_then(|o| o.drained.as_ref());
            reasons.push(match (drained, seen.reason.as_str()) {
                (Some(why), _) => format!("`{own}` drains: {why}"),
                (None, "") => format!("`{own}` has no place free"),
                (None, why) => format!("`{own}` is {}: {why}", seen.status),
            });
        }
        let reasons = reasons.join("; ");
        tracing::debug!(untried, "no adopted server can be asked");
        Failure::unavailable(format!(
            "no adopted server that may have '{name}' can be asked: {reasons}"
        ))
    }
}

/// A request with a body of JSON.
pub(super) fn request(to: reqwest::RequestBuilder, body: Bytes) -> reqwest::RequestBuilder {
    to.header(header::CONTENT_TYPE, HeaderValue::from_static("application/json")).body(body)
}

/// What an answer that is none means for the request.
async fn refusal(response: reqwest::Response, is_other: bool) -> Lost {
    let status = response.status();
    let text = read(response, limits::ADOPTED_ERROR_BYTES).await.unwrap_or_default();
    let said = match serde_json::from_slice::<serde_json::Value>(&text) {
        Ok(value) => hear::said(value.get("error").unwrap_or(&value)),
        Err(_) => String::from_utf8_lossy(&text).chars().take(200).collect(),
    };
    let told = format!("it answered {status}: {said}");
    match status.as_u16() {
        401 | 403 => Lost::Broken(format!("it answered {status} to this cluster's key")),
        404 => Lost::Absent(told),
        429 | 503 => Lost::Busy(told),
        413 => Lost::Refused(Failure::Invalid(told)),
        400..500 if !matches!(status.as_u16(), 408) => {
            let said = if is_other { told } else { said };
            Lost::Refused(Failure::Invalid(said))
        }
        _ => Lost::Broken(told),
    }
}

fn json_of(way: Way, bytes: Bytes) -> Response {
    match way.path().starts_with("/api/") {
        true => typed("application/json; charset=utf-8", bytes),
        false => typed("application/json", bytes),
    }
}
