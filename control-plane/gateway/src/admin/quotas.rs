//! `/admin/v1/quotas`: how much keys, users, models, and everybody else may ask for.

use super::users::access;
use crate::auth::Caller;
use crate::error::{Failure, Problem};
use crate::request::Path;
use crate::{Gateway, body, stream};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::access::{AccessCommand, Action, Object, Quota, QuotaOf};
use ollamamax_proto::{Revision, limits};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// How much somebody may ask for; what is absent is not bounded.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Quota, examples(json!({"requests_per_minute": 60, "streams": 4})))]
#[expect(dead_code, reason = "it stands in the description for a type that knows nothing of it")]
pub(crate) struct Bounds {
    requests_per_minute: Option<u32>,
    /// Tokens of prompts.
    prompt_tokens_per_minute: Option<u32>,
    /// Tokens of answers.
    output_tokens_per_minute: Option<u32>,
    /// Tokens of both.
    tokens_per_day: Option<u64>,
    /// Answers under way at once.
    streams: Option<u32>,
}

/// Whose quota it is.
#[derive(Serialize, ToSchema)]
#[schema(as = QuotaOf)]
pub(crate) struct Shown {
    /// `key:ID`, `user:NAME`, `model:NAME` or `anybody`.
    #[schema(examples("user:alice"))]
    of: String,
    #[schema(value_type = Bounds)]
    quota: Quota,
}

/// All quotas.
#[derive(Serialize, ToSchema)]
pub(crate) struct Quotas {
    /// Of the state they were read from.
    #[schema(value_type = u64)]
    revision: Revision,
    quotas: Vec<Shown>,
}

/// A quota as it is now.
#[derive(Serialize, ToSchema)]
#[schema(as = QuotaChanged)]
pub(crate) struct Changed {
    /// `key:ID`, `user:NAME`, `model:NAME` or `anybody`.
    of: String,
    /// Nothing where there is none any more.
    #[schema(value_type = Option<Bounds>)]
    quota: Option<Quota>,
    /// Of the state it is in.
    #[schema(value_type = u64)]
    revision: Revision,
}

/// Lists quotas.
#[utoipa::path(get, path = "/admin/v1/quotas", responses((status = 200, description = "All.", body = Quotas)))]
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>) -> Response {
    let state = gateway.control.state();
    let quotas = state.access.quotas.iter();
    let quotas = quotas.map(|(of, quota)| Shown { of: of.to_string(), quota: *quota }).collect();
    stream::plain_json(&Quotas { revision: state.revision(), quotas })
}

fn parse(text: &str) -> Result<QuotaOf, Failure> {
    let wrong = || {
        let text: String = text.chars().take(100).collect();
        Failure::invalid(format!(
            "`{text}` has no quota; expected `key:ID`, `user:NAME`, `model:NAME` or `anybody`"
        ))
    };
    text.parse().map_err(|()| wrong())
}

/// Says how much a key, a user, a model or anybody else may ask for.
#[utoipa::path(put, path = "/admin/v1/quotas/{of}", request_body = Bounds,
    params(("of" = String, Path, description = "`key:ID`, `user:NAME`, `model:NAME` or `anybody`.", example = "user:alice")),
    responses((status = 200, description = "The quota.", body = Changed)))]
pub(crate) async fn put(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(of): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let quota: Quota = body::json(body, limits::LOGIN_BODY_BYTES).await?;
    set(&gateway, &caller, &of, Some(quota)).await
}

/// Removes a quota.
#[utoipa::path(delete, path = "/admin/v1/quotas/{of}",
    params(("of" = String, Path, description = "`key:ID`, `user:NAME`, `model:NAME` or `anybody`.", example = "user:alice")),
    responses((status = 200, description = "It is gone.", body = Changed)))]
pub(crate) async fn delete(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(of): Path<String>,
) -> Result<Response, Problem> {
    set(&gateway, &caller, &of, None).await
}

async fn set(
    gateway: &Gateway,
    caller: &Caller,
    text: &str,
    quota: Option<Quota>,
) -> Result<Response, Problem> {
    let of = parse(text)?;
    caller.check(Action::ManageAccess, Object::Named(text), text)?;
    let action = if quota.is_some() { "quota.set" } else { "quota.remove" };
    let command = access(AccessCommand::SetQuota { of: of.clone(), quota });
    let revision = caller.propose(gateway, action, &of, command).await?.revision();
    Ok(stream::plain_json(&Changed { of: of.to_string(), quota, revision }))
}
