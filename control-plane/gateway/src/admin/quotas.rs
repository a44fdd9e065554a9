//! `/admin/v1/quotas`: how much keys, users, models, and everybody else may ask for.

use super::users::access;
use crate::auth::Caller;
use crate::error::{Failure, Problem};
use crate::{Gateway, body, stream};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use ollamamax_core::access::{AccessCommand, Action, Object, Quota, QuotaOf};
use ollamamax_proto::limits;
use serde_json::{Value, json};
use std::sync::Arc;

/// `GET /admin/v1/quotas`.
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>) -> Response {
    let state = gateway.control.state();
    let quotas = state.access.quotas.iter();
    let quotas: Vec<Value> =
        quotas.map(|(of, quota)| json!({"of": of.to_string(), "quota": quota})).collect();
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
    let quota: Quota = body::json(body, limits::LOGIN_BODY_BYTES).await?;
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
    quota: Option<Quota>,
) -> Result<Response, Problem> {
    let of = parse(text)?;
    caller.check(Action::ManageAccess, Object::Named(text), text)?;
    let action = if quota.is_some() { "quota.set" } else { "quota.remove" };
    let command = access(AccessCommand::SetQuota { of: of.clone(), quota });
    let revision = caller.propose(gateway, action, &of, command).await?.revision();
    Ok(stream::plain_json(&json!({"of": of.to_string(), "quota": quota, "revision": revision})))
}
