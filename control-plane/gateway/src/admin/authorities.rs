//! `/admin/v1/authorities`: what signs the certificates of nodes and workers.

use super::users::access;
use crate::auth::Caller;
use crate::error::{Failure, Problem};
use crate::{Gateway, secrets, stream};
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::access::{AccessCommand, AuthorityRecord, Hidden};
use ollamamax_proto::{Digest, Millis, Revision, limits};
use ollamamax_tls::{Authority, Certificate, Cluster};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// What an authority's private key is sealed for.
const SEALED_FOR: &str = "authority 1";

/// An authority as it is replicated: its certificate for everybody, its key sealed.
pub fn seal(
    sealing: &secrets::SealingKey,
    authority: &Authority,
    signs_from: Millis,
) -> AuthorityRecord {
    AuthorityRecord {
        fingerprint: authority.fingerprint().0,
        certificate: authority.certificate().pem(),
        sealed: Hidden(sealing.seal(SEALED_FOR, authority.to_pem().as_bytes())),
        created_at: Millis(0),
        signs_from,
        trusted_until: None,
    }
}

/// What [`seal`] sealed; `None` when another key sealed it.
pub fn unseal(sealing: &secrets::SealingKey, sealed: &[u8]) -> Option<Authority> {
    let pem = sealing.unseal(SEALED_FOR, sealed)?;
    Authority::from_pem(&pem).ok()
}

/// An authority.
#[derive(Serialize, ToSchema)]
#[schema(as = Authority)]
pub(crate) struct Shown {
    #[schema(value_type = String)]
    fingerprint: Digest,
    /// `next`, `active` or `retiring`.
    state: &'static str,
    /// Milliseconds since 1970.
    #[schema(value_type = u64)]
    created_at: Millis,
    #[schema(value_type = u64)]
    signs_from: Millis,
    /// For as long as it is the last when there is none.
    #[schema(value_type = Option<u64>)]
    trusted_until: Option<Millis>,
    /// Its certificate ends then.
    #[schema(value_type = Option<u64>)]
    expires_at: Option<Millis>,
    /// In PEM.
    certificate: String,
}

/// All authorities.
#[derive(Serialize, ToSchema)]
pub(crate) struct Authorities {
    /// Of the state they were read from.
    #[schema(value_type = u64)]
    revision: Revision,
    authorities: Vec<Shown>,
}

/// A new one.
#[derive(Serialize, ToSchema)]
#[schema(as = AuthorityRotated)]
pub(crate) struct Rotated {
    #[schema(value_type = String)]
    fingerprint: Digest,
    /// Milliseconds since 1970.
    #[schema(value_type = u64)]
    signs_from: Millis,
    /// Of the state it is in.
    #[schema(value_type = u64)]
    revision: Revision,
}

/// Lists what signs the certificates of nodes and workers.
#[utoipa::path(get, path = "/admin/v1/authorities", responses((status = 200, description = "All.", body = Authorities)))]
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>) -> Response {
    let state = gateway.control.state();
    let now = Millis::now();
    let active = state.access.certifies(now).map(|record| record.fingerprint);
    let authorities = state.access.authorities.values().map(|record| {
        let phase = match () {
            () if active == Some(record.fingerprint) => "active",
            () if record.signs_from > now => "next",
            () => "retiring",
        };
        let certificate = Certificate::from_pem(record.certificate.as_bytes());
        Shown {
            fingerprint: Digest(record.fingerprint),
            state: phase,
            created_at: record.created_at,
            signs_from: record.signs_from,
            trusted_until: record.trusted_until,
            expires_at: certificate.map(|certificate| certificate.not_after()).ok(),
            certificate: record.certificate.clone(),
        }
    });
    let authorities = authorities.collect();
    stream::plain_json(&Authorities { revision: state.revision(), authorities })
}

/// Replaces the authority.
///
/// Another one is trusted at once and signs a little later; the present one is trusted until what it signed has ended.
#[utoipa::path(post, path = "/admin/v1/authorities/rotate",
    responses((status = 200, description = "The next authority.", body = Rotated), (status = 500)))]
pub(crate) async fn rotate(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
) -> Result<Response, Problem> {
    let state = gateway.control.state();
    let now = Millis::now();
    if state.access.authorities.values().any(|record| record.signs_from > now) {
        let text = "an authority is on its way already; wait until it signs";
        return Err(Failure::Conflict(text.to_owned()).into());
    }
    let cluster = state.cluster.as_ref().and_then(|cluster| cluster.id.parse::<Cluster>().ok());
    let cluster = cluster.ok_or_else(|| Failure::unavailable("there is no cluster yet"))?;
    let authority = Authority::create(&cluster, now);
    let authority = authority.map_err(|error| Failure::Internal(error.to_string()))?;
    let signs_from = now.plus(gateway.config.authority_lead_ms);
    let record = seal(&gateway.config.sealing, &authority, signs_from);
    let fingerprint = Digest(record.fingerprint);
    // Clocks differ: a certificate may be signed a little later than that by who is behind.
    let lifetime_ms = gateway.config.certificate_ms + 2 * 1_000 * limits::CLOCK_LEEWAY_S;
    let command = access(AccessCommand::PutAuthority { authority: record, lifetime_ms });
    let outcome = caller.propose(&gateway, "authority.rotate", fingerprint, command).await?;
    Ok(stream::plain_json(&Rotated { fingerprint, signs_from, revision: outcome.revision() }))
}
