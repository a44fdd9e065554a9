//! `/admin/v1/users`: people and service accounts.

use crate::auth::{Caller, password};
use crate::error::{Failure, Problem};
use crate::sessions::Secret;
use crate::{Gateway, body, stream};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use ollamamax_core::Command;
use ollamamax_core::access::{AccessCommand, Action, Object, UserRecord};
use ollamamax_proto::{Millis, limits};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

fn shown(state: &ollamamax_core::State, user: &UserRecord) -> Value {
    let access = &state.access;
    let sessions = access.sessions.values().filter(|session| session.user == user.name).count();
    let keys = access.keys.values().filter(|key| key.owner == user.name).count();
    json!({
        "name": user.name,
        "service": user.service,
        "has_password": user.password.is_some(),
        "roles": user.roles,
        "disabled": user.disabled,
        "created_at": user.created_at,
        "sessions": sessions,
        "keys": keys,
    })
}

/// `GET /admin/v1/users`.
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>) -> Response {
    let state = gateway.control.state();
    let users: Vec<Value> = state.access.users.values().map(|user| shown(&state, user)).collect();
    stream::plain_json(&json!({"revision": state.revision(), "users": users}))
}

/// `GET /admin/v1/users/{name}`.
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    name: String,
    #[serde(default)]
    password: Option<Secret>,
    #[serde(default)]
    service: bool,
    #[serde(default)]
    roles: Option<BTreeSet<String>>,
}

/// `POST /admin/v1/users`.
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Changed {
    #[serde(default)]
    roles: Option<BTreeSet<String>>,
    #[serde(default)]
    disabled: Option<bool>,
}

/// `PATCH /admin/v1/users/{name}`: roles, and whether it may do anything.
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

/// `DELETE /admin/v1/users/{name}`.
pub(crate) async fn delete(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(user): Path<String>,
) -> Result<Response, Problem> {
    caller.check(Action::ManageAccess, Object::Named(&user), &user)?;
    let command = AccessCommand::DeleteUser { user: user.clone() };
    let proposed = caller.propose(&gateway, "user.delete", &user, access(command));
    let revision = proposed.await?.revision();
    Ok(stream::plain_json(&json!({"name": user, "revision": revision})))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPassword {
    password: Option<Secret>,
    /// One's own, when the caller changes its own.
    #[serde(default)]
    current: Option<Secret>,
}

/// `PUT /admin/v1/users/{name}/password`: one's own with the current one, anybody's with `access:manage`. Ends the logins.
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

/// `POST /admin/v1/users/{name}/logout`: ends its logins and voids its access tokens; one's own, or with `access:manage`.
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
    let record = state.access.users.get(user);
    Ok(stream::plain_json(&record.map_or(Value::Null, |user| shown(&state, user))))
}
