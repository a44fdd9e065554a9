//! Access tokens: JWTs (RFC 9068), good for minutes and on every node, signed with the algorithm of the key in force.
//!
//! ```text
//! text -> seen before? ------------------------- yes --> claims -+-> key still believed, not expired -> claims
//!           \-- no -> header -> kid -> its alg? -> verify -> claims +
//! ```
//!
//! What a token says is believed; whether its user, its session and the token itself are still good is looked up in the state
//! each time. The header is checked to the letter: a key that is ours, the one algorithm of that key, nothing that names a key
//! elsewhere (RFC 8725). A key is kept with its algorithm and used with no other, so a token cannot choose.

mod alg;

use crate::secrets::{self, SealingKey};
pub use alg::Alg;
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{EncodingKey, Header, Validation};
use ollamamax_core::access::{Access, Hidden, SessionId, SigningKey, SigningKeyId, TokenId};
use ollamamax_proto::{Millis, limits};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

const AUDIENCE: &str = "ollamamax";
const TYPE: &str = "at+jwt";
const SEALED_FOR: &str = "signing key 1";

/// What an access token says. Times in seconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// `ollamamax:` and the cluster's id.
    pub iss: String,
    /// `ollamamax`.
    pub aud: String,
    /// The user.
    pub sub: String,
    /// From when on it is good.
    pub nbf: u64,
    /// When it was issued.
    pub iat: u64,
    /// When it expires.
    pub exp: u64,
    /// Its own id.
    pub jti: String,
    /// The session it belongs to.
    pub sid: String,
    /// The user's roles when it was issued, for others to read; here the state says which they are now.
    pub roles: BTreeSet<String>,
}

/// An access token that is genuine.
#[derive(Debug)]
pub struct Verified {
    /// Who.
    pub user: String,
    /// Of which login.
    pub session: SessionId,
    /// Which token.
    pub id: TokenId,
    /// When it was issued, in seconds since the epoch.
    pub issued_s: u64,
    /// When it expires, in seconds since the epoch.
    pub expires_s: u64,
    key: SigningKeyId,
}

/// Makes access tokens and knows them again.
pub struct Tokens {
    sealing: SealingKey,
    seen: Cache<Box<str>, Arc<Verified>>,
    signer: Mutex<Option<(SigningKeyId, EncodingKey)>>,
}

impl Tokens {
    /// With the cluster's sealing key.
    pub fn new(sealing: SealingKey) -> Self {
        let (seen, signer) = (Cache::new(limits::ACCESS_TOKENS_CACHED_COUNT), Mutex::default());
        Self { sealing, seen, signer }
    }

    /// A token for `user`, good for `lifetime_ms`; `None` when no key signs yet, or when it cannot be unsealed.
    pub fn mint(
        &self,
        access: &Access,
        cluster: &str,
        (user, roles): (&str, &BTreeSet<String>),
        session: SessionId,
        (now, lifetime_ms): (Millis, u64),
    ) -> Option<String> {
        let key = access.signs(now)?;
        let now_s = now.0 / 1_000;
        let claims = Claims {
            iss: issuer(cluster),
            aud: AUDIENCE.to_owned(),
            sub: user.to_owned(),
            nbf: now_s,
            iat: now_s,
            exp: now_s + lifetime_ms.min(limits::ACCESS_TOKEN_MAX_MS) / 1_000,
            jti: TokenId(u128::from_be_bytes(secrets::random())).to_string(),
            sid: session.to_string(),
            roles: roles.clone(),
        };
        let mut header = Header::new(Alg::of(key)?.jwt());
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(key.id.to_string());
        let signer = self.signer(key)?;
        jsonwebtoken::encode(&header, &claims, &signer)
            .inspect_err(|error| tracing::error!(key = %key.id, %error, "an access token could not be signed"))
            .ok()
    }

    fn signer(&self, key: &SigningKey) -> Option<EncodingKey> {
        let mut cached = self.signer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((id, signer)) = &*cached
            && *id == key.id
        {
            return Some(signer.clone());
        }
        let Some(private) = self.sealing.unseal(SEALED_FOR, &key.sealed.0) else {
            tracing::error!(key = %key.id, "the signing key cannot be unsealed: this node has another sealing key than the one that sealed it");
            return None;
        };
        let signer = Alg::of(key)?.signer(&private);
        *cached = Some((key.id, signer.clone()));
        Some(signer)
    }

    /// What `text` says, if it is genuine, believed and in its time at `now`.
    pub fn verify(
        &self,
        access: &Access,
        cluster: &str,
        text: &str,
        now: Millis,
    ) -> Option<Arc<Verified>> {
        if text.len() > limits::ACCESS_TOKEN_BYTES {
            return None;
        }
        let verified = match self.seen.get(text) {
            Some(verified) => verified,
            None => {
                let verified = Arc::new(genuine(access, cluster, text, now)?);
                self.seen.insert(text.into(), Arc::clone(&verified));
                verified
            }
        };
        let believed = access
            .signing_keys
            .get(&verified.key)
            .is_some_and(|key| key.believed_until.is_none_or(|end| now < end));
        (believed && now.0 / 1_000 < verified.expires_s + limits::CLOCK_LEEWAY_S)
            .then_some(verified)
    }
}

/// Checks signature and claims.
fn genuine(access: &Access, cluster: &str, text: &str, now: Millis) -> Option<Verified> {
    let header = jsonwebtoken::decode_header(text).ok()?;
    if header.typ.as_deref() != Some(TYPE) || foreign_headers(&header) {
        return None;
    }
    let id: SigningKeyId = header.kid?.parse().ok()?;
    let key = access.signing_keys.get(&id)?;
    let alg = Alg::of(key).filter(|alg| alg.jwt() == header.alg)?;
    let mut validation = Validation::new(alg.jwt());
    validation.leeway = limits::CLOCK_LEEWAY_S;
    validation.validate_nbf = true;
    validation.set_issuer(&[issuer(cluster)]);
    validation.set_audience(&[AUDIENCE]);
    validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
    let public = alg.verifier(&key.public);
    let claims = jsonwebtoken::decode::<Claims>(text, &public, &validation).ok()?.claims;
    let now_s = now.0 / 1_000;
    // Nothing of ours is good for longer.
    let longest_s = limits::ACCESS_TOKEN_MAX_MS / 1_000;
    let lifetime_s = claims.exp.checked_sub(claims.iat)?;
    if claims.iat > now_s + limits::CLOCK_LEEWAY_S || lifetime_s > longest_s {
        return None;
    }
    Some(Verified {
        session: claims.sid.parse().ok()?,
        id: claims.jti.parse().ok()?,
        user: claims.sub,
        issued_s: claims.iat,
        expires_s: claims.exp,
        key: id,
    })
}

/// Whether a header names a key elsewhere, or asks for something that is not done here.
pub fn foreign_headers(header: &Header) -> bool {
    header.jku.is_some()
        || header.jwk.is_some()
        || header.x5u.is_some()
        || header.x5c.is_some()
        || header.x5t.is_some()
        || header.x5t_s256.is_some()
        || header.crit.is_some()
        || header.enc.is_some()
        || header.zip.is_some()
        || header.cty.is_some()
}

fn issuer(cluster: &str) -> String {
    format!("ollamamax:{cluster}")
}

/// A new signing key, its private part sealed. RSA takes some tenths of a second.
pub fn new_signing_key(sealing: &SealingKey, alg: Alg, signs_from: Millis) -> Option<SigningKey> {
    let (private, public) = alg.generate()?;
    Some(SigningKey {
        id: SigningKeyId(u64::from_be_bytes(secrets::random())),
        algorithm: alg.name().to_owned(),
        public,
        sealed: Hidden(sealing.seal(SEALED_FOR, &private)),
        created_at: Millis(0),
        signs_from,
        believed_until: None,
    })
}

/// The public keys as a JWK set (RFC 7517): those that sign, will sign, and have signed what may still be good.
pub fn jwks(access: &Access) -> JwkSet {
    let keys = access.signing_keys.values().filter_map(|key| {
        let alg = Alg::of(key)?;
        let mut jwk = Jwk::from_decoding_key(&alg.verifier(&key.public), Some(alg.jwt())).ok()?;
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        jwk.common.key_id = Some(key.id.to_string());
        Some(jwk)
    });
    JwkSet { keys: keys.collect() }
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
