//! Who may do what: one file per group of tables. Times in records are the entry's, whatever the proposer wrote.

pub(super) mod authorities;
pub(super) mod joins;
mod keys;
mod roles;
mod sessions;
mod signing;
pub(super) mod trail;
mod users;

use super::draft::Draft;
use super::{Said, check};
use crate::access::{AccessChange, AccessCommand};
use crate::change::Change;
use crate::rejection::Rejection;
use ollamamax_proto::limits;

pub(super) fn decide(draft: &mut Draft, command: &AccessCommand) -> Result<Said, Rejection> {
    use AccessCommand as C;
    match command {
        C::CreateUser { user } => users::create(draft, user)?,
        C::SetPassword { user, password } => users::set_password(draft, user, password.as_ref())?,
        C::SetRoles { user, roles } => users::set_roles(draft, user, roles)?,
        C::DisableUser { user, disabled } => users::disable(draft, user, *disabled)?,
        C::DeleteUser { user } => users::delete(draft, user)?,
        C::LogOut { user } => users::log_out(draft, user)?,
        C::PutRole { role } => roles::put(draft, role)?,
        C::DeleteRole { name } => roles::delete(draft, name)?,
        C::CreateKey { key } => keys::create(draft, key)?,
        C::RevokeKey { id } => keys::revoke(draft, *id)?,
        C::SetQuota { of, quota } => keys::set_quota(draft, of, *quota)?,
        C::SetQuotas { of, quota, making } => keys::set_quotas(draft, of, *quota, *making)?,
        C::OpenSession { session } => sessions::open(draft, session)?,
        C::RefreshSession { id, presented, successor, generation } => {
            return sessions::refresh(draft, *id, presented, successor, *generation);
        }
        C::CloseSession { id } => sessions::close(draft, *id)?,
        C::RevokeToken { token } => sessions::revoke(draft, *token)?,
        C::RevokeTokenId { id, lifetime_ms } => {
            let until = draft.now().plus((*lifetime_ms).min(limits::ACCESS_TOKEN_MAX_MS));
            sessions::revoke(draft, crate::access::RevokedToken { id: *id, until })?;
        }
        C::PutSigningKey { key, lifetime_ms, emergency } => {
            signing::put(draft, key, *lifetime_ms, *emergency)?;
        }
        C::DropSigningKey { id } => signing::remove(draft, *id)?,
        C::PutAuthority { authority, lifetime_ms } => {
            authorities::put(draft, authority, *lifetime_ms)?;
        }
        C::CreateJoinToken { token } => joins::create(draft, token)?,
        C::RevokeJoinToken { id } => joins::revoke(draft, *id)?,
        C::Enrol { token, presented, worker } => joins::enrol(draft, *token, presented, *worker)?,
        C::EnrolNode { token, presented, http, raft } => {
            return joins::enrol_node(draft, *token, presented, http, raft).map(Said::Admitted);
        }
        C::Record { notes } => trail::record(draft, notes)?,
        C::Exported { sink, number } => trail::exported(draft, sink, *number)?,
        C::Expire => expire(draft),
    }
    Ok(Said::Done)
}

fn push(draft: &mut Draft, change: AccessChange) {
    draft.push(Change::Access(change));
}

fn unknown(kind: &str, name: impl ToString) -> Rejection {
    Rejection::Unknown { kind: kind.to_owned(), name: name.to_string() }
}

fn exists(kind: &str, name: impl ToString) -> Rejection {
    Rejection::Exists { kind: kind.to_owned(), name: name.to_string() }
}

/// A name of a user or role.
fn name(field: &str, name: &str) -> Result<(), Rejection> {
    let plain = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-' | '@');
    let first = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if name.len() > limits::ACCESS_NAME_CHARS || !first || !name.chars().all(plain) {
        let most = limits::ACCESS_NAME_CHARS;
        let reason = format!(
            "expected 1 to {most} of a-z, 0-9, `.`, `_`, `-` and `@`, beginning with a letter or a digit"
        );
        return Err(check::invalid(field, reason));
    }
    Ok(())
}

fn label(field: &str, text: &str) -> Result<(), Rejection> {
    if text.is_empty() { Ok(()) } else { check::display_name(field, text) }
}

/// Forgets what has expired.
fn expire(draft: &mut Draft) {
    let (access, now) = (draft.state().access.clone(), draft.now());
    for key in access.keys.values().filter(|key| key.expires_at.is_some_and(|end| end <= now)) {
        keys::forget(draft, key.id);
    }
    for session in access.sessions.values().filter(|session| session.expires_at <= now) {
        push(draft, AccessChange::SessionRemoved(session.id));
    }
    for token in access.revoked.values().filter(|token| token.until <= now) {
        push(draft, AccessChange::TokenForgotten(token.id));
    }
    for token in access.join_tokens.values().filter(|token| token.expires_at <= now) {
        push(draft, AccessChange::JoinTokenRemoved(token.id));
    }
    for key in access.signing_keys.values() {
        if key.believed_until.is_some_and(|end| end <= now) {
            push(draft, AccessChange::SigningKeyRemoved(key.id));
        }
    }
    for authority in access.authorities.values() {
        if authority.trusted_until.is_some_and(|end| end <= now) {
            push(draft, AccessChange::AuthorityRemoved(authority.fingerprint));
        }
    }
}
