//! A certificate for servers that browsers and other clients of people ask, where there is no authority that those know: one is
//! made for it, vouches for this one certificate, and its key is dropped at once. Whoever trusts it trusts nothing else.

use crate::authority::{AuthorityError, serial, titled, valid};
use crate::key::{self, Key};
use ollamamax_proto::{Millis, limits};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose,
};
use zeroize::Zeroizing;

/// What a server needs, and what its clients do. All in PEM.
pub struct LocalServer {
    /// For clients: what vouches for the certificate.
    pub authority: String,
    /// For the server: its certificate.
    pub certificate: String,
    /// For the server alone.
    pub key: Zeroizing<String>,
    /// When the certificate ends.
    pub until: Millis,
}

impl LocalServer {
    /// Makes one for `names`: DNS names and IP addresses by which the server is reached.
    ///
    /// # Errors
    /// When a name is none, or the system gives no randomness.
    pub fn create(names: &[String], now: Millis) -> Result<Self, AuthorityError> {
        let made = |error: rcgen::Error| AuthorityError::Made(error.to_string());
        let until = now.plus(limits::TLS_LOCAL_LIFETIME_MS);
        let from = Millis(now.0.saturating_sub(limits::TLS_SKEW_MS));
        let dated = |mut params: CertificateParams, title: &str| {
            valid(&mut params, from, until);
            params.serial_number = Some(serial()?);
            params.distinguished_name = titled(title);
            Ok::<_, AuthorityError>(params)
        };
        let (own, servers) = (Key::generate()?, Key::generate()?);
        let title = format!("for {}", names.join(", "));
        let mut authority = dated(CertificateParams::default(), &format!("authority {title}"))?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let names = CertificateParams::new(names.to_vec()).map_err(made)?;
        let mut server = dated(names, &format!("server {title}"))?;
        server.is_ca = IsCa::ExplicitNoCa;
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server.use_authority_key_identifier_extension = true;
        let (own, pair) = (own.pair()?, servers.pair()?);
        let signed = authority.self_signed(&own.0).map_err(made)?;
        let issuer = Issuer::new(authority, &own.0);
        let certificate = server.signed_by(&pair.0, &issuer).map_err(made)?;
        let pem = |der: &[u8]| key::pem(key::CERTIFICATE, der).to_string();
        Ok(Self {
            authority: pem(signed.der()),
            certificate: pem(certificate.der()),
            key: key::pem(key::PRIVATE_KEY, servers.der()),
            until,
        })
    }
}
