//! `/admin/v1/keys`: API keys. Everybody has those of oneself; `access:manage` has all.

use super::users::access;
use crate::auth::{Caller, credential};
use crate::error::{Failure, Problem};
use crate::request::Path;
use crate::{Gateway, body, stream};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::access::{AccessCommand, Action, Grant, Hidden, KeyId, KeyRecord, Object};
use ollamamax_proto::{Millis, Revision, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use utoipa::ToSchema;

/// An API key, without its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub(crate) struct Key {
    /// 16 hex digits.
    id: String,
    /// What the key begins with.
    #[schema(examples("omk_00000000000000aa"))]
    prefix: String,
    /// The user it acts for.
    owner: String,
    label: String,
    /// What it may do of what its owner may; all of it when there is none.
    #[schema(value_type = Option<Vec<String>>)]
    scope: Option<BTreeSet<Grant>>,
    /// Milliseconds since 1970.
    #[schema(value_type = u64)]
    created_at: Millis,
    /// The same; never when there is none.
    #[schema(value_type = Option<u64>)]
    expires_at: Option<Millis>,
    /// The key itself: only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

/// API keys.
#[derive(Serialize, ToSchema)]
#[schema(as = ApiKeys)]
pub(crate) struct Keys {
    /// Of the state they were read from.
    #[schema(value_type = u64)]
    revision: Revision,
    keys: Vec<Key>,
}

/// What was changed, and when.
#[derive(Serialize, ToSchema)]
#[schema(as = IdChanged)]
pub(crate) struct Identified {
    pub id: String,
    /// Of the state it is in.
    #[schema(value_type = u64)]
    pub revision: Revision,
}

fn shown(key: &KeyRecord) -> Key {
    Key {
        id: key.id.to_string(),
        prefix: format!("omk_{}", key.id),
        owner: key.owner.clone(),
        label: key.label.clone(),
        scope: key.scope.clone(),
        created_at: key.created_at,
        expires_at: key.expires_at,
        key: None,
    }
}

/// Lists API keys: one's own, or with `access:read` all.
#[utoipa::path(get, path = "/admin/v1/keys",
    responses((status = 200, description = "Those that the caller may see.", body = Keys)))]
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>, caller: Caller) -> Response {
    let state = gateway.control.state();
    let seen = state.access.keys.values().filter(|key| {
        let is_own = caller.user() == Some(key.owner.as_str());
        let is_asked_with = caller.key().is_none_or(|asked| asked == key.id);
        (is_own && is_asked_with) || caller.may(Action::ReadAccess, Object::Named(&key.owner))
    });
    let keys = seen.map(shown).collect();
    stream::plain_json(&Keys { revision: state.revision(), keys })
}

/// An API key that shall be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewKey, examples(json!({"label": "ci", "scope": ["inference:run@smollm2*"], "lifetime_s": 86400})))]
pub(crate) struct New {
    /// The caller when absent.
    #[serde(default)]
    owner: Option<String>,
    #[serde(default)]
    label: String,
    /// All that the owner may do when absent.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    scope: Option<BTreeSet<Grant>>,
    /// For ever when absent.
    #[serde(default)]
    lifetime_s: Option<u64>,
}

/// Makes an API key. This is the only answer that shows the key itself.
#[utoipa::path(post, path = "/admin/v1/keys", request_body = New,
    responses((status = 200, description = "The key.", body = Key)))]
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
    let object = format!("key:{id} of user:{}", answer.owner);
    caller.propose(&gateway, "key.create", object, command).await?;
    answer.key = Some(text.as_str().to_owned());
    Ok(stream::plain_json(&answer))
}

/// Revokes an API key, by its id, with or without `omk_` before it.
#[utoipa::path(delete, path = "/admin/v1/keys/{id}", params(("id" = String, Path, example = "00000000000000aa")),
    responses((status = 200, description = "It is good no more.", body = Identified)))]
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
    Ok(stream::plain_json(&Identified { id: id.to_string(), revision }))
}
