//! The worker's side of the conversation with the control plane: register, heartbeat, watch.
//!
//! Any node answers; when one does not, the next is asked at once. Without any, the worker goes on serving what it holds:
//! nothing here ever unloads because of silence.
//!
//! ```text
//! register --> heartbeat every heartbeat_ms, and at once when a report changes --> known: false -> register again
//!          \-> watch: AssignmentSet -> Holder::apply                            \-> fenced, removed: stop
//! ```

use crate::credentials::Credentials;
use crate::desired::AssignmentSet;
use crate::health::Health;
use crate::holder::Holder;
use crate::peers::{Peer, Peers};
use ollamamax_proto::placement::{Assigned, Device};
use ollamamax_proto::wire::control_client::ControlClient;
use ollamamax_proto::wire::{
    self, HeartbeatReply, HeartbeatRequest, RegisterReply, RegisterRequest, WatchAssignmentsRequest,
};
use ollamamax_proto::{Incarnation, Revision, WorkerId, backoff, limits};
use ollamamax_tls::says_removed;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Registers, reports and follows the assignments of one worker.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Who reports.
    pub worker: WorkerId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Shown to people.
    pub name: String,
    /// `host:port` of the worker's gRPC service.
    pub address: String,
    /// What it computes with.
    pub device: Device,
    /// Whom to report to.
    pub peers: Arc<Peers>,
    /// What it is told of the cluster's members.
    pub credentials: Arc<Credentials>,
    /// What is reported and changed.
    pub holder: Arc<Holder>,
    /// Nanoseconds to read a MiB of memory, as measured at the start; 0 until then.
    pub ns_per_mib: Arc<AtomicU64>,
    /// How the GPU was lately.
    pub health: Health,
    /// True once the worker takes no new requests.
    pub draining: watch::Receiver<bool>,
    /// Set once a node has heard that it drains.
    pub told: watch::Sender<bool>,
}

/// Why this process must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Dismissed {
    /// A newer process took this worker's identity.
    #[error("a newer process registered as this worker; this one stops")]
    Fenced,
    /// The cluster removed it.
    #[error(
        "this worker was removed from the cluster; create a join token with `ollamamax join-token create worker` and \
         start it again with that"
    )]
    Removed,
}

impl Agent {
    /// Runs until it is told to stop. Cancel by dropping.
    pub async fn run(self) -> Dismissed {
        loop {
            let reply = match self.register().await {
                Ok(reply) => reply,
                Err(dismissed) => return dismissed,
            };
            self.holder.registered(Revision(reply.revision));
            let dismissed = tokio::select! {
                dismissed = self.heartbeats(reply.heartbeat_ms) => dismissed,
                never = self.watch() => never,
            };
            if let Some(dismissed) = dismissed {
                return dismissed;
            }
        }
    }

    async fn register(&self) -> Result<RegisterReply, Dismissed> {
        let request = RegisterRequest {
            worker: self.worker.to_string(),
            incarnation: self.incarnation.0,
            name: self.name.clone(),
            address: self.address.clone(),
            device: Some((&self.device).into()),
            pid: std::process::id(),
            forwarded: false,
        };
        let mut attempt = 0;
        loop {
            // A registration is a commit: it may have to wait for an election.
            let limit = limits::PROPOSE_TIMEOUT_MS + limits::WORKER_CALL_TIMEOUT_MS;
            let outcome = self.ask(limit, |mut client| {
                let request = request.clone();
                async move { client.register(request).await }
            });
            match outcome.await {
                Ok(reply) => {
                    self.learn(&reply.control_planes, reply.membership.clone());
                    tracing::info!(worker = %self.worker, revision = reply.revision, "registered");
                    return Ok(reply);
                }
                Err(status) if says_removed(&status) => return Err(self.removed()),
                Err(status) if attempt == 0 || status.code() == Code::InvalidArgument => {
                    tracing::warn!(%status, "not registered yet, trying on");
                }
                Err(status) => tracing::debug!(%status, attempt, "not registered yet"),
            }
            pause(attempt).await;
            attempt += 1;
        }
    }

    fn learn(&self, addresses: &[String], membership: Option<wire::Membership>) {
        self.peers.learn(addresses);
        self.credentials.learn(addresses);
        self.credentials.hear(membership);
    }

    fn removed(&self) -> Dismissed {
        tracing::error!(worker = %self.worker, "{}", Dismissed::Removed);
        self.credentials.forget();
        Dismissed::Removed
    }

    /// Sends heartbeats until one is answered with a dismissal, or with "unknown" (`None`).
    async fn heartbeats(&self, period_ms: u32) -> Option<Dismissed> {
        let period = Duration::from_millis(u64::from(period_ms).clamp(10, 60_000));
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut reports, mut draining) = (self.holder.follow(), self.draining.clone());
        let mut silent = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Ok(()) = reports.changed() => {}
                Ok(()) = draining.changed() => {}
            }
            let (_, draining_now) = (reports.borrow_and_update(), *draining.borrow_and_update());
            match self.heartbeat(draining_now).await {
                Ok(reply) if reply.fenced => {
                    tracing::error!(worker = %self.worker, "{}", Dismissed::Fenced);
                    return Some(Dismissed::Fenced);
                }
                Ok(reply) if !reply.known => {
                    tracing::warn!(worker = %self.worker, "not known any more, registering again");
                    return None;
                }
                Ok(reply) => {
                    if silent {
                        tracing::info!("the control plane answers again");
                    }
                    silent = false;
                    self.told.send_replace(draining_now);
                    self.learn(&reply.control_planes, reply.membership);
                }
                Err(status) if says_removed(&status) => return Some(self.removed()),
                Err(status) => {
                    if !silent {
                        tracing::warn!(%status, "no control plane answers; serving what is held");
                    }
                    silent = true;
                }
            }
        }
    }

    async fn heartbeat(&self, draining: bool) -> Result<HeartbeatReply, Status> {
        let request = HeartbeatRequest {
            worker: self.worker.to_string(),
            incarnation: self.incarnation.0,
            reports: self.holder.reports().iter().map(Into::into).collect(),
            draining,
            forwarded: false,
            ns_per_mib: self.ns_per_mib.load(Ordering::Relaxed),
            health: self.health.now().map(Into::into),
        };
        self.ask(limits::WORKER_CALL_TIMEOUT_MS, |mut client| {
            let request = request.clone();
            async move { client.heartbeat(request).await }
        })
        .await
    }

    /// Asks one node after the other, the current one first, until one answers.
    async fn ask<T, F>(
        &self,
        limit_ms: u64,
        call: impl Fn(ControlClient<Channel>) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let mut last = Status::unavailable("no control-plane node is known");
        for peer in self.peers.ordered() {
            match timeout(Duration::from_millis(limit_ms), call(client(&peer))).await {
                Ok(Ok(reply)) => {
                    self.peers.answered(&peer.address);
                    return Ok(reply.into_inner());
                }
                // A node that says so has asked the others.
                Ok(Err(status)) if says_removed(&status) => return Err(status),
                Ok(Err(status)) => last = status,
                Err(_) => {
                    let words = format!("`{}` was silent for {limit_ms} ms", peer.address);
                    last = Status::deadline_exceeded(words);
                }
            }
        }
        Err(last)
    }

    /// Follows the assignments; never returns, but has the type of the other branch.
    async fn watch(&self) -> Option<Dismissed> {
        let mut current = self.peers.follow();
        let mut attempt: u32 = 0;
        loop {
            let peers = self.peers.ordered();
            current.borrow_and_update();
            if let Some(peer) = peers.get(attempt as usize % peers.len().max(1)) {
                tokio::select! {
                    got_any = self.watch_one(peer) => if got_any { attempt = 0 },
                    // Heartbeats go elsewhere now: this node may be cut off from the others.
                    Ok(()) = current.changed() => {
                        attempt = 0;
                        continue;
                    }
                }
            }
            pause(attempt).await;
            attempt += 1;
        }
    }

    /// Applies what one node streams until it breaks; whether anything came.
    async fn watch_one(&self, peer: &Peer) -> bool {
        let mut got_any = false;
        let request = WatchAssignmentsRequest {
            worker: self.worker.to_string(),
            incarnation: self.incarnation.0,
        };
        let mut client = client(peer);
        let limit = Duration::from_millis(limits::WORKER_CALL_TIMEOUT_MS);
        let mut sets = match timeout(limit, client.watch_assignments(request)).await {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => {
                tracing::debug!(peer = peer.address, %status, "no watch");
                return false;
            }
            Err(_) => return false,
        };
        loop {
            match sets.message().await {
                Ok(Some(set)) => match accept(set) {
                    Ok(set) => {
                        got_any = true;
                        self.holder.apply(set);
                    }
                    // Acting on a part of a set would unload the rest.
                    Err(reason) => {
                        tracing::error!(peer = peer.address, reason, "assignments refused");
                    }
                },
                Ok(None) => return got_any,
                Err(status) => {
                    tracing::debug!(peer = peer.address, %status, "the watch broke off");
                    return got_any;
                }
            }
        }
    }
}

fn client(peer: &Peer) -> ControlClient<Channel> {
    ControlClient::new(peer.channel.clone()).max_decoding_message_size(limits::RPC_MESSAGE_BYTES)
}

fn accept(set: wire::AssignmentSet) -> Result<AssignmentSet, String> {
    let count = set.assignments.len();
    if count > limits::WORKER_ASSIGNMENTS_COUNT {
        let max = limits::WORKER_ASSIGNMENTS_COUNT;
        return Err(format!("{count} assignments, expected at most {max}"));
    }
    let assigned: Result<Vec<Assigned>, _> =
        set.assignments.into_iter().map(Assigned::try_from).collect();
    let assignments = assigned.map_err(|error| error.to_string())?;
    Ok(AssignmentSet { revision: Revision(set.revision), assignments })
}

async fn pause(attempt: u32) {
    let (first, max) = (limits::WORKER_RETRY_FIRST_MS, limits::WORKER_RETRY_MAX_MS);
    sleep(Duration::from_millis(backoff::delay_ms(attempt, first, max, rand::random()))).await;
}
