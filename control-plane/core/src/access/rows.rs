//! The tables of access as rows of the store: which table byte, which key, which bytes.

use super::change::AccessChange;
use crate::codec::CodecError;
use crate::table::{prefix, read, value};

/// The key of a change's row.
pub(crate) fn key(change: &AccessChange) -> Vec<u8> {
    use AccessChange as C;
    let with = |table: u8, rest: &[u8]| [&[table], rest].concat();
    match change {
        C::UserPut(user) => with(prefix::USER, user.name.as_bytes()),
        C::UserRemoved(name) => with(prefix::USER, name.as_bytes()),
        C::RolePut(role) => with(prefix::ROLE, role.name.as_bytes()),
        C::RoleRemoved(name) => with(prefix::ROLE, name.as_bytes()),
        C::KeyPut(key) => with(prefix::KEY, &key.id.0.to_be_bytes()),
        C::KeyRemoved(id) => with(prefix::KEY, &id.0.to_be_bytes()),
        C::SessionPut(session) => with(prefix::SESSION, &session.id.0.to_be_bytes()),
        C::SessionRemoved(id) => with(prefix::SESSION, &id.0.to_be_bytes()),
        C::TokenRevoked(token) => with(prefix::REVOKED, &token.id.0.to_be_bytes()),
        C::TokenForgotten(id) => with(prefix::REVOKED, &id.0.to_be_bytes()),
        C::SigningKeyPut(key) => with(prefix::SIGNING_KEY, &key.id.0.to_be_bytes()),
        C::SigningKeyRemoved(id) => with(prefix::SIGNING_KEY, &id.0.to_be_bytes()),
        C::AuthorityPut(record) => with(prefix::AUTHORITY, &record.fingerprint),
        C::AuthorityRemoved(fingerprint) => with(prefix::AUTHORITY, fingerprint),
        C::JoinTokenPut(token) => with(prefix::JOIN_TOKEN, &token.id.0.to_be_bytes()),
        C::JoinTokenRemoved(id) => with(prefix::JOIN_TOKEN, &id.0.to_be_bytes()),
        C::Enrolled(enrolment) => with(prefix::ENROLMENT, &enrolment.worker.0.to_be_bytes()),
        C::Unenrolled(worker) => with(prefix::ENROLMENT, &worker.0.to_be_bytes()),
        C::QuotaPut(of, _) | C::QuotaRemoved(of) => with(prefix::QUOTA, of.to_string().as_bytes()),
        C::MakingPut(of, _) | C::MakingRemoved(of) => {
            with(prefix::MAKING, of.to_string().as_bytes())
        }
        C::ExportedPut(sink, _) | C::ExportedRemoved(sink) => {
            with(prefix::EXPORTED, sink.as_bytes())
        }
        C::Recorded(record) => with(prefix::TRAIL, &record.number.to_be_bytes()),
        C::RecordForgotten(number) => with(prefix::TRAIL, &number.to_be_bytes()),
    }
}

/// The bytes of a change's row; `None` when it removes one.
pub(crate) fn bytes(change: &AccessChange) -> Result<Option<Vec<u8>>, CodecError> {
    use AccessChange as C;
    let bytes = match change {
        C::UserPut(user) => value(user)?,
        C::RolePut(role) => value(role)?,
        C::KeyPut(key) => value(key)?,
        C::SessionPut(session) => value(session)?,
        C::TokenRevoked(token) => value(token)?,
        C::SigningKeyPut(key) => value(key)?,
        C::AuthorityPut(authority) => value(authority)?,
        C::JoinTokenPut(token) => value(token)?,
        C::Enrolled(enrolment) => value(enrolment)?,
        C::QuotaPut(of, quota) => value(&(of, quota))?,
        C::MakingPut(of, making) => value(&(of, making))?,
        C::ExportedPut(sink, number) => value(&(sink, number))?,
        C::Recorded(record) => value(record)?,
        C::UserRemoved(_)
        | C::RoleRemoved(_)
        | C::KeyRemoved(_)
        | C::SessionRemoved(_)
        | C::TokenForgotten(_)
        | C::SigningKeyRemoved(_)
        | C::AuthorityRemoved(_)
        | C::JoinTokenRemoved(_)
        | C::Unenrolled(_)
        | C::QuotaRemoved(_)
        | C::MakingRemoved(_)
        | C::ExportedRemoved(_)
        | C::RecordForgotten(_) => return Ok(None),
    };
    Ok(Some(bytes))
}

/// The change that put a row of this table; `None` when the table is none of access.
pub(crate) fn change(table: u8, bytes: &[u8]) -> Result<Option<AccessChange>, CodecError> {
    use AccessChange as C;
    let change = match table {
        prefix::USER => read(bytes).map(C::UserPut),
        prefix::ROLE => read(bytes).map(C::RolePut),
        prefix::KEY => read(bytes).map(C::KeyPut),
        prefix::SESSION => read(bytes).map(C::SessionPut),
        prefix::REVOKED => read(bytes).map(C::TokenRevoked),
        prefix::SIGNING_KEY => read(bytes).map(C::SigningKeyPut),
        prefix::AUTHORITY => read(bytes).map(C::AuthorityPut),
        prefix::JOIN_TOKEN => read(bytes).map(C::JoinTokenPut),
        prefix::ENROLMENT => read(bytes).map(C::Enrolled),
        prefix::QUOTA => read(bytes).map(|(of, quota)| C::QuotaPut(of, quota)),
        prefix::TRAIL => read(bytes).map(C::Recorded),
        prefix::EXPORTED => read(bytes).map(|(sink, number)| C::ExportedPut(sink, number)),
        prefix::MAKING => read(bytes).map(|(of, making)| C::MakingPut(of, making)),
        _ => return Ok(None),
    };
    change.map(Some)
}
