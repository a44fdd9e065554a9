//! The authority of a cluster: the key that says who belongs to it.
//!
//! What it signs comes from a role alone. Its certificate is bound to the names of its cluster (name constraints), so it
//! can vouch for nothing else, wherever it is trusted.

use crate::certificate::{Certificate, CertificateError};
use crate::key::{self, Key, KeyError, Sections};
use crate::request::{RequestError, Requested};
use crate::role::{Cluster, Role};
use ollamamax_proto::{Digest, Millis, limits};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyUsagePurpose, NameConstraints, PublicKeyData, SanType,
};
use std::time::Duration;
use zeroize::Zeroizing;

/// Why there is no authority.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// No key or certificate could be made.
    #[error("no authority could be made: {0}")]
    Made(String),
    /// The text is not a certificate and a private key in PEM.
    #[error("expected one certificate and one private key on P-256 in PEM, got something else")]
    Malformed,
    /// The certificate is not that of an authority.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The key is that of another certificate.
    #[error("the authority's private key does not belong to its certificate `{fingerprint}`")]
    Mismatch {
        /// Of the certificate.
        fingerprint: Digest,
    },
}

impl From<KeyError> for AuthorityError {
    fn from(error: KeyError) -> Self {
        Self::Made(error.to_string())
    }
}

/// Why nothing was signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The request itself.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// No time, or more than a certificate may live.
    #[error("a certificate cannot live {got_ms} ms, only 1 to {max_ms}")]
    Lifetime {
        /// Asked for.
        got_ms: u64,
        /// Most given.
        max_ms: u64,
    },
    /// The authority's own certificate has ended, or has not begun.
    #[error("the authority's certificate is not valid now; replace the authority")]
    Ended,
    /// The certificate could not be made.
    #[error("no certificate could be made: {0}")]
    Made(String),
}

impl From<KeyError> for SignError {
    fn from(error: KeyError) -> Self {
        Self::Made(error.to_string())
    }
}

/// The certificate and the private key of a cluster's authority.
#[derive(Clone, Debug)]
pub struct Authority {
    key: Key,
    certificate: Certificate,
    cluster: Cluster,
}

impl Authority {
    /// Makes one for `cluster`, valid from shortly before `now` for [`limits::TLS_AUTHORITY_LIFETIME_MS`].
    pub fn create(cluster: &Cluster, now: Millis) -> Result<Self, AuthorityError> {
        let key = Key::generate()?;
        let made = |error: rcgen::Error| AuthorityError::Made(error.to_string());
        let mut params = own_params(cluster);
        valid(&mut params, before(now), now.plus(limits::TLS_AUTHORITY_LIFETIME_MS));
        params.serial_number = Some(serial()?);
        params.subject_alt_names = vec![name(cluster.authority_name()).map_err(made)?];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(cluster.zone())],
            excluded_subtrees: Vec::new(),
        });
        let certificate = params.self_signed(&key.pair()?.0).map_err(made)?;
        let certificate = Certificate::from_der(certificate.der())?;
        Ok(Self { key, certificate, cluster: cluster.clone() })
    }

    /// Reads what [`Authority::to_pem`] wrote.
    pub fn from_pem(pem: &[u8]) -> Result<Self, AuthorityError> {
        if pem.len() > limits::TLS_FILE_BYTES {
            return Err(AuthorityError::Malformed);
        }
        let mut sections = Sections::read(pem).ok_or(AuthorityError::Malformed)?;
        if sections.keys.len() != 1 || sections.certificates.len() != 1 {
            return Err(AuthorityError::Malformed);
        }
        let key = Key::from_der(sections.keys.remove(0)).ok_or(AuthorityError::Malformed)?;
        let certificate = Certificate::from_der(&sections.certificates[0])?;
        let cluster = certificate.authority_of()?;
        if key.public()? != certificate.public() {
            let fingerprint = certificate.fingerprint();
            return Err(AuthorityError::Mismatch { fingerprint });
        }
        Ok(Self { key, certificate, cluster })
    }

    /// Certificate and private key. Whoever has this text can make members of the cluster.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let key = key::pem(key::PRIVATE_KEY, self.key.der());
        let certificate = self.certificate.pem();
        let mut text = Zeroizing::new(String::with_capacity(key.len() + certificate.len()));
        text.push_str(&certificate);
        text.push_str(&key);
        text
    }

    /// Public: what members trust.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Of its certificate: what a [`crate::JoinToken`] carries.
    pub fn fingerprint(&self) -> Digest {
        self.certificate.fingerprint()
    }

    /// Whose members it makes.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Signs that the key of `request` (PKCS #10, DER) is `role`'s, from [`limits::TLS_SKEW_MS`] before `now` to
    /// `lifetime_ms` after it, and not longer than the authority itself lives.
    pub fn sign(
        &self,
        request: &[u8],
        role: Role,
        lifetime_ms: u64,
        now: Millis,
    ) -> Result<Certificate, SignError> {
        let max_ms = limits::TLS_LIFETIME_MAX_MS;
        if lifetime_ms == 0 || lifetime_ms > max_ms {
            return Err(SignError::Lifetime { got_ms: lifetime_ms, max_ms });
        }
        let public = Requested::check(request)?;
        let from = before(now).max(self.certificate.not_before());
        let until = now.plus(lifetime_ms).min(self.certificate.not_after());
        if now < self.certificate.not_before() || until <= now {
            return Err(SignError::Ended);
        }
        let certificate = self.issue(&public, role, from, until)?;
        // What was made is read as every peer will read it: a mistake here is nobody's identity.
        let checked = certificate
            .issued_by(&self.certificate, now)
            .and_then(|()| certificate.role())
            .map_err(|error| SignError::Made(error.to_string()))?;
        if checked != (role, self.cluster.clone()) {
            return Err(SignError::Made(format!("the certificate of {role} names {}", checked.0)));
        }
        Ok(certificate)
    }

    fn issue(
        &self,
        public: &impl PublicKeyData,
        role: Role,
        from: Millis,
        until: Millis,
    ) -> Result<Certificate, SignError> {
        let made = |error: rcgen::Error| SignError::Made(error.to_string());
        let mut params = CertificateParams::default();
        valid(&mut params, from, until);
        params.serial_number = Some(serial()?);
        params.distinguished_name = titled(&role.to_string());
        for text in [role.name(&self.cluster), role.kind().name(&self.cluster)] {
            params.subject_alt_names.push(name(text).map_err(made)?);
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Every member calls and is called.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let pair = self.key.pair()?;
        let issuer = Issuer::new(own_params(&self.cluster), &pair.0);
        let certificate = params.signed_by(public, &issuer).map_err(made)?;
        Certificate::from_der(certificate.der()).map_err(|error| SignError::Made(error.to_string()))
    }
}

/// As much of the authority's certificate as those it signs point back to: the same for every authority of a cluster.
fn own_params(cluster: &Cluster) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = titled(&format!("cluster {cluster}"));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// A subject for people who look at certificates; nothing is decided by it.
pub(crate) fn titled(title: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "ollamamax");
    name.push(DnType::CommonName, title);
    name
}

fn name(text: String) -> Result<SanType, rcgen::Error> {
    Ia5String::try_from(text).map(SanType::DnsName)
}

/// 127 random bits: positive, and never one that another certificate has.
pub(crate) fn serial() -> Result<rcgen::SerialNumber, KeyError> {
    let mut bytes = key::random::<16>()?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(rcgen::SerialNumber::from_slice(&bytes))
}

fn before(now: Millis) -> Millis {
    Millis(now.0.saturating_sub(limits::TLS_SKEW_MS))
}

/// The last moment that certificates of clusters name: the year 9999 is as far as the form goes.
const END_MS: u64 = 250_000_000_000_000;

pub(crate) fn valid(params: &mut CertificateParams, from: Millis, until: Millis) {
    let date = |moment: Millis| {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(moment.0.min(END_MS))
    };
    (params.not_before, params.not_after) = (date(from), date(until));
}
