//! One node, wired: this file shows who knows whom; its doors are in `doors.rs`.
//!
//! ```text
//! storage -- machine -- raft core -- network -> peers          (threads `raft`)
//!               |         |    \--- raft, control, blobs, join services <- who may? <- TLS <- gRPC port
//!           published   batcher
//!               |         |
//!               +--- client ---+--- reconcile, membership, workers, introduction, credentials, upkeep, export
//!                              +--- gateway <- HTTP port       (the caller's runtime)
//! ```

use crate::blobs::NodeBlobs;
use crate::client::Client;
use crate::config::{NodeConfig, Timings};
use crate::credentials::{Credentials, keep};
use crate::error::{NodeFailure, StartError};
use crate::export::Export;
use crate::http;
use crate::http::tls::Certificates;
use crate::leader::Leadership;
use crate::life::{bootstrap, introduce, watch_core};
use crate::membership::Keeper;
use crate::open::{Addresses, Found, blocking, listen, open};
use crate::raft::batcher::{Batcher, SubmitError, Submitted};
use crate::raft::machine::Machine;
use crate::raft::network::Network;
use crate::raft::peers::Peers;
use crate::raft::{self, Raft};
use crate::reconcile::Reconciler;
pub use crate::running::Running;
use crate::scrub;
use crate::service::usage;
use crate::status::NodeControl;
use crate::upkeep::Upkeep;
use crate::watch::Published;
use crate::workers::Workers;
use futures_util::FutureExt;
use ollamamax_proto::{Millis, limits};
use ollamamax_storage::{Batch, Identity, Opened};
use ollamamax_tls::Role;
use openraft::errors::{ClientWriteError, RaftError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

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
        let Found { opened, first, credentials } = open(&config, &addresses).await?;
        for repair in &opened.repaired {
            tracing::warn!(repair, "storage repaired");
        }
        let raft_threads = Guard::new()?;
        let core =
            Core::start(&raft_threads.handle(), &config.timings, opened, credentials).await?;
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
pub(crate) struct Core {
    pub identity: Identity,
    pub credentials: Arc<Credentials>,
    pub opened: Opened,
    pub published: Arc<Published>,
    pub peers: Arc<Peers>,
    pub raft: Raft,
    pub leadership: Leadership,
    pub client: Client,
}

impl Core {
    async fn start(
        threads: &Handle,
        timings: &Timings,
        opened: Opened,
        credentials: Credentials,
    ) -> Result<Self, StartError> {
        let identity = opened.identity.clone();
        let credentials = Arc::new(credentials);
        let published = Arc::new(Published::default());
        let peers = Arc::new(Peers::new(credentials.tls.clone()));
        let (opened, machine) = {
            let published = Arc::clone(&published);
            blocking(move || {
                let machine = Machine::open(&opened, published)?;
                Ok((opened, machine))
            })
            .await?
        };
        // Before the first word to anybody: the certificate may have ended while this node was off.
        let (state, now) = (published.state(), Millis::now());
        credentials.follow(&state, now)?;
        let removed = Arc::clone(&published);
        credentials.tls.refuse(move |peer| match peer.role {
            Role::Node(node) => removed.state().has_removed(node),
            Role::Worker(_) => false,
        });
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
        Ok(Self { identity, credentials, opened, published, peers, raft, leadership, client })
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
        let control = Arc::new(NodeControl {
            identity: self.identity.clone(),
            addresses: addresses.clone(),
            client: self.client.clone(),
            leadership: self.leadership.clone(),
            published: Arc::clone(&self.published),
            peers: Arc::clone(&self.peers),
            workers: Arc::clone(&workers),
            leaderless: Mutex::new(Some(Instant::now())),
        });
        let gateway = self.gateway(&config, &control, &blobs);
        let services = self.services(&workers, &blobs, &gateway);
        self.serve_grpc(&threads.handle(), grpc, services, &stop_grpc, failed.clone())?;
        let name = first.then(|| config.cluster_name.clone());
        let mut tasks =
            self.spawn_tasks(&timings, &control, &workers, &blobs, name, failed.clone());
        let (credentials, published) = (&self.credentials, &self.published);
        tasks.spawn(keep(Arc::clone(credentials), Arc::clone(published), failed));
        let upkeep = Upkeep {
            leadership: self.leadership.clone(),
            published: Arc::clone(&self.published),
            client: self.client.clone(),
            gateway: Arc::clone(&gateway),
            rotation_ms: timings.signing_key_rotation_ms,
        };
        tasks.spawn(upkeep.run());
        let (own, peers) = (ollamamax_proto::NodeId(self.identity.node), Arc::clone(&self.peers));
        tasks.spawn(usage::share(Arc::clone(&gateway), Arc::clone(&self.published), peers, own));
        for target in config.audit_export {
            let (dir, known) = (&config.data_dir, Arc::clone(&self.published));
            let leader = (self.leadership.clone(), self.client.clone());
            let headers = &config.audit_headers;
            let export = Export::open(target.clone(), dir, known, leader, headers);
            let export = export.map_err(|error| {
                let reason = format!("`{target}`: {error}");
                StartError::Config { field: "audit_export", reason }
            })?;
            tasks.spawn(export.run());
        }
        if let Some(certificates) = certificates.clone() {
            tasks.spawn(certificates.watch(config.connections.tls_reload));
        }
        let server = http::Server {
            listener: http,
            router: gateway.router(),
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
        let credentials = Arc::clone(&self.credentials);
        tasks.spawn(introduce(Arc::clone(control), credentials, cluster_name));
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
        let period = Duration::from_millis(timings.blob_scrub_ms);
        tasks.spawn(scrub::run(Arc::clone(blobs), period));
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
