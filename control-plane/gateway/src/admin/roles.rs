//! `/admin/v1/roles`: the built-in ones, and those of one's own.

use super::users::access;
use crate::auth::Caller;
use crate::error::Problem;
use crate::{Gateway, body, stream};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use ollamamax_core::access::{
    AccessCommand, Action, BUILT_IN, Grant, Object, RoleRecord, built_in,
};
use ollamamax_proto::limits;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// `GET /admin/v1/roles`.
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>) -> Response {
    let state = gateway.control.state();
    let fixed = BUILT_IN.iter().map(|(name, description, _)| {
        json!({
            "name": name,
            "description": description,
            "built_in": true,
            "inherits": [],
            "grants": built_in(name),
        })
    });
    let own = state.access.roles.values().map(|role| {
        json!({
            "name": role.name,
            "description": role.description,
            "built_in": false,
            "inherits": role.inherits,
            "grants": role.grants,
        })
    });
    let roles: Vec<Value> = fixed.chain(own).collect();
    stream::plain_json(&json!({"revision": state.revision(), "roles": roles}))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Role {
    #[serde(default)]
    description: String,
    #[serde(default)]
    inherits: BTreeSet<String>,
    #[serde(default)]
    grants: BTreeSet<Grant>,
}

/// `PUT /admin/v1/roles/{name}`.
pub(crate) async fn put(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(name): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let Role { description, inherits, grants } = body::json(body, limits::LOGIN_BODY_BYTES).await?;
    caller.check(Action::ManageAccess, Object::Named(&name), &name)?;
    let role = RoleRecord { name: name.clone(), description, inherits, grants };
    let command = access(AccessCommand::PutRole { role });
    let revision = caller.propose(&gateway, "role.put", &name, command).await?.revision();
    Ok(stream::plain_json(&json!({"name": name, "revision": revision})))
}

/// `DELETE /admin/v1/roles/{name}`.
pub(crate) async fn delete(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    caller.check(Action::ManageAccess, Object::Named(&name), &name)?;
    let command = access(AccessCommand::DeleteRole { name: name.clone() });
    let revision = caller.propose(&gateway, "role.delete", &name, command).await?.revision();
    Ok(stream::plain_json(&json!({"name": name, "revision": revision})))
}
