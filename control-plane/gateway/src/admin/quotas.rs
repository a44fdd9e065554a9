//! `/admin/v1/quotas`: how much keys, users, models, and everybody else may ask for.

use super::users::access;
use crate::auth::Caller;
use crate::error::{Failure, Problem};
use crate::request::Path;
use crate::{Gateway, body, stream};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::access::{AccessCommand, Action, Making, Object, Quota, QuotaOf};
use ollamamax_proto::{Revision, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use utoipa::ToSchema;

/// All that somebody may ask for and make; what is absent is not bounded, or as for anybody.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = Quota, examples(json!({"requests_per_minute": 60, "streams": 4})))]
pub(crate) struct Both {
    requests_per_minute: Option<u32>,
    /// Tokens of prompts.
    prompt_tokens_per_minute: Option<u32>,
    /// Tokens of answers.
    output_tokens_per_minute: Option<u32>,
    /// Tokens of both.
    tokens_per_day: Option<u64>,
    /// Answers under way at once.
    streams: Option<u32>,
    /// Names that may be made or changed.
    models_per_day: Option<u32>,
    /// Bytes of files that may be uploaded.
    blob_bytes_per_day: Option<u64>,
}

impl Both {
    fn of(quota: Quota, making: Making) -> Self {
        Self {
            requests_per_minute: quota.requests_per_minute,
            prompt_tokens_per_minute: quota.prompt_tokens_per_minute,
            output_tokens_per_minute: quota.output_tokens_per_minute,
            tokens_per_day: quota.tokens_per_day,
            streams: quota.streams,
            models_per_day: making.models_per_day,
            blob_bytes_per_day: making.blob_bytes_per_day,
        }
    }

    fn quota(self) -> Quota {
        Quota {
            requests_per_minute: self.requests_per_minute,
            prompt_tokens_per_minute: self.prompt_tokens_per_minute,
            output_tokens_per_minute: self.output_tokens_per_minute,
            tokens_per_day: self.tokens_per_day,
            streams: self.streams,
        }
    }

    /// `None`: what anybody may make.
    fn making(self) -> Option<Making> {
        let (models_per_day, blob_bytes_per_day) = (self.models_per_day, self.blob_bytes_per_day);
        let making = Making { models_per_day, blob_bytes_per_day };
        (making != Making::default()).then_some(making)
    }
}

/// Whose quota it is.
#[derive(Serialize, ToSchema)]
#[schema(as = QuotaOf)]
pub(crate) struct Shown {
    /// `key:ID`, `user:NAME`, `model:NAME` or `anybody`.
    #[schema(examples("user:alice"))]
    of: String,
    quota: Both,
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
    quota: Option<Both>,
    /// Of the state it is in.
    #[schema(value_type = u64)]
    revision: Revision,
}

/// Lists quotas.
#[utoipa::path(get, path = "/admin/v1/quotas", responses((status = 200, description = "All.", body = Quotas)))]
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>) -> Response {
    let state = gateway.control.state();
    let (quotas, makings) = (&state.access.quotas, &state.access.makings);
    let all: BTreeSet<&QuotaOf> = quotas.keys().chain(makings.keys()).collect();
    let line = |of: &QuotaOf| {
        let quota = quotas.get(of).copied().unwrap_or_default();
        let making = makings.get(of).copied().unwrap_or_default();
        Shown { of: of.to_string(), quota: Both::of(quota, making) }
    };
    let quotas = all.into_iter().map(line).collect();
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
#[utoipa::path(put, path = "/admin/v1/quotas/{of}", request_body = Both,
    params(("of" = String, Path, description = "`key:ID`, `user:NAME`, `model:NAME` or `anybody`.", example = "user:alice")),
    responses((status = 200, description = "The quota.", body = Changed)))]
pub(crate) async fn put(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(of): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let quota: Both = body::json(body, limits::LOGIN_BODY_BYTES).await?;
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
    both: Option<Both>,
) -> Result<Response, Problem> {
    let of = parse(text)?;
    caller.check(Action::ManageAccess, Object::Named(text), text)?;
    let action = if both.is_some() { "quota.set" } else { "quota.remove" };
    let (quota, making) = (both.map(Both::quota), both.and_then(Both::making));
    let command = access(AccessCommand::SetQuotas { of: of.clone(), quota, making });
    let revision = caller.propose(gateway, action, &of, command).await?.revision();
    Ok(stream::plain_json(&Changed { of: of.to_string(), quota: both, revision }))
}
