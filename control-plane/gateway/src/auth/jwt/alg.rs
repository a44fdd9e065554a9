//! The algorithms that sign access tokens, each with the form its keys are kept in.
//!
//! ```text
//!          private, sealed            public
//! RS256    RSAPrivateKey (RFC 8017)   RSAPublicKey (RFC 8017)      2048 bits
//! ES256    PKCS #8                    uncompressed point (SEC 1)   P-256
//! EdDSA    PKCS #8                    32 bytes (RFC 8032)          Ed25519
//! ```

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use ollamamax_core::access::SigningKey;
use pkcs8::PrivateKeyInfoRef;
use pkcs8::der::Decode;
use std::str::FromStr;
use zeroize::Zeroizing;

/// One of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alg {
    /// RSA with 2048 bits and SHA-256: what everybody can verify.
    #[default]
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl FromStr for Alg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|alg| alg.name() == text).ok_or_else(|| {
            let text: String = text.chars().take(50).collect();
            format!("`{text}` signs no access tokens; expected `RS256`, `ES256` or `EdDSA`")
        })
    }
}

impl Alg {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Rs256, Self::Es256, Self::EdDsa];

    /// As JOSE has it (RFC 7518, RFC 8037).
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// That of a key; `None` when a later version made it.
    pub fn of(key: &SigningKey) -> Option<Self> {
        key.algorithm.parse().ok()
    }

    pub(super) const fn jwt(self) -> Algorithm {
        match self {
            Self::Rs256 => Algorithm::RS256,
            Self::Es256 => Algorithm::ES256,
            Self::EdDsa => Algorithm::EdDSA,
        }
    }

    /// What signs, of a private key as it is sealed.
    pub(super) fn signer(self, private: &[u8]) -> EncodingKey {
        match self {
            Self::Rs256 => EncodingKey::from_rsa_der(private),
            Self::Es256 => EncodingKey::from_ec_der(private),
            Self::EdDsa => EncodingKey::from_ed_der(private),
        }
    }

    /// What verifies, of a public key as it is kept.
    pub(super) fn verifier(self, public: &[u8]) -> DecodingKey {
        match self {
            Self::Rs256 => DecodingKey::from_rsa_der(public),
            Self::Es256 => DecodingKey::from_ec_der(public),
            Self::EdDsa => DecodingKey::from_ed_der(public),
        }
    }

    /// A new private key and its public one.
    pub(super) fn generate(self) -> Option<(Zeroizing<Vec<u8>>, Vec<u8>)> {
        let own = |bytes: &[u8]| Zeroizing::new(bytes.to_vec());
        let random = SystemRandom::new();
        match self {
            Self::Rs256 => {
                let pair = rsa::KeyPair::generate(KeySize::Rsa2048).ok()?;
                let pkcs8 = pair.as_der().ok()?;
                // What signs is given no more than the RSAPrivateKey in it.
                let private = PrivateKeyInfoRef::from_der(pkcs8.as_ref()).ok()?.private_key;
                Some((own(private.as_bytes()), pair.public_key().as_ref().to_vec()))
            }
            Self::Es256 => {
                let alg = &ECDSA_P256_SHA256_FIXED_SIGNING;
                let pkcs8 = EcdsaKeyPair::generate_pkcs8(alg, &random).ok()?;
                let pair = EcdsaKeyPair::from_pkcs8(alg, pkcs8.as_ref()).ok()?;
                Some((own(pkcs8.as_ref()), pair.public_key().as_ref().to_vec()))
            }
            Self::EdDsa => {
                let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).ok()?;
                let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).ok()?;
                Some((own(pkcs8.as_ref()), pair.public_key().as_ref().to_vec()))
            }
        }
    }
}
