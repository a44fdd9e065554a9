//! The network between the processes of a run: every connection goes through a relay in this process, which can do to it what
//! networks do.
//!
//! ```text
//!  node-1 (calls from 127.0.71.1) ---> relay of node-2 ---> node-2
//!                                        looks up what happens from 1 to 2 and from 2 to 1, for every piece of bytes
//! ```
//!
//! Every member advertises its relay's address and calls from an address of its own (`--dial-from`), so a relay knows both ends of
//! a connection and each direction between two members is a link by itself. A link that is cut keeps its bytes, and no connection
//! closes: to both ends it is the silence of a pulled cable. Loss is what TCP makes of it: the piece comes after a retransmission
//! timeout, which doubles with every loss in a row. Pieces of one connection are never doubled or reordered, because TCP does not
//! let its users see that; nothing here needs root, or another system's help.

use crate::relay::relay;
use ollamamax_tests::{HarnessError, Member, Way, ports};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What happens to bytes on their way from one member to another.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weather {
    /// Nothing arrives.
    pub is_cut: bool,
    /// Every piece comes so much later, in milliseconds.
    pub delay_ms: u64,
    /// And up to so much more.
    pub jitter_ms: u64,
    /// How many of a hundred segments are lost.
    pub loss_percent: u32,
    /// How much arrives in a second; 0: no limit.
    pub bytes_per_s: u64,
}

/// From whom to whom.
pub type Link = (Member, Member);

/// All links, and what happens on them; those that are not there have good weather.
#[derive(Clone, Default)]
pub struct Links(Arc<Mutex<BTreeMap<Link, watch::Sender<Weather>>>>);

impl Links {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Link, watch::Sender<Weather>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens on a link, now and later.
    pub fn watch(&self, link: Link) -> watch::Receiver<Weather> {
        self.lock().entry(link).or_default().subscribe()
    }

    /// Changes what happens on a link.
    pub fn change(&self, link: Link, change: impl FnOnce(&mut Weather)) {
        self.lock().entry(link).or_default().send_modify(change);
    }

    /// Good weather everywhere.
    pub fn clear(&self) {
        for weather in self.lock().values() {
            weather.send_replace(Weather::default());
        }
    }
}

/// The relays of all members.
pub struct Net {
    /// What happens where.
    pub links: Links,
    relays: BTreeMap<Member, Relay>,
}

struct Relay {
    /// Whether somebody listens behind it.
    is_up: watch::Sender<bool>,
    _end: DropGuard,
}

/// Where a member's calls come from.
pub fn source(member: Member) -> IpAddr {
    let of = |net, index: usize| {
        let last = u8::try_from(index + 1).unwrap_or(u8::MAX);
        IpAddr::V4(Ipv4Addr::new(127, 0, net, last))
    };
    match member {
        Member::Node(index) => of(71, index),
        Member::Worker(index) => of(72, index),
    }
}

/// Whose calls come from there.
fn caller(address: IpAddr) -> Option<Member> {
    let IpAddr::V4(address) = address else { return None };
    match address.octets() {
        [127, 0, 71, last] if last > 0 => Some(Member::Node(usize::from(last) - 1)),
        [127, 0, 72, last] if last > 0 => Some(Member::Worker(usize::from(last) - 1)),
        _ => None,
    }
}

impl Net {
    /// Without members.
    pub fn new() -> Self {
        Self { links: Links::default(), relays: BTreeMap::new() }
    }

    /// Starts the relay of a member that is about to be started.
    pub async fn add(&mut self, member: Member) -> Result<Way, HarnessError> {
        let failed = |error: std::io::Error| HarnessError::Other(error.to_string());
        let port = ports::free()?;
        let listener = TcpListener::bind(("127.0.0.1", ports::free()?)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (end, is_up) = (CancellationToken::new(), watch::Sender::new(true));
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let accepting = accept(listener, member, target, self.links.clone(), is_up.subscribe());
        tokio::spawn(end.clone().run_until_cancelled_owned(accepting));
        self.relays.insert(member, Relay { is_up, _end: end.drop_guard() });
        Ok(Way { port, advertised: address.to_string(), source: source(member) })
    }

    /// Tells that a member's process has gone or come: where nobody listens, connections are refused and open ones break.
    pub fn up(&self, member: Member, up: bool) {
        if let Some(relay) = self.relays.get(&member) {
            relay.is_up.send_replace(up);
        }
    }
}

impl Default for Net {
    fn default() -> Self {
        Self::new()
    }
}

/// Takes connections for `member` as long as it is up.
async fn accept(
    first: TcpListener,
    member: Member,
    target: SocketAddr,
    links: Links,
    mut is_up: watch::Receiver<bool>,
) {
    let Ok(address) = first.local_addr() else { return };
    let mut listener = Some(first);
    loop {
        let Some(open) = &listener else {
            if is_up.wait_for(|up| *up).await.is_err() {
                return;
            }
            listener = TcpListener::bind(address).await.ok();
            if listener.is_none() {
                // Whoever had the port a moment ago lets it go.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            continue;
        };
        let taken = tokio::select! {
            taken = open.accept() => taken,
            _ = is_up.wait_for(|up| !up) => {
                listener = None;
                continue;
            }
        };
        if let Ok((near, from)) = taken {
            tokio::spawn(connect(near, from, member, target, links.clone(), is_up.clone()));
        }
    }
}

async fn connect(
    near: TcpStream,
    from: SocketAddr,
    member: Member,
    target: SocketAddr,
    links: Links,
    mut is_up: watch::Receiver<bool>,
) {
    // Who is no member, as a probe, has good weather.
    let there = caller(from.ip()).map(|from| links.watch((from, member)));
    let back = caller(from.ip()).map(|from| links.watch((member, from)));
    let relaying = async {
        // A connection needs both directions.
        for link in [&there, &back] {
            if let Some(mut link) = link.clone() {
                link.wait_for(|weather| !weather.is_cut).await.ok()?;
            }
        }
        let far = TcpStream::connect(target).await.ok()?;
        relay(near, far, there, back).await;
        Some(())
    };
    tokio::select! {
        _ = relaying => {}
        _ = is_up.wait_for(|up| !up) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpSocket;

    const A: Member = Member::Node(0);
    const B: Member = Member::Node(1);

    async fn echo(port: u16) {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a port");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.into_split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
    }

    async fn call(from: Member, way: &Way) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(source(from), 0))?;
        socket.connect(way.advertised.parse().expect("an address")).await
    }

    async fn echoes(stream: &mut TcpStream, within: Duration) -> bool {
        let asked = async {
            stream.write_all(b"x").await?;
            stream.read_exact(&mut [0]).await
        };
        tokio::time::timeout(within, asked).await.is_ok_and(|echoed| echoed.is_ok())
    }

    const SOON: Duration = Duration::from_millis(150);
    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn each_direction_of_each_pair_is_cut_by_itself() {
        let mut net = Net::new();
        let way = net.add(B).await.expect("a relay");
        echo(way.port).await;
        let mut of_a = call(A, &way).await.expect("connected");
        let mut of_worker = call(Member::Worker(0), &way).await.expect("connected");
        for link in [(A, B), (B, A)] {
            assert!(echoes(&mut of_a, LONG).await);
            net.links.change(link, |weather| weather.is_cut = true);
            assert!(!echoes(&mut of_a, SOON).await, "{link:?}");
            assert!(echoes(&mut of_worker, LONG).await, "{link:?}");
            net.links.clear();
            // What was held comes first.
            of_a.read_exact(&mut [0]).await.expect("delivered");
        }
    }

    #[tokio::test]
    async fn where_nobody_listens_connections_are_refused_until_somebody_does() {
        let mut net = Net::new();
        let way = net.add(B).await.expect("a relay");
        echo(way.port).await;
        let mut stream = call(A, &way).await.expect("connected");
        assert!(echoes(&mut stream, LONG).await);
        net.up(B, false);
        assert!(!echoes(&mut stream, LONG).await);
        let refused = ollamamax_tests::wait_until(LONG, "refused", async || {
            call(A, &way).await.err().ok_or("it was accepted")
        });
        refused.await.expect("refused");
        net.up(B, true);
        let again = ollamamax_tests::wait_until(LONG, "accepted", async || {
            let mut stream = call(A, &way).await.map_err(|error| error.to_string())?;
            if echoes(&mut stream, LONG).await { Ok(()) } else { Err("no echo".to_owned()) }
        });
        again.await.expect("accepted");
    }

    #[tokio::test]
    async fn delay_and_loss_cost_time_and_nothing_is_lost() {
        let mut net = Net::new();
        let way = net.add(B).await.expect("a relay");
        echo(way.port).await;
        let mut stream = call(A, &way).await.expect("connected");
        assert!(echoes(&mut stream, LONG).await);
        net.links.change((A, B), |weather| weather.delay_ms = 120);
        let begun = Instant::now();
        assert!(echoes(&mut stream, LONG).await);
        assert!(begun.elapsed() >= Duration::from_millis(120));
        net.links.clear();
        net.links.change((B, A), |weather| weather.loss_percent = 60);
        let sent: Vec<u8> = (0..40_000u32).map(|n| n as u8).collect();
        let (mut from, mut to) = stream.split();
        let mut got = vec![0; sent.len()];
        let both = async { tokio::join!(to.write_all(&sent), from.read_exact(&mut got)) };
        let (written, read) = tokio::time::timeout(LONG, both).await.expect("in time");
        written.expect("sent");
        read.expect("received");
        assert_eq!(got, sent, "every byte comes once and in order");
    }
}
