//! Who may do what: users, roles, keys, sessions, what signs for them, and the trail of what they did.
//!
//! ```text
//! caller -> Subject { user, roles, scope } --+
//! route  -> Action, Object ------------------+--> Access::may -> yes, or no
//!                  stored: users, roles -----+
//! ```
//!
//! Everything is denied that no grant allows, and what a grant denies stays denied. Secrets are not here: passwords and keys
//! only as hashes, private keys only sealed.

mod action;
mod change;
mod command;
mod grant;
mod ids;
mod may;
mod record;
mod role;
pub(crate) mod rows;
mod tables;

pub use action::{Action, Object};
pub use change::AccessChange;
pub use command::AccessCommand;
pub use grant::{Grant, InvalidGrant};
pub use ids::{Hidden, JoinTokenId, KeyId, SessionId, SigningKeyId, TokenId};
pub use may::{Permissions, Subject};
pub use record::{
    AuthorityRecord, Enrolment, JoinRole, JoinToken, KeyRecord, Making, Quota, QuotaOf,
    RevokedToken, RoleRecord, SessionRecord, SigningKey, UserRecord,
};
pub use role::{BUILT_IN, ROLE_ADMIN, built_in};
pub use tables::{Access, RefreshVerdict};
