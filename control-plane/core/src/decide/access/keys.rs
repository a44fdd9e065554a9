//! API keys and quotas.

use super::users::find;
use super::{exists, label, push, unknown};
use crate::access::{AccessChange, KeyId, KeyRecord, Making, Quota, QuotaOf};
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

/// A key and its quotas.
pub(super) fn forget(draft: &mut Draft, id: KeyId) {
    push(draft, AccessChange::KeyRemoved(id));
    push(draft, AccessChange::QuotaRemoved(QuotaOf::Key(id)));
    push(draft, AccessChange::MakingRemoved(QuotaOf::Key(id)));
}

pub(super) fn set_quota(
    draft: &mut Draft,
    of: &QuotaOf,
    quota: Option<Quota>,
) -> Result<(), Rejection> {
    is_there(draft, of)?;
    let access = &draft.state().access;
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

/// Sets both kinds of bounds at once.
pub(super) fn set_quotas(
    draft: &mut Draft,
    of: &QuotaOf,
    quota: Option<Quota>,
    making: Option<Making>,
) -> Result<(), Rejection> {
    is_there(draft, of)?;
    let access = &draft.state().access;
    let (asks, makes) = (access.quotas.contains_key(of), access.makings.contains_key(of));
    if quota.is_none() && making.is_none() && !asks && !makes {
        return Err(unknown("quota", of));
    }
    let full = |count: usize| count >= limits::QUOTAS_COUNT;
    if (!asks && full(access.quotas.len())) || (!makes && full(access.makings.len())) {
        return Err(check::over("quotas", limits::QUOTAS_COUNT));
    }
    if making.is_some() && matches!(of, QuotaOf::Model(_)) {
        return Err(check::invalid(
            "making",
            "a model makes nothing; expected a key, a user or `anybody`",
        ));
    }
    push(
        draft,
        match quota {
            Some(quota) => AccessChange::QuotaPut(of.clone(), quota),
            None => AccessChange::QuotaRemoved(of.clone()),
        },
    );
    push(
        draft,
        match making {
            Some(making) => AccessChange::MakingPut(of.clone(), making),
            None => AccessChange::MakingRemoved(of.clone()),
        },
    );
    Ok(())
}

/// Whether there is whose quota it is.
fn is_there(draft: &Draft, of: &QuotaOf) -> Result<(), Rejection> {
    match of {
        QuotaOf::Key(id) if !draft.state().access.keys.contains_key(id) => {
            return Err(unknown("key", id));
        }
        QuotaOf::User(user) => drop(find(draft, user)?),
        QuotaOf::Model(model) => drop(
            model
                .parse::<ollamamax_proto::ModelName>()
                .map_err(|error| check::invalid("model", error.to_string()))?,
        ),
        QuotaOf::Key(_) | QuotaOf::Anybody => {}
    }
    Ok(())
}
