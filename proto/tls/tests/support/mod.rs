//! A server that tells each client who it is, and what every test needs.

#![allow(dead_code)]

use ollamamax_proto::{Millis, NodeId, WorkerId, limits};
use ollamamax_tls::testing::TestCluster;
use ollamamax_tls::{
    Authority, Certificate, Expect, Identity, Kind, Protocol, Request, Role, Stream, Tls,
};
use rustls::DigitallySignedStruct;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

pub const CLUSTER: &str = "0123456789abcdef0123456789abcdef";
pub const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

pub fn node(id: u64) -> Role {
    Role::Node(NodeId(id))
}

pub fn worker(id: u128) -> Role {
    Role::Worker(WorkerId(id))
}

pub const ANY_NODE: Expect = Expect::Any(Kind::Node);
pub const ANY_WORKER: Expect = Expect::Any(Kind::Worker);

/// A cluster that was there ten days ago.
pub fn old_cluster() -> TestCluster {
    let past = Millis(Millis::now().0 - 10 * DAY_MS);
    TestCluster(Authority::create(&CLUSTER.parse().expect("a label"), past).expect("made"))
}

/// A member by `authority` that trusts `trusted`.
pub fn identity(authority: &Authority, role: Role, trusted: &[&Authority]) -> Identity {
    let request = Request::new().expect("a key");
    let signed = authority
        .sign(request.der(), role, limits::TLS_LIFETIME_MS, Millis::now())
        .expect("signed");
    request.identity(signed, certificates(trusted)).expect("an identity")
}

pub fn certificates(authorities: &[&Authority]) -> Vec<Certificate> {
    authorities.iter().map(|authority| authority.certificate().clone()).collect()
}

/// Waits, but not for ever.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("it took too long")
}

/// Accepts for ever and tells each client who it is. What became of each handshake is received.
pub async fn serve(tls: Tls) -> (String, mpsc::UnboundedReceiver<Result<Option<Role>, String>>) {
    let (listener, address) = listen().await;
    let (sender, outcomes) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.expect("accepted");
            let (tls, sender) = (tls.clone(), sender.clone());
            tokio::spawn(async move {
                let outcome = match tls.accept(tcp).await {
                    Ok(mut stream) => {
                        let role = stream.peer().map(|peer| peer.role);
                        let words = role.map_or("nobody".to_owned(), |role| role.to_string());
                        let _ = stream.write_all(words.as_bytes()).await;
                        let _ = stream.shutdown().await;
                        Ok(role)
                    }
                    Err(error) => Err(error.to_string()),
                };
                let _ = sender.send(outcome);
            });
        }
    });
    (address, outcomes)
}

pub async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    (listener, address)
}

/// What the server says that we are. In TLS 1.3 a client learns only here that its certificate was refused.
pub async fn told(mut stream: impl tokio::io::AsyncRead + Unpin) -> io::Result<String> {
    let mut words = String::new();
    soon(stream.read_to_string(&mut words)).await?;
    Ok(words)
}

pub async fn dial(tls: &Tls, address: &str, expect: Expect) -> Result<Stream, String> {
    tls.dial(address, expect, Protocol::Grpc).await.map_err(|error| error.to_string())
}

/// Dials and hears who it is.
pub async fn known(tls: &Tls, address: &str, expect: Expect) -> Result<String, String> {
    told(dial(tls, address, expect).await?).await.map_err(|error| error.to_string())
}

pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A client that believes every server.
#[derive(Debug)]
pub struct Believer;

impl ServerCertVerifier for Believer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Believes everybody and shows nothing.
pub fn believing(version: &'static rustls::SupportedProtocolVersion) -> rustls::ClientConfig {
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believer))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// Connects with a configuration that no member would have.
pub async fn raw(
    address: &str,
    config: rustls::ClientConfig,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address.parse::<SocketAddr>().expect("an address")).await?;
    let name = ServerName::try_from("anything.example").expect("a name");
    soon(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp)).await
}
