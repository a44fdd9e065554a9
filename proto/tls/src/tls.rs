//! All connections of one member, made with the identity that it has at that moment.

use crate::certificate::{Certificate, CertificateError};
use crate::config::{self, ConfigError};
use crate::identity::Identity;
use crate::incoming::{self, Incoming, OnStage};
use crate::pinned::PinError;
use crate::role::{Cluster, Kind, Role};
use crate::source;
use crate::stream::{ConnectInfo, Peer, Protocol, Stream};
use arc_swap::ArcSwap;
use hyper_util::rt::TokioIo;
use ollamamax_proto::{NodeId, WorkerId, limits};
use rustls::pki_types::ServerName;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

/// Who must be at the other end of a connection that is dialed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expect {
    /// This node and no other.
    Node(NodeId),
    /// This worker and no other.
    Worker(WorkerId),
    /// Any of this kind.
    Any(Kind),
}

impl Expect {
    fn name(self, cluster: &Cluster) -> String {
        match self {
            Self::Node(id) => Role::Node(id).name(cluster),
            Self::Worker(id) => Role::Worker(id).name(cluster),
            Self::Any(kind) => kind.name(cluster),
        }
    }

    fn is_met_by(self, role: Role) -> bool {
        match self {
            Self::Node(id) => role == Role::Node(id),
            Self::Worker(id) => role == Role::Worker(id),
            Self::Any(kind) => role.kind() == kind,
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => Role::Node(*id).fmt(f),
            Self::Worker(id) => Role::Worker(*id).fmt(f),
            Self::Any(kind) => write!(f, "a {kind}"),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The identity cannot be used.
    #[error("the identity cannot be used: {0}")]
    Identity(#[source] ConfigError),
    /// An identity cannot be replaced by that of another member.
    #[error("{role} of cluster `{cluster}` cannot become {got}")]
    OtherMember {
        /// The present one.
        role: Role,
        /// Its cluster.
        cluster: Cluster,
        /// The other one's.
        got: Role,
    },
    /// Nothing listens there, or the network said no.
    #[error("cannot connect to `{address}`: {source}")]
    Connect {
        /// `host:port`.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("`{address}` did not greet within {ms} ms")]
    Late {
        /// `host:port`.
        address: String,
        /// The deadline.
        ms: u64,
    },
    /// The other end showed no right certificate, found ours wrong, or speaks something else.
    #[error("`{address}`: the handshake failed: {source}")]
    Handshake {
        /// `host:port`.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It did not agree what to speak.
    #[error("`{address}` speaks neither gRPC nor the protocol of stages")]
    Protocol {
        /// `host:port`.
        address: String,
    },
    /// Its certificate is from a trusted authority, and still says nothing clear.
    #[error("`{address}`: {source}")]
    Unclear {
        /// `host:port`.
        address: String,
        /// What.
        #[source]
        source: CertificateError,
    },
    /// It is another member than the one that was wanted.
    #[error("`{address}` is {got} of cluster `{cluster}`, expected {expected}")]
    Unexpected {
        /// `host:port`.
        address: String,
        /// Wanted, in words.
        expected: String,
        /// There.
        got: Role,
        /// There.
        cluster: Cluster,
    },
    /// It was removed from the cluster.
    #[error("`{address}` is {role}, which was removed from the cluster")]
    Refused {
        /// `host:port`.
        address: String,
        /// Who.
        role: Role,
    },
    /// It does not belong to the cluster of the join token.
    #[error("`{address}`: {source}")]
    Pin {
        /// `host:port`.
        address: String,
        /// Why.
        #[source]
        source: PinError,
    },
}

type Refuses = Box<dyn Fn(&Peer) -> bool + Send + Sync>;

/// All connections of one member. Clones share the identity: what [`Tls::replace`] gives is used by the next connection
/// of each.
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    live: ArcSwap<Live>,
    refuses: ArcSwap<Refuses>,
}

struct Live {
    identity: Identity,
    client: TlsConnector,
    server: TlsAcceptor,
}

impl Live {
    fn new(identity: Identity) -> Result<Self, TlsError> {
        let client = config::client(&identity).map_err(TlsError::Identity)?;
        let server = config::server(&identity).map_err(TlsError::Identity)?;
        Ok(Self { identity, client: Arc::new(client).into(), server: Arc::new(server).into() })
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.0.live.load().identity).finish()
    }
}

impl Tls {
    /// Connections as `identity`. Nobody is refused yet.
    pub fn new(identity: Identity) -> Result<Self, TlsError> {
        let nobody: Refuses = Box::new(|_| false);
        let live = ArcSwap::from_pointee(Live::new(identity)?);
        Ok(Self(Arc::new(Shared { live, refuses: ArcSwap::from_pointee(nobody) })))
    }

    /// From the next connection on, `identity` is shown and its authorities are trusted. It must be the same member's.
    pub fn replace(&self, identity: Identity) -> Result<(), TlsError> {
        let present = self.identity();
        if (identity.role(), identity.cluster()) != (present.role(), present.cluster()) {
            return Err(TlsError::OtherMember {
                role: present.role(),
                cluster: present.cluster().clone(),
                got: identity.role(),
            });
        }
        self.0.live.store(Arc::new(Live::new(identity)?));
        Ok(())
    }

    /// The present one.
    pub fn identity(&self) -> Identity {
        self.0.live.load().identity.clone()
    }

    /// From now on, peers of which `refuses` says yes are refused: at every dial, at every accept, and at every request
    /// that [`crate::Allow`] sees. It is asked often and must answer from memory.
    pub fn refuse(&self, refuses: impl Fn(&Peer) -> bool + Send + Sync + 'static) {
        self.0.refuses.store(Arc::new(Box::new(refuses)));
    }

    /// Whether this peer is refused now.
    pub fn refuses(&self, peer: &Peer) -> bool {
        (self.0.refuses.load())(peer)
    }

    /// Connects to `address` (`host:port`) and speaks `protocol` with who is there, if it is who is expected. Takes at
    /// most [`limits::TLS_DIAL_MS`].
    ///
    /// In TLS 1.3 the other end looks at our certificate after we know it: that it refuses us is seen when reading.
    pub async fn dial(
        &self,
        address: &str,
        expect: Expect,
        protocol: Protocol,
    ) -> Result<Stream, TlsError> {
        let live = self.0.live.load_full();
        let name = expect.name(live.identity.cluster());
        let stream = connect(&live.client, name, address, protocol).await?;
        let Some(Peer { role, .. }) = stream.peer().copied() else {
            // rustls lets no server through without a certificate.
            return Err(TlsError::Protocol { address: address.to_owned() });
        };
        let address = address.to_owned();
        if !expect.is_met_by(role) {
            let (expected, cluster) = (expect.to_string(), live.identity.cluster().clone());
            return Err(TlsError::Unexpected { address, expected, got: role, cluster });
        }
        if stream.peer().is_some_and(|peer| self.refuses(peer)) {
            return Err(TlsError::Refused { address, role });
        }
        Ok(stream)
    }

    /// A gRPC channel to the host and port of `endpoint`, with its other settings. It connects when first used and after
    /// each loss, as [`Tls::dial`] does, each time with the identity of that moment. The scheme must be `http`: the
    /// channel adds the TLS.
    pub fn channel(&self, endpoint: &Endpoint, expect: Expect) -> Channel {
        let tls = self.clone();
        endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: Uri| {
            let tls = tls.clone();
            async move {
                let address = uri.authority().map(|at| at.as_str()).unwrap_or_default();
                tls.dial(address, expect, Protocol::Grpc).await.map(TokioIo::new)
            }
        }))
    }

    /// The serving side of a handshake, at most [`limits::TLS_HANDSHAKE_MS`]. Who shows no certificate has no
    /// [`Stream::peer`]; who shows a wrong one, or is refused, gets no connection.
    pub async fn accept(&self, tcp: TcpStream) -> Result<Stream, TlsError> {
        let stream = self.handshake(tcp).await?;
        match stream.peer() {
            Some(peer) if self.refuses(peer) => {
                Err(TlsError::Refused { address: stream.remote().to_string(), role: peer.role })
            }
            _ => Ok(stream),
        }
    }

    /// gRPC connections for a tonic server, until what is returned is dropped. Connections between stages go to
    /// `on_stage`, from workers only; without it they are closed.
    ///
    /// Peers that are refused come in like those without a certificate, so that [`crate::Allow`] can tell them in words.
    pub fn incoming(&self, listener: TcpListener, on_stage: Option<OnStage>) -> Incoming {
        incoming::accept(self.clone(), listener, on_stage, limits::TLS_STRANGER_MS)
    }

    /// [`Tls::accept`] without asking who is refused.
    pub(crate) async fn handshake(&self, tcp: TcpStream) -> Result<Stream, TlsError> {
        let remote = tcp.peer_addr().map_err(|source| {
            let address = "a connection that is gone".to_owned();
            TlsError::Connect { address, source }
        })?;
        // Without TCP_NODELAY a token can wait 40 ms for an acknowledgement.
        let _ = tcp.set_nodelay(true);
        let live = self.0.live.load_full();
        let ms = limits::TLS_HANDSHAKE_MS;
        let address = || remote.to_string();
        match tokio::time::timeout(Duration::from_millis(ms), live.server.accept(tcp)).await {
            Err(_) => Err(TlsError::Late { address: address(), ms }),
            Ok(Err(source)) => Err(TlsError::Handshake { address: address(), source }),
            Ok(Ok(io)) => greeted(TlsStream::Server(io), remote, &address()),
        }
    }
}

/// Connects within the deadline and agrees on `protocol`.
pub(crate) async fn connect(
    client: &TlsConnector,
    name: String,
    address: &str,
    protocol: Protocol,
) -> Result<Stream, TlsError> {
    let ms = limits::TLS_DIAL_MS;
    let dialing = async {
        let tcp = source::tcp(address).await;
        let tcp = tcp
            .and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp))
            .and_then(|tcp| tcp.peer_addr().map(|remote| (tcp, remote)));
        let (tcp, remote) =
            tcp.map_err(|source| TlsError::Connect { address: address.to_owned(), source })?;
        let handshake = |source| TlsError::Handshake { address: address.to_owned(), source };
        let name = ServerName::try_from(name).map_err(|e| handshake(io::Error::other(e)))?;
        let connector = client.with_alpn(vec![protocol.alpn().to_vec()]);
        let io = connector.connect(name, tcp).await.map_err(handshake)?;
        greeted(TlsStream::Client(io), remote, address)
    };
    match tokio::time::timeout(Duration::from_millis(ms), dialing).await {
        Ok(dialed) => dialed,
        Err(_) => Err(TlsError::Late { address: address.to_owned(), ms }),
    }
}

/// Reads who is at the other end. The handshake has proved that a trusted authority says so, and all that we trust are
/// those of our own cluster.
fn greeted(
    io: TlsStream<TcpStream>,
    remote: SocketAddr,
    address: &str,
) -> Result<Stream, TlsError> {
    let (_, session) = io.get_ref();
    let protocol = Protocol::agreed(session.alpn_protocol());
    let protocol = protocol.ok_or_else(|| TlsError::Protocol { address: address.to_owned() })?;
    let unclear = |source| TlsError::Unclear { address: address.to_owned(), source };
    let peer = match session.peer_certificates().and_then(|chain| chain.first()) {
        None => None,
        Some(der) => {
            let certificate = Certificate::from_der(der).map_err(unclear)?;
            let (role, _) = certificate.role().map_err(unclear)?;
            let (fingerprint, not_after) = (certificate.fingerprint(), certificate.not_after());
            Some(Peer { role, fingerprint, not_after })
        }
    };
    Ok(Stream::new(io, ConnectInfo { remote, peer }, protocol))
}
