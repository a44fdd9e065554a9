//! The gateway's own accept loop: deadlines on everything a client can delay, bounds on what it can pile up, and an orderly end.
//!
//! ```text
//! accept -> a place (in all, per address) -> TLS, if there is any -> HTTP/1 or 2? -> connection: Line, Watched -> router
//! ```

mod callers;
mod connection;
mod opening;
pub(crate) mod tls;
mod watched;

use crate::config::ConnectionLimits;
use axum::Router;
use callers::{Callers, Seat};
use connection::Ending;
use ollamamax_gateway::edge::Network;
use ollamamax_proto::limits;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tls::Certificates;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What is served, and to whom.
pub(crate) struct Server {
    pub listener: TcpListener,
    pub router: Router,
    /// Without, plain HTTP.
    pub tls: Option<Arc<Certificates>>,
    pub limits: ConnectionLimits,
    /// Proxies: their connections are those of many.
    pub trusted: Vec<Network>,
}

/// Everything one connection needs of its server.
pub(crate) struct Service {
    router: Router,
    tls: Option<Arc<Certificates>>,
    limits: ConnectionLimits,
    ending: Ending,
}

impl Server {
    /// Serves until `stop`, then lets requests in flight end for at most `drain`.
    pub async fn serve(self, stop: CancellationToken, drain: Duration) {
        let Self { listener, router, tls, limits, trusted } = self;
        let permits = Arc::new(Semaphore::new(limits.connections));
        let callers = Callers::new(limits.connections_per_address, trusted);
        let ending = Ending::new(stop.clone());
        let service = Arc::new(Service { router, tls, limits, ending: ending.clone() });
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accept(&listener, &permits, &callers, &ending) => accepted,
            };
            let Some(Admitted { socket, peer, permit, seat }) = accepted else { continue };
            let service = Arc::clone(&service);
            connections.spawn(async move {
                service.serve(socket, peer).await;
                drop((permit, seat));
            });
        }
        drop(listener);
        connections.close();
        if tokio::time::timeout(drain, connections.wait()).await.is_err() {
            tracing::warn!(waited = ?drain, "requests in flight were cut off");
            ending.cut();
        }
    }
}

struct Admitted {
    socket: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
    seat: Seat,
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
    callers: &Callers,
    ending: &Ending,
) -> Option<Admitted> {
    let permit = permit(permits, ending).await?;
    match listener.accept().await {
        Ok((socket, peer)) => {
            let Some(seat) = callers.admit(peer.ip()) else {
                metrics::counter!("ollamamax_http_connections_refused_total").increment(1);
                tracing::debug!(%peer, "closed at once: its address has too many connections");
                return None;
            };
            // Without it a streamed token waits for the previous one's acknowledgement.
            if let Err(error) = socket.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
            Some(Admitted { socket, peer, permit, seat })
        }
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            // Out of file descriptors: accepting again at once would only spin.
            tokio::time::sleep(Duration::from_millis(limits::PROPOSE_RETRY_MS)).await;
            None
        }
    }
}

/// Past the bound, new connections wait in the operating system's queue, and those without a request make room for them.
async fn permit(permits: &Arc<Semaphore>, ending: &Ending) -> Option<OwnedSemaphorePermit> {
    if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
        return Some(permit);
    }
    let mut again = tokio::time::interval(Duration::from_millis(limits::CONNECTION_LINGER_MS));
    loop {
        tokio::select! {
            permit = Arc::clone(permits).acquire_owned() => return permit.ok(),
            _ = again.tick() => ending.make_room(),
        }
    }
}
