//! Texts to embed, beside the sequences: they take places like these and are computed in the same steps, but are answered once.

use super::{Command, Runner, SubmitError};
use crate::machine::{BadRequest, Machine};
use ollamamax_engine::engine::{Embedded, SequenceId};
use ollamamax_proto::inference::Embedding;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tonic::Status;

type Reply = oneshot::Sender<Result<Vec<Embedding>, Status>>;

/// Texts on their way to the machine.
#[derive(Debug)]
pub(super) struct Texts {
    tokens: Vec<Vec<u32>>,
    reply: Reply,
    place: OwnedSemaphorePermit,
}

impl Runner {
    /// Embeds texts that [`Runner::text`] prepared: one vector each, in order. Dropping the future cancels it.
    pub async fn embed(
        &self,
        tokens: Vec<Vec<u32>>,
    ) -> Result<Result<Vec<Embedding>, Status>, SubmitError> {
        if self.gauges.closed.load(Ordering::Acquire) {
            return Err(SubmitError::Stopped);
        }
        let full = || SubmitError::Full { places: self.places_count };
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| full())?;
        let (reply, answer) = oneshot::channel();
        let texts = Texts { tokens, reply, place };
        self.commands
            .try_send(Command::Embed(Box::new(texts)))
            .map_err(|_| SubmitError::Stopped)?;
        let gone =
            |_| Err(Status::unavailable("the engine stopped before the texts were embedded"));
        Ok(answer.await.unwrap_or_else(gone))
    }
}

/// Texts in the machine, by request.
#[derive(Debug, Default)]
pub(super) struct Embeds(BTreeMap<SequenceId, (Reply, OwnedSemaphorePermit)>);

impl Embeds {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn take(&mut self, machine: &mut dyn Machine, texts: Texts) {
        let Texts { tokens, reply, place } = texts;
        match machine.embed(tokens) {
            Ok(id) => {
                self.0.insert(id, (reply, place));
            }
            Err(BadRequest(reason)) => {
                // Whoever has gone meanwhile need not know.
                let _ = reply.send(Err(Status::invalid_argument(reason)));
            }
        }
    }

    pub fn cancel_the_gone(&mut self, machine: &mut dyn Machine) {
        self.0.retain(|id, (reply, _)| {
            let gone = reply.is_closed();
            if gone {
                machine.cancel(*id);
            }
            !gone
        });
    }

    pub fn deliver(&mut self, finished: Vec<Embedded>) {
        for Embedded { request, embeddings } in finished {
            if let Some((reply, _place)) = self.0.remove(&request) {
                let _ = reply.send(Ok(embeddings));
            }
        }
    }
}
