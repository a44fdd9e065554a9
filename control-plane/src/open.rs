//! The first steps of a start: the ports, then the data directory, before anything runs.

use crate::config::NodeConfig;
use crate::error::StartError;
use crate::join;
use ollamamax_proto::{NodeId, limits};
use ollamamax_storage::{Expect, Identity, Node, Opened, Storage, StorageError};
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

/// Opens the data directory, or makes it for a node that bootstraps or joins. The flag tells whether this is the first
/// node of a new cluster.
pub(crate) async fn open(
    config: &NodeConfig,
    addresses: &Addresses,
) -> Result<(Opened, bool), StartError> {
    let dir = config.data_dir.clone();
    let found = blocking({
        let dir = dir.clone();
        move || Storage::identity(&dir)
    })
    .await?;
    if let Some(identity) = found {
        stays_in_its_cluster(config, addresses, &identity).await?;
        // Only the first node of a cluster may have to finish its bootstrap after a crash; its id is always 1.
        let first = config.bootstrap && identity.node == FIRST_NODE.0;
        return Ok((
            blocking(move || Storage::open(&dir, &Expect::exactly(&identity))).await?,
            first,
        ));
    }
    let (identity, first) = if config.bootstrap {
        let cluster = format!("{:032x}", rand::random::<u128>());
        (Identity { cluster, node: FIRST_NODE.0 }, true)
    } else if config.join.is_empty() {
        return Err(StartError::NothingToOpen(dir.display().to_string()));
    } else {
        let request = join::JoinRequest {
            http: addresses.http.clone(),
            raft: addresses.raft.clone(),
            voter: config.voter,
        };
        (join::join(&config.join, &request).await?, false)
    };
    Ok((blocking(move || Storage::create(&dir, &identity)).await?, first))
}

/// Refuses a directory of one cluster for a node that was told to join another. When nobody answers, the directory is
/// believed: a cluster that lost its power has to come back by itself.
async fn stays_in_its_cluster(
    config: &NodeConfig,
    addresses: &Addresses,
    identity: &Identity,
) -> Result<(), StartError> {
    // This node's own port is bound already, but nobody answers there yet.
    let own = format!("//{}", addresses.http);
    let others = config.join.iter().filter(|url| !url.contains(&own)).cloned();
    match join::cluster_at(&others.collect::<Vec<_>>()).await {
        Some(expected) if expected != identity.cluster => Err(StorageError::WrongCluster {
            dir: config.data_dir.clone(),
            expected,
            found: identity.cluster.clone(),
        })?,
        _ => Ok(()),
    }
}

/// The id that bootstrapping a cluster gives its first node.
const FIRST_NODE: NodeId = NodeId(1);

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StartError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(StartError::Runtime(io::Error::other(error))),
    }
}
