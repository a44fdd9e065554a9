//! A certificate of this kind of cluster, and what is read from it: names, and from when until when it is valid.
//!
//! Reading believes nothing: whether an authority signed it is asked apart, with [`Certificate::issued_by`] here and by
//! every handshake.

use crate::key;
use crate::role::{Cluster, Role};
use ollamamax_proto::{Digest, Millis, limits};
use rustls::pki_types::{CertificateDer, UnixTime};
use std::fmt;
use std::time::Duration;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_cert::der::Decode;
use x509_cert::time::Time;

/// Bytes that are no certificate of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// More bytes than any of ours has.
    #[error("the certificate has {got} bytes, at most {max} are read")]
    TooLong {
        /// Its length, in bytes.
        got: usize,
        /// Most accepted, in bytes.
        max: usize,
    },
    /// It is no X.509 certificate.
    #[error("the certificate is malformed")]
    Malformed,
    /// Its names are not those of exactly one member.
    #[error("the certificate is neither a node's nor a worker's: its names are {names:?}")]
    NoMember {
        /// As they stand there.
        names: Vec<String>,
    },
    /// Its name is not that of an authority.
    #[error("the certificate is not that of an authority: its names are {names:?}")]
    NoAuthority {
        /// As they stand there.
        names: Vec<String>,
    },
    /// The authority did not sign it, or not for that, or not for then.
    #[error("the certificate is not from that authority: {0}")]
    NotIssued(String),
}

/// A certificate that was read, and not yet believed.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    der: CertificateDer<'static>,
    names: Vec<String>,
    /// `SubjectPublicKeyInfo`.
    public: Vec<u8>,
    not_before: Millis,
    not_after: Millis,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("names", &self.names)
            .field("not_after", &self.not_after)
            .field("fingerprint", &self.fingerprint())
            .finish()
    }
}

impl Certificate {
    /// Reads one from DER.
    pub fn from_der(bytes: &[u8]) -> Result<Self, CertificateError> {
        let max = limits::TLS_CERTIFICATE_BYTES;
        if bytes.len() > max {
            return Err(CertificateError::TooLong { got: bytes.len(), max });
        }
        let der = CertificateDer::from(bytes.to_vec());
        let parsed = EndEntityCert::try_from(&der).map_err(|_| CertificateError::Malformed)?;
        let names = parsed.valid_dns_names().map(str::to_owned).collect();
        let public = parsed.subject_public_key_info().as_ref().to_vec();
        let (not_before, not_after) = validity(&der).ok_or(CertificateError::Malformed)?;
        Ok(Self { der, names, public, not_before, not_after })
    }

    /// Reads the only one of a PEM text, as [`Certificate::pem`] writes it.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        let max = limits::TLS_FILE_BYTES;
        if pem.len() > max {
            return Err(CertificateError::TooLong { got: pem.len(), max });
        }
        let sections = key::Sections::read(pem).ok_or(CertificateError::Malformed)?;
        match (&sections.keys[..], &sections.certificates[..]) {
            ([], [der]) => Self::from_der(der),
            _ => Err(CertificateError::Malformed),
        }
    }

    /// As it is sent.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// As it is written to files.
    pub fn pem(&self) -> String {
        key::pem(key::CERTIFICATE, self.der()).to_string()
    }

    /// The SHA-256 of [`Certificate::der`].
    pub fn fingerprint(&self) -> Digest {
        Digest::of(self.der())
    }

    /// Its first moment.
    pub fn not_before(&self) -> Millis {
        self.not_before
    }

    /// Its last moment.
    pub fn not_after(&self) -> Millis {
        self.not_after
    }

    /// Which member of which cluster it says it is.
    pub fn role(&self) -> Result<(Role, Cluster), CertificateError> {
        let role = Role::of_names(self.names.iter().map(String::as_str));
        role.ok_or_else(|| CertificateError::NoMember { names: self.names.clone() })
    }

    /// The cluster whose authority it says it is.
    pub fn authority_of(&self) -> Result<Cluster, CertificateError> {
        let cluster = Cluster::of_authority(self.names.iter().map(String::as_str));
        cluster.ok_or_else(|| CertificateError::NoAuthority { names: self.names.clone() })
    }

    /// Whether `authority` signed it, for serving as well as for calling, and it is valid at `at`.
    pub fn issued_by(&self, authority: &Self, at: Millis) -> Result<(), CertificateError> {
        let failed = |error: webpki::Error| CertificateError::NotIssued(error.to_string());
        let anchor = anchor_from_trusted_cert(&authority.der).map_err(failed)?;
        let parsed = EndEntityCert::try_from(&self.der).map_err(failed)?;
        let at = UnixTime::since_unix_epoch(Duration::from_millis(at.0));
        let provider = key::provider();
        for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
            parsed
                .verify_for_usage(
                    provider.signature_verification_algorithms.all,
                    std::slice::from_ref(&anchor),
                    &[],
                    at,
                    usage,
                    None,
                    None,
                )
                .map_err(failed)?;
        }
        Ok(())
    }

    pub(crate) fn public(&self) -> &[u8] {
        &self.public
    }

    pub(crate) fn to_rustls(&self) -> CertificateDer<'static> {
        self.der.clone()
    }
}

/// From when until when, by the second.
fn validity(der: &[u8]) -> Option<(Millis, Millis)> {
    let read = x509_cert::Certificate::from_der(der).ok()?;
    let validity = read.tbs_certificate().validity();
    let moment = |time: Time| Millis(time.to_unix_duration().as_secs() * 1_000);
    Some((moment(validity.not_before), moment(validity.not_after)))
}
