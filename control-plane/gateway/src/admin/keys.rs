//! `/admin/v1/keys`: API keys. Everybody has those of oneself; `access:manage` has all.

use super::users::access;
use crate::auth::{Caller, credential};
use crate::error::{Failure, Problem};
use crate::{Gateway, body, stream};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use ollamamax_core::access::{AccessCommand, Action, Grant, Hidden, KeyId, KeyRecord, Object};
use ollamamax_proto::{Millis, limits};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

fn shown(key: &KeyRecord) -> Value {
    json!({
        "id": key.id.to_string(),
        "prefix": format!("omk_{}", key.id),
        "owner": key.owner,
        "label": key.label,
        "scope": key.scope,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
    })
}

/// `GET /admin/v1/keys`.
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>, caller: Caller) -> Response {
    let state = gateway.control.state();
    let seen = state.access.keys.values().filter(|key| {
        let is_own = caller.user() == Some(key.owner.as_str());
        let is_asked_with = caller.key().is_none_or(|asked| asked == key.id);
        (is_own && is_asked_with) || caller.may(Action::ReadAccess, Object::Named(&key.owner))
    });
    let keys: Vec<Value> = seen.map(shown).collect();
    stream::plain_json(&json!({"revision": state.revision(), "keys": keys}))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    /// The caller when absent.
    #[serde(default)]
    owner: Option<String>,
    #[serde(default)]
    label: String,
    /// All that the owner may do when absent.
    #[serde(default)]
    scope: Option<BTreeSet<Grant>>,
    #[serde(default)]
    lifetime_s: Option<u64>,
}

/// `POST /admin/v1/keys`: the only answer that shows the key itself.
pub(crate) async fn create(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    body: Body,
) -> Result<Response, Problem> {
    let New { owner, label, scope, lifetime_s } =
        body::json(body, limits::LOGIN_BODY_BYTES).await?;
    let owner = match owner.or_else(|| caller.user().map(str::to_owned)) {
        Some(owner) => owner,
        None => {
            return Err(Failure::invalid("`owner` is required: nobody in particular asks").into());
        }
    };
    // A key with a scope must not make one without.
    if caller.user() != Some(owner.as_str()) || caller.key().is_some() {
        caller.check(Action::ManageAccess, Object::Named(&owner), &owner)?;
    }
    let expires_at = lifetime_s.map(|s| Millis::now().plus(s.saturating_mul(1_000)));
    let (id, text, hash) = credential::new_key();
    let key = KeyRecord {
        id,
        hash: Hidden(hash),
        owner,
        label,
        scope,
        created_at: Millis(0),
        expires_at,
    };
    let mut answer = shown(&KeyRecord { created_at: Millis::now(), ..key.clone() });
    let command = access(AccessCommand::CreateKey { key });
    let object = format!("key:{id} of user:{}", answer["owner"].as_str().unwrap_or_default());
    caller.propose(&gateway, "key.create", object, command).await?;
    answer["key"] = text.as_str().into();
    Ok(stream::plain_json(&answer))
}

/// `DELETE /admin/v1/keys/{id}`: by its id, with or without `omk_` before it.
pub(crate) async fn revoke(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(text): Path<String>,
) -> Result<Response, Problem> {
    let unknown = || {
        let text: String = text.chars().take(24).collect();
        Failure::NotFound(format!("key `{text}` not found"))
    };
    let id = text.strip_prefix("omk_").unwrap_or(&text);
    let id: KeyId = id.get(..16).unwrap_or(id).parse().map_err(|()| unknown())?;
    let state = gateway.control.state();
    let owner = state.access.keys.get(&id).map(|key| key.owner.clone());
    // A key may give itself up, but no other one: a scope would mean little else.
    let is_own = owner.is_some() && owner.as_deref() == caller.user();
    if !is_own || caller.key().is_some_and(|key| key != id) {
        // Whether it is there is nobody's business but that of who may see it.
        caller.check(Action::ManageAccess, Object::Some, "keys")?;
        let owner = owner.ok_or_else(unknown)?;
        caller.check(Action::ManageAccess, Object::Named(&owner), &owner)?;
    }
    let command = access(AccessCommand::RevokeKey { id });
    let revision =
        caller.propose(&gateway, "key.revoke", format!("key:{id}"), command).await?.revision();
    Ok(stream::plain_json(&json!({"id": id.to_string(), "revision": revision})))
}
