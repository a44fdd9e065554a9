//! Authorities that sign certificates. A new one is trusted before it signs; the old ones are trusted until what they signed
//! has expired.

use super::{exists, push};
use crate::access::{AccessChange, AuthorityRecord};
use crate::decide::check;
use crate::decide::draft::Draft;
use crate::rejection::Rejection;
use ollamamax_proto::limits;

pub(super) fn put(
    draft: &mut Draft,
    authority: &AuthorityRecord,
    lifetime_ms: u64,
) -> Result<(), Rejection> {
    let (known, now) = (draft.state().access.authorities.clone(), draft.now());
    if known.contains_key(&authority.fingerprint) {
        let name: String = authority.fingerprint[..8].iter().map(|b| format!("{b:02x}")).collect();
        return Err(exists("authority", name));
    }
    if known.len() >= limits::AUTHORITIES_COUNT {
        return Err(check::over("authorities", limits::AUTHORITIES_COUNT));
    }
    let bytes = authority.certificate.len().max(authority.sealed.0.len());
    if bytes > limits::SIGNING_KEY_BYTES {
        return Err(check::over("bytes of an authority", limits::SIGNING_KEY_BYTES));
    }
    let signs_from = if known.is_empty() { now } else { authority.signs_from.max(now) };
    for old in known.values().filter(|old| old.trusted_until.is_none()) {
        let trusted_until = Some(signs_from.plus(lifetime_ms.min(limits::CERTIFICATE_MAX_MS)));
        push(draft, AccessChange::AuthorityPut(AuthorityRecord { trusted_until, ..old.clone() }));
    }
    let fresh =
        AuthorityRecord { created_at: now, signs_from, trusted_until: None, ..authority.clone() };
    push(draft, AccessChange::AuthorityPut(fresh));
    Ok(())
}
