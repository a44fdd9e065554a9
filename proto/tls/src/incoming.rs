//! The connections that come in at one port, after their handshakes.
//!
//! Handshakes run beside each other, each with a deadline, so who is slow keeps nobody else waiting:
//!
//! ```text
//! listener -> a place (of all, of its address) -> handshake -> gRPC   -> tonic
//!                                                      |    -> stage  -> on_stage
//!                                                      +-- failed: logged, closed
//! ```
//!
//! Who shows no certificate comes to join, which takes moments: such connections are few, and end by themselves.

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

pub(crate) fn accept(
    tls: Tls,
    listener: TcpListener,
    on_stage: Option<OnStage>,
    stranger_ms: u64,
) -> Incoming {
    let (sender, receiver) = mpsc::channel(READY_COUNT);
    let places = Arc::new(Semaphore::new(limits::TLS_HANDSHAKES_COUNT));
    let each = limits::TLS_HANDSHAKES_PER_ADDRESS_COUNT;
    let shares = Shares::new(each, limits::TLS_HANDSHAKES_COUNT);
    let each = limits::TLS_STRANGERS_PER_ADDRESS_COUNT;
    let strangers = Shares::new(each, limits::TLS_STRANGERS_COUNT);
    let log = Arc::new(Log::default());
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
            let strangers = Arc::clone(&strangers);
            tokio::spawn(async move {
                let greeted = tls.handshake(tcp).await;
                drop((place, share));
                match greeted {
                    Ok(mut stream) if stream.protocol() == Protocol::Grpc => {
                        if stream.peer().is_none() {
                            let Some(share) = strangers.take(from.ip()) else {
                                let from = from.ip();
                                log.warn(&format_args!("too many without a certificate: `{from}`"));
                                return;
                            };
                            stream.end_after(Duration::from_millis(stranger_ms), Box::new(share));
                        }
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

/// How many of something each address has.
struct Shares {
    /// Most of one address.
    each: usize,
    /// Most of all together.
    all: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

impl Shares {
    fn new(each: usize, all: usize) -> Arc<Self> {
        Arc::new(Self { each, all, taken: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>, address: IpAddr) -> Option<Share> {
        let mut taken = self.lock();
        let count = taken.of.get(&address).copied().unwrap_or(0);
        if count >= self.each || taken.all >= self.all {
            return None;
        }
        taken.of.insert(address, count + 1);
        taken.all += 1;
        Some(Share { of: Arc::clone(self), address })
    }
}

struct Share {
    of: Arc<Shares>,
    address: IpAddr,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.of.lock();
        taken.all -= 1;
        if let Some(count) = taken.of.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.of.remove(&self.address);
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
    use crate::testing::TestCluster;
    use crate::tls::Expect;
    use crate::{config, pinned, tls};
    use futures_util::StreamExt;
    use ollamamax_proto::NodeId;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn one_address_takes_its_share_and_no_more() {
        let shares = Shares::new(3, 5);
        let [one, two] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        let mut taken: Vec<Share> = (0..3).filter_map(|_| shares.take(one)).collect();
        assert_eq!(taken.len(), 3);
        assert!(shares.take(one).is_none(), "one address has its share");
        taken.extend((0..2).filter_map(|_| shares.take(two)));
        assert!(shares.take(two).is_none(), "all have theirs");
        taken.remove(0);
        assert!(shares.take(one).is_some());
        drop(taken);
        assert!(shares.lock().of.is_empty(), "addresses that are gone take memory");
        assert_eq!(shares.lock().all, 0);
    }

    #[tokio::test]
    async fn who_shows_no_certificate_is_cut_off_after_a_while_and_members_stay() {
        let cluster = TestCluster::new("test");
        let (one, two) = (cluster.node(1), cluster.node(2));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let mut incoming = accept(one, listener, None, 300);
        let believed = pinned::verifier(cluster.0.fingerprint());
        let client = Arc::new(config::joining(believed).expect("a client")).into();
        let name = "node.ollamamax".to_owned();
        let stranger = tls::connect(&client, name, &address, Protocol::Grpc);
        let mut stranger = stranger.await.expect("a handshake");
        let mut at_stranger = incoming.next().await.expect("a stream").expect("greeted");
        let expect = Expect::Node(NodeId(1));
        let mut member = two.dial(&address, expect, Protocol::Grpc).await.expect("dialed");
        let mut at_member = incoming.next().await.expect("a stream").expect("greeted");
        let mut byte = [0; 1];
        stranger.write_all(b"x").await.expect("written");
        stranger.flush().await.expect("written");
        assert_eq!(at_stranger.read(&mut byte).await.expect("served for now"), 1);
        let cut = at_stranger.read(&mut byte).await.expect_err("no word, and no end for ever");
        assert_eq!(cut.kind(), io::ErrorKind::TimedOut);
        drop(at_stranger);
        let ended = stranger.read(&mut byte).await;
        assert!(!matches!(ended, Ok(1..)), "it is closed");
        member.write_all(b"y").await.expect("written");
        member.flush().await.expect("written");
        assert_eq!(at_member.read(&mut byte).await.expect("a member stays"), 1);
    }
}
