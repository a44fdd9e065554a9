//! One node, wired: this file shows who knows whom.
//!
//! ```text
//! storage -- machine -- raft core -- network -> peers          (threads `raft`)
//!               |         |    \--- raft, control, blobs services <- gRPC port
//!           published   batcher
//!               |         |
//!               +--- client ---+--- reconcile, membership, workers, introduction
//!                              +--- gateway <- HTTP port       (the caller's runtime)
//! ```

use crate::blobs::NodeBlobs;
use crate::client::Client;
use crate::config::{NodeConfig, Timings};
use crate::error::{NodeFailure, StartError};
use crate::http::tls::Certificates;
use crate::leader::Leadership;
use crate::life::{bootstrap, introduce, set_once, watch_core};
use crate::membership::Keeper;
use crate::open::{Addresses, blocking, listen, open};
use crate::raft::batcher::{Batcher, SubmitError, Submitted};
use crate::raft::machine::Machine;
use crate::raft::network::Network;
use crate::raft::peers::Peers;
use crate::raft::server::RaftServer;
use crate::raft::{self, Raft};
use crate::reconcile::Reconciler;
pub use crate::running::Running;
use crate::service::blobs::BlobServer;
use crate::service::control::ControlServer;
use crate::status::NodeControl;
use crate::watch::Published;
use crate::workers::Workers;
use crate::{http, telemetry};
use futures_util::FutureExt;
use ollamamax_gateway::Gateway;
use ollamamax_proto::limits;
use ollamamax_proto::wire::blobs_server::BlobsServer as BlobsService;
use ollamamax_proto::wire::control_server::ControlServer as ControlService;
use ollamamax_proto::wire::raft_server::RaftServer as RaftService;
use ollamamax_storage::{Batch, Identity, Opened};
use openraft::errors::{ClientWriteError, RaftError};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;

/// A node of the control plane, before it runs.
pub struct ControlPlaneNode;

impl ControlPlaneNode {
    /// Starts a node on the current runtime. When it returns, both ports are served; whether there is a quorum is for
    /// [`ollamamax_gateway::ports::ControlPlane::quorum`] to tell.
    pub async fn start(config: NodeConfig) -> Result<Running, StartError> {
        config.validate()?;
        config.warn();
        let certificates = config.tls.as_ref().map(Certificates::read).transpose()?;
        let http = listen(config.http_listen, "the gateway").await?;
        let grpc = listen(config.raft_listen, "the gRPC services").await?;
        let addresses = Addresses::new(&config, &http, &grpc)?;
        let (opened, first) = open(&config, &addresses).await?;
        for repair in &opened.repaired {
            tracing::warn!(repair, "storage repaired");
        }
        let raft_threads = Guard::new()?;
        let core = Core::start(&raft_threads.handle(), &config.timings, opened).await?;
        if first {
            bootstrap(&core.raft, &core.identity, &addresses).await?;
        }
        let doors = Doors { http, grpc, certificates };
        core.run(config, addresses, first, doors, raft_threads)
    }
}

/// What was opened to the outside before anything runs.
struct Doors {
    http: TcpListener,
    grpc: TcpListener,
    certificates: Option<Arc<Certificates>>,
}

/// Raft and what is needed to talk to it.
struct Core {
    identity: Identity,
    opened: Opened,
    published: Arc<Published>,
    peers: Arc<Peers>,
    raft: Raft,
    leadership: Leadership,
    client: Client,
}

impl Core {
    async fn start(
        threads: &Handle,
        timings: &Timings,
        opened: Opened,
    ) -> Result<Self, StartError> {
        let identity = opened.identity.clone();
        let published = Arc::new(Published::default());
        let peers = Arc::new(Peers::default());
        let (opened, machine) = {
            let published = Arc::clone(&published);
            blocking(move || {
                let machine = Machine::open(&opened, published)?;
                Ok((opened, machine))
            })
            .await?
        };
        let settings = raft::settings(&identity.cluster, timings)?;
        let network = Network::new(&identity.cluster, identity.node, Arc::clone(&peers));
        let (log, node) = (opened.log.clone(), identity.node);
        // Everything the core spawns stays on the runtime it was started on.
        let started =
            threads.spawn(async move { Raft::new(node, settings, network, log, machine).await });
        let raft = match started.await {
            Ok(Ok(raft)) => raft,
            Ok(Err(error)) => return Err(StartError::Raft(error.to_string())),
            Err(error) => return Err(StartError::Raft(error.to_string())),
        };
        let lost = Duration::from_millis(timings.quorum_lost_ms);
        let leadership = Leadership::new(raft.clone(), Arc::clone(&peers), lost);
        let batcher = {
            let _on_raft = threads.enter();
            let raft = raft.clone();
            Batcher::spawn(move |batch| submit(raft.clone(), batch).boxed())
        };
        let client = Client::new(
            raft.clone(),
            batcher,
            leadership.clone(),
            Arc::clone(&published),
            Arc::clone(&peers),
            &identity.cluster,
            timings.clone(),
        );
        Ok(Self { identity, opened, published, peers, raft, leadership, client })
    }

    /// Opens the doors and sets everything in motion.
    fn run(
        self,
        config: NodeConfig,
        addresses: Addresses,
        first: bool,
        doors: Doors,
        threads: Guard,
    ) -> Result<Running, StartError> {
        let Doors { http, grpc, certificates } = doors;
        let timings = config.timings.clone();
        let (failed, failure) = watch::channel(None);
        let (stop_http, stop_grpc) = (CancellationToken::new(), CancellationToken::new());
        let workers = Workers::new(
            self.leadership.clone(),
            Arc::clone(&self.peers),
            Arc::clone(&self.published),
        );
        let blobs = NodeBlobs::new(
            self.opened.blobs.clone(),
            self.identity.node,
            Arc::clone(&self.published),
            Arc::clone(&self.peers),
            &timings,
        );
        self.serve_grpc(&threads.handle(), grpc, &workers, &blobs, &stop_grpc, failed.clone())?;
        let control = Arc::new(NodeControl {
            identity: self.identity.clone(),
            addresses: addresses.clone(),
            client: self.client.clone(),
            leadership: self.leadership.clone(),
            published: Arc::clone(&self.published),
            peers: Arc::clone(&self.peers),
            workers: Arc::clone(&workers),
        });
        let name = first.then(|| config.cluster_name.clone());
        let mut tasks = self.spawn_tasks(&timings, &control, &workers, &blobs, name, failed);
        if let Some(certificates) = certificates.clone() {
            tasks.spawn(certificates.watch(config.connections.tls_reload));
        }
        let router = self.router(&config, &control, &blobs);
        let server = http::Server {
            listener: http,
            router,
            tls: certificates,
            limits: config.connections,
            trusted: config.gateway.edge.trusted_proxies,
        };
        let drain = Duration::from_millis(timings.drain_ms);
        let http = tokio::spawn(server.serve(stop_http.clone(), drain));
        tracing::info!(
            node = self.identity.node,
            cluster = %self.identity.cluster,
            http = %addresses.http,
            raft = %addresses.raft,
            "node started"
        );
        Ok(Running {
            identity: self.identity,
            addresses,
            control,
            blobs,
            raft: self.raft,
            leadership: self.leadership,
            log: self.opened.log,
            failure,
            stop_http,
            stop_grpc,
            http,
            tasks,
            runtime: threads.release(),
            timings,
        })
    }

    fn serve_grpc(
        &self,
        threads: &Handle,
        listener: TcpListener,
        workers: &Arc<Workers>,
        blobs: &Arc<NodeBlobs>,
        stop: &CancellationToken,
        failed: watch::Sender<Option<NodeFailure>>,
    ) -> Result<(), StartError> {
        let raft = RaftServer::new(
            self.raft.clone(),
            self.opened.snapshots.clone(),
            Arc::clone(&self.peers),
            Arc::clone(&self.published),
            &self.identity.cluster,
            self.identity.node,
        );
        let control = ControlServer::new(
            self.client.clone(),
            Arc::clone(&self.published),
            Arc::clone(workers),
            &self.identity.cluster,
            Handle::current(),
        );
        let blobs = BlobServer::new(Arc::clone(blobs), Handle::current());
        let size = limits::RPC_MESSAGE_BYTES;
        let services = tonic::transport::Server::builder()
            .initial_stream_window_size(limits::RPC_WINDOW_BYTES)
            .initial_connection_window_size(limits::RPC_WINDOW_BYTES)
            .http2_keepalive_interval(Some(Duration::from_millis(limits::HEADER_TIMEOUT_MS)))
            .add_service(
                RaftService::new(raft)
                    .max_decoding_message_size(size)
                    .max_encoding_message_size(size),
            )
            .add_service(
                ControlService::new(control)
                    .max_decoding_message_size(size)
                    .max_encoding_message_size(size),
            )
            .add_service(BlobsService::new(blobs));
        let _on_raft = threads.enter();
        // A listener belongs to the runtime that registered it.
        let listener = listener.into_std().map_err(StartError::Runtime)?;
        let listener = TcpListener::from_std(listener).map_err(StartError::Runtime)?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let stop = stop.clone();
        threads.spawn(async move {
            let ended = stop.clone().cancelled_owned();
            let served = services.serve_with_incoming_shutdown(incoming, ended).await;
            if !stop.is_cancelled() {
                tracing::error!(?served, "the gRPC server has ended");
                failed.send_if_modified(|failure| set_once(failure, NodeFailure::Server("gRPC")));
            }
        });
        Ok(())
    }

    /// The gateway over what this node offers.
    fn router(
        &self,
        config: &NodeConfig,
        control: &Arc<NodeControl>,
        blobs: &Arc<NodeBlobs>,
    ) -> axum::Router {
        let mut gateway = config.gateway.clone();
        gateway.metrics = telemetry::renderer(self.leadership.clone(), Arc::clone(&self.published));
        let listened = control.addresses.http_local;
        let listened = Some(listened).filter(|address| !address.ip().is_unspecified());
        let own = listened.map(|address| address.to_string());
        gateway.edge.allowed_hosts.extend(own.into_iter().chain([control.addresses.http.clone()]));
        Gateway::new(Arc::clone(control) as _, Arc::clone(blobs) as _, gateway).router()
    }

    fn spawn_tasks(
        &self,
        timings: &Timings,
        control: &Arc<NodeControl>,
        workers: &Arc<Workers>,
        blobs: &Arc<NodeBlobs>,
        cluster_name: Option<String>,
        failed: watch::Sender<Option<NodeFailure>>,
    ) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let log_failed = self.opened.log.failed();
        tasks.spawn(watch_core(self.raft.clone(), Arc::clone(control), failed, log_failed));
        tasks.spawn(introduce(Arc::clone(control), cluster_name));
        tasks.spawn(Arc::clone(workers).watch(self.client.clone()));
        let keeper = Keeper {
            raft: self.raft.clone(),
            leadership: self.leadership.clone(),
            published: Arc::clone(&self.published),
            client: self.client.clone(),
            peers: Arc::clone(&self.peers),
            period: Duration::from_millis(timings.heartbeat_ms),
        };
        tasks.spawn(keeper.run());
        let reconciler = Reconciler {
            leadership: self.leadership.clone(),
            published: Arc::clone(&self.published),
            workers: Arc::clone(workers),
            client: self.client.clone(),
            period: Duration::from_millis(timings.reconcile_ms),
        };
        tasks.spawn(reconciler.run());
        tasks.spawn(Arc::clone(blobs).replicate());
        tasks
    }
}

/// Owns the Raft runtime until the node is assembled: a start that fails must not drop it inside another runtime.
struct Guard(Option<Runtime>);

impl Guard {
    fn new() -> Result<Self, StartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(limits::RAFT_THREADS_COUNT)
            .thread_name("raft")
            .enable_all()
            .build()
            .map_err(StartError::Runtime)?;
        Ok(Self(Some(runtime)))
    }

    fn handle(&self) -> Handle {
        self.0.as_ref().expect("present until released").handle().clone()
    }

    fn release(mut self) -> Option<Runtime> {
        self.0.take()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Proposes one batch on this node.
async fn submit(raft: Raft, batch: Vec<u8>) -> Submitted {
    match raft.client_write(Batch(batch)).await {
        Ok(response) => Ok((response.log_id.index, response.data.0)),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
            Err(SubmitError::NotLeader)
        }
        Err(error) => Err(SubmitError::Unknown(error.to_string())),
    }
}
