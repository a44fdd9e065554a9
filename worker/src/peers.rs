//! The control-plane nodes a worker knows: those it was told at the start and those it learned since.
//!
//! One of them is *current*: the one that answered last. A silent node is noticed by pings on the connection, so a call
//! on it fails within about a second instead of hanging.

use ollamamax_proto::limits;
use ollamamax_tls::{Expect, Kind, Tls};
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

/// One node.
#[derive(Clone, Debug)]
pub struct Peer {
    /// `host:port` of its gRPC service.
    pub address: String,
    /// Connects when first used, and again after each loss.
    pub channel: Channel,
}

/// All nodes known.
#[derive(Debug)]
pub struct Peers {
    tls: Tls,
    configured: BTreeSet<String>,
    known: Mutex<Vec<Peer>>,
    current: watch::Sender<String>,
}

/// Text that is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("control-plane address `{address}` is not `host:port`")]
pub struct InvalidAddress {
    /// What was given.
    pub address: String,
}

impl Peers {
    /// Starts with the `configured` addresses; each must be `host:port`. Whoever answers there must be a node.
    pub fn new(tls: Tls, configured: &[String]) -> Result<Self, InvalidAddress> {
        let mut known = Vec::new();
        for address in configured {
            if !known.iter().any(|peer: &Peer| peer.address == *address) {
                known.push(peer(&tls, address)?);
            }
        }
        let first = configured.first().cloned().unwrap_or_default();
        Ok(Self {
            tls,
            configured: configured.iter().cloned().collect(),
            known: Mutex::new(known),
            current: watch::Sender::new(first),
        })
    }

    fn known(&self) -> MutexGuard<'_, Vec<Peer>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All nodes, the current one first.
    pub fn ordered(&self) -> Vec<Peer> {
        let mut peers = self.known().clone();
        let current = self.current.borrow();
        let at = peers.iter().position(|peer| peer.address == *current).unwrap_or(0);
        peers.rotate_left(at);
        peers
    }

    /// Takes over the addresses a node told; those that are malformed are left out, configured ones always stay.
    pub fn learn(&self, addresses: &[String]) {
        if addresses.is_empty() {
            return;
        }
        let mut known = self.known();
        let current = self.current.borrow().clone();
        known.retain(|peer| {
            self.configured.contains(&peer.address)
                || peer.address == current
                || addresses.contains(&peer.address)
        });
        for address in addresses {
            let room = known.len() < limits::WORKER_CONTROL_PLANES_COUNT;
            if room && !known.iter().any(|peer| peer.address == *address) {
                match peer(&self.tls, address) {
                    Ok(peer) => known.push(peer),
                    Err(error) => tracing::warn!(%error, "a node told an address that is none"),
                }
            }
        }
    }

    /// `address` answered: it is the current one from now on.
    pub fn answered(&self, address: &str) {
        self.current.send_if_modified(|current| {
            let changed = current != address;
            if changed {
                address.clone_into(current);
            }
            changed
        });
    }

    /// Follows the current address.
    pub fn follow(&self) -> watch::Receiver<String> {
        self.current.subscribe()
    }
}

fn peer(tls: &Tls, address: &str) -> Result<Peer, InvalidAddress> {
    let invalid = || InvalidAddress { address: address.to_owned() };
    let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(invalid());
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| invalid())?;
    let endpoint = endpoint
        .connect_timeout(Duration::from_millis(limits::CONNECT_TIMEOUT_MS))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_millis(limits::WORKER_PING_PERIOD_MS))
        .keep_alive_timeout(Duration::from_millis(limits::WORKER_PING_TIMEOUT_MS))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(limits::RPC_WINDOW_BYTES)
        .initial_connection_window_size(limits::RPC_WINDOW_BYTES);
    let channel = tls.channel(&endpoint, Expect::Any(Kind::Node));
    Ok(Peer { address: address.to_owned(), channel })
}

/// Connections of some worker.
#[cfg(test)]
pub(crate) fn test_tls() -> Tls {
    ollamamax_tls::testing::TestCluster::new("test").worker(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(peers: &Peers) -> Vec<String> {
        peers.ordered().into_iter().map(|peer| peer.address).collect()
    }

    #[tokio::test]
    async fn the_node_that_answered_comes_first_and_former_members_are_forgotten() {
        let peers =
            Peers::new(test_tls(), &["a:1".to_owned(), "b:2".to_owned()]).expect("addresses");
        peers.learn(&["b:2".to_owned(), "c:3".to_owned(), "not an address".to_owned()]);
        assert_eq!(addresses(&peers), ["a:1", "b:2", "c:3"]);
        peers.answered("c:3");
        assert_eq!(addresses(&peers), ["c:3", "a:1", "b:2"]);
        peers.answered("b:2");
        peers.learn(&["d:4".to_owned()]);
        assert_eq!(addresses(&peers), ["b:2", "d:4", "a:1"]);
    }

    #[tokio::test]
    async fn what_is_no_address_is_refused() {
        for text in ["", "host", "host:", ":1", "host:99999", "a b:1"] {
            assert!(Peers::new(test_tls(), &[text.to_owned()]).is_err(), "{text:?} was accepted");
        }
    }
}
