//! Users: somebody who may change access is always left.

use super::{exists, name, push, unknown};
use crate::access::{AccessChange, Hidden, QuotaOf, ROLE_ADMIN, UserRecord, built_in};
use crate::decide::check;
use crate::decide::draft::Draft;
use crate::rejection::Rejection;
use ollamamax_proto::limits;
use std::collections::BTreeSet;

pub(super) fn create(draft: &mut Draft, user: &UserRecord) -> Result<(), Rejection> {
    name("user.name", &user.name)?;
    let access = &draft.state().access;
    if access.users.contains_key(&user.name) {
        return Err(exists("user", &user.name));
    }
    if access.users.len() >= limits::USERS_COUNT {
        return Err(check::over("users", limits::USERS_COUNT));
    }
    if user.service && user.password.is_some() {
        return Err(check::invalid("user.password", "a service account has keys, no password"));
    }
    check_password(user.password.as_ref())?;
    check_roles(draft, &user.roles)?;
    let now = draft.now();
    let user = UserRecord { created_at: now, not_before: now, disabled: false, ..user.clone() };
    push(draft, AccessChange::UserPut(user));
    Ok(())
}

pub(super) fn set_password(
    draft: &mut Draft,
    user: &str,
    password: Option<&Hidden<String>>,
) -> Result<(), Rejection> {
    let found = find(draft, user)?;
    if found.service {
        return Err(check::invalid("password", "a service account has keys, no password"));
    }
    check_password(password)?;
    push(draft, AccessChange::UserPut(UserRecord { password: password.cloned(), ..found }));
    log_out(draft, user)
}

pub(super) fn set_roles(
    draft: &mut Draft,
    user: &str,
    roles: &BTreeSet<String>,
) -> Result<(), Rejection> {
    let found = find(draft, user)?;
    check_roles(draft, roles)?;
    if !roles.contains(ROLE_ADMIN) {
        another_admin(draft, user)?;
    }
    push(draft, AccessChange::UserPut(UserRecord { roles: roles.clone(), ..found }));
    Ok(())
}

pub(super) fn disable(draft: &mut Draft, user: &str, disabled: bool) -> Result<(), Rejection> {
    let found = find(draft, user)?;
    if disabled {
        another_admin(draft, user)?;
    }
    push(draft, AccessChange::UserPut(UserRecord { disabled, ..found }));
    if disabled { log_out(draft, user) } else { Ok(()) }
}

pub(super) fn delete(draft: &mut Draft, user: &str) -> Result<(), Rejection> {
    find(draft, user)?;
    another_admin(draft, user)?;
    log_out(draft, user)?;
    let keys = draft.state().access.keys.clone();
    for key in keys.values().filter(|key| key.owner == user) {
        super::keys::forget(draft, key.id);
    }
    push(draft, AccessChange::QuotaRemoved(QuotaOf::User(user.to_owned())));
    push(draft, AccessChange::MakingRemoved(QuotaOf::User(user.to_owned())));
    push(draft, AccessChange::UserRemoved(user.to_owned()));
    Ok(())
}

/// Ends the sessions, and voids the access tokens: they are younger than nothing any more.
pub(super) fn log_out(draft: &mut Draft, user: &str) -> Result<(), Rejection> {
    let found = find(draft, user)?;
    let sessions = draft.state().access.sessions.clone();
    for session in sessions.values().filter(|session| session.user == user) {
        push(draft, AccessChange::SessionRemoved(session.id));
    }
    let not_before = draft.now();
    push(draft, AccessChange::UserPut(UserRecord { not_before, ..found }));
    Ok(())
}

pub(super) fn find(draft: &Draft, user: &str) -> Result<UserRecord, Rejection> {
    draft.state().access.users.get(user).cloned().ok_or_else(|| unknown("user", user))
}

pub(super) fn check_roles(draft: &Draft, roles: &BTreeSet<String>) -> Result<(), Rejection> {
    if roles.len() > limits::ROLES_OF_USER_COUNT {
        return Err(check::over("roles of a user", limits::ROLES_OF_USER_COUNT));
    }
    let known =
        |role: &String| built_in(role).is_some() || draft.state().access.roles.contains_key(role);
    roles.iter().find(|role| !known(role)).map_or(Ok(()), |role| Err(unknown("role", role)))
}

fn check_password(password: Option<&Hidden<String>>) -> Result<(), Rejection> {
    match password {
        Some(Hidden(hash))
            if !hash.starts_with("$argon2id$") || hash.len() > limits::PASSWORD_HASH_BYTES =>
        {
            Err(check::invalid("password", "expected an Argon2id hash in PHC form"))
        }
        _ => Ok(()),
    }
}

/// Refuses when `user` is the only one left who is an administrator.
fn another_admin(draft: &Draft, user: &str) -> Result<(), Rejection> {
    let is_admin = |user: &UserRecord| !user.disabled && user.roles.contains(ROLE_ADMIN);
    let users = &draft.state().access.users;
    let other = users.values().any(|other| other.name != user && is_admin(other));
    if other || !users.get(user).is_some_and(is_admin) {
        Ok(())
    } else {
        Err(Rejection::LastAdmin(user.to_owned()))
    }
}
