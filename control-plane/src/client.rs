//! Proposals and linearizable reads from any node.
//!
//! A node that does not lead passes the request on once, marked as forwarded, so that two confused nodes cannot play
//! ping-pong. Whoever asks waits until its own node has applied the answer: it reads its own writes.
//!
//! # What is tried again
//!
//! An attempt that provably proposed nothing (no leader, not the leader, a refused connection, a full queue elsewhere)
//! is repeated until the deadline. One whose fate is unknown (a connection that broke after the request was sent, a
//! leader deposed with the command in its log) is repeated only for commands in [`may_repeat`]; for all others the
//! caller is told that the outcome is unknown.

mod repeat;

use crate::config::Timings;
use crate::leader::{Leader, Leadership};
use crate::raft::Raft;
use crate::raft::batcher::{Applied, BatchError, Batcher, SubmitError};
use crate::raft::peers::{Lane, Peers};
use crate::watch::Published;
use ollamamax_core::{Command, Outcome, Rejection, State, codec};
use ollamamax_gateway::ports::ControlError;
use ollamamax_proto::wire::control_client::ControlClient;
use ollamamax_proto::wire::{ProposeRequest, ReadIndexRequest};
use ollamamax_proto::{NodeId, limits, mutant};
use ollamamax_tls::says_removed;
use openraft::ReadPolicy;
pub use repeat::may_repeat;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Trailer by which a node swears that nothing was proposed.
pub const NOTHING_PROPOSED: &str = "x-nothing-proposed";

/// What one attempt came to.
enum Attempt<T> {
    Done(T),
    /// Certainly nothing happened.
    Nothing(String),
    /// It may have happened, or may still.
    Unknown(String),
    Failed(ControlError),
}

/// The way from one node to the agreed state.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    reads: mpsc::Sender<oneshot::Sender<Result<u64, ControlError>>>,
}

struct Inner {
    raft: Raft,
    batcher: Batcher,
    leadership: Leadership,
    published: Arc<Published>,
    peers: Arc<Peers>,
    cluster: String,
    timings: Timings,
}

impl Client {
    /// A client of the node these parts belong to. Its read task lives as long as a clone of it.
    pub fn new(
        raft: Raft,
        batcher: Batcher,
        leadership: Leadership,
        published: Arc<Published>,
        peers: Arc<Peers>,
        cluster: &str,
        timings: Timings,
    ) -> Self {
        let cluster = cluster.to_owned();
        let inner =
            Arc::new(Inner { raft, batcher, leadership, published, peers, cluster, timings });
        let (reads, queue) = mpsc::channel(limits::PROPOSALS_QUEUED);
        tokio::spawn(confirm_reads(Arc::downgrade(&inner), queue));
        Self { inner, reads }
    }

    /// Proposes `command` wherever the leader is and waits until it is applied here too.
    pub async fn propose(&self, command: Command) -> Result<Outcome, ControlError> {
        let applied = self.propose_anywhere(command).await?;
        let outcome = applied.result?;
        let wait = Duration::from_millis(self.inner.timings.propose_ms);
        if !self.inner.published.wait_applied(applied.index, wait).await {
            tracing::warn!(
                index = applied.index,
                "an accepted command is not applied on this node yet"
            );
        }
        Ok(outcome)
    }

    /// Proposes `command` through any other node, which may itself have to pass it on. For a node that no leader finds,
    /// because it came back at another address: nobody sends it heartbeats, so it does not know who leads. `None` when
    /// no node got it decided.
    pub async fn propose_through_others(
        &self,
        command: &Command,
        others: &[(NodeId, String)],
    ) -> Option<Result<Outcome, Rejection>> {
        for (node, address) in others {
            let deadline = self.inner.deadline(self.inner.timings.propose_ms);
            let attempt =
                self.inner.attempt_there((*node, address), command, false, deadline).await;
            if let Attempt::Done(applied) = attempt {
                return Some(applied.result);
            }
        }
        None
    }

    /// Proposes `command` on this node only: for requests that were forwarded to it.
    pub async fn propose_here(&self, command: Command) -> Result<Applied, ControlError> {
        let bytes = size(&command)?;
        let deadline = self.inner.deadline(self.inner.timings.propose_ms);
        match self.inner.attempt_here(&command, bytes, deadline).await {
            Attempt::Done(applied) => Ok(applied),
            Attempt::Nothing(reason) => Err(ControlError::NoQuorum { reason, proposed: false }),
            Attempt::Unknown(reason) => Err(ControlError::NoQuorum { reason, proposed: true }),
            Attempt::Failed(error) => Err(error),
        }
    }

    async fn propose_anywhere(&self, command: Command) -> Result<Applied, ControlError> {
        let inner = &self.inner;
        let bytes = size(&command)?;
        let deadline = inner.deadline(inner.timings.propose_ms);
        let mut proposed = false;
        loop {
            let attempt = match inner.leadership.current() {
                Some(Leader::Me) => inner.attempt_here(&command, bytes, deadline).await,
                Some(Leader::Other { id, address }) => {
                    inner.attempt_there((id, &address), &command, true, deadline).await
                }
                None => Attempt::Nothing("no leader".to_owned()),
            };
            let reason = match attempt {
                Attempt::Done(applied) => return Ok(applied),
                Attempt::Failed(error) => return Err(error),
                Attempt::Nothing(reason) => reason,
                Attempt::Unknown(reason) if may_repeat(&command) => {
                    proposed = true;
                    reason
                }
                Attempt::Unknown(reason) => {
                    return Err(ControlError::NoQuorum { reason, proposed: true });
                }
            };
            inner.pause(deadline, &reason, proposed).await?;
        }
    }

    /// The state including every command acknowledged before this call, anywhere.
    pub async fn linearizable(&self) -> Result<Arc<State>, ControlError> {
        if mutant::planted("stale-read") {
            return Ok(self.inner.published.state());
        }
        let index = self.read_index().await?;
        let wait = Duration::from_millis(self.inner.timings.read_ms);
        if self.inner.published.wait_applied(index, wait).await {
            return Ok(self.inner.published.state());
        }
        let reason = format!("this node has not applied log entry {index} yet");
        Err(ControlError::NoQuorum { reason, proposed: false })
    }

    /// A log index that covers everything acknowledged before this call. Calls that wait at the same time share one
    /// round to the quorum; an index is never used for a call that came after its round began.
    async fn read_index(&self) -> Result<u64, ControlError> {
        let (answer, answered) = oneshot::channel();
        self.reads
            .try_send(answer)
            .map_err(|_| ControlError::Busy { waiting: limits::PROPOSALS_QUEUED })?;
        let stopping = || ControlError::NoQuorum {
            reason: "the node is stopping".to_owned(),
            proposed: false,
        };
        answered.await.map_err(|_| stopping())?
    }

    /// The read index from this node as leader: for requests that were forwarded to it.
    pub async fn read_index_here(&self) -> Result<u64, ControlError> {
        let deadline = self.inner.deadline(self.inner.timings.read_ms);
        match self.inner.confirm_here(deadline).await {
            Attempt::Done(index) => Ok(index),
            Attempt::Failed(error) => Err(error),
            Attempt::Nothing(reason) | Attempt::Unknown(reason) => {
                Err(ControlError::NoQuorum { reason, proposed: false })
            }
        }
    }
}

/// Answers read requests in rounds: everybody who waited when a round began gets its index.
async fn confirm_reads(
    inner: std::sync::Weak<Inner>,
    mut queue: mpsc::Receiver<oneshot::Sender<Result<u64, ControlError>>>,
) {
    while let Some(first) = queue.recv().await {
        let mut waiting = vec![first];
        while let Ok(next) = queue.try_recv() {
            waiting.push(next);
        }
        let Some(inner) = inner.upgrade() else { return };
        // Rounds overlap: a slow one must not hold up those who came after it began.
        tokio::spawn(async move {
            let result = inner.confirm_anywhere().await;
            for answer in waiting {
                let _ = answer.send(result.clone());
            }
        });
    }
}

impl Inner {
    fn deadline(&self, ms: u64) -> Instant {
        Instant::now() + Duration::from_millis(ms)
    }

    async fn attempt_here(
        &self,
        command: &Command,
        bytes: usize,
        deadline: Instant,
    ) -> Attempt<Applied> {
        let proposal = self.batcher.propose(command.clone(), bytes);
        match tokio::time::timeout_at(deadline.into(), proposal).await {
            Ok(Ok(applied)) => Attempt::Done(applied),
            Ok(Err(BatchError::Full(waiting))) => Attempt::Failed(ControlError::Busy { waiting }),
            Ok(Err(BatchError::Submit(SubmitError::NotLeader))) => {
                Attempt::Nothing("this node does not lead any more".to_owned())
            }
            Ok(Err(BatchError::Submit(SubmitError::Unknown(reason)))) => Attempt::Unknown(reason),
            Err(_) => Attempt::Unknown(self.leadership.outage().0),
        }
    }

    async fn attempt_there(
        &self,
        (node, address): (NodeId, &str),
        command: &Command,
        forwarded: bool,
        deadline: Instant,
    ) -> Attempt<Applied> {
        let request = match codec::encode_command(command) {
            Ok(command) => {
                let cluster = self.cluster.clone();
                ProposeRequest { command: command.into(), forwarded, cluster }
            }
            Err(error) => return Attempt::Nothing(error.to_string()),
        };
        let mut client = match self.control(node, address) {
            Ok(client) => client,
            Err(status) => return Attempt::Nothing(status.message().to_owned()),
        };
        let reply = match tokio::time::timeout_at(deadline.into(), client.propose(request)).await {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) if proposed_nothing(&status) => return refused(&status),
            Ok(Err(status)) if says_removed(&status) => {
                self.peers.cast_out();
                return Attempt::Nothing(status.message().to_owned());
            }
            Ok(Err(status)) => return Attempt::Unknown(status.message().to_owned()),
            Err(_) => {
                return Attempt::Unknown(format!("the leader at `{address}` does not answer"));
            }
        };
        match codec::decode_reply(&reply.outcome) {
            Ok(result) => Attempt::Done(Applied { index: reply.log_index, result }),
            Err(error) => Attempt::Unknown(error.to_string()),
        }
    }

    async fn confirm_anywhere(&self) -> Result<u64, ControlError> {
        let deadline = self.deadline(self.timings.read_ms);
        loop {
            let attempt = match self.leadership.current() {
                Some(Leader::Me) => self.confirm_here(deadline).await,
                Some(Leader::Other { id, address }) => {
                    self.confirm_there((id, &address), deadline).await
                }
                None => Attempt::Nothing("no leader".to_owned()),
            };
            match attempt {
                Attempt::Done(index) => return Ok(index),
                Attempt::Failed(error) => return Err(error),
                Attempt::Nothing(reason) | Attempt::Unknown(reason) => {
                    self.pause(deadline, &reason, false).await?;
                }
            }
        }
    }

    async fn confirm_here(&self, deadline: Instant) -> Attempt<u64> {
        // ReadIndex, never a lease: a paused or drifting clock must not serve what was overwritten.
        let read = self.raft.get_read_linearizer(ReadPolicy::ReadIndex);
        match tokio::time::timeout_at(deadline.into(), read).await {
            Ok(Ok(linearizer)) => Attempt::Done(linearizer.read_log_id().index()),
            Ok(Err(error)) => Attempt::Nothing(error.to_string()),
            Err(_) => Attempt::Nothing(self.leadership.outage().0),
        }
    }

    async fn confirm_there(
        &self,
        (node, address): (NodeId, &str),
        deadline: Instant,
    ) -> Attempt<u64> {
        let mut client = match self.control(node, address) {
            Ok(client) => client,
            Err(status) => return Attempt::Nothing(status.message().to_owned()),
        };
        let request = ReadIndexRequest { forwarded: true, cluster: self.cluster.clone() };
        match tokio::time::timeout_at(deadline.into(), client.read_index(request)).await {
            Ok(Ok(reply)) => Attempt::Done(reply.into_inner().log_index),
            Ok(Err(status)) => Attempt::Nothing(status.message().to_owned()),
            Err(_) => Attempt::Nothing(format!("the leader at `{address}` does not answer")),
        }
    }

    fn control(&self, node: NodeId, address: &str) -> Result<ControlClient<Channel>, Status> {
        Ok(ControlClient::new(self.peers.channel(node, address, Lane::Control)?)
            .max_decoding_message_size(limits::RPC_MESSAGE_BYTES)
            .max_encoding_message_size(limits::RPC_MESSAGE_BYTES))
    }

    /// Between two attempts: fails at the deadline, or at once when the quorum has been gone longer than an election
    /// takes.
    async fn pause(
        &self,
        deadline: Instant,
        last: &str,
        proposed: bool,
    ) -> Result<(), ControlError> {
        let (outage, hopeless) = self.leadership.outage();
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || (hopeless && self.leadership.current().is_none()) {
            let reason = format!("{outage} ({last})");
            return Err(ControlError::NoQuorum { reason, proposed });
        }
        let pause = Duration::from_millis(limits::PROPOSE_RETRY_MS).min(left);
        self.leadership.changed(pause).await;
        Ok(())
    }
}

fn size(command: &Command) -> Result<usize, ControlError> {
    match codec::encode_command(command) {
        Ok(bytes) => Ok(bytes.len()),
        Err(codec::CodecError::TooLong { bytes, limit, .. }) => {
            Err(ControlError::TooLarge { bytes, limit })
        }
        // Commands are plain data: postcard cannot fail on them but by length.
        Err(error) => Err(ControlError::NoQuorum { reason: error.to_string(), proposed: false }),
    }
}

fn refused<T>(status: &Status) -> Attempt<T> {
    if status.code() == Code::ResourceExhausted {
        return Attempt::Failed(ControlError::Busy { waiting: limits::PROPOSALS_QUEUED });
    }
    Attempt::Nothing(status.message().to_owned())
}

/// Whether a failed call certainly reached no log: the other side says so, or the connection was never made.
fn proposed_nothing(status: &Status) -> bool {
    if status.metadata().contains_key(NOTHING_PROPOSED) {
        return true;
    }
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
