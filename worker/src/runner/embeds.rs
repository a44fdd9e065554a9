//! Texts to embed, beside the sequences: they take places like these and are computed in the same steps, but are answered once.

use super::{Command, Runner, SubmitError};
use crate::machine::{BadRequest, Machine};
use crate::places::Place;
use ollamamax_engine::engine::{Embedded, SequenceId};
use ollamamax_proto::inference::Embedding;
use std::collections::BTreeMap;
use std::time::Instant;
use tokio::sync::oneshot;
use tonic::Status;

type Reply = oneshot::Sender<Result<Vec<Embedding>, Status>>;

/// Texts on their way to the machine.
#[derive(Debug)]
pub(super) struct Texts {
    tokens: Vec<Vec<u32>>,
    asked: Asked,
}

/// A request until it is answered.
#[derive(Debug)]
struct Asked {
    reply: Reply,
    submitted: Instant,
    deadline: Option<Instant>,
    _place: Place,
}

impl Runner {
    /// Embeds texts of `caller` that [`Runner::text`] prepared: one vector each, in order. Dropping the future cancels it.
    pub async fn embed(
        &self,
        tokens: Vec<Vec<u32>>,
        caller: &str,
        deadline: Option<Instant>,
    ) -> Result<Result<Vec<Embedding>, Status>, SubmitError> {
        self.check_open()?;
        let _place = self.places.take(caller)?;
        let (reply, answer) = oneshot::channel();
        let asked = Asked { reply, submitted: Instant::now(), deadline, _place };
        let texts = Texts { tokens, asked };
        self.commands
            .try_send(Command::Embed(Box::new(texts)))
            .map_err(|_| SubmitError::Stopped)?;
        let gone =
            |_| Err(Status::unavailable("the engine stopped before the texts were embedded"));
        Ok(answer.await.unwrap_or_else(gone))
    }
}

impl Texts {
    pub(super) fn refuse(self, status: Status) {
        self.asked.end(Err(status));
    }
}

/// Texts in the machine, by request.
#[derive(Debug, Default)]
pub(super) struct Embeds(BTreeMap<SequenceId, Asked>);

impl Embeds {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn take(&mut self, machine: &mut dyn Machine, texts: Texts) {
        let Texts { tokens, asked } = texts;
        match machine.embed(tokens) {
            Ok(id) => {
                self.0.insert(id, asked);
            }
            Err(BadRequest(reason)) => asked.end(Err(Status::invalid_argument(reason))),
        }
    }

    /// Ends all; the machine has forgotten them already.
    pub fn end_all(&mut self, status: &dyn Fn() -> Status) {
        for asked in std::mem::take(&mut self.0).into_values() {
            asked.end(Err(status()));
        }
    }

    pub fn end_the_late(&mut self, machine: &mut dyn Machine, now: Instant) {
        let is_late = |asked: &Asked| asked.deadline.is_some_and(|at| at <= now);
        let late = self.0.iter().filter(|(_, asked)| is_late(asked)).map(|(id, _)| *id);
        for id in late.collect::<Vec<_>>() {
            machine.cancel(id);
            if let Some(asked) = self.0.remove(&id) {
                let late = super::late_status(now - asked.submitted);
                asked.end(Err(late));
            }
        }
    }

    pub fn cancel_the_gone(&mut self, machine: &mut dyn Machine) {
        self.0.retain(|id, asked| {
            let gone = asked.reply.is_closed();
            if gone {
                machine.cancel(*id);
            }
            !gone
        });
    }

    pub fn deliver(&mut self, finished: Vec<Embedded>) {
        for Embedded { request, embeddings } in finished {
            if let Some(asked) = self.0.remove(&request) {
                asked.end(Ok(embeddings));
            }
        }
    }
}

impl Asked {
    fn end(self, answer: Result<Vec<Embedding>, Status>) {
        // Whoever has gone meanwhile need not know.
        let _ = self.reply.send(answer);
    }
}
