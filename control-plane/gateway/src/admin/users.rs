//! `/admin/v1/users`: people and service accounts.

use crate::auth::{Caller, password};
use crate::error::{Failure, Problem};
use crate::request::Path;
use crate::sessions::Secret;
use crate::{Gateway, body, stream};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::Command;
use ollamamax_core::access::{AccessCommand, Action, Object, UserRecord};
use ollamamax_proto::{Millis, Revision, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use utoipa::ToSchema;

/// A user, or a service account.
#[derive(Serialize, ToSchema)]
pub(crate) struct User {
    #[schema(examples("alice"))]
    name: String,
    /// A program, not a person.
    service: bool,
    has_password: bool,
    #[schema(examples(json!(["user"])))]
    roles: BTreeSet<String>,
    /// Nothing of it is good while this is so.
    disabled: bool,
    /// Milliseconds since 1970.
    #[schema(value_type = u64)]
    created_at: Millis,
    /// Logins there are.
    sessions: usize,
    /// API keys there are.
    keys: usize,
}

/// All users.
#[derive(Serialize, ToSchema)]
pub(crate) struct Users {
    /// Of the state they were read from.
    #[schema(value_type = u64)]
    revision: Revision,
    users: Vec<User>,
}

/// What was changed, and when.
#[derive(Serialize, ToSchema)]
#[schema(as = NameChanged)]
pub(crate) struct Named {
    pub name: String,
    /// Of the state it is in.
    #[schema(value_type = u64)]
    pub revision: Revision,
}

fn shown(state: &ollamamax_core::State, user: &UserRecord) -> User {
    let access = &state.access;
    let sessions = access.sessions.values().filter(|session| session.user == user.name).count();
    let keys = access.keys.values().filter(|key| key.owner == user.name).count();
    User {
        name: user.name.clone(),
        service: user.service,
        has_password: user.password.is_some(),
        roles: user.roles.clone(),
        disabled: user.disabled,
        created_at: user.created_at,
        sessions,
        keys,
    }
}

/// Lists users.
#[utoipa::path(get, path = "/admin/v1/users", responses((status = 200, description = "All.", body = Users)))]
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>) -> Response {
    let state = gateway.control.state();
    let users = state.access.users.values().map(|user| shown(&state, user)).collect();
    stream::plain_json(&Users { revision: state.revision(), users })
}

/// Shows a user.
#[utoipa::path(get, path = "/admin/v1/users/{name}", params(("name" = String, Path, example = "alice")),
    responses((status = 200, description = "The user.", body = User)))]
pub(crate) async fn get(
    State(gateway): State<Arc<Gateway>>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let state = gateway.control.state();
    let user = state.access.users.get(&name).ok_or_else(|| unknown(&name))?;
    Ok(stream::plain_json(&shown(&state, user)))
}

fn unknown(name: &str) -> Failure {
    let name: String = name.chars().take(limits::ACCESS_NAME_CHARS).collect();
    Failure::NotFound(format!("user `{name}` not found"))
}

/// A user that shall be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewUser, examples(json!({"name": "alice", "password": "correct horse battery", "roles": ["user"]})))]
pub(crate) struct New {
    name: String,
    /// None: it cannot log in, keys are made for it.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Password, write_only)]
    password: Option<Secret>,
    /// A program, not a person.
    #[serde(default)]
    service: bool,
    /// `user` when absent.
    #[serde(default)]
    roles: Option<BTreeSet<String>>,
}

/// Adds a user or a service account.
#[utoipa::path(post, path = "/admin/v1/users", request_body = New,
    responses((status = 200, description = "The user.", body = User)))]
pub(crate) async fn create(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    body: Body,
) -> Result<Response, Problem> {
    let New { name, password, service, roles } = body::json(body, limits::LOGIN_BODY_BYTES).await?;
    caller.check(Action::ManageAccess, Object::Named(&name), &name)?;
    let password = hashed(password).await?;
    let roles = roles.unwrap_or_else(|| BTreeSet::from(["user".to_owned()]));
    let (created_at, not_before) = (Millis(0), Millis(0));
    let user = UserRecord {
        name: name.clone(),
        service,
        password,
        roles,
        disabled: false,
        created_at,
        not_before,
    };
    change(&gateway, &caller, "user.create", &name, AccessCommand::CreateUser { user }).await
}

async fn hashed(
    secret: Option<Secret>,
) -> Result<Option<ollamamax_core::access::Hidden<String>>, Failure> {
    let Some(secret) = secret else { return Ok(None) };
    let secret = secret.take();
    password::check(&secret)?;
    password::hash(secret).await.map(Some)
}

/// Either the roles, or whether it may do anything.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChangedUser, examples(json!({"roles": ["user"]}), json!({"disabled": true})))]
pub(crate) struct Changed {
    #[serde(default)]
    roles: Option<BTreeSet<String>>,
    #[serde(default)]
    disabled: Option<bool>,
}

/// Changes a user's roles, or whether it may do anything.
#[utoipa::path(patch, path = "/admin/v1/users/{name}", params(("name" = String, Path, example = "alice")),
    request_body = Changed, responses((status = 200, description = "The user as it is now.", body = User)))]
pub(crate) async fn patch(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(user): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let Changed { roles, disabled } = body::json(body, limits::LOGIN_BODY_BYTES).await?;
    caller.check(Action::ManageAccess, Object::Named(&user), &user)?;
    let (action, command) = match (roles, disabled) {
        (Some(roles), None) => {
            ("user.roles", AccessCommand::SetRoles { user: user.clone(), roles })
        }
        (None, Some(disabled)) => {
            let action = if disabled { "user.disable" } else { "user.enable" };
            (action, AccessCommand::DisableUser { user: user.clone(), disabled })
        }
        _ => return Err(Failure::invalid("expected either `roles` or `disabled`").into()),
    };
    change(&gateway, &caller, action, &user, command).await
}

/// Removes a user, with its keys and logins.
#[utoipa::path(delete, path = "/admin/v1/users/{name}", params(("name" = String, Path, example = "alice")),
    responses((status = 200, description = "It is gone.", body = Named)))]
pub(crate) async fn delete(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(user): Path<String>,
) -> Result<Response, Problem> {
    caller.check(Action::ManageAccess, Object::Named(&user), &user)?;
    let command = AccessCommand::DeleteUser { user: user.clone() };
    let proposed = caller.propose(&gateway, "user.delete", &user, access(command));
    let revision = proposed.await?.revision();
    Ok(stream::plain_json(&Named { name: user, revision }))
}

/// A password in place of the one before.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPassword {
    /// None: it cannot log in any more.
    #[schema(value_type = Option<String>, format = Password, write_only)]
    password: Option<Secret>,
    /// One's own, when the caller changes its own.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Password, write_only)]
    current: Option<Secret>,
}

/// Changes a password: one's own with the current one, anybody's with `access:manage`. Ends the logins.
#[utoipa::path(put, path = "/admin/v1/users/{name}/password", params(("name" = String, Path, example = "alice")),
    request_body = NewPassword, responses((status = 200, description = "The user.", body = User)))]
pub(crate) async fn set_password(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(user): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let NewPassword { password, current } = body::json(body, limits::LOGIN_BODY_BYTES).await?;
    let is_own = caller.user() == Some(user.as_str()) && caller.key().is_none();
    if is_own && let Some(current) = current {
        // As at a login: whoever found a session open must not learn the password by trying.
        gateway.throttle.login(&user, None)?;
        let kept = gateway.control.state().access.users.get(&user).and_then(|u| u.password.clone());
        if !password::verify(current.take(), kept.map(|hidden| hidden.0)).await? {
            return Err(Failure::Forbidden("the current password is wrong".to_owned()).into());
        }
    } else {
        caller.check(Action::ManageAccess, Object::Named(&user), &user)?;
    }
    let password = hashed(password).await?;
    let command = AccessCommand::SetPassword { user: user.clone(), password };
    change(&gateway, &caller, "user.password", &user, command).await
}

/// Ends a user's logins and voids its access tokens; one's own, or with `access:manage`.
#[utoipa::path(post, path = "/admin/v1/users/{name}/logout", params(("name" = String, Path, example = "alice")),
    responses((status = 200, description = "The user.", body = User)))]
pub(crate) async fn log_out(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(user): Path<String>,
) -> Result<Response, Problem> {
    if caller.user() != Some(user.as_str()) || caller.key().is_some() {
        caller.check(Action::ManageAccess, Object::Named(&user), &user)?;
    }
    let command = AccessCommand::LogOut { user: user.clone() };
    change(&gateway, &caller, "user.logout", &user, command).await
}

pub(super) fn access(command: AccessCommand) -> Command {
    Command::Access(Box::new(command))
}

async fn change(
    gateway: &Gateway,
    caller: &Caller,
    action: &str,
    user: &str,
    command: AccessCommand,
) -> Result<Response, Problem> {
    caller.propose(gateway, action, user, access(command)).await?;
    let state = gateway.control.state();
    // It may have gone meanwhile.
    let record = state.access.users.get(user).ok_or_else(|| unknown(user))?;
    Ok(stream::plain_json(&shown(&state, record)))
}
