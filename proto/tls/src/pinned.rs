//! Dialing a cluster of which only the fingerprint of its authority is known.
//!
//! The server's chain carries its authority's certificate. That its SHA-256 is the one of the join token makes it
//! trusted; then the server must show what every node shows: a certificate from that authority for the name of a node of
//! the authority's cluster, and its key. Nobody without the authority's key can do that.

use crate::certificate::{Certificate, CertificateError};
use crate::config;
use crate::key;
use crate::role::Kind;
use crate::stream::{Protocol, Stream};
use crate::tls::{TlsError, connect};
use hyper_util::rt::TokioIo;
use ollamamax_proto::{Digest, Millis, limits};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError as TlsCertificateError, DigitallySignedStruct, OtherError};
use rustls::{PeerIncompatible, SignatureScheme};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_rustls::TlsConnector;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

/// Why a server is not believed to be a node of the cluster of a join token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// It shows no authority with the fingerprint of the token.
    #[error(
        "the server does not belong to the cluster of the join token, whose authority is `{expected}`"
    )]
    OtherAuthority {
        /// The fingerprint of the token.
        expected: Digest,
    },
    /// Its own certificate is not that of a node, from that authority.
    #[error("the server shows the authority of the join token, but is no node of its cluster: {0}")]
    NoNode(#[from] CertificateError),
    /// It is a worker.
    #[error("the server is a worker; a join token needs the gRPC address of a node")]
    Worker,
}

/// Connects to a node at `address` (`host:port`) without a certificate of our own, if its authority is the one with that
/// `fingerprint`, and gives a gRPC channel to it.
pub async fn dial_pinned(address: &str, fingerprint: Digest) -> Result<Channel, TlsError> {
    let config = config::joining(verifier(fingerprint)).map_err(TlsError::Identity)?;
    let client = TlsConnector::from(Arc::new(config));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, error);
        TlsError::Connect { address: address.to_owned(), source }
    })?;
    let endpoint = endpoint.connect_timeout(Duration::from_millis(limits::TLS_DIAL_MS));
    // Dialed at once, so that a wrong server is an error here, with its name.
    let first = dial(&client, address).await?;
    let first = Arc::new(Mutex::new(Some(first)));
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: Uri| {
        let (client, first) = (client.clone(), Arc::clone(&first));
        async move {
            let dialed = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            let stream = match dialed {
                Some(stream) => stream,
                None => {
                    let address = uri.authority().map(|at| at.as_str()).unwrap_or_default();
                    dial(&client, address).await?
                }
            };
            Ok::<_, TlsError>(TokioIo::new(stream))
        }
    })))
}

/// Believes the nodes of the cluster with this authority, and nobody else.
pub(crate) fn verifier(fingerprint: Digest) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Pinned { fingerprint })
}

async fn dial(client: &TlsConnector, address: &str) -> Result<Stream, TlsError> {
    // The name is not asked for: the verifier takes it from the authority.
    let dialed = connect(client, "node.ollamamax".to_owned(), address, Protocol::Grpc).await;
    dialed.map_err(|error| match pin_error(&error) {
        Some(source) => TlsError::Pin { address: address.to_owned(), source },
        None => error,
    })
}

fn pin_error(error: &TlsError) -> Option<PinError> {
    let TlsError::Handshake { source, .. } = error else { return None };
    let error = source.get_ref()?.downcast_ref::<rustls::Error>()?;
    match error {
        rustls::Error::InvalidCertificate(TlsCertificateError::Other(OtherError(error))) => {
            error.downcast_ref::<PinError>().cloned()
        }
        _ => None,
    }
}

#[derive(Debug)]
struct Pinned {
    fingerprint: Digest,
}

impl Pinned {
    fn check(&self, own: &[u8], chain: &[CertificateDer<'_>], now: Millis) -> Result<(), PinError> {
        let expected = self.fingerprint;
        let pinned = chain.iter().find(|certificate| Digest::of(certificate) == expected);
        let pinned = pinned.ok_or(PinError::OtherAuthority { expected })?;
        let authority = Certificate::from_der(pinned)?;
        let cluster = authority.authority_of()?;
        let certificate = Certificate::from_der(own)?;
        certificate.issued_by(&authority, now)?;
        let (role, of) = certificate.role()?;
        match role.kind() {
            Kind::Node if of == cluster => Ok(()),
            Kind::Node => Err(PinError::OtherAuthority { expected }),
            Kind::Worker => Err(PinError::Worker),
        }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let now = Millis(now.as_secs().saturating_mul(1_000));
        match self.check(end_entity, intermediates, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(error) => {
                let error = TlsCertificateError::Other(OtherError(Arc::new(error)));
                Err(rustls::Error::InvalidCertificate(error))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &key::provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        key::provider().signature_verification_algorithms.supported_schemes()
    }
}
