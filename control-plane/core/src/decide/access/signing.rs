//! Keys that sign access tokens. A new one is published before it signs; the old ones are believed until what they signed has
//! expired.

use super::{exists, push, unknown};
use crate::access::{AccessChange, SigningKey, SigningKeyId};
use crate::decide::check;
use crate::decide::draft::Draft;
use crate::rejection::Rejection;
use ollamamax_proto::limits;

pub(super) fn put(
    draft: &mut Draft,
    key: &SigningKey,
    lifetime_ms: u64,
    emergency: bool,
) -> Result<(), Rejection> {
    let (keys, now) = (draft.state().access.signing_keys.clone(), draft.now());
    if keys.contains_key(&key.id) {
        return Err(exists("signing key", key.id));
    }
    if !emergency && keys.len() >= limits::SIGNING_KEYS_COUNT {
        return Err(check::over("signing keys", limits::SIGNING_KEYS_COUNT));
    }
    if !["RS256", "ES256", "EdDSA"].contains(&key.algorithm.as_str()) {
        return Err(check::invalid("key.algorithm", "expected `RS256`, `ES256` or `EdDSA`"));
    }
    let bytes = key.public.len().max(key.sealed.0.len());
    if key.public.is_empty() || bytes > limits::SIGNING_KEY_BYTES {
        return Err(check::over("bytes of a signing key", limits::SIGNING_KEY_BYTES));
    }
    let first = keys.is_empty() || emergency;
    let signs_from = if first { now } else { key.signs_from.max(now) };
    for old in keys.values() {
        let end = signs_from.plus(lifetime_ms.min(limits::ACCESS_TOKEN_MAX_MS));
        if emergency {
            push(draft, AccessChange::SigningKeyRemoved(old.id));
        } else if old.believed_until.is_none() {
            let believed_until = Some(end);
            push(draft, AccessChange::SigningKeyPut(SigningKey { believed_until, ..old.clone() }));
        }
    }
    let key = SigningKey { created_at: now, signs_from, believed_until: None, ..key.clone() };
    push(draft, AccessChange::SigningKeyPut(key));
    Ok(())
}

pub(super) fn remove(draft: &mut Draft, id: SigningKeyId) -> Result<(), Rejection> {
    let (keys, now) = (&draft.state().access.signing_keys, draft.now());
    if !keys.contains_key(&id) {
        return Err(unknown("signing key", id));
    }
    if !keys.values().any(|other| other.id != id && other.signs_from <= now) {
        let reason = "no other one signs; `signing-keys rotate --emergency` replaces it at once";
        return Err(check::invalid("signing key", reason));
    }
    push(draft, AccessChange::SigningKeyRemoved(id));
    Ok(())
}
