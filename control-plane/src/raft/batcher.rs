//! Gathers commands into Raft entries: natural group commit.
//!
//! ```text
//! waiter -> queue -+-> [c1] ......... entry 7, being flushed
//! waiter -> queue -+-> [c2 c3 c4] ... entry 8, gathered meanwhile
//! ```
//!
//! A command goes at once when nothing is on its way; while batches are on their way, the next one gathers. Each waiter
//! is answered from its place in the reply. No lingering: a lone command never waits for company.

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use ollamamax_core::codec;
use ollamamax_core::{Command, Outcome, Rejection};
use ollamamax_proto::{Millis, limits};
use std::future::Future;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Why a batch brought no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Nothing was proposed: this node does not lead.
    #[error("this node does not lead")]
    NotLeader,
    /// The commands may be in the log.
    #[error("{0}")]
    Unknown(String),
}

/// An applied batch: where, and the encoded outcomes.
pub type Submitted = Result<(u64, Vec<u8>), SubmitError>;

/// What became of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The log index it was applied at.
    pub index: u64,
    /// What the state machine answered.
    pub result: Result<Outcome, Rejection>,
}

/// Why a command was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Nothing was proposed: too many are waiting.
    #[error("{0} proposals are waiting")]
    Full(usize),
    /// See there.
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

struct Waiter {
    command: Command,
    bytes: usize,
    answer: oneshot::Sender<Result<Applied, SubmitError>>,
}

/// The entrance. Dropping every clone of it ends the gathering task.
#[derive(Clone)]
pub struct Batcher {
    queue: mpsc::Sender<Waiter>,
}

impl Batcher {
    /// Starts gathering on the current runtime; `submit` proposes one encoded batch and waits until it is applied.
    pub fn spawn<F>(submit: F) -> Self
    where
        F: Fn(Vec<u8>) -> BoxFuture<'static, Submitted> + Send + Sync + 'static,
    {
        let (queue, waiting) = mpsc::channel(limits::PROPOSALS_QUEUED);
        tokio::spawn(gather(waiting, Arc::new(submit)));
        Self { queue }
    }

    /// Proposes `command`, whose encoding takes `bytes`, and waits until it is applied here. A caller that stops waiting
    /// while the command is still queued has withdrawn it.
    pub async fn propose(&self, command: Command, bytes: usize) -> Result<Applied, BatchError> {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Waiter { command, bytes, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => BatchError::Full(limits::PROPOSALS_QUEUED),
            mpsc::error::TrySendError::Closed(_) => SubmitError::NotLeader.into(),
        })?;
        match answered.await {
            Ok(applied) => Ok(applied?),
            Err(_) => Err(SubmitError::Unknown("the node is stopping".to_owned()).into()),
        }
    }
}

async fn gather<F>(mut waiting: mpsc::Receiver<Waiter>, submit: Arc<F>)
where
    F: Fn(Vec<u8>) -> BoxFuture<'static, Submitted> + Send + Sync + 'static,
{
    let mut in_flight = FuturesUnordered::new();
    let mut held: Option<Waiter> = None;
    loop {
        let first = match held.take() {
            Some(waiter) if in_flight.len() < limits::BATCHES_IN_FLIGHT => Some(waiter),
            other => {
                held = other;
                let may_send = held.is_none() && in_flight.len() < limits::BATCHES_IN_FLIGHT;
                tokio::select! {
                    Some(()) = in_flight.next(), if !in_flight.is_empty() => None,
                    waiter = waiting.recv(), if may_send => match waiter {
                        Some(waiter) => Some(waiter),
                        None => break,
                    },
                }
            }
        };
        if let Some(first) = first {
            let batch = fill(first, &mut waiting, &mut held);
            if !batch.is_empty() {
                in_flight.push(run(batch, Arc::clone(&submit)));
            }
        }
    }
    while in_flight.next().await.is_some() {}
}

/// `first` and whoever waits behind it, up to the limits; the one that no longer fits is held for the next batch.
fn fill(
    first: Waiter,
    waiting: &mut mpsc::Receiver<Waiter>,
    held: &mut Option<Waiter>,
) -> Vec<Waiter> {
    let mut bytes = first.bytes;
    let mut batch = vec![first];
    while batch.len() < limits::BATCH_COMMANDS {
        let Ok(next) = waiting.try_recv() else { break };
        if bytes + next.bytes > limits::BATCH_BYTES {
            *held = Some(next);
            break;
        }
        bytes += next.bytes;
        batch.push(next);
    }
    // Nobody would hear the answer of one that stopped waiting.
    batch.retain(|waiter| !waiter.answer.is_closed());
    batch
}

fn run<F>(batch: Vec<Waiter>, submit: Arc<F>) -> impl Future<Output = ()>
where
    F: Fn(Vec<u8>) -> BoxFuture<'static, Submitted>,
{
    let (commands, answers): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|waiter| (waiter.command, waiter.answer)).unzip();
    async move {
        metrics::histogram!("ollamamax_batch_commands").record(commands.len() as f64);
        let started = std::time::Instant::now();
        // Every command was encoded alone before, and a batch is bounded by the sum: this cannot be too long.
        let submitted = match codec::encode_batch(&codec::Batch { at: Millis::now(), commands }) {
            Ok(encoded) => submit(encoded).await,
            Err(error) => Err(SubmitError::Unknown(error.to_string())),
        };
        metrics::histogram!("ollamamax_commit_seconds").record(started.elapsed().as_secs_f64());
        let results = submitted.and_then(|(index, reply)| match codec::decode_replies(&reply) {
            Ok(results) if results.len() == answers.len() => Ok((index, results)),
            Ok(results) => Err(SubmitError::Unknown(format!(
                "the reply answers {} commands, {} were proposed",
                results.len(),
                answers.len()
            ))),
            Err(error) => Err(SubmitError::Unknown(format!("undecodable reply: {error}"))),
        });
        match results {
            Ok((index, results)) => {
                for (answer, result) in answers.into_iter().zip(results) {
                    // A waiter that left meanwhile has already reported that the outcome is unknown.
                    let _ = answer.send(Ok(Applied { index, result }));
                }
            }
            Err(error) => {
                for answer in answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use ollamamax_proto::Revision;
    use std::sync::Mutex;
    use tokio::sync::Semaphore;

    fn command(name: usize) -> Command {
        Command::DeleteCheckpoint { name: name.to_string(), expected: None }
    }

    /// Answers each command with its own name as revision, one permit per batch.
    fn machine() -> (Batcher, Arc<Semaphore>, Arc<Mutex<Vec<usize>>>) {
        let (permits, sizes) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (gate, seen) = (Arc::clone(&permits), Arc::clone(&sizes));
        let batcher = Batcher::spawn(move |bytes| {
            let batch = codec::decode_batch(&bytes).expect("what was encoded");
            seen.lock().expect("no panic").push(batch.commands.len());
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.expect("open").forget();
                let answer = |command: &Command| match command {
                    Command::DeleteCheckpoint { name, .. } => Ok(Outcome::Done {
                        changed: true,
                        revision: Revision(name.parse().expect("a number")),
                    }),
                    other => Err(Rejection::UnknownCheckpoint(format!("{other:?}"))),
                };
                let replies: Vec<_> = batch.commands.iter().map(answer).collect();
                Ok((7, codec::encode_replies(&replies).expect("small")))
            }
            .boxed()
        });
        (batcher, permits, sizes)
    }

    #[tokio::test]
    async fn what_waits_while_batches_are_on_their_way_travels_together() {
        let (batcher, permits, sizes) = machine();
        let count = limits::BATCHES_IN_FLIGHT + limits::BATCH_COMMANDS + 3;
        let waiters: Vec<_> = (0..count)
            .map(|name| {
                let batcher = batcher.clone();
                tokio::spawn(async move { batcher.propose(command(name), 10).await })
            })
            .collect();
        // Everybody stands in the queue before the first batch is answered.
        while sizes.lock().expect("no panic").len() < limits::BATCHES_IN_FLIGHT {
            tokio::task::yield_now().await;
        }
        permits.add_permits(count);
        for (name, waiter) in waiters.into_iter().enumerate() {
            let applied = waiter.await.expect("no panic").expect("applied");
            let revision = applied.result.expect("accepted").revision();
            assert_eq!(revision, Revision(name as u64), "each gets its own answer");
        }
        let sizes = sizes.lock().expect("no panic").clone();
        assert_eq!(sizes.iter().sum::<usize>(), count);
        assert!(sizes.iter().all(|size| *size <= limits::BATCH_COMMANDS), "{sizes:?}");
        assert!(sizes.len() <= limits::BATCHES_IN_FLIGHT + 2, "{sizes:?}");
    }

    #[tokio::test]
    async fn a_large_command_travels_alone_and_nothing_is_lost() {
        let (batcher, permits, sizes) = machine();
        permits.add_permits(100);
        let sizes_bytes = [10, limits::BATCH_BYTES + 1, 10, limits::BATCH_BYTES, 10];
        let proposals = sizes_bytes
            .iter()
            .enumerate()
            .map(|(name, bytes)| batcher.propose(command(name), *bytes));
        for (name, applied) in
            futures_util::future::join_all(proposals).await.into_iter().enumerate()
        {
            let revision = applied.expect("applied").result.expect("accepted").revision();
            assert_eq!(revision, Revision(name as u64));
        }
        assert_eq!(*sizes.lock().expect("no panic"), [1, 1, 1, 1, 1]);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_a_withdrawn_command_is_not_sent() {
        let (batcher, permits, sizes) = machine();
        let mut waiters = Vec::new();
        let mut refused = 0;
        for name in 0..limits::PROPOSALS_QUEUED + 10 {
            let mut proposal = Box::pin({
                let batcher = batcher.clone();
                async move { batcher.propose(command(name), 10).await }
            });
            match proposal.as_mut().now_or_never() {
                Some(Err(BatchError::Full(limit))) => {
                    assert_eq!(limit, limits::PROPOSALS_QUEUED);
                    refused += 1;
                }
                Some(other) => assert!(other.is_err(), "nothing is answered yet"),
                None => waiters.push(proposal),
            }
        }
        assert_eq!(refused, 10);
        drop(waiters);
        permits.add_permits(1_000);
        let applied = loop {
            // The withdrawn ones still hold their places until the batcher comes by.
            tokio::task::yield_now().await;
            match batcher.propose(command(1), 10).await {
                Err(BatchError::Full(_)) => {}
                other => break other,
            }
        };
        applied.expect("applied").result.expect("accepted");
        assert_eq!(sizes.lock().expect("no panic").iter().sum::<usize>(), 1);
    }
}
