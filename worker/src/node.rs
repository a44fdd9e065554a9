//! The wiring of a worker process: identity, socket, holder, agent and service, and their orderly end.

use crate::agent::{Agent, Dismissed};
use crate::config::WorkerConfig;
use crate::credentials::{CredentialError, Credentials, certified};
use crate::device::{self, Chosen, DeviceError};
use crate::fetch::Fetcher;
use crate::health::Health;
use crate::holder::Holder;
use crate::identity::{Identity, IdentityError};
use crate::llama::{Failures, LlamaLoader};
use crate::machine::Loader;
use crate::peers::{InvalidAddress, Peers};
use crate::renewal;
use crate::service::InferenceService;
use crate::stage::Links;
use ollamamax_proto::placement::Device;
use ollamamax_proto::wire::inference_server::InferenceServer;
use ollamamax_proto::{Incarnation, Millis, WorkerId, limits};
use ollamamax_tls::{Allow, Incoming, Who};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Why a worker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Who it is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// What proves who it is.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// Whom it should report to.
    #[error(transparent)]
    ControlPlane(#[from] InvalidAddress),
    /// Nobody to report to.
    #[error("no node is known to report to; name one with `--control-plane HOST:PORT`")]
    NoControlPlane,
    /// The device it should compute on.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Looking for the device panicked.
    #[error(
        "looking for a device to compute on panicked, see the message before; use `--device cpu`"
    )]
    DevicePanicked,
    /// Its socket.
    #[error("cannot listen on `{address}`: {source}; choose another address or stop what uses it")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others cannot reach the wildcard address.
    #[error("listening on `{address}` needs an address to advertise that others can reach")]
    Advertise {
        /// Where it listens.
        address: SocketAddr,
    },
    /// Its blob directory.
    #[error("blob directory `{}` cannot be used: {source}", .path.display())]
    Blobs {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Why a worker ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// It was told to stop.
    #[error(transparent)]
    Dismissed(#[from] Dismissed),
    /// The gRPC server gave up.
    #[error("the gRPC server ended: {0}")]
    Server(String),
    /// Its GPU failed.
    #[error("{0}; the process ends, since only a new one gets over that")]
    Device(String),
}

/// What gateways ask a worker for.
const INFERENCE: &str = "ollamamax.v1.Inference";

/// Starts workers.
#[derive(Clone, Copy, Debug)]
pub struct WorkerNode;

/// A worker at work.
#[derive(Debug)]
pub struct Running {
    worker: WorkerId,
    incarnation: Incarnation,
    address: SocketAddr,
    drain: Duration,
    holder: Arc<Holder>,
    draining: watch::Sender<bool>,
    told: watch::Receiver<bool>,
    shutdown: CancellationToken,
    agent: JoinHandle<Dismissed>,
    renewal: JoinHandle<()>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    failures: watch::Receiver<Option<String>>,
    // Keeps the data directory locked until everything else has ended.
    _identity: Identity,
}

impl WorkerNode {
    /// Starts a worker that runs llama models on the device it is told to use.
    pub async fn start(config: WorkerConfig) -> Result<Running, StartError> {
        let (choice, kv_type) = (config.device, config.kv_type);
        let (threads, memory_bytes) = (config.threads, config.memory_bytes);
        // Kernels may have to be compiled, which takes seconds.
        let choose = move || device::choose(choice, threads, memory_bytes, kv_type);
        let chosen = tokio::task::spawn_blocking(choose).await;
        let failures = Failures::default();
        let Chosen { device, gpu } = chosen.map_err(|_| StartError::DevicePanicked)??;
        let loader = LlamaLoader {
            threads: device.threads,
            step_tokens: match &gpu {
                None => config.step_tokens,
                Some(_) => config.step_tokens.max(limits::STEP_TOKENS_GPU),
            },
            memory_bytes: device.memory_bytes,
            kv_type,
            gpu: gpu.as_ref().map(|gpu| gpu.index),
            failures: Arc::clone(&failures),
        };
        let health = gpu.map(|gpu| Health::of(&gpu.pci)).unwrap_or_default();
        Self::start_on(config, Arc::new(loader), device, (health, failures)).await
    }

    /// Starts a worker that turns blobs into models by `loader`, on this machine's CPU.
    pub async fn start_with(
        config: WorkerConfig,
        loader: Arc<dyn Loader>,
    ) -> Result<Running, StartError> {
        let device = device::cpu(config.threads, config.memory_bytes);
        Self::start_on(config, loader, device, Default::default()).await
    }

    async fn start_on(
        config: WorkerConfig,
        loader: Arc<dyn Loader>,
        device: Device,
        (health, failures): (Health, Failures),
    ) -> Result<Running, StartError> {
        let dir = &config.data_dir;
        let identity = Identity::take(dir, certified(dir)?, Millis::now())?;
        let (listener, address) = listen(config.listen).await?;
        let credentials = Credentials::open(dir, identity.worker, config.join.as_ref()).await?;
        let credentials = Arc::new(credentials);
        let addresses = [config.control_planes.clone(), credentials.addresses()].concat();
        if addresses.is_empty() {
            return Err(StartError::NoControlPlane);
        }
        let peers = Arc::new(Peers::new(credentials.tls.clone(), &addresses)?);
        let advertised = match &config.advertise {
            Some(address) => address.clone(),
            None if address.ip().is_unspecified() => {
                return Err(StartError::Advertise { address });
            }
            None => address.to_string(),
        };
        let path = config.blobs_dir();
        let hints = config.blob_hints.clone();
        let fetcher =
            Fetcher::new(path.clone(), hints, config.blob_cache_bytes, Arc::clone(&peers))
                .map_err(|source| StartError::Blobs { path, source })?;
        let ns_per_mib = Arc::default();
        measure(&loader, &ns_per_mib);
        let drain = Duration::from_millis(config.drain_ms);
        let (memory, sequences) = (device.memory_bytes, config.sequences_max);
        let links = Arc::new(Links::new(credentials.tls.clone(), Handle::current()));
        let holder = Holder::new(fetcher, loader, memory, sequences, drain, Arc::clone(&links));
        let holder = Arc::new(holder);
        let draining = watch::Sender::new(false);
        let shutdown = CancellationToken::new();
        let service = InferenceService::new(Arc::clone(&holder), draining.subscribe());
        let incoming = credentials.tls.incoming(listener, Some(links.door()));
        let allow = Allow::new(credentials.tls.clone()).service(INFERENCE, Who::Node);
        let server = tokio::spawn(serve(incoming, allow, service, shutdown.clone()));
        let renewing = renewal::run(identity.worker, Arc::clone(&credentials), Arc::clone(&peers));
        tracing::info!(worker = %identity.worker, %address, device = device.name, "worker started");
        let told = watch::Sender::new(false);
        let told_draining = told.subscribe();
        let agent = Agent {
            worker: identity.worker,
            incarnation: identity.incarnation,
            name: config.name,
            address: advertised,
            device,
            peers,
            credentials,
            holder: Arc::clone(&holder),
            ns_per_mib,
            health,
            draining: draining.subscribe(),
            told,
        };
        Ok(Running {
            worker: identity.worker,
            incarnation: identity.incarnation,
            address,
            drain,
            holder,
            draining,
            told: told_draining,
            shutdown,
            agent: tokio::spawn(agent.run()),
            renewal: tokio::spawn(renewing),
            server,
            failures: failures.subscribe(),
            _identity: identity,
        })
    }
}

impl Running {
    /// Who it is.
    pub fn worker(&self) -> WorkerId {
        self.worker
    }

    /// Which life of it.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Where its gRPC service listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it holds.
    pub fn holder(&self) -> &Arc<Holder> {
        &self.holder
    }

    /// Waits until it ends by itself, and tells why. May be cancelled and called again until it has answered.
    pub async fn ended(&mut self) -> Ended {
        tokio::select! {
            agent = &mut self.agent => match agent {
                Ok(dismissed) => Ended::Dismissed(dismissed),
                Err(error) => Ended::Server(error.to_string()),
            },
            server = &mut self.server => match server {
                Ok(Ok(())) => Ended::Server("it was shut down".to_owned()),
                Ok(Err(error)) => Ended::Server(error.to_string()),
                Err(error) => Ended::Server(error.to_string()),
            },
            failure = failure(&mut self.failures) => Ended::Device(failure),
        }
    }

    /// Drains: tells the control plane, takes nothing new, lets running sequences finish up to the deadline, and ends.
    pub async fn stop(self) {
        self.draining.send_replace(true);
        let deadline = tokio::time::Instant::now() + self.drain;
        let grace = Duration::from_millis(limits::WORKER_CALL_TIMEOUT_MS);
        // Sent at once; nobody may be there to hear it.
        let mut told = self.told.clone();
        let _ = tokio::time::timeout(grace, told.wait_for(|told| *told)).await;
        while self.holder.outstanding() > 0 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let broken_off = self.holder.outstanding();
        if broken_off > 0 {
            tracing::warn!(broken_off, "sequences did not finish before the deadline");
        }
        self.renewal.abort();
        self.shutdown.cancel();
        self.holder.close().await;
        // Clients that keep idle connections get a moment to see the goodbye.
        let mut server = self.server;
        // A finished task may have been awaited by `ended`, which may happen only once.
        if !server.is_finished() && tokio::time::timeout(grace, &mut server).await.is_err() {
            server.abort();
        }
        if !self.agent.is_finished() {
            self.agent.abort();
            let _ = self.agent.await;
        }
        tracing::info!(worker = %self.worker, "worker stopped");
    }
}

/// The failure of the device, once others have been told that what it held is gone.
async fn failure(failures: &mut watch::Receiver<Option<String>>) -> String {
    let found = failures.wait_for(Option::is_some).await.map(|failure| failure.clone());
    // Without anybody who could tell of one there will be none.
    let Ok(Some(failure)) = found else { return std::future::pending().await };
    tokio::time::sleep(Duration::from_millis(2 * limits::WORKER_HEARTBEAT_MS)).await;
    failure
}

/// Measures the machine once, beside everything else: the worker serves before it knows how fast it is.
fn measure(loader: &Arc<dyn Loader>, ns_per_mib: &Arc<AtomicU64>) {
    let (loader, ns_per_mib) = (Arc::clone(loader), Arc::clone(ns_per_mib));
    let work = move || {
        let ns = loader.measure_ns_per_mib();
        tracing::debug!(ns, "nanoseconds to read a MiB");
        ns_per_mib.store(ns, Ordering::Relaxed);
    };
    let spawned = std::thread::Builder::new().name("measure".to_owned()).spawn(work);
    if let Err(error) = spawned {
        tracing::warn!(%error, "this machine's speed stays unknown");
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let error = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(error)?;
    let address = listener.local_addr().map_err(error)?;
    Ok((listener, address))
}

async fn serve(
    incoming: Incoming,
    allow: Allow,
    service: InferenceService,
    shutdown: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let ping = Duration::from_millis(limits::STREAM_STALL_MS);
    let service = InferenceServer::new(service)
        .max_decoding_message_size(limits::RPC_MESSAGE_BYTES)
        .max_encoding_message_size(limits::RPC_MESSAGE_BYTES);
    tonic::transport::Server::builder()
        .initial_stream_window_size(limits::RPC_WINDOW_BYTES)
        .initial_connection_window_size(limits::RPC_WINDOW_BYTES)
        .max_concurrent_streams(limits::WORKER_STREAMS_COUNT)
        .http2_keepalive_interval(Some(ping))
        .http2_keepalive_timeout(Some(ping))
        .layer(allow)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned())
        .await
}
