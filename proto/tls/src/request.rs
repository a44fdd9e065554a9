//! What a joining process asks with: a public key, and the proof that it has the private one. It asks for no names and no
//! rights; those come from the role that the cluster gives it.
//!
//! The form is PKCS #10 (RFC 2986) with everything empty that may be empty, so there is nothing in it to interpret:
//!
//! ```text
//! SEQUENCE { SEQUENCE { 0, subject {}, P-256 key, [0] {} }, ecdsa-with-SHA256, signature }
//! ```

use crate::certificate::Certificate;
use crate::der::{self, Reader};
use crate::identity::{Identity, IdentityError};
use crate::key::{Key, KeyError};
use ollamamax_proto::limits;
use rcgen::{CertificateParams, DistinguishedName, PublicKeyData, SignatureAlgorithm};
use std::fmt;

/// `AlgorithmIdentifier` of ecdsa-with-SHA256 (RFC 5758, 3.2).
const ECDSA_SHA256: &[u8] =
    &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
/// `SubjectPublicKeyInfo` of a P-256 key up to its point (RFC 5480, 2): 65 bytes, uncompressed.
const P256: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const POINT_BYTES: usize = 65;

/// Why a request for a certificate is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// More bytes than a key and its proof take.
    #[error("the request has {got} bytes, at most {max} are read")]
    TooLong {
        /// Its length, in bytes.
        got: usize,
        /// Most accepted, in bytes.
        max: usize,
    },
    /// It is no PKCS #10 request.
    #[error("the request is malformed")]
    Malformed,
    /// It names a subject, other names, usages, or wants to be an authority.
    #[error("the request asks for {what}; what a certificate says comes from the role alone")]
    AsksForMore {
        /// "a subject", "attributes".
        what: &'static str,
    },
    /// Its key is no P-256 key, or signs otherwise than with SHA-256.
    #[error("the request is not for an ECDSA key on P-256 with SHA-256")]
    Key,
    /// Its signature does not fit its key.
    #[error("the request is not signed by its own key")]
    Signature,
}

/// A key of a process that wants to join, and the request for its certificate. The private key never leaves it.
pub struct Request {
    key: Key,
    der: Vec<u8>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("bytes", &self.der.len()).finish_non_exhaustive()
    }
}

impl Request {
    /// Makes a key. Fails only when the system gives no randomness.
    pub fn new() -> Result<Self, IdentityError> {
        let key = Key::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key.pair()?.0);
        let request = request.map_err(|error| KeyError(error.to_string()))?;
        Ok(Self { key, der: request.der().to_vec() })
    }

    /// What is sent to be signed: at most [`limits::TLS_REQUEST_BYTES`].
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whether `der` could be signed: whoever signs asks before it does what cannot be undone.
    pub fn check(der: &[u8]) -> Result<(), RequestError> {
        Requested::check(der).map(drop)
    }

    /// Takes the certificate that was given for this request. `trusted` are the authorities of the cluster; one of them
    /// must have signed it.
    pub fn identity(
        self,
        certificate: Certificate,
        trusted: Vec<Certificate>,
    ) -> Result<Identity, IdentityError> {
        Identity::new(self.key, certificate, trusted)
    }
}

/// The public key of a request that was checked: the point.
pub(crate) struct Requested([u8; POINT_BYTES]);

impl PublicKeyData for Requested {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl Requested {
    pub(crate) fn check(request: &[u8]) -> Result<Self, RequestError> {
        let max = limits::TLS_REQUEST_BYTES;
        if request.len() > max {
            return Err(RequestError::TooLong { got: request.len(), max });
        }
        let parts = parts(request).ok_or(RequestError::Malformed)?;
        for (empty, what) in [(parts.subject, "a subject"), (parts.attributes, "attributes")] {
            if !empty.is_empty() {
                return Err(RequestError::AsksForMore { what });
            }
        }
        let point = parts.key.strip_prefix(P256).and_then(|point| point.try_into().ok());
        let point: [u8; POINT_BYTES] = point.ok_or(RequestError::Key)?;
        if parts.algorithm != ECDSA_SHA256 {
            return Err(RequestError::Key);
        }
        // It also refuses a point that is not on the curve.
        webpki::aws_lc_rs::ECDSA_P256_SHA256
            .verify_signature(&point, parts.signed, parts.signature)
            .map_err(|_| RequestError::Signature)?;
        Ok(Self(point))
    }
}

struct Parts<'a> {
    /// All that the signature is over.
    signed: &'a [u8],
    subject: &'a [u8],
    key: &'a [u8],
    attributes: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
}

fn parts(request: &[u8]) -> Option<Parts<'_>> {
    let mut outer = Reader::new(der::only(request, der::SEQUENCE)?.value);
    let signed = outer.expect(der::SEQUENCE)?;
    let algorithm = outer.expect(der::SEQUENCE)?.whole;
    // The first byte counts the bits that are not used: none.
    let signature = outer.expect(der::BIT_STRING)?.value.strip_prefix(&[0])?;
    let mut inner = Reader::new(signed.value);
    inner.expect(der::INTEGER).filter(|version| version.value == [0])?;
    let subject = inner.expect(der::SEQUENCE)?.value;
    let key = inner.expect(der::SEQUENCE)?.whole;
    let attributes = inner.expect(der::CONTEXT_0)?.value;
    let whole = outer.is_empty() && inner.is_empty();
    let signed = signed.whole;
    whole.then_some(Parts { signed, subject, key, attributes, algorithm, signature })
}
