//! The answering side of the traffic between nodes.

use super::Raft;
use super::peers::Peers;
use super::plausible::Plausible;
use ollamamax_proto::wire::raft_server::Raft as RaftService;
use ollamamax_proto::wire::{RaftReply, RaftRequest, SnapshotChunk};
use ollamamax_proto::{NodeId, limits};
use ollamamax_storage::{Snapshot, SnapshotMeta, SnapshotStore, TypeConfig, Vote};
use ollamamax_tls::{Peer, Role};
use openraft::async_runtime::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status, Streaming};

/// Serves the other nodes of one cluster.
pub struct RaftServer {
    raft: Raft,
    snapshots: SnapshotStore,
    peers: Arc<Peers>,
    cluster: String,
    node: u64,
}

impl RaftServer {
    /// The server of node `node` of `cluster`.
    pub fn new(
        raft: Raft,
        snapshots: SnapshotStore,
        peers: Arc<Peers>,
        cluster: &str,
        node: u64,
    ) -> Self {
        Self { raft, snapshots, peers, cluster: cluster.to_owned(), node }
    }

    /// Refuses what was meant for somebody else before looking inside, and what Raft would stumble over.
    fn open<T: DeserializeOwned + Plausible>(
        &self,
        caller: Option<Peer>,
        request: &RaftRequest,
    ) -> Result<T, Status> {
        let sender = Role::Node(NodeId(request.from));
        match caller {
            Some(caller) if caller.role == sender => {}
            Some(Peer { role, .. }) => {
                let text = format!("{role} sent a message in the name of {sender}");
                return Err(Status::permission_denied(text));
            }
            None => return Err(Status::unauthenticated("raft is for nodes")),
        }
        check_cluster(&self.cluster, &request.cluster)?;
        if request.to != self.node {
            return Err(Status::failed_precondition(format!(
                "this is node {}, the message is for node {}",
                self.node, request.to
            )));
        }
        let message: T = postcard::from_bytes(&request.payload).map_err(|error| {
            Status::invalid_argument(format!("undecodable raft message: {error}"))
        })?;
        let term = self.raft.metrics().borrow_watched().current_term;
        message.check(request.from, term).map_err(|why| {
            tracing::warn!(from = request.from, why, "a raft message was refused");
            Status::invalid_argument(format!("implausible raft message: {why}"))
        })?;
        self.peers.hear(request.from);
        Ok(message)
    }

    async fn receive(
        &self,
        caller: Option<Peer>,
        mut chunks: Streaming<SnapshotChunk>,
    ) -> Result<(Vote, Snapshot), Status> {
        let first = next(&mut chunks)
            .await?
            .ok_or_else(|| Status::invalid_argument("no snapshot chunk came"))?;
        let header = first
            .header
            .as_ref()
            .ok_or_else(|| Status::invalid_argument("the first snapshot chunk lacks its header"))?;
        let (vote, meta): (Vote, SnapshotMeta) = self.open(caller, header)?;
        let mut file = self.snapshots.receive().map_err(failed)?;
        let mut chunk = first;
        let mut received = 0u64;
        loop {
            if chunk.offset != received {
                let text = format!("snapshot chunk at {}, expected {received}", chunk.offset);
                return Err(Status::invalid_argument(text));
            }
            received += chunk.data.len() as u64;
            file.append(&chunk.data).map_err(failed)?;
            if chunk.last {
                break;
            }
            chunk = next(&mut chunks).await?.ok_or_else(|| {
                Status::data_loss(format!("the snapshot broke off after {received} bytes"))
            })?;
            self.peers.hear(vote.leader_id.node_id);
        }
        // Reads and syncs the whole file: not on the threads that carry heartbeats.
        let finished = tokio::task::spawn_blocking(move || file.finish()).await.map_err(failed)?;
        let snapshot = finished.map_err(failed)?;
        Ok((vote, Snapshot { meta, snapshot }))
    }
}

/// Refuses what was meant for a node of another cluster, which had this address before.
pub fn check_cluster(mine: &str, meant: &str) -> Result<(), Status> {
    if mine == meant {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "this node belongs to cluster `{mine}`, the message is for `{meant}`"
    )))
}

/// Who sent a request: the door lets in nobody without a certificate.
pub fn caller<T>(request: &Request<T>) -> Option<Peer> {
    request.extensions().get::<Peer>().copied()
}

async fn next(chunks: &mut Streaming<SnapshotChunk>) -> Result<Option<SnapshotChunk>, Status> {
    let wait = Duration::from_millis(limits::BLOB_STALL_MS);
    tokio::time::timeout(wait, chunks.message())
        .await
        .map_err(|_| Status::deadline_exceeded("the snapshot stalled"))?
}

fn failed(error: impl Display) -> Status {
    Status::internal(error.to_string())
}

fn reply(payload: &impl Serialize) -> Result<Response<RaftReply>, Status> {
    let payload = postcard::to_stdvec(payload).map_err(failed)?;
    Ok(Response::new(RaftReply { payload: payload.into() }))
}

#[tonic::async_trait]
impl RaftService for RaftServer {
    async fn append(&self, request: Request<RaftRequest>) -> Result<Response<RaftReply>, Status> {
        let request: AppendEntriesRequest<TypeConfig> =
            self.open(caller(&request), request.get_ref())?;
        reply(&self.raft.append_entries(request).await.map_err(failed)?)
    }

    async fn vote(&self, request: Request<RaftRequest>) -> Result<Response<RaftReply>, Status> {
        let (pre, request): (bool, VoteRequest<TypeConfig>) =
            self.open(caller(&request), request.get_ref())?;
        let answer =
            if pre { self.raft.pre_vote(request).await } else { self.raft.vote(request).await };
        reply(&answer.map_err(failed)?)
    }

    async fn transfer_leader(
        &self,
        request: Request<RaftRequest>,
    ) -> Result<Response<RaftReply>, Status> {
        let request: TransferLeaderRequest<TypeConfig> =
            self.open(caller(&request), request.get_ref())?;
        reply(&self.raft.handle_transfer_leader(request).await.map_err(failed)?)
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<RaftReply>, Status> {
        let (vote, snapshot) = self.receive(caller(&request), request.into_inner()).await?;
        tracing::info!(snapshot = %snapshot.meta, "received a snapshot");
        reply(&self.raft.install_full_snapshot(vote, snapshot).await.map_err(failed)?)
    }
}
