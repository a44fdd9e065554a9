//! The tables of access: part of the state, so the same on every node.

use super::change::AccessChange;
use super::ids::{Hidden, JoinTokenId, KeyId, SessionId, SigningKeyId, TokenId};
use super::record::{
    AuthorityRecord, Enrolment, JoinToken, KeyRecord, Making, Quota, QuotaOf, RevokedToken,
    RoleRecord, SessionRecord, SigningKey, UserRecord,
};
use imbl::OrdMap;
use ollamamax_proto::audit::Record;
use ollamamax_proto::{Millis, WorkerId, limits};

/// All that the cluster knows of who may do what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// People and programs by name.
    pub users: OrdMap<String, UserRecord>,
    /// Roles of one's own by name.
    pub roles: OrdMap<String, RoleRecord>,
    /// API keys.
    pub keys: OrdMap<KeyId, KeyRecord>,
    /// Logins.
    pub sessions: OrdMap<SessionId, SessionRecord>,
    /// Access tokens that are void before their time.
    pub revoked: OrdMap<TokenId, RevokedToken>,
    /// What signs access tokens, did, or will.
    pub signing_keys: OrdMap<SigningKeyId, SigningKey>,
    /// What signs certificates, did, or will.
    pub authorities: OrdMap<[u8; 32], AuthorityRecord>,
    /// What lets processes in.
    pub join_tokens: OrdMap<JoinTokenId, JoinToken>,
    /// Workers that were let in.
    pub enrolments: OrdMap<WorkerId, Enrolment>,
    /// How much may be asked for.
    pub quotas: OrdMap<QuotaOf, Quota>,
    /// How much may be made.
    pub makings: OrdMap<QuotaOf, Making>,
    /// Up to which number the trail was sent, by receiver.
    pub exported: OrdMap<String, u64>,
    /// The newest part of the trail, by number.
    pub trail: OrdMap<u64, Record>,
}

/// What a presented refresh token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshVerdict {
    /// The one that is good.
    Good,
    /// The one before, a moment after it was replaced, and its successor was not used yet: the answer may have been lost.
    Again,
    /// One that was replaced: somebody has a copy.
    Reused,
    /// The session is over.
    Over,
}

impl SessionRecord {
    /// What `presented` is at `now`. A hash that never was the session's counts as reused: whoever proposes has checked that it
    /// was made by this cluster.
    pub fn judge(&self, presented: &Hidden<[u8; 32]>, now: Millis) -> RefreshVerdict {
        if now >= self.expires_at {
            RefreshVerdict::Over
        } else if self.current == *presented {
            RefreshVerdict::Good
        } else if self.previous.as_ref() == Some(presented)
            && now.since(self.refreshed_at) <= limits::REFRESH_GRACE_MS
        {
            RefreshVerdict::Again
        } else {
            RefreshVerdict::Reused
        }
    }
}

impl Access {
    /// The signing key in force at `now`.
    pub fn signs(&self, now: Millis) -> Option<&SigningKey> {
        let active = self.signing_keys.values().filter(|key| key.signs_from <= now);
        active.max_by_key(|key| (key.signs_from, key.id))
    }

    /// The signing key that was made last.
    pub fn newest_key(&self) -> Option<&SigningKey> {
        self.signing_keys.values().max_by_key(|key| (key.signs_from, key.id))
    }

    /// The authority in force at `now`.
    pub fn certifies(&self, now: Millis) -> Option<&AuthorityRecord> {
        let active = self.authorities.values().filter(|authority| authority.signs_from <= now);
        active.max_by_key(|authority| (authority.signs_from, authority.fingerprint))
    }

    /// The last record of the trail.
    pub fn last_record(&self) -> Option<&Record> {
        self.trail.get_max().map(|(_, record)| record)
    }

    /// Whether anything has expired as of `now`.
    pub fn has_expired(&self, now: Millis) -> bool {
        self.keys.values().any(|key| key.expires_at.is_some_and(|end| end <= now))
            || self.sessions.values().any(|session| session.expires_at <= now)
            || self.revoked.values().any(|token| token.until <= now)
            || self.join_tokens.values().any(|token| token.expires_at <= now)
            || self.signing_keys.values().any(|k| k.believed_until.is_some_and(|end| end <= now))
            || self.authorities.values().any(|a| a.trusted_until.is_some_and(|end| end <= now))
    }

    /// Makes a change true.
    pub fn evolve(&mut self, change: AccessChange) {
        use AccessChange as C;
        match change {
            C::UserPut(user) => drop(self.users.insert(user.name.clone(), user)),
            C::UserRemoved(name) => drop(self.users.remove(&name)),
            C::RolePut(role) => drop(self.roles.insert(role.name.clone(), role)),
            C::RoleRemoved(name) => drop(self.roles.remove(&name)),
            C::KeyPut(key) => drop(self.keys.insert(key.id, key)),
            C::KeyRemoved(id) => drop(self.keys.remove(&id)),
            C::SessionPut(session) => drop(self.sessions.insert(session.id, session)),
            C::SessionRemoved(id) => drop(self.sessions.remove(&id)),
            C::TokenRevoked(token) => drop(self.revoked.insert(token.id, token)),
            C::TokenForgotten(id) => drop(self.revoked.remove(&id)),
            C::SigningKeyPut(key) => drop(self.signing_keys.insert(key.id, key)),
            C::SigningKeyRemoved(id) => drop(self.signing_keys.remove(&id)),
            C::AuthorityPut(authority) => {
                drop(self.authorities.insert(authority.fingerprint, authority));
            }
            C::AuthorityRemoved(fingerprint) => drop(self.authorities.remove(&fingerprint)),
            C::JoinTokenPut(token) => drop(self.join_tokens.insert(token.id, token)),
            C::JoinTokenRemoved(id) => drop(self.join_tokens.remove(&id)),
            C::Enrolled(enrolment) => drop(self.enrolments.insert(enrolment.worker, enrolment)),
            C::Unenrolled(worker) => drop(self.enrolments.remove(&worker)),
            C::QuotaPut(of, quota) => drop(self.quotas.insert(of, quota)),
            C::QuotaRemoved(of) => drop(self.quotas.remove(&of)),
            C::MakingPut(of, making) => drop(self.makings.insert(of, making)),
            C::MakingRemoved(of) => drop(self.makings.remove(&of)),
            C::ExportedPut(sink, number) => drop(self.exported.insert(sink, number)),
            C::ExportedRemoved(sink) => drop(self.exported.remove(&sink)),
            C::Recorded(record) => drop(self.trail.insert(record.number, *record)),
            C::RecordForgotten(number) => drop(self.trail.remove(&number)),
        }
    }

    /// Whether a change is true already.
    pub fn holds(&self, change: &AccessChange) -> bool {
        use AccessChange as C;
        match change {
            C::UserPut(user) => self.users.get(&user.name) == Some(user),
            C::UserRemoved(name) => !self.users.contains_key(name),
            C::RolePut(role) => self.roles.get(&role.name) == Some(role),
            C::RoleRemoved(name) => !self.roles.contains_key(name),
            C::KeyPut(key) => self.keys.get(&key.id) == Some(key),
            C::KeyRemoved(id) => !self.keys.contains_key(id),
            C::SessionPut(session) => self.sessions.get(&session.id) == Some(session),
            C::SessionRemoved(id) => !self.sessions.contains_key(id),
            C::TokenRevoked(token) => self.revoked.get(&token.id) == Some(token),
            C::TokenForgotten(id) => !self.revoked.contains_key(id),
            C::SigningKeyPut(key) => self.signing_keys.get(&key.id) == Some(key),
            C::SigningKeyRemoved(id) => !self.signing_keys.contains_key(id),
            C::AuthorityPut(record) => self.authorities.get(&record.fingerprint) == Some(record),
            C::AuthorityRemoved(fingerprint) => !self.authorities.contains_key(fingerprint),
            C::JoinTokenPut(token) => self.join_tokens.get(&token.id) == Some(token),
            C::JoinTokenRemoved(id) => !self.join_tokens.contains_key(id),
            C::Enrolled(enrolment) => self.enrolments.get(&enrolment.worker) == Some(enrolment),
            C::Unenrolled(worker) => !self.enrolments.contains_key(worker),
            C::QuotaPut(of, quota) => self.quotas.get(of) == Some(quota),
            C::QuotaRemoved(of) => !self.quotas.contains_key(of),
            C::MakingPut(of, making) => self.makings.get(of) == Some(making),
            C::MakingRemoved(of) => !self.makings.contains_key(of),
            C::ExportedPut(sink, number) => self.exported.get(sink) == Some(number),
            C::ExportedRemoved(sink) => !self.exported.contains_key(sink),
            C::Recorded(record) => self.trail.get(&record.number) == Some(&**record),
            C::RecordForgotten(number) => !self.trail.contains_key(number),
        }
    }

    /// The tables as the changes that rebuild them from nothing.
    pub fn to_changes(&self) -> Vec<AccessChange> {
        use AccessChange as C;
        let quotas = self.quotas.iter().map(|(of, quota)| C::QuotaPut(of.clone(), *quota));
        let makings = self.makings.iter().map(|(of, making)| C::MakingPut(of.clone(), *making));
        let users = self.users.values().cloned().map(C::UserPut);
        users
            .chain(self.roles.values().cloned().map(C::RolePut))
            .chain(self.keys.values().cloned().map(C::KeyPut))
            .chain(self.sessions.values().cloned().map(C::SessionPut))
            .chain(self.revoked.values().copied().map(C::TokenRevoked))
            .chain(self.signing_keys.values().cloned().map(C::SigningKeyPut))
            .chain(self.authorities.values().cloned().map(C::AuthorityPut))
            .chain(self.join_tokens.values().cloned().map(C::JoinTokenPut))
            .chain(self.enrolments.values().cloned().map(C::Enrolled))
            .chain(quotas)
            .chain(makings)
            .chain(self.exported.iter().map(|(sink, number)| C::ExportedPut(sink.clone(), *number)))
            .chain(self.trail.values().cloned().map(Box::new).map(C::Recorded))
            .collect()
    }
}
