//! Secrets: the cluster's sealing key and what is made with it. Nothing here can be printed by accident, and what is dropped is
//! wiped.
//!
//! ```text
//! sealing key --HKDF-SHA256(purpose)--> AES-256-GCM-SIV key: seals private keys before they are replicated
//!                                  \--> HMAC-SHA256 key: makes refresh tokens
//! ```
//!
//! All nodes of a cluster have the same sealing key; it is never replicated. Whoever has the disk of a node, but not the key,
//! has no private key of the cluster.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{constant_time, digest, hkdf, hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fmt;
use zeroize::Zeroizing;

/// Bytes of a secret: 256 bits.
pub const SECRET_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;

/// Seals what is replicated. 256 random bits, written as 43 characters of base64url.
#[derive(Clone)]
pub struct SealingKey(Zeroizing<[u8; SECRET_BYTES]>);

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey(hidden)")
    }
}

/// A text that is no sealing key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sealing key is not one: expected 43 characters of base64url, which are 256 bits")]
pub struct InvalidSealingKey;

impl SealingKey {
    /// A new one.
    pub fn random() -> Self {
        Self(Zeroizing::new(random()))
    }

    /// Reads one, with or without a newline at its end.
    ///
    /// # Errors
    /// When it is none; the error does not repeat it.
    pub fn parse(text: &str) -> Result<Self, InvalidSealingKey> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end()).map_err(|_| InvalidSealingKey)?;
        let bytes = Zeroizing::new(bytes);
        let key: [u8; SECRET_BYTES] = bytes[..].try_into().map_err(|_| InvalidSealingKey)?;
        Ok(Self(Zeroizing::new(key)))
    }

    /// As it is written into its file.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(&self.0[..]))
    }

    /// Encrypts and authenticates `plain` for `purpose`: the nonce, the ciphertext and its tag.
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_BYTES] = random();
        let mut sealed = plain.to_vec();
        self.cipher(purpose)
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(purpose.as_bytes()),
                &mut sealed,
            )
            .expect("a key is far shorter than what the cipher takes");
        [&nonce[..], &sealed].concat()
    }

    /// What [`SealingKey::seal`] was given; `None` when it was sealed with another key, for another purpose, or changed.
    pub fn unseal(&self, purpose: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let mut plain = Zeroizing::new(sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let aad = Aad::from(purpose.as_bytes());
        let length = self.cipher(purpose).open_in_place(nonce, aad, &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }

    /// A code that only who has the key can make of `message`.
    pub fn code(&self, purpose: &str, message: &[u8]) -> [u8; SECRET_BYTES] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.derive(purpose)[..]);
        let mut code = [0; SECRET_BYTES];
        code.copy_from_slice(hmac::sign(&key, message).as_ref());
        code
    }

    fn cipher(&self, purpose: &str) -> LessSafeKey {
        let key = UnboundKey::new(&AES_256_GCM_SIV, &self.derive(purpose)[..]);
        LessSafeKey::new(key.expect("the key has the cipher's length"))
    }

    fn derive(&self, purpose: &str) -> Zeroizing<[u8; SECRET_BYTES]> {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"ollamamax sealing key 1");
        let mut derived = Zeroizing::new([0; SECRET_BYTES]);
        salt.extract(&self.0[..])
            .expand(&[purpose.as_bytes()], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut derived[..]))
            .expect("32 bytes are what HKDF-SHA256 gives at once");
        derived
    }
}

/// Random bytes from the operating system's generator.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// A random secret as text: 43 characters of base64url.
pub fn random_text() -> Zeroizing<String> {
    Zeroizing::new(URL_SAFE_NO_PAD.encode(&Zeroizing::new(random::<SECRET_BYTES>())[..]))
}

/// SHA-256 of a secret with 256 random bits, as it is kept.
pub fn hash(secret: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, secret.as_bytes()).as_ref());
    hash
}

/// Whether both are the same, in a time that does not tell where they differ.
pub fn same(one: &[u8], other: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(one, other).is_ok()
}

/// Bytes as text in URLs and headers.
pub fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_the_same_key_and_for_the_same_purpose() {
        let key = SealingKey::random();
        let sealed = key.seal("a", b"private");
        assert!(!sealed.windows(7).any(|window| window == b"private"));
        assert_eq!(key.unseal("a", &sealed).expect("its own")[..], b"private"[..]);
        assert!(key.unseal("b", &sealed).is_none(), "another purpose");
        assert!(SealingKey::random().unseal("a", &sealed).is_none(), "another key");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(key.unseal("a", &changed).is_none(), "byte {at}");
            assert!(key.unseal("a", &sealed[..at]).is_none(), "cut at {at}");
        }
        assert_ne!(sealed, key.seal("a", b"private"), "sealing twice shows nothing");
    }

    #[test]
    fn a_sealing_key_is_read_as_it_is_written_and_never_shown() {
        let key = SealingKey::random();
        let text = key.reveal();
        let again = SealingKey::parse(&format!("{}\n", *text)).expect("its own text");
        assert_eq!(again.code("x", b"m"), key.code("x", b"m"));
        assert_ne!(again.code("y", b"m"), key.code("x", b"m"));
        assert!(!format!("{key:?}").contains(&text[..8]));
        for wrong in ["", "abc", &text[1..], "not base64!"] {
            let error = SealingKey::parse(wrong).expect_err("too short").to_string();
            assert!(wrong.is_empty() || !error.contains(wrong), "{error}");
        }
    }
}
