//! `/admin/v1/quotas`: how much keys, users, models, and everybody else may ask for.

use super::users::access;
use crate::auth::Caller;
use crate::error::{Failure, Problem};
use crate::{Gateway, body, stream};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use ollamamax_core::access::{AccessCommand, Action, Making, Object, Quota, QuotaOf};
use ollamamax_proto::limits;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// All that somebody may ask for and make.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct Both {
    requests_per_minute: Option<u32>,
    prompt_tokens_per_minute: Option<u32>,
    output_tokens_per_minute: Option<u32>,
    tokens_per_day: Option<u64>,
    streams: Option<u32>,
    models_per_day: Option<u32>,
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

/// `GET /admin/v1/quotas`.
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>) -> Response {
    let state = gateway.control.state();
    let (quotas, makings) = (&state.access.quotas, &state.access.makings);
    let all: BTreeSet<&QuotaOf> = quotas.keys().chain(makings.keys()).collect();
    let line = |of: &QuotaOf| {
        let quota = quotas.get(of).copied().unwrap_or_default();
        let making = makings.get(of).copied().unwrap_or_default();
        json!({"of": of.to_string(), "quota": Both::of(quota, making)})
    };
    let quotas: Vec<Value> = all.into_iter().map(line).collect();
    stream::plain_json(&json!({"revision": state.revision(), "quotas": quotas}))
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

/// `PUT /admin/v1/quotas/{of}`.
pub(crate) async fn put(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(of): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let quota: Both = body::json(body, limits::LOGIN_BODY_BYTES).await?;
    set(&gateway, &caller, &of, Some(quota)).await
}

/// `DELETE /admin/v1/quotas/{of}`.
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
    Ok(stream::plain_json(&json!({"of": of.to_string(), "quota": both, "revision": revision})))
}
