//! The calling side of the traffic between nodes.
//!
//! Every message travels in an envelope of cluster, sender and recipient: a node that took over an address refuses what
//! was meant for its predecessor.

use super::peers::{Lane, Peers};
use ollamamax_proto::wire::raft_client::RaftClient;
use ollamamax_proto::wire::{RaftRequest, SnapshotChunk};
use ollamamax_proto::{NodeId, limits};
use ollamamax_storage::{Entry, EntryPayload, Node, Snapshot, SnapshotFile, TypeConfig, Vote};
use ollamamax_tls::says_removed;
use openraft::RPCTypes;
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{RaftNetworkFactory, RaftNetworkV2};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Response, Status};

type RpcError = RPCError<TypeConfig>;

/// Makes one [`Link`] per peer and purpose.
#[derive(Clone)]
pub struct Network {
    cluster: Arc<str>,
    from: u64,
    peers: Arc<Peers>,
}

impl Network {
    /// The network of node `from`.
    pub fn new(cluster: &str, from: u64, peers: Arc<Peers>) -> Self {
        Self { cluster: cluster.into(), from, peers }
    }

    fn link(&self, to: u64, node: &Node, lane: Lane) -> Link {
        Link { network: self.clone(), to, address: node.raft.clone(), lane }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Node) -> Link {
        self.link(target, node, Lane::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Node) -> Link {
        self.link(target, node, Lane::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Node) -> Link {
        self.link(target, node, Lane::Bulk)
    }
}

/// The way to one peer.
pub struct Link {
    network: Network,
    to: u64,
    address: String,
    lane: Lane,
}

impl Link {
    fn client(&self) -> Result<RaftClient<Channel>, Status> {
        let known = self.network.peers.address(self.to);
        let address = known.as_deref().unwrap_or(&self.address);
        let channel = self.network.peers.channel(NodeId(self.to), address, self.lane)?;
        Ok(RaftClient::new(channel)
            .max_decoding_message_size(limits::RPC_MESSAGE_BYTES)
            .max_encoding_message_size(limits::RPC_MESSAGE_BYTES))
    }

    fn envelope(&self, payload: &impl Serialize) -> Result<RaftRequest, Status> {
        let payload = postcard::to_stdvec(payload)
            .map_err(|error| Status::internal(format!("cannot encode a raft message: {error}")))?;
        Ok(RaftRequest {
            cluster: self.network.cluster.to_string(),
            from: self.network.from,
            to: self.to,
            payload: payload.into(),
        })
    }

    async fn call<R, F, Fut>(
        &self,
        action: RPCTypes,
        wait: Duration,
        request: &impl Serialize,
        send: F,
    ) -> Result<R, RpcError>
    where
        R: DeserializeOwned,
        F: FnOnce(RaftClient<Channel>, RaftRequest) -> Fut,
        Fut: Future<Output = Result<Response<ollamamax_proto::wire::RaftReply>, Status>>,
    {
        let prepared = self.client().and_then(|client| Ok((client, self.envelope(request)?)));
        let (client, envelope) = prepared.map_err(|status| self.unreachable(&status))?;
        let reply = match tokio::time::timeout(wait, send(client, envelope)).await {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => return Err(self.unreachable(&status)),
            Err(_) => {
                let (id, target) = (self.network.from, self.to);
                return Err(RPCError::Timeout(Timeout { action, id, target, timeout: wait }));
            }
        };
        self.network.peers.hear(self.to);
        postcard::from_bytes(&reply.payload).map_err(|error| {
            RPCError::Network(NetworkError::from_string(format!(
                "node {} answered what cannot be decoded: {error}",
                self.to
            )))
        })
    }

    fn unreachable(&self, status: &Status) -> RpcError {
        if says_removed(status) {
            self.network.peers.cast_out();
        }
        let text = format!("node {} at `{}`: {}", self.to, self.address, status.message());
        tracing::debug!(node = self.to, address = %self.address, code = ?status.code(), "{}", status.message());
        RPCError::Unreachable(Unreachable::from_string(text))
    }
}

/// How many of `entries` fit into one message.
fn fitting(entries: &[Entry]) -> usize {
    let mut bytes = 0;
    let fits = entries.iter().take_while(|entry| {
        bytes += match &entry.payload {
            EntryPayload::Normal(batch) => batch.0.len() + ENTRY_OVERHEAD_BYTES,
            _ => ENTRY_OVERHEAD_BYTES,
        };
        bytes <= limits::RPC_MESSAGE_BYTES / 2
    });
    fits.count().max(1)
}

/// More than the frame of an entry takes on the wire; memberships stay far below it per node.
const ENTRY_OVERHEAD_BYTES: usize = 1_024;
/// Chunks of a snapshot read before the wire takes them.
const CHUNKS_AHEAD: usize = 4;

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        mut rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let fits = fitting(&rpc.entries);
        let cut = fits < rpc.entries.len();
        rpc.entries.truncate(fits);
        // The library allows one heartbeat's time, which is less than a slow disk takes to flush: the same entries would
        // be sent again and again, each time too late.
        let wait = match self.lane {
            Lane::Heartbeat => option.soft_ttl(),
            _ => Duration::from_millis(limits::RAFT_APPEND_TIMEOUT_MS),
        };
        let reply: AppendEntriesResponse<TypeConfig> = self
            .call(RPCTypes::AppendEntries, wait, &rpc, |mut client, request| async move {
                client.append(request).await
            })
            .await?;
        match reply {
            AppendEntriesResponse::Success if cut => Ok(AppendEntriesResponse::PartialSuccess(
                rpc.entries.last().map(|entry| entry.log_id),
            )),
            reply => Ok(reply),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.call(
            RPCTypes::Vote,
            option.soft_ttl(),
            &(false, rpc),
            |mut client, request| async move { client.vote(request).await },
        )
        .await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.call(
            RPCTypes::Vote,
            option.soft_ttl(),
            &(true, rpc),
            |mut client, request| async move { client.vote(request).await },
        )
        .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let header =
            self.envelope(&(vote, &snapshot.meta)).map_err(|status| self.unreachable(&status))?;
        let mut client = self.client().map_err(|status| self.unreachable(&status))?;
        let reply = tokio::select! {
            reply = client.install_snapshot(chunks(snapshot.snapshot, header)) => reply,
            closed = cancel => return Err(closed.into()),
        };
        let reply = reply.map_err(|status| self.unreachable(&status))?.into_inner();
        self.network.peers.hear(self.to);
        postcard::from_bytes(&reply.payload).map_err(|error| {
            let text = format!("node {} answered what cannot be decoded: {error}", self.to);
            StreamingError::Network(NetworkError::from_string(text))
        })
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        self.call(
            RPCTypes::TransferLeader,
            option.soft_ttl(),
            &rpc,
            |mut client, request| async move { client.transfer_leader(request).await },
        )
        .await
    }
}

/// The file as chunks, read ahead of the wire by a few.
fn chunks(file: SnapshotFile, header: RaftRequest) -> ReceiverStream<SnapshotChunk> {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut header = Some(header);
        let mut offset = 0;
        loop {
            let data = match file.read_chunk(offset) {
                Ok(data) => data,
                Err(error) => {
                    // Ending early makes the receiver refuse what it has.
                    tracing::warn!(%error, "cannot read the snapshot");
                    return;
                }
            };
            let end = offset + data.len() as u64;
            let last = data.is_empty() || end >= file.len();
            let chunk = SnapshotChunk { header: header.take(), offset, data: data.into(), last };
            if sender.blocking_send(chunk).is_err() || last {
                return;
            }
            offset = end;
        }
    });
    ReceiverStream::new(receiver)
}
