//! `/admin/v1/roles`: the built-in ones, and those of one's own.

use super::users::{Named, access};
use crate::auth::Caller;
use crate::error::Problem;
use crate::request::Path;
use crate::{Gateway, body, stream};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::access::{
    AccessCommand, Action, BUILT_IN, Grant, Object, RoleRecord, built_in,
};
use ollamamax_proto::{Revision, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use utoipa::ToSchema;

/// A role.
#[derive(Serialize, ToSchema)]
#[schema(as = Role)]
pub(crate) struct Shown {
    name: String,
    description: String,
    /// There from the beginning, and not to be changed.
    built_in: bool,
    /// Roles whose grants it has, too.
    inherits: BTreeSet<String>,
    /// What it lets do: `action`, `action@pattern`, or with a `!` before it what it does not.
    #[schema(value_type = Vec<String>, examples(json!(["inference:run@smollm2*", "!model:read@secret*"])))]
    grants: Vec<Grant>,
}

/// All roles.
#[derive(Serialize, ToSchema)]
pub(crate) struct Roles {
    /// Of the state they were read from.
    #[schema(value_type = u64)]
    revision: Revision,
    roles: Vec<Shown>,
}

/// Lists the roles: the built-in ones, and those of one's own.
#[utoipa::path(get, path = "/admin/v1/roles", responses((status = 200, description = "All.", body = Roles)))]
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>) -> Response {
    let state = gateway.control.state();
    let fixed = BUILT_IN.iter().map(|(name, description, _)| Shown {
        name: (*name).to_owned(),
        description: (*description).to_owned(),
        built_in: true,
        inherits: BTreeSet::new(),
        grants: built_in(name).unwrap_or_default().to_vec(),
    });
    let own = state.access.roles.values().map(|role| Shown {
        name: role.name.clone(),
        description: role.description.clone(),
        built_in: false,
        inherits: role.inherits.clone(),
        grants: role.grants.iter().cloned().collect(),
    });
    let roles = fixed.chain(own).collect();
    stream::plain_json(&Roles { revision: state.revision(), roles })
}

/// What a role shall be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RoleRequest, examples(json!({"description": "may ask small models", "grants": ["inference:run@smollm2*"]})))]
pub(crate) struct Role {
    #[serde(default)]
    description: String,
    /// Roles whose grants it has, too.
    #[serde(default)]
    inherits: BTreeSet<String>,
    /// `action`, `action@pattern`, or with a `!` before it what it does not let do.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    grants: BTreeSet<Grant>,
}

/// Makes a role, or changes it.
#[utoipa::path(put, path = "/admin/v1/roles/{name}", params(("name" = String, Path, example = "small")),
    request_body = Role, responses((status = 200, description = "It is there.", body = Named)))]
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
    Ok(stream::plain_json(&Named { name, revision }))
}

/// Removes a role that nobody has.
#[utoipa::path(delete, path = "/admin/v1/roles/{name}", params(("name" = String, Path, example = "small")),
    responses((status = 200, description = "It is gone.", body = Named)))]
pub(crate) async fn delete(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    caller.check(Action::ManageAccess, Object::Named(&name), &name)?;
    let command = access(AccessCommand::DeleteRole { name: name.clone() });
    let revision = caller.propose(&gateway, "role.delete", &name, command).await?.revision();
    Ok(stream::plain_json(&Named { name, revision }))
}
