//! The connections that come in at one port, after their handshakes.
//!
//! Handshakes run beside each other, each with a deadline, so who is slow keeps nobody else waiting:
//!
//! ```text
//! listener -> a place (of all, of its address) -> handshake -> gRPC   -> tonic
//!                                                      |    -> stage  -> on_stage
//!                                                      +-- failed: logged, closed
//! ```

use crate::role::Kind;
use crate::stream::{Peer, Protocol, Stream};
use crate::tls::{Tls, TlsError};
use futures_util::Stream as Sequence;
use ollamamax_proto::limits;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};

/// Takes the connections between stages. Runs on the runtime: it hands them on and does not wait.
pub type OnStage = Arc<dyn Fn(Stream, Peer) + Send + Sync>;

/// gRPC connections, as a tonic server takes them. Accepting ends when this is dropped.
pub struct Incoming(mpsc::Receiver<Stream>);

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Incoming")
    }
}

impl Sequence for Incoming {
    type Item = io::Result<Stream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|stream| stream.map(Ok))
    }
}

/// Connections that wait for the server to take them.
const READY_COUNT: usize = 16;

pub(crate) fn accept(tls: Tls, listener: TcpListener, on_stage: Option<OnStage>) -> Incoming {
    let (sender, receiver) = mpsc::channel(READY_COUNT);
    let places = Arc::new(Semaphore::new(limits::TLS_HANDSHAKES_COUNT));
    let (shares, log) = (Arc::new(Shares::default()), Arc::new(Log::default()));
    tokio::spawn(async move {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            let (tcp, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Mostly a lack of descriptors, which passes.
                    log.warn(&error);
                    tokio::time::sleep(Duration::from_millis(limits::TLS_ACCEPT_RETRY_MS)).await;
                    continue;
                }
            };
            let Some(share) = shares.take(from.ip()) else {
                log.warn(&format_args!("too many handshakes at once from `{}`", from.ip()));
                continue;
            };
            let (tls, sender) = (tls.clone(), sender.clone());
            let (on_stage, log) = (on_stage.clone(), Arc::clone(&log));
            tokio::spawn(async move {
                let greeted = tls.handshake(tcp).await;
                drop((place, share));
                match greeted {
                    Ok(stream) if stream.protocol() == Protocol::Grpc => {
                        // When the server has gone, so have its connections.
                        let _ = sender.send(stream).await;
                    }
                    Ok(stream) => to_stage(&tls, stream, on_stage, &log),
                    Err(error) => log.failed(&error),
                }
            });
        }
    });
    Incoming(receiver)
}

fn to_stage(tls: &Tls, stream: Stream, on_stage: Option<OnStage>, log: &Log) {
    match (stream.peer().copied(), on_stage) {
        (Some(peer), Some(on_stage)) if peer.role.kind() == Kind::Worker && !tls.refuses(&peer) => {
            on_stage(stream, peer);
        }
        (peer, _) => {
            let who = peer.map_or("nobody known".to_owned(), |peer| peer.role.to_string());
            log.warn(&format_args!("`{}` ({who}) may not connect to a stage", stream.remote()));
        }
    }
}

/// How many handshakes of each address are under way.
#[derive(Default)]
struct Shares(Mutex<HashMap<IpAddr, usize>>);

impl Shares {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>, address: IpAddr) -> Option<Share> {
        let mut counts = self.lock();
        let count = counts.entry(address).or_default();
        if *count >= limits::TLS_HANDSHAKES_PER_ADDRESS_COUNT {
            return None;
        }
        *count += 1;
        Some(Share { of: Arc::clone(self), address })
    }
}

struct Share {
    of: Arc<Shares>,
    address: IpAddr,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self.of.lock();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// Warns once in a while, and says then how much it kept to itself.
#[derive(Default)]
struct Log(Mutex<(Option<Instant>, u64)>);

impl Log {
    fn failed(&self, error: &TlsError) {
        match error {
            // Someone looked whether the port is open.
            TlsError::Handshake { source, .. }
                if source.kind() == io::ErrorKind::UnexpectedEof
                    || source.kind() == io::ErrorKind::ConnectionReset =>
            {
                tracing::debug!(%error, "a connection was not accepted");
            }
            error => self.warn(error),
        }
    }

    fn warn(&self, error: &dyn fmt::Display) {
        tracing::debug!(%error, "a connection was not accepted");
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, silent) = &mut *state;
        let period = Duration::from_millis(limits::TLS_WARN_PERIOD_MS);
        if last.is_some_and(|last| last.elapsed() < period) {
            *silent += 1;
            return;
        }
        tracing::warn!(%error, others = *silent, "a connection was not accepted");
        *state = (Some(Instant::now()), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_takes_its_share_and_no_more() {
        let shares = Arc::new(Shares::default());
        let (one, two) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let most = limits::TLS_HANDSHAKES_PER_ADDRESS_COUNT;
        let mut taken: Vec<Share> = (0..most).filter_map(|_| shares.take(one)).collect();
        assert_eq!(taken.len(), most);
        assert!(shares.take(one).is_none());
        assert!(shares.take(two).is_some());
        taken.pop();
        assert!(shares.take(one).is_some());
        drop(taken);
        assert!(shares.lock().is_empty(), "addresses that are gone take memory");
    }
}
