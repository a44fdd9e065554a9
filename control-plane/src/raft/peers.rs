//! Connections to the other nodes, each to one node and no other, when each was last heard, and whether one has said that this node is out.
//!
//! Every peer has a channel per purpose, so that a large append or a snapshot cannot stand in the way of a heartbeat.

use ollamamax_proto::{NodeId, limits};
use ollamamax_tls::{Expect, Tls};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};

/// What a channel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Log entries and votes.
    Log,
    /// Heartbeats: a few bytes that must not wait.
    Heartbeat,
    /// Snapshots and blobs.
    Bulk,
    /// Proposals, reads and registrations passed on to the leader.
    Control,
}

/// All connections of one node.
#[derive(Debug)]
pub struct Peers {
    tls: Tls,
    channels: Mutex<HashMap<(NodeId, String, Lane), Channel>>,
    heard: Mutex<HashMap<u64, Instant>>,
    /// Where each node said it is. The library keeps a replication stream, with the address it began with, when a
    /// node's address changes; so addresses are looked up here at every call.
    addresses: Mutex<HashMap<u64, String>>,
    cast_out: AtomicBool,
}

impl Peers {
    /// Connections as the node of `tls`.
    pub fn new(tls: Tls) -> Self {
        let (channels, heard, addresses) = Default::default();
        Self { tls, channels, heard, addresses, cast_out: AtomicBool::new(false) }
    }

    /// The channel to `node` at `address` (`host:port`). It connects when first used, and again when it broke.
    pub fn channel(
        &self,
        node: NodeId,
        address: &str,
        lane: Lane,
    ) -> Result<Channel, tonic::Status> {
        let key = (node, address.to_owned(), lane);
        let mut channels = lock(&self.channels);
        if let Some(channel) = channels.get(&key) {
            return Ok(channel.clone());
        }
        let channel = self.tls.channel(&endpoint(address)?, Expect::Node(node));
        channels.insert(key, channel.clone());
        Ok(channel)
    }

    /// Notes where nodes are reached now.
    pub fn locate(&self, nodes: impl IntoIterator<Item = (u64, String)>) {
        lock(&self.addresses).extend(nodes);
    }

    /// Where node `id` is reached, if it ever said so.
    pub fn address(&self, id: u64) -> Option<String> {
        lock(&self.addresses).get(&id).cloned()
    }

    /// Notes that node `id` has just answered or called.
    pub fn hear(&self, id: u64) {
        lock(&self.heard).insert(id, Instant::now());
    }

    /// Notes that a member has said this node was removed. Node ids are never reused, so that stays true.
    pub fn cast_out(&self) {
        self.cast_out.store(true, Ordering::Relaxed);
    }

    /// Whether a member has said so.
    pub fn is_cast_out(&self) -> bool {
        self.cast_out.load(Ordering::Relaxed)
    }

    /// How long node `id` has been silent, if it was ever heard.
    pub fn silence(&self, id: u64) -> Option<Duration> {
        lock(&self.heard).get(&id).map(Instant::elapsed)
    }
}

fn endpoint(address: &str) -> Result<Endpoint, tonic::Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| tonic::Status::invalid_argument(format!("`{address}`: {error}")))?;
    Ok(endpoint
        .connect_timeout(Duration::from_millis(limits::CONNECT_TIMEOUT_MS))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_millis(limits::CONNECT_TIMEOUT_MS))
        .keep_alive_timeout(Duration::from_millis(limits::CONNECT_TIMEOUT_MS))
        .initial_stream_window_size(limits::RPC_WINDOW_BYTES)
        .initial_connection_window_size(limits::RPC_WINDOW_BYTES))
}

/// A poisoned lock only says that another thread panicked while it held plain data that is replaced as a whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
