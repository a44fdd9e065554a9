//! What a joining process asks with: a public key, and the proof that it has the private one. It asks for no names and no
//! rights; those come from the role that the cluster gives it.
//!
//! The form is PKCS #10 (RFC 2986) with everything empty that may be empty, so there is nothing in it to interpret:
//!
//! ```text
//! SEQUENCE { SEQUENCE { 0, subject {}, P-256 key, [0] {} }, ecdsa-with-SHA256, signature }
//! ```

use crate::certificate::Certificate;
use crate::identity::{Identity, IdentityError};
use crate::key::{Key, KeyError};
use ollamamax_proto::limits;
use rcgen::{CertificateParams, DistinguishedName, PublicKeyData, SignatureAlgorithm};
use std::fmt;
use x509_cert::der::asn1::Any;
use x509_cert::der::oid::db::rfc5912::{ECDSA_WITH_SHA_256, ID_EC_PUBLIC_KEY, SECP_256_R_1};
use x509_cert::der::{Decode, Encode};
use x509_cert::request::CertReq;
use x509_cert::spki::AlgorithmIdentifier;

/// A point of P-256, uncompressed. Source: RFC 5480, 2.2.
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
        let asked = CertReq::from_der(request).map_err(|_| RequestError::Malformed)?;
        let info = &asked.info;
        for (empty, what) in
            [(info.subject.is_empty(), "a subject"), (info.attributes.is_empty(), "attributes")]
        {
            if !empty {
                return Err(RequestError::AsksForMore { what });
            }
        }
        let kind = AlgorithmIdentifier {
            oid: ID_EC_PUBLIC_KEY,
            parameters: Some(Any::from(SECP_256_R_1)),
        };
        let signing = AlgorithmIdentifier { oid: ECDSA_WITH_SHA_256, parameters: None };
        let key = &info.public_key;
        let point = key.subject_public_key.as_bytes().and_then(|point| point.try_into().ok());
        let point: [u8; POINT_BYTES] = point.ok_or(RequestError::Key)?;
        if key.algorithm != kind || asked.algorithm != signing {
            return Err(RequestError::Key);
        }
        // What is signed is the encoding, and there is one only. It also refuses a point that is not on the curve.
        let signed = info.to_der().map_err(|_| RequestError::Malformed)?;
        let signature = asked.signature.as_bytes().ok_or(RequestError::Malformed)?;
        webpki::aws_lc_rs::ECDSA_P256_SHA256
            .verify_signature(&point, &signed, signature)
            .map_err(|_| RequestError::Signature)?;
        Ok(Self(point))
    }
}
