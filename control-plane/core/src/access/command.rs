//! What can be asked of access. Stored in the log: variants are only added at the end, fields stay as they are.
//!
//! Nothing here is a secret: whoever proposes has hashed and sealed before.

use super::ids::{Hidden, JoinTokenId, KeyId, SessionId, SigningKeyId, TokenId};
use super::record::{
    AuthorityRecord, JoinToken, KeyRecord, Making, Quota, QuotaOf, RevokedToken, RoleRecord,
    SessionRecord, SigningKey, UserRecord,
};
use ollamamax_proto::WorkerId;
use ollamamax_proto::audit::Note;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What is asked. Times in records are set by the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccessCommand {
    /// Creates a user; refused when there is one.
    CreateUser {
        /// The user.
        user: UserRecord,
    },
    /// Gives a user another password, or none; ends its sessions.
    SetPassword {
        /// Whose.
        user: String,
        /// Argon2id in PHC form.
        password: Option<Hidden<String>>,
    },
    /// Gives a user other roles.
    SetRoles {
        /// Whose.
        user: String,
        /// All of them.
        roles: BTreeSet<String>,
    },
    /// Lets a user do nothing any more, or again.
    DisableUser {
        /// Who.
        user: String,
        /// Whether it is disabled from now on.
        disabled: bool,
    },
    /// Removes a user with its keys and sessions.
    DeleteUser {
        /// Who.
        user: String,
    },
    /// Ends a user's sessions and voids all its access tokens.
    LogOut {
        /// Who.
        user: String,
    },
    /// Creates a role or changes it.
    PutRole {
        /// The role.
        role: RoleRecord,
    },
    /// Removes a role that nobody has.
    DeleteRole {
        /// Its name.
        name: String,
    },
    /// Creates a key.
    CreateKey {
        /// The key.
        key: KeyRecord,
    },
    /// Removes a key.
    RevokeKey {
        /// Which.
        id: KeyId,
    },
    /// Opens a session.
    OpenSession {
        /// The session.
        session: SessionRecord,
    },
    /// Replaces a session's refresh token. One that was replaced before ends the session, unless that was a moment ago and its
    /// successor was not used yet.
    RefreshSession {
        /// Which.
        id: SessionId,
        /// SHA-256 of the token presented.
        presented: Hidden<[u8; 32]>,
        /// SHA-256 of the token to replace it, which is the same however often it is asked for.
        successor: Hidden<[u8; 32]>,
        /// The place of the successor in the session.
        generation: u64,
    },
    /// Ends a session.
    CloseSession {
        /// Which.
        id: SessionId,
    },
    /// Voids an access token.
    RevokeToken {
        /// Which, and when it would expire.
        token: RevokedToken,
    },
    /// Takes a signing key in. The ones before go on being believed until what they signed has expired; not at all in an
    /// emergency.
    PutSigningKey {
        /// The key.
        key: SigningKey,
        /// How long a token that was signed just before stays good, in milliseconds.
        lifetime_ms: u64,
        /// Whether the others are dropped at once.
        emergency: bool,
    },
    /// Takes an authority in; as with signing keys.
    PutAuthority {
        /// The authority.
        authority: AuthorityRecord,
        /// How long a certificate that was signed just before stays good, in milliseconds.
        lifetime_ms: u64,
    },
    /// Creates a join token.
    CreateJoinToken {
        /// The token.
        token: JoinToken,
    },
    /// Removes a join token.
    RevokeJoinToken {
        /// Which.
        id: JoinTokenId,
    },
    /// Uses a join token up for a worker.
    Enrol {
        /// Which.
        token: JoinTokenId,
        /// SHA-256 of the secret presented.
        presented: Hidden<[u8; 32]>,
        /// Who comes.
        worker: WorkerId,
    },
    /// Uses a join token up for a node, and admits it as [`crate::Command::AdmitNode`] does.
    EnrolNode {
        /// Which.
        token: JoinTokenId,
        /// SHA-256 of the secret presented.
        presented: Hidden<[u8; 32]>,
        /// host:port of its gateway.
        http: String,
        /// host:port of its gRPC services.
        raft: String,
    },
    /// Sets a quota; `None` removes it.
    SetQuota {
        /// Whose.
        of: QuotaOf,
        /// How much.
        quota: Option<Quota>,
    },
    /// Puts notes into the trail.
    Record {
        /// In their order.
        notes: Vec<Note>,
    },
    /// Forgets what has expired as of the entry's time.
    Expire,
    /// Forgets a signing key at once, and with it every token it signed.
    DropSigningKey {
        /// Which.
        id: SigningKeyId,
    },
    /// Voids an access token that is only known by its id, for as long as any may last.
    RevokeTokenId {
        /// Which.
        id: TokenId,
        /// For how long, in milliseconds.
        lifetime_ms: u64,
    },
    /// Sets how much somebody may ask for and make; what is `None` is removed.
    SetQuotas {
        /// Whose.
        of: QuotaOf,
        /// How much it may ask for.
        quota: Option<Quota>,
        /// How much it may make.
        making: Option<Making>,
    },
    /// Remembers how far the trail was sent somewhere, whoever leads next; never goes back.
    Exported {
        /// Where to: an id of the receiver.
        sink: String,
        /// The last record it has.
        number: u64,
    },
}
