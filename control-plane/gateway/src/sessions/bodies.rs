//! What is sent to `/auth/...`, and what is answered there.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use utoipa::ToSchema;
use zeroize::Zeroizing;

/// A text that is not shown.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(pub(super) Zeroizing<String>);

impl Secret {
    /// The text itself.
    pub fn take(self) -> Zeroizing<String> {
        self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A name and its password.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({"username": "alice", "password": "correct horse battery"})))]
pub(crate) struct Login {
    /// `password`, or nothing.
    #[serde(default)]
    #[schema(examples("password"))]
    pub grant_type: Option<String>,
    pub username: String,
    #[schema(value_type = String, format = Password, write_only)]
    pub password: Secret,
}

/// A refresh token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refresh {
    /// `refresh_token`, or nothing.
    #[serde(default)]
    #[schema(examples("refresh_token"))]
    pub grant_type: Option<String>,
    #[schema(value_type = String, format = Password, write_only)]
    pub refresh_token: Secret,
}

/// What shall be good no more.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Revoke {
    /// An access token, a refresh token or an API key.
    #[schema(value_type = String, format = Password, write_only)]
    pub token: Secret,
}

/// A login.
#[derive(Serialize, ToSchema)]
pub(crate) struct Granted {
    /// What requests are made with.
    pub access_token: String,
    /// Always `Bearer`.
    pub token_type: &'static str,
    /// Seconds for which the access token is good.
    pub expires_in: u64,
    /// Gets the next access token; good once.
    pub refresh_token: String,
    pub user: String,
}

/// There is nothing to say.
#[derive(Serialize, ToSchema)]
pub(crate) struct Nothing {}

/// Who asks.
#[derive(Serialize, ToSchema)]
pub(crate) struct WhoAmI {
    pub user: Option<String>,
    /// As the trail has it.
    #[schema(examples("user:alice"))]
    pub actor: String,
    /// `key`, `access-token`, `openid`, or nothing.
    pub via: &'static str,
    /// The id of the key it was asked with.
    pub key: Option<String>,
    pub roles: Option<BTreeSet<String>>,
    /// What the caller may do, on something at least.
    pub permissions: Vec<&'static str>,
    /// The id of the cluster.
    pub cluster: Option<String>,
    /// Where its nodes serve this.
    pub nodes: Vec<String>,
}

/// A public key (RFC 7517).
#[derive(ToSchema)]
#[schema(as = Jwk)]
#[expect(dead_code, reason = "it stands in the description for a type of another crate")]
struct KeyShown {
    kty: String,
    #[serde(rename = "use")]
    public_key_use: String,
    alg: String,
    kid: String,
    /// Of `RS256`.
    #[schema(required = false)]
    n: String,
    #[schema(required = false)]
    e: String,
    /// Of `ES256` and `EdDSA`.
    #[schema(required = false)]
    crv: String,
    #[schema(required = false)]
    x: String,
    #[schema(required = false)]
    y: String,
}

/// Public keys.
#[derive(ToSchema)]
#[schema(as = Jwks)]
#[expect(dead_code, reason = "it stands in the description for a type of another crate")]
pub(crate) struct KeysShown {
    keys: Vec<KeyShown>,
}
