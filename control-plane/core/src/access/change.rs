//! What became true of access. Stored and sent to watchers: variants are only added at the end.

use super::ids::{JoinTokenId, KeyId, SessionId, SigningKeyId, TokenId};
use super::record::{
    AuthorityRecord, Enrolment, JoinToken, KeyRecord, Making, Quota, QuotaOf, RevokedToken,
    RoleRecord, SessionRecord, SigningKey, UserRecord,
};
use ollamamax_proto::WorkerId;
use ollamamax_proto::audit::Record;
use serde::{Deserialize, Serialize};

/// One fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccessChange {
    /// A user is or changed.
    UserPut(UserRecord),
    /// A user is gone.
    UserRemoved(String),
    /// A role is or changed.
    RolePut(RoleRecord),
    /// A role is gone.
    RoleRemoved(String),
    /// A key is.
    KeyPut(KeyRecord),
    /// A key is gone.
    KeyRemoved(KeyId),
    /// A session is or was refreshed.
    SessionPut(SessionRecord),
    /// A session is over.
    SessionRemoved(SessionId),
    /// An access token is void.
    TokenRevoked(RevokedToken),
    /// It would have expired by now: forgotten.
    TokenForgotten(TokenId),
    /// A signing key is or changed.
    SigningKeyPut(SigningKey),
    /// A signing key is believed no more.
    SigningKeyRemoved(SigningKeyId),
    /// An authority is or changed.
    AuthorityPut(AuthorityRecord),
    /// An authority, by its fingerprint, is trusted no more.
    AuthorityRemoved([u8; 32]),
    /// A join token is or was used.
    JoinTokenPut(JoinToken),
    /// A join token lets nobody in any more.
    JoinTokenRemoved(JoinTokenId),
    /// A worker was let in.
    Enrolled(Enrolment),
    /// A worker is no longer let in.
    Unenrolled(WorkerId),
    /// A quota is or changed.
    QuotaPut(QuotaOf, Quota),
    /// There is no such quota any more.
    QuotaRemoved(QuotaOf),
    /// Something happened.
    Recorded(Box<Record>),
    /// The record with this number is old, and exported by whoever wants it.
    RecordForgotten(u64),
    /// A bound of what somebody makes is or changed.
    MakingPut(QuotaOf, Making),
    /// There is no such bound any more.
    MakingRemoved(QuotaOf),
    /// The trail was sent somewhere up to this number.
    ExportedPut(String, u64),
    /// It is not known any more how far it was sent there.
    ExportedRemoved(String),
}
