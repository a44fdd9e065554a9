//! What a member is and whom it believes: its key, its certificate, and the authorities that it trusts.
//!
//! All of it lies in one file, so that a renewal replaces all of it or nothing. While one authority replaces another,
//! members trust both: `with_trusted` first everywhere, then certificates are renewed, then the old one goes.

use crate::certificate::{Certificate, CertificateError};
use crate::key::{self, Key, KeyError, Sections};
use crate::private::{self, PrivateError};
use crate::role::{Cluster, Role};
use ollamamax_proto::{Digest, Millis, limits};
use std::path::Path;
use zeroize::Zeroizing;

/// The one file of [`Identity::save`]: private key, own certificate, trusted authorities, in PEM.
const FILE: &str = "identity.pem";

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No key could be made, or used.
    #[error("{0}")]
    NoKey(String),
    /// The text is not what an identity is written as.
    #[error(
        "an identity is one private key on P-256, its certificate and 1 to {max} authorities in PEM"
    )]
    Malformed {
        /// Most authorities.
        max: usize,
    },
    /// A certificate of it.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The key is that of another certificate.
    #[error("the private key does not belong to the certificate of {role}, `{fingerprint}`")]
    Mismatch {
        /// Of the certificate.
        role: Role,
        /// Of the certificate.
        fingerprint: Digest,
    },
    /// An authority is that of another cluster.
    #[error("the certificate is of cluster `{expected}`, an authority is of `{got}`")]
    Foreign {
        /// Of the certificate.
        expected: Cluster,
        /// Of the authority.
        got: Cluster,
    },
    /// None of the authorities signed the certificate.
    #[error("none of the {count} trusted authorities signed the certificate of {role}")]
    NotIssued {
        /// Of the certificate.
        role: Role,
        /// Trusted ones.
        count: usize,
    },
    /// Its file.
    #[error(transparent)]
    File(#[from] PrivateError),
}

impl From<KeyError> for IdentityError {
    fn from(error: KeyError) -> Self {
        Self::NoKey(error.to_string())
    }
}

/// Changes whenever other authorities are trusted or another one signs: members with another mark have to renew.
pub fn trust_mark(mut trusted: Vec<Digest>, signer: Option<Digest>) -> Digest {
    trusted.sort();
    let bytes: Vec<[u8; 32]> = trusted.into_iter().chain(signer).map(|digest| digest.0).collect();
    Digest::of(&bytes.concat())
}

/// What a member is and whom it believes. It may have ended: that is a question of the time.
#[derive(Clone, Debug)]
pub struct Identity {
    key: Key,
    certificate: Certificate,
    trusted: Vec<Certificate>,
    /// Which of `trusted` signed `certificate`.
    issuer: usize,
    role: Role,
    cluster: Cluster,
}

impl Identity {
    pub(crate) fn new(
        key: Key,
        certificate: Certificate,
        trusted: Vec<Certificate>,
    ) -> Result<Self, IdentityError> {
        let (role, cluster) = certificate.role()?;
        if key.public()? != certificate.public() {
            let fingerprint = certificate.fingerprint();
            return Err(IdentityError::Mismatch { role, fingerprint });
        }
        if !(1..=limits::TLS_AUTHORITIES_COUNT).contains(&trusted.len()) {
            return Err(IdentityError::Malformed { max: limits::TLS_AUTHORITIES_COUNT });
        }
        for authority in &trusted {
            let got = authority.authority_of()?;
            if got != cluster {
                return Err(IdentityError::Foreign { expected: cluster, got });
            }
        }
        // Asked for the first moment of the certificate, so that one that has ended can be loaded, and replaced.
        let issued = |at: &Certificate| certificate.issued_by(at, certificate.not_before()).is_ok();
        let issuer = trusted.iter().position(issued);
        let issuer = issuer.ok_or(IdentityError::NotIssued { role, count: trusted.len() })?;
        Ok(Self { key, certificate, trusted, issuer, role, cluster })
    }

    /// The same member with other authorities trusted; one of them must have signed its certificate.
    pub fn with_trusted(&self, trusted: Vec<Certificate>) -> Result<Self, IdentityError> {
        Self::new(self.key.clone(), self.certificate.clone(), trusted)
    }

    /// Reads what [`Identity::to_pem`] wrote.
    pub fn from_pem(pem: &[u8]) -> Result<Self, IdentityError> {
        let malformed = || IdentityError::Malformed { max: limits::TLS_AUTHORITIES_COUNT };
        if pem.len() > limits::TLS_FILE_BYTES {
            return Err(malformed());
        }
        let mut sections = Sections::read(pem).ok_or_else(malformed)?;
        if sections.keys.len() != 1 || sections.certificates.is_empty() {
            return Err(malformed());
        }
        let key = Key::from_der(sections.keys.remove(0)).ok_or_else(malformed)?;
        let certificates = sections.certificates.iter().map(|der| Certificate::from_der(der));
        let mut certificates: Vec<_> = certificates.collect::<Result<_, _>>()?;
        let certificate = certificates.remove(0);
        Self::new(key, certificate, certificates)
    }

    /// Private key, certificate, trusted authorities. Whoever has this text is that member.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let key = key::pem(key::PRIVATE_KEY, self.key.der());
        let certificates = std::iter::once(&self.certificate).chain(&self.trusted);
        let certificates: String = certificates.map(Certificate::pem).collect();
        let mut text = Zeroizing::new(String::with_capacity(key.len() + certificates.len()));
        text.push_str(&key);
        text.push_str(&certificates);
        text
    }

    /// Keeps it in `directory`, which only its owner may enter (0700), in one file (0600), whole or not at all.
    pub fn save(&self, directory: &Path) -> Result<(), IdentityError> {
        Ok(private::save(directory, FILE, self.to_pem().as_bytes())?)
    }

    /// What was kept in `directory`, `None` when nothing was. Refuses a file that others may read.
    pub fn load(directory: &Path) -> Result<Option<Self>, IdentityError> {
        let pem = private::load(directory, FILE, limits::TLS_FILE_BYTES)?;
        pem.map(|pem| Self::from_pem(&pem)).transpose()
    }

    /// Which member.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Of which cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The member's own.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Whoever shows a certificate signed by one of these is believed.
    pub fn trusted(&self) -> &[Certificate] {
        &self.trusted
    }

    /// [`trust_mark`] of what it trusts and who signed it.
    pub fn trust_mark(&self) -> Digest {
        let trusted = self.trusted.iter().map(Certificate::fingerprint).collect();
        trust_mark(trusted, Some(self.trusted[self.issuer].fingerprint()))
    }

    /// From when on it should be renewed: after [`limits::TLS_RENEW_PERCENT`] of its life, which began when it was signed, a
    /// little after its first moment.
    pub fn renew_at(&self) -> Millis {
        let until = self.certificate.not_after();
        let from = self.certificate.not_before().plus(limits::TLS_SKEW_MS).min(until);
        from.plus(until.since(from) / 100 * limits::TLS_RENEW_PERCENT)
    }

    /// Whether nobody believes it any more.
    pub fn has_ended(&self, now: Millis) -> bool {
        now > self.certificate.not_after()
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// What is shown in a handshake: with the authority, by which who joins recognises the cluster.
    pub(crate) fn chain(&self) -> [&Certificate; 2] {
        [&self.certificate, &self.trusted[self.issuer]]
    }
}
