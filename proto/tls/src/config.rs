//! One identity, as rustls wants it: TLS 1.3 only, nothing resumed, no name sent in the clear.

use crate::identity::Identity;
use crate::key;
use crate::stream::Protocol;
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::Arc;

/// Why rustls takes an identity for none.
pub(crate) type ConfigError = Box<dyn std::error::Error + Send + Sync>;

pub(crate) fn client(identity: &Identity) -> Result<ClientConfig, ConfigError> {
    let config = ClientConfig::builder_with_provider(key::provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots(identity)?)
        .with_client_cert_resolver(shown(identity)?);
    Ok(plain(config))
}

/// Of who has no certificate yet.
pub(crate) fn joining(verifier: Arc<dyn ServerCertVerifier>) -> Result<ClientConfig, ConfigError> {
    let config = ClientConfig::builder_with_provider(key::provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(plain(config))
}

fn plain(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.alpn_protocols = vec![Protocol::Grpc.alpn().to_vec()];
    config
}

pub(crate) fn server(identity: &Identity) -> Result<ServerConfig, ConfigError> {
    // Who joins has no certificate; one that is shown must be right.
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(identity)?), key::provider())
            .allow_unauthenticated()
            .build()?;
    let mut config = ServerConfig::builder_with_provider(key::provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(shown(identity)?);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = Protocol::ALL.map(|protocol| protocol.alpn().to_vec()).to_vec();
    Ok(config)
}

fn roots(identity: &Identity) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    for authority in identity.trusted() {
        roots.add(authority.to_rustls())?;
    }
    Ok(roots)
}

fn shown(identity: &Identity) -> Result<Arc<SingleCertAndKey>, ConfigError> {
    let chain = identity.chain().map(|certificate| certificate.to_rustls()).to_vec();
    let shown = CertifiedKey::new(chain, identity.key().signer()?);
    shown.keys_match()?;
    Ok(Arc::new(SingleCertAndKey::from(shown)))
}
