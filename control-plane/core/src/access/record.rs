//! The records of access, one struct per table.

use super::grant::Grant;
use super::ids::{Hidden, JoinTokenId, KeyId, SessionId, SigningKeyId, TokenId};
use ollamamax_proto::{Millis, ModelName, WorkerId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// A person, or a program with an account of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    /// 1 to 64 of `a-z 0-9 . _ - @`.
    pub name: String,
    /// A program: it has keys and no password.
    pub service: bool,
    /// Argon2id in PHC form; `None`: nobody can log in with a password.
    pub password: Option<Hidden<String>>,
    /// Built-in roles and roles of one's own.
    pub roles: BTreeSet<String>,
    /// May not do anything any more.
    pub disabled: bool,
    /// When it was created.
    pub created_at: Millis,
    /// Access tokens issued before this moment are void.
    pub not_before: Millis,
}

/// A role of one's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleRecord {
    /// As a user's name.
    pub name: String,
    /// For people.
    pub description: String,
    /// Roles whose grants it has, too.
    pub inherits: BTreeSet<String>,
    /// What it allows and denies.
    pub grants: BTreeSet<Grant>,
}

/// An API key. Its secret is shown once and not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// The visible part.
    pub id: KeyId,
    /// SHA-256 of the secret part.
    pub hash: Hidden<[u8; 32]>,
    /// The user it acts for.
    pub owner: String,
    /// For people.
    pub label: String,
    /// What it may be used for at most; `None`: all that its owner may do.
    pub scope: Option<BTreeSet<Grant>>,
    /// When it was created.
    pub created_at: Millis,
    /// When it stops working; `None`: when it is revoked.
    pub expires_at: Option<Millis>,
}

/// A login. Its refresh tokens replace one another; only the last one is good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Which.
    pub id: SessionId,
    /// Whose.
    pub user: String,
    /// How often it was refreshed.
    pub generation: u64,
    /// SHA-256 of the refresh token that is good now.
    pub current: Hidden<[u8; 32]>,
    /// SHA-256 of the one before.
    pub previous: Option<Hidden<[u8; 32]>>,
    /// When it was opened.
    pub opened_at: Millis,
    /// When it was last refreshed.
    pub refreshed_at: Millis,
    /// When it ends whatever happens.
    pub expires_at: Millis,
}

/// An access token that is void before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedToken {
    /// Which.
    pub id: TokenId,
    /// When it would have expired: from then on nobody needs to remember it.
    pub until: Millis,
}

/// A key pair that signs access tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKey {
    /// The `kid`.
    pub id: SigningKeyId,
    /// `RS256`.
    pub algorithm: String,
    /// The public key: RSAPublicKey (RFC 8017) in DER.
    pub public: Vec<u8>,
    /// The private key: RSAPrivateKey (RFC 8017) in DER, sealed with the cluster's sealing key.
    pub sealed: Hidden<Vec<u8>>,
    /// When it was made.
    pub created_at: Millis,
    /// From when on it signs; published before, so that everyone knows it by then.
    pub signs_from: Millis,
    /// Until when what it has signed is believed; `None`: it has no successor yet.
    pub believed_until: Option<Millis>,
}

/// A certificate authority of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityRecord {
    /// SHA-256 of the certificate in DER.
    pub fingerprint: [u8; 32],
    /// The certificate, in PEM.
    pub certificate: String,
    /// Its private key, in PEM, sealed with the cluster's sealing key.
    pub sealed: Hidden<Vec<u8>>,
    /// When it was made.
    pub created_at: Millis,
    /// From when on it signs; trusted before.
    pub signs_from: Millis,
    /// Until when it is trusted; `None`: it has no successor yet.
    pub trusted_until: Option<Millis>,
}

/// What a join token is good for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinRole {
    /// A member of the quorum.
    Node {
        /// Whether it shall vote.
        voter: bool,
    },
    /// A worker.
    Worker {
        /// Labels it gets.
        labels: BTreeMap<String, String>,
    },
}

/// Lets processes in, so many and no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// The visible part.
    pub id: JoinTokenId,
    /// SHA-256 of the secret part.
    pub hash: Hidden<[u8; 32]>,
    /// As what.
    pub role: JoinRole,
    /// How many more may come.
    pub uses_left: u32,
    /// When it was created.
    pub created_at: Millis,
    /// When it stops working.
    pub expires_at: Millis,
}

/// A worker that was let in: one that is not here is refused whatever certificate it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// Who.
    pub worker: WorkerId,
    /// By which token.
    pub token: JoinTokenId,
    /// When.
    pub at: Millis,
    /// Labels it gets when it registers for the first time.
    pub labels: BTreeMap<String, String>,
}

/// Whose quota.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum QuotaOf {
    /// One key's.
    Key(KeyId),
    /// A user's, over all keys and sessions.
    User(String),
    /// A model's, over all callers.
    Model(String),
    /// Of everybody who has none of their own.
    Anybody,
}

impl fmt::Display for QuotaOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(id) => write!(f, "key:{id}"),
            Self::User(name) => write!(f, "user:{name}"),
            Self::Model(name) => write!(f, "model:{name}"),
            Self::Anybody => f.write_str("anybody"),
        }
    }
}

impl FromStr for QuotaOf {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "anybody" {
            return Ok(Self::Anybody);
        }
        let (kind, name) = text.split_once(':').ok_or(())?;
        match kind {
            "key" => name.strip_prefix("omk_").unwrap_or(name).parse().map(Self::Key),
            "user" => Ok(Self::User(name.to_owned())),
            "model" => {
                let name: ModelName = name.parse().map_err(drop)?;
                Ok(Self::Model(name.to_string()))
            }
            _ => Err(()),
        }
    }
}

/// How much somebody may ask for; `None`: as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Requests per minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens of prompts per minute.
    pub prompt_tokens_per_minute: Option<u32>,
    /// Tokens of answers per minute.
    pub output_tokens_per_minute: Option<u32>,
    /// Tokens of both per day.
    pub tokens_per_day: Option<u64>,
    /// Answers under way at once.
    pub streams: Option<u32>,
}

/// How much somebody may make; `None`: as much as anybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Making {
    /// Models created or copied per day.
    pub models_per_day: Option<u32>,
    /// Bytes uploaded per day.
    pub blob_bytes_per_day: Option<u64>,
}
