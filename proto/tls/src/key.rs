//! A private key, which is never shown and is overwritten when it goes; and PEM, its written form.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::SigningKey;
use std::fmt;
use std::sync::{Arc, LazyLock};
use zeroize::{Zeroize, Zeroizing};

/// All cryptography of this crate, whatever else is compiled in.
static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// The system gave no randomness, or no key could be made of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no key could be made: {0}")]
pub(crate) struct KeyError(pub String);

/// Random bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    let filled = provider().secure_random.fill(&mut bytes);
    filled.map_err(|_| KeyError("the system gave no random bytes".to_owned()))?;
    Ok(bytes)
}

/// An ECDSA key on P-256, as PKCS #8.
#[derive(Clone)]
pub(crate) struct Key(Arc<Zeroizing<Vec<u8>>>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    pub(crate) fn generate() -> Result<Self, KeyError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256);
        let pair = Pair(pair.map_err(|error| KeyError(error.to_string()))?);
        Ok(Self(Arc::new(Zeroizing::new(pair.0.serialized_der().to_vec()))))
    }

    /// `None` when it is no P-256 key.
    pub(crate) fn from_der(der: Zeroizing<Vec<u8>>) -> Option<Self> {
        let key = Self(Arc::new(der));
        key.pair().ok().map(|_| key)
    }

    pub(crate) fn der(&self) -> &[u8] {
        &self.0
    }

    /// For certificates and requests.
    pub(crate) fn pair(&self) -> Result<Pair, KeyError> {
        let der = PrivatePkcs8KeyDer::from(self.der());
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256);
        pair.map(Pair).map_err(|error| KeyError(error.to_string()))
    }

    /// For handshakes.
    pub(crate) fn signer(&self) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.der()));
        rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der)
    }

    /// The public key as certificates hold it (`SubjectPublicKeyInfo`).
    pub(crate) fn public(&self) -> Result<Vec<u8>, KeyError> {
        Ok(self.pair()?.0.subject_public_key_info())
    }
}

/// A key in use; its written form is overwritten when it goes.
pub(crate) struct Pair(pub KeyPair);

impl Drop for Pair {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What a PEM text holds, in its order; text around it is left out.
#[derive(Default)]
pub(crate) struct Sections {
    pub keys: Vec<Zeroizing<Vec<u8>>>,
    pub certificates: Vec<Vec<u8>>,
}

impl Sections {
    /// `None` when it is malformed, or holds something else.
    pub(crate) fn read(pem: &[u8]) -> Option<Self> {
        let mut sections = Self::default();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
            match section.ok()? {
                (SectionKind::PrivateKey, der) => sections.keys.push(Zeroizing::new(der)),
                (SectionKind::Certificate, der) => sections.certificates.push(der),
                _ => return None,
            }
        }
        Some(sections)
    }
}

pub(crate) const PRIVATE_KEY: &str = "PRIVATE KEY";
pub(crate) const CERTIFICATE: &str = "CERTIFICATE";

/// RFC 7468: base64 in lines of 64.
pub(crate) fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    // As long as it will be: growing would leave copies behind.
    let mut text = Zeroizing::new(String::with_capacity(body.len() * 2 + label.len() * 2 + 64));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    for start in (0..body.len()).step_by(64) {
        text.push_str(&body[start..body.len().min(start + 64)]);
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}
