//! The first steps of a start: the ports, then the data directory and what proves who this node is, before anything runs.

use crate::config::NodeConfig;
use crate::credentials::{CredentialError, Credentials, Files, enter, found as found_cluster};
use crate::error::StartError;
use ollamamax_gateway::secrets::SealingKey;
use ollamamax_proto::{NodeId, limits};
use ollamamax_storage::{Expect, Identity, Node, Opened, Storage, StorageError};
use ollamamax_tls::Role;
use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpSocket};

/// Where a node is reached.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    pub http_local: SocketAddr,
    pub raft_local: SocketAddr,
    pub http: String,
    pub raft: String,
}

impl Addresses {
    pub fn new(
        config: &NodeConfig,
        http: &TcpListener,
        grpc: &TcpListener,
    ) -> Result<Self, StartError> {
        let http_local = http.local_addr().map_err(StartError::Runtime)?;
        let raft_local = grpc.local_addr().map_err(StartError::Runtime)?;
        Ok(Self {
            http_local,
            raft_local,
            http: config.http_advertise.clone().unwrap_or_else(|| http_local.to_string()),
            raft: config.raft_advertise.clone().unwrap_or_else(|| raft_local.to_string()),
        })
    }

    pub fn node(&self) -> Node {
        Node { raft: self.raft.clone(), http: self.http.clone() }
    }
}

pub(crate) async fn listen(
    address: SocketAddr,
    purpose: &'static str,
) -> Result<TcpListener, StartError> {
    bind(address).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::PortInUse { address, purpose },
        _ => StartError::Listen { address, purpose, source },
    })
}

/// As `TcpListener::bind`, with room for a burst of connections: its own 128 are soon full, and whoever is dropped then
/// tries again after a second, or waits for an answer from a connection that nobody knows.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(limits::CONNECTIONS_WAITING_COUNT)
}

/// What a data directory holds, opened.
pub(crate) struct Found {
    pub opened: Opened,
    /// Whether this is the first node of a new cluster.
    pub first: bool,
    pub credentials: Credentials,
}

/// Opens the data directory, or makes it for a node that bootstraps or joins.
pub(crate) async fn open(config: &NodeConfig, addresses: &Addresses) -> Result<Found, StartError> {
    let dir = config.data_dir.clone();
    let files = Files::new(&dir);
    let found = blocking({
        let dir = dir.clone();
        move || Storage::identity(&dir)
    })
    .await?;
    if let Some(log) = found {
        files.settle()?;
        let credentials = again(config, files, &log)?;
        // Only the first node of a cluster may have to finish its bootstrap after a crash; its id is always 1.
        let first = config.bootstrap && log.node == FIRST_NODE.0;
        let opened = blocking(move || Storage::open(&dir, &Expect::exactly(&log))).await?;
        return Ok(Found { opened, first, credentials });
    }
    if let Some(role) = files.identity()?.map(|own| own.role()) {
        return Err(CredentialError::NoLog { dir, role }.into());
    }
    let credentials = match (files.joining()?, &config.join) {
        // A crash came between certificate and log.
        (Some(own), _) => {
            let sealing = sealing(config, &files)?;
            Credentials::new(own, files, sealing, config)?
        }
        (None, _) if config.bootstrap => found_cluster(config, files, FIRST_NODE)?,
        (None, Some(token)) => enter(config, files, token, addresses).await?,
        (None, None) => return Err(StartError::NothingToOpen(dir.display().to_string())),
    };
    let own = credentials.tls.identity();
    let Role::Node(node) = own.role() else {
        let (node, role) = (0, own.role());
        return Err(CredentialError::OtherMember { dir, node, role }.into());
    };
    let log = Identity { cluster: own.cluster().to_string(), node: node.0 };
    let opened = blocking(move || Storage::create(&dir, &log)).await?;
    credentials.files.settle()?;
    Ok(Found { opened, first: config.bootstrap && node == FIRST_NODE, credentials })
}

/// The credentials of a node that has a log. Nothing else makes it that node: a join token gives nobody the id of another.
fn again(
    config: &NodeConfig,
    files: Files,
    log: &Identity,
) -> Result<Credentials, CredentialError> {
    let (dir, node) = (config.data_dir.clone(), log.node);
    let own = files.identity()?;
    let own = own.ok_or_else(|| CredentialError::NoIdentity { dir: dir.clone(), node })?;
    if own.role() != Role::Node(NodeId(node)) || own.cluster().as_str() != log.cluster {
        return Err(CredentialError::OtherMember { dir, node, role: own.role() });
    }
    let sealing = sealing(config, &files)?;
    Credentials::new(own, files, sealing, config)
}

fn sealing(config: &NodeConfig, files: &Files) -> Result<SealingKey, CredentialError> {
    let dir = config.data_dir.clone();
    files.sealing(&config.sealing)?.ok_or(CredentialError::NoSealingKey { dir })
}

/// The id that bootstrapping a cluster gives its first node.
pub(crate) const FIRST_NODE: NodeId = NodeId(1);

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StartError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(StartError::Runtime(io::Error::other(error))),
    }
}
