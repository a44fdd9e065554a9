//! API keys and quotas.

use super::users::find;
use super::{exists, label, push, unknown};
use crate::access::{AccessChange, KeyId, KeyRecord, Quota, QuotaOf};
use crate::decide::check;
use crate::decide::draft::Draft;
use crate::rejection::Rejection;
use ollamamax_proto::limits;

pub(super) fn create(draft: &mut Draft, key: &KeyRecord) -> Result<(), Rejection> {
    label("key.label", &key.label)?;
    find(draft, &key.owner)?;
    let (access, now) = (&draft.state().access, draft.now());
    if access.keys.contains_key(&key.id) {
        return Err(exists("key", key.id));
    }
    if access.keys.len() >= limits::KEYS_COUNT {
        return Err(check::over("keys", limits::KEYS_COUNT));
    }
    let own = access.keys.values().filter(|other| other.owner == key.owner).count();
    if own >= limits::KEYS_OF_USER_COUNT {
        return Err(check::over("keys of a user", limits::KEYS_OF_USER_COUNT));
    }
    if key.scope.as_ref().is_some_and(|scope| scope.len() > limits::GRANTS_COUNT) {
        return Err(check::over("grants of a key", limits::GRANTS_COUNT));
    }
    if key.expires_at.is_some_and(|end| end <= now) {
        return Err(check::invalid("key.expires_at", "lies in the past"));
    }
    push(draft, AccessChange::KeyPut(KeyRecord { created_at: now, ..key.clone() }));
    Ok(())
}

pub(super) fn revoke(draft: &mut Draft, id: KeyId) -> Result<(), Rejection> {
    if !draft.state().access.keys.contains_key(&id) {
        return Err(unknown("key", id));
    }
    forget(draft, id);
    Ok(())
}

/// A key and its quota.
pub(super) fn forget(draft: &mut Draft, id: KeyId) {
    push(draft, AccessChange::KeyRemoved(id));
    push(draft, AccessChange::QuotaRemoved(QuotaOf::Key(id)));
}

pub(super) fn set_quota(
    draft: &mut Draft,
    of: &QuotaOf,
    quota: Option<Quota>,
) -> Result<(), Rejection> {
    let access = &draft.state().access;
    match of {
        QuotaOf::Key(id) if !access.keys.contains_key(id) => return Err(unknown("key", id)),
        QuotaOf::User(user) => drop(find(draft, user)?),
        QuotaOf::Model(model) => drop(
            model
                .parse::<ollamamax_proto::ModelName>()
                .map_err(|error| check::invalid("model", error.to_string()))?,
        ),
        QuotaOf::Key(_) | QuotaOf::Anybody => {}
    }
    let known = access.quotas.contains_key(of);
    match quota {
        Some(_) if !known && access.quotas.len() >= limits::QUOTAS_COUNT => {
            return Err(check::over("quotas", limits::QUOTAS_COUNT));
        }
        Some(quota) => push(draft, AccessChange::QuotaPut(of.clone(), quota)),
        None if !known => return Err(unknown("quota", of)),
        None => push(draft, AccessChange::QuotaRemoved(of.clone())),
    }
    Ok(())
}
