//! Secrets that clients present, as text: API keys and refresh tokens. Both begin with what they are, so that a scanner finds
//! one that was leaked and a person sees which is which.
//!
//! ```text
//! API key        omk_<16 hex digits: its id>_<43 characters: 256 random bits>
//! refresh token  omr_<32 hex digits: its session>_<number>_<43 characters: HMAC of both with the sealing key>
//! ```
//!
//! A refresh token is made of its session and its number alone: whichever gateway is asked makes the same successor, and a
//! forged one is told from one that was replaced without keeping any.

use crate::secrets::{self, SealingKey};
use ollamamax_core::access::{KeyId, SessionId};
use zeroize::Zeroizing;

const KEY: &str = "omk_";
const REFRESH: &str = "omr_";
const SECRET_CHARS: usize = 43;

/// An API key as a client presents it.
pub struct PresentedKey<'a> {
    /// Its visible part.
    pub id: KeyId,
    secret: &'a str,
}

impl<'a> PresentedKey<'a> {
    /// Reads one; `None` when it is none.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(KEY)?.split_once('_')?;
        (secret.len() == SECRET_CHARS).then_some(())?;
        Some(Self { id: id.parse().ok()?, secret })
    }

    /// SHA-256 of its secret part.
    pub fn hash(&self) -> [u8; 32] {
        secrets::hash(self.secret)
    }
}

/// Whether `text` says that it is an API key, well-formed or not.
pub fn is_key(text: &str) -> bool {
    text.starts_with(KEY)
}

/// Whether `text` means to be a credential of this cluster or of a provider, good or not: what begins as ours do, or a JWT.
pub fn looks_like_ours(text: &str) -> bool {
    ["omk_", "omr_", "omj_"].iter().any(|ours| text.starts_with(ours))
        || text.matches('.').count() >= 2
}

/// A new API key: its id, its text, and the hash that is kept.
pub fn new_key() -> (KeyId, Zeroizing<String>, [u8; 32]) {
    let id = KeyId(u64::from_be_bytes(secrets::random()));
    let secret = secrets::random_text();
    let hash = secrets::hash(&secret);
    (id, Zeroizing::new(format!("{KEY}{id}_{}", *secret)), hash)
}

/// A refresh token as a client presents it, made by this cluster.
#[derive(Clone, Copy)]
pub struct RefreshToken {
    /// Of which login.
    pub session: SessionId,
    /// Its place among the tokens of that login.
    pub generation: u64,
}

impl RefreshToken {
    /// Reads one and checks that this cluster made it.
    pub fn parse(text: &str, sealing: &SealingKey) -> Option<Self> {
        let mut parts = text.strip_prefix(REFRESH)?.splitn(3, '_');
        let session = parts.next()?.parse().ok()?;
        let number = parts.next()?;
        // One spelling only, or a token would have many texts and hashes.
        let generation = number.parse::<u64>().ok().filter(|n| n.to_string() == number)?;
        let token = Self { session, generation };
        secrets::same(token.reveal(sealing).as_bytes(), text.as_bytes()).then_some(token)
    }

    /// Its text.
    pub fn reveal(&self, sealing: &SealingKey) -> Zeroizing<String> {
        let message = format!("{}_{}", self.session, self.generation);
        let code = secrets::base64url(&sealing.code("refresh token 1", message.as_bytes()));
        Zeroizing::new(format!("{REFRESH}{message}_{code}"))
    }

    /// SHA-256 of its text, as it is kept.
    pub fn hash(&self, sealing: &SealingKey) -> [u8; 32] {
        secrets::hash(&self.reveal(sealing))
    }

    /// The one that replaces it.
    #[must_use]
    pub fn successor(self) -> Self {
        Self { generation: self.generation + 1, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_is_known_by_its_id_and_proven_by_its_secret() {
        let (id, text, hash) = new_key();
        let presented = PresentedKey::parse(&text).expect("its own text");
        assert_eq!((presented.id, presented.hash()), (id, hash));
        assert!(is_key(&text) && PresentedKey::parse(&text[..text.len() - 1]).is_none());
        assert!(looks_like_ours(&text) && looks_like_ours("a.b.c") && !looks_like_ours("ollama"));
    }

    #[test]
    fn a_refresh_token_is_the_same_wherever_it_is_made_and_forged_nowhere() {
        let sealing = SealingKey::random();
        let first = RefreshToken { session: SessionId(7), generation: 0 };
        let text = first.successor().reveal(&sealing);
        assert_eq!(*text, *first.successor().reveal(&sealing.clone()));
        let read = RefreshToken::parse(&text, &sealing).expect("its own text");
        assert_eq!((read.session, read.generation), (SessionId(7), 1));
        assert!(RefreshToken::parse(&text, &SealingKey::random()).is_none());
        assert!(RefreshToken::parse(&text.replace("_1_", "_2_"), &sealing).is_none());
        assert!(RefreshToken::parse(&text.replace("_1_", "_01_"), &sealing).is_none());
    }

    proptest! {
        #[test]
        fn foreign_text_never_panics(text in "(omk_|omr_)?[0-9a-f]{0,34}_?[0-9]{0,25}_?\\PC{0,50}") {
            let sealing = SealingKey::random();
            prop_assert!(RefreshToken::parse(&text, &sealing).is_none());
            let _ = PresentedKey::parse(&text).map(|key| key.hash());
        }
    }
}
