//! The beginning of a try: the call to a worker, until the first message that brings tokens or the end.
//!
//! Nothing of it is shown to anyone yet, so two openings may run beside each other and one be dropped.

use super::attempt::End;
use super::waiting::{Patience, within};
use crate::Gateway;
use crate::workers::route::Route;
use crate::workers::seat::{Outstanding, Seat};
use ollamamax_proto::inference::{GenerateRequest, Started, TokenChunk};
use ollamamax_proto::{limits, wire};
use prost::Message;
use std::sync::Arc;
use tokio::time::{Duration, Instant};
use tonic::Streaming;

/// A try that has begun.
pub(super) struct Opening {
    pub gateway: Arc<Gateway>,
    pub route: Arc<Route>,
    pub seat: Arc<Seat>,
    pub work: Outstanding,
    pub request: GenerateRequest,
}

/// A stream whose worker has begun to answer.
pub(super) struct Opened {
    pub seat: Arc<Seat>,
    pub work: Outstanding,
    pub stream: Streaming<wire::TokenChunk>,
    /// What came so far; the last one brings tokens or ends the stream.
    pub head: Vec<TokenChunk>,
}

/// A try that failed before anything came of it.
pub(super) struct Unopened {
    pub seat: Arc<Seat>,
    pub end: End,
}

impl Opening {
    pub async fn go(self) -> Result<Opened, Unopened> {
        let begun = Instant::now();
        let (mut started, mut head) = (None, Vec::new());
        let opened = self.open(&mut started, &mut head).await;
        let Self { gateway: _, route, seat, work, request } = self;
        match opened {
            Err(end) => {
                if matches!(end, End::Broken(_)) {
                    seat.meter.waited_in_vain(begun.elapsed());
                }
                Err(Unopened { seat, end })
            }
            Ok(stream) => {
                if request.resume.is_empty() {
                    measure(&seat, begun, started);
                }
                route.stored(&seat, &request.prefix.hashes);
                Ok(Opened { seat, work, stream, head })
            }
        }
    }

    async fn open(
        &self,
        started: &mut Option<(Instant, Started)>,
        head: &mut Vec<TokenChunk>,
    ) -> Result<Streaming<wire::TokenChunk>, End> {
        let worker = &self.seat.candidate.worker;
        let (client, address) = (self.gateway.workers.client(worker), &worker.address);
        let mut client = client.map_err(|error| End::Broken(format!("`{address}`: {error}")))?;
        let request = wire::GenerateRequest::from(&self.request);
        if request.encoded_len() > limits::RPC_MESSAGE_BYTES {
            // No worker takes a message that long, and no context a prompt.
            let limit = limits::RPC_MESSAGE_BYTES as u64;
            return Err(End::Refused(crate::error::Failure::TooLarge { limit }));
        }
        let patience = self.patience();
        let call = client.generate(request);
        let mut stream = within(&self.gateway, &self.seat, patience, call).await??.into_inner();
        loop {
            let chunk = next(&self.gateway, &self.seat, patience, &mut stream).await?;
            let (tokens, ended) = (!chunk.tokens.is_empty(), chunk.done.is_some());
            if let Some(told) = chunk.started {
                *started = Some((Instant::now(), told));
            }
            head.push(chunk);
            if tokens || ended {
                return Ok(stream);
            }
        }
    }

    /// The prompts of all that were sent there may have to be computed before this one's.
    fn patience(&self) -> Patience {
        let most = self.gateway.config.load_timeout;
        let (ceiling, floor) = (millis(most), limits::PROMPT_FLOOR_MS);
        let tokens = self.seat.outstanding_tokens();
        let silence = self.seat.meter.pace().prompt_ms(tokens, floor.min(ceiling), ceiling);
        Patience { own: most, silence: Duration::from_millis(silence) }
    }
}

/// The next message of a stream.
pub(super) async fn next(
    gateway: &Gateway,
    seat: &Seat,
    patience: Patience,
    stream: &mut Streaming<wire::TokenChunk>,
) -> Result<TokenChunk, End> {
    let message = within(gateway, seat, patience, stream.message()).await?;
    let chunk = message?.ok_or_else(|| End::Broken("the stream ended early".to_owned()))?;
    seat.meter.heard();
    TokenChunk::try_from(chunk).map_err(|error| End::Broken(error.to_string()))
}

fn measure(seat: &Seat, begun: Instant, started: Option<(Instant, Started)>) {
    if let Some((at, started)) = started {
        let computed = started.prompt_tokens.saturating_sub(started.cached_tokens);
        seat.meter.first_token(begun.elapsed(), at.elapsed(), computed);
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
