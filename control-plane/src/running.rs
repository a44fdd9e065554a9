//! A running node as its process sees it: where it is, whether it failed, and its orderly end.

use crate::blobs::NodeBlobs;
use crate::config::Timings;
use crate::error::NodeFailure;
use crate::leader::Leadership;
use crate::membership;
use crate::open::Addresses;
use crate::raft::Raft;
use crate::status::NodeControl;
use crate::watch::Published;
use ollamamax_gateway::ports::{Blobs, ControlPlane};
use ollamamax_proto::{NodeId, limits};
use ollamamax_storage::{Identity, LogStore, TypeConfig};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// A running node.
pub struct Running {
    pub(crate) identity: Identity,
    pub(crate) addresses: Addresses,
    pub(crate) control: Arc<NodeControl>,
    pub(crate) blobs: Arc<NodeBlobs>,
    pub(crate) raft: Raft,
    pub(crate) leadership: Leadership,
    pub(crate) log: LogStore,
    pub(crate) failure: watch::Receiver<Option<NodeFailure>>,
    pub(crate) stop_http: CancellationToken,
    pub(crate) stop_grpc: CancellationToken,
    pub(crate) http: JoinHandle<()>,
    /// Everything that acts by itself; dropping it ends them.
    pub(crate) tasks: JoinSet<()>,
    pub(crate) runtime: Option<Runtime>,
    pub(crate) timings: Timings,
}

impl Running {
    /// This node's id.
    pub fn node_id(&self) -> NodeId {
        NodeId(self.identity.node)
    }

    /// The cluster it belongs to.
    pub fn cluster(&self) -> &str {
        &self.identity.cluster
    }

    /// Where the gateway listens.
    pub fn http_addr(&self) -> SocketAddr {
        self.addresses.http_local
    }

    /// Where the gRPC services listen.
    pub fn raft_addr(&self) -> SocketAddr {
        self.addresses.raft_local
    }

    /// The state and the ways to change it.
    pub fn control(&self) -> Arc<dyn ControlPlane> {
        Arc::clone(&self.control) as _
    }

    /// The blobs held here and on the other nodes.
    pub fn blobs(&self) -> Arc<dyn Blobs> {
        Arc::clone(&self.blobs) as _
    }

    /// What the state machine publishes, for watchers in this process.
    pub fn published(&self) -> Arc<Published> {
        Arc::clone(&self.control.published)
    }

    /// Builds a snapshot now, without waiting for its turn, and drops the log it covers.
    pub async fn compact(&self) -> Result<(), NodeFailure> {
        let fatal =
            |error: openraft::errors::Fatal<TypeConfig>| NodeFailure::Raft(error.to_string());
        let applied = self.control.published.applied();
        self.raft.trigger().snapshot().await.map_err(fatal)?;
        let wait = Duration::from_millis(limits::MEMBERSHIP_TIMEOUT_MS);
        let waiter = self.raft.wait(Some(wait));
        let built = waiter.metrics(
            |metrics| metrics.snapshot.is_some_and(|id| id.index >= applied),
            "the snapshot is built",
        );
        built.await.map_err(|error| NodeFailure::Raft(error.to_string()))?;
        self.raft.trigger().purge_log(applied).await.map_err(fatal)?;
        // What is on its way to another node is kept until that ends, in vain or not.
        let dropped = waiter.metrics(
            |metrics| metrics.purged.is_some_and(|id| id.index >= applied),
            "the log is dropped",
        );
        dropped.await.map(drop).map_err(|error| NodeFailure::Raft(error.to_string()))
    }

    /// Resolves when the node cannot go on; the process should then exit with the failure's code.
    pub fn failed(&self) -> impl Future<Output = NodeFailure> + Send + 'static {
        let mut failure = self.failure.clone();
        async move {
            let failed = failure.wait_for(Option::is_some).await.map(|failure| failure.clone());
            match failed {
                Ok(Some(failure)) => failure,
                // The sender only goes with the node itself.
                _ => std::future::pending().await,
            }
        }
    }

    /// Stops in order: leadership first, so that nobody waits for an election; then the requests in flight; then Raft
    /// and the storage.
    pub async fn stop(mut self) {
        membership::settle(&self.raft, &self.leadership).await;
        if self.leadership.is_leader()
            && let Err(reason) = membership::hand_over(&self.raft, &self.leadership).await
        {
            tracing::info!(reason, "leadership was not handed over");
        }
        self.stop_http.cancel();
        if let Err(error) = (&mut self.http).await {
            tracing::warn!(%error, "the gateway did not end in order");
        }
        self.tasks.shutdown().await;
        self.halt().await;
        tracing::info!(node = self.identity.node, "node stopped");
    }

    /// Stops like a crash does, as far as a process can do that to itself: no hand-over, no draining.
    pub async fn kill(mut self) {
        self.stop_http.cancel();
        self.http.abort();
        self.tasks.abort_all();
        self.halt().await;
    }

    async fn halt(&mut self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "raft did not end in order");
        }
        self.stop_grpc.cancel();
        if let Some(runtime) = self.runtime.take() {
            let wait = Duration::from_millis(self.timings.drain_ms.min(1_000));
            // Waiting for a runtime's threads blocks; what still runs there after the wait is abandoned.
            let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(wait)).await;
            if let Err(error) = ended {
                tracing::warn!(%error, "the raft threads did not end in order");
            }
        }
        self.log.close().await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop_http.cancel();
        self.stop_grpc.cancel();
        self.http.abort();
        if let Some(runtime) = self.runtime.take() {
            // A runtime must not be waited for inside another one.
            runtime.shutdown_background();
        }
    }
}
