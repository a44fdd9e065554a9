//! `/admin/v1/signing-keys`: what signs access tokens.

use super::users::access;
use crate::auth::jwt::Alg;
use crate::auth::{Caller, jwt};
use crate::error::{Failure, Problem};
use crate::{Gateway, body, stream};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::access::AccessCommand;
use ollamamax_proto::{Millis, Revision, limits};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// A key that signs access tokens.
#[derive(Serialize, ToSchema)]
#[schema(as = SigningKey)]
pub(crate) struct Shown {
    id: String,
    #[schema(examples("RS256"))]
    algorithm: String,
    /// `next`, `active` or `retiring`.
    state: &'static str,
    /// Milliseconds since 1970.
    #[schema(value_type = u64)]
    created_at: Millis,
    #[schema(value_type = u64)]
    signs_from: Millis,
    /// What it signed is believed until then.
    #[schema(value_type = Option<u64>)]
    believed_until: Option<Millis>,
}

/// All of them.
#[derive(Serialize, ToSchema)]
pub(crate) struct SigningKeys {
    /// Of the state they were read from.
    #[schema(value_type = u64)]
    revision: Revision,
    signing_keys: Vec<Shown>,
}

/// A new one.
#[derive(Serialize, ToSchema)]
#[schema(as = SigningKeyRotated)]
pub(crate) struct Rotated {
    id: String,
    #[schema(examples("RS256"))]
    algorithm: &'static str,
    /// Milliseconds since 1970.
    #[schema(value_type = u64)]
    signs_from: Millis,
    /// The others are believed no more.
    emergency: bool,
}

/// Lists the keys that sign access tokens.
#[utoipa::path(get, path = "/admin/v1/signing-keys", responses((status = 200, description = "All.", body = SigningKeys)))]
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>) -> Response {
    let state = gateway.control.state();
    let now = Millis::now();
    let active = state.access.signs(now).map(|key| key.id);
    let keys = state.access.signing_keys.values().map(|key| {
        let phase = match () {
            () if active == Some(key.id) => "active",
            () if key.signs_from > now => "next",
            () => "retiring",
        };
        Shown {
            id: key.id.to_string(),
            algorithm: key.algorithm.clone(),
            state: phase,
            created_at: key.created_at,
            signs_from: key.signs_from,
            believed_until: key.believed_until,
        }
    });
    stream::plain_json(&SigningKeys { revision: state.revision(), signing_keys: keys.collect() })
}

/// How a key is replaced.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RotateSigningKey)]
pub(crate) struct Rotate {
    /// Drops the others at once: every access token is void.
    #[serde(default)]
    emergency: bool,
    /// `RS256`, `ES256` or `EdDSA`; that of the key in force when absent.
    #[serde(default)]
    algorithm: Option<String>,
}

/// Makes another key that signs access tokens.
#[utoipa::path(post, path = "/admin/v1/signing-keys/rotate", request_body = Option<Rotate>,
    responses((status = 200, description = "The key.", body = Rotated)))]
pub(crate) async fn rotate(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    body: Body,
) -> Result<Response, Problem> {
    let bytes = body::read(body, limits::LOGIN_BODY_BYTES).await?;
    let empty = bytes.iter().all(u8::is_ascii_whitespace);
    let Rotate { emergency, algorithm } = body::parse(if empty { b"{}" } else { &bytes })?;
    let alg = algorithm.map(|text| text.parse::<Alg>()).transpose().map_err(Failure::Invalid)?;
    let id = gateway.new_signing_key(emergency, alg, |command| {
        let action = if emergency { "signing-key.replace" } else { "signing-key.rotate" };
        (caller.note(action, "signing-keys"), command)
    });
    let (id, alg, signs_from) = id.await?;
    let algorithm = alg.name();
    Ok(stream::plain_json(&Rotated { id, algorithm, signs_from, emergency }))
}

impl Gateway {
    /// Makes a signing key, of the same algorithm as the newest one where nobody says otherwise, and has it taken in. It signs
    /// once every node must have heard of it.
    pub(crate) async fn new_signing_key(
        &self,
        emergency: bool,
        alg: Option<Alg>,
        noted: impl FnOnce(AccessCommand) -> (ollamamax_proto::audit::Note, AccessCommand),
    ) -> Result<(String, Alg, Millis), Failure> {
        let state = self.control.state();
        let alg = alg.or_else(|| state.access.newest_key().and_then(Alg::of)).unwrap_or_default();
        let sealing = self.config.sealing.clone();
        let lead_ms = if emergency { 0 } else { limits::SIGNING_KEY_LEAD_MS };
        let signs_from = Millis::now().plus(lead_ms);
        // Finding two primes takes a while.
        let made =
            tokio::task::spawn_blocking(move || jwt::new_signing_key(&sealing, alg, signs_from));
        let key = made.await.ok().flatten();
        let key =
            key.ok_or_else(|| Failure::Internal("no signing key could be made".to_owned()))?;
        let id = key.id.to_string();
        let lifetime_ms = self.config.access_token_ms + 2 * 1_000 * limits::CLOCK_LEEWAY_S;
        let (note, command) = noted(AccessCommand::PutSigningKey { key, lifetime_ms, emergency });
        let command = Box::new(access(command));
        let noted = ollamamax_core::Command::Noted { note: Box::new(note), command };
        self.control.propose(noted).await?;
        Ok((id, alg, signs_from))
    }
}
