//! Logins: `/auth/...` and the public keys.
//!
//! ```text
//! POST /auth/token     {"username", "password"}  -> access token (minutes), refresh token (days)
//! POST /auth/refresh   {"refresh_token"}         -> both anew; the one presented is spent
//! POST /auth/revoke    {"token"}                 -> 200 whatever it was (RFC 7009)
//! POST /auth/logout                              -> ends the login it is asked with
//! GET  /auth/whoami
//! GET  /.well-known/jwks.json
//! ```
//!
//! Bodies may also be forms, as OAuth 2 clients send them.

mod bodies;

pub(crate) use bodies::Secret;

use crate::auth::credential::{PresentedKey, RefreshToken};
use crate::auth::{Caller, guard, jwt, password};
use crate::error::{Failure, Problem};
use crate::{Gateway, body, stream};
use axum::extract::{Request, State};
use axum::response::Response;
use bodies::{Granted, KeysShown, Login, Nothing, Refresh, Revoke, WhoAmI};
use ollamamax_core::access::{
    AccessCommand, Action, Hidden, Object, RevokedToken, SessionId, SessionRecord, UserRecord,
};
use ollamamax_core::{Command, Outcome, Rejection};
use ollamamax_proto::audit::Note;
use ollamamax_proto::{Millis, limits};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::net::IpAddr;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Who asks and from where, before anybody knows who.
struct Origin {
    address: Option<IpAddr>,
    request: String,
}

impl Origin {
    fn of(request: &Request) -> Self {
        let id = request.extensions().get::<crate::request::RequestId>();
        Self {
            address: guard::address(request),
            request: id.map(|id| id.0.clone()).unwrap_or_default(),
        }
    }

    fn note(&self, actor: String, via: &str, action: &str, outcome: &str) -> Note {
        Note {
            actor,
            via: via.to_owned(),
            from: self.address.map(|address| address.to_string()).unwrap_or_default(),
            request: self.request.clone(),
            action: action.to_owned(),
            object: String::new(),
            outcome: outcome.to_owned(),
        }
    }
}

/// A small body, JSON or a form.
async fn read<T: DeserializeOwned>(request: Request) -> Result<T, Failure> {
    let kind = request.headers().get("content-type").and_then(|kind| kind.to_str().ok());
    let is_form = kind.is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    let bytes = body::read(request.into_body(), limits::LOGIN_BODY_BYTES).await?;
    if !is_form || bytes.first() == Some(&b'{') {
        return body::parse(&bytes);
    }
    let pairs: Vec<(String, String)> = form(&bytes)?;
    let mut fields = Map::new();
    for (name, value) in pairs {
        if fields.insert(name.clone(), Value::String(value)).is_some() {
            let name: String = name.chars().take(50).collect();
            return Err(Failure::invalid(format!("`{name}` comes twice")));
        }
    }
    let fields = Zeroizing::new(serde_json::to_vec(&fields).unwrap_or_default());
    body::parse(&fields)
}

fn form(bytes: &[u8]) -> Result<Vec<(String, String)>, Failure> {
    let text = std::str::from_utf8(bytes).map_err(|_| Failure::invalid("the form is not UTF-8"))?;
    let uri = format!("/?{text}").parse::<axum::http::Uri>();
    let uri = uri.map_err(|_| Failure::invalid("the body is no form"))?;
    let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri);
    query.map(|query| query.0).map_err(|_| Failure::invalid("the body is no form"))
}

/// Logs in.
#[utoipa::path(post, path = "/auth/token",
    request_body(content((Login = "application/json"), (Login = "application/x-www-form-urlencoded"))),
    responses((status = 200, description = "The login.", body = Granted), (status = 401), (status = 409),
        (status = 429), (status = 503)))]
pub(crate) async fn token(
    State(gateway): State<Arc<Gateway>>,
    request: Request,
) -> Result<Response, Problem> {
    let origin = Origin::of(&request);
    let Login { grant_type, username, password } = read(request).await?;
    if grant_type.as_deref().is_some_and(|grant| grant != "password") {
        return Err(Failure::invalid("`grant_type` must be `password`").into());
    }
    if let Some(failure) = gateway.throttle.refuses(origin.address) {
        return Err(failure.into());
    }
    gateway.throttle.login(&username, origin.address)?;
    let user = gateway.control.state().access.users.get(&username).cloned();
    let kept = user.as_ref().and_then(|user| user.password.clone()).map(|Hidden(hash)| hash);
    let good = password.0.len() <= limits::PASSWORD_BYTES;
    let good = password::verify(password.take(), kept).await? && good;
    let Some(user) = user.filter(|user| good && !user.disabled) else {
        gateway.throttle.failed_login(origin.address);
        let shown: String = username.chars().take(limits::ACCESS_NAME_CHARS).collect();
        let actor = format!("user:{shown}");
        gateway.refusals.add_unknown(origin.note(
            actor,
            "password",
            "login",
            "refused: wrong name or password",
        ));
        return Err(Failure::Unauthenticated("wrong name or password").into());
    };
    let session = SessionId(u128::from_be_bytes(crate::secrets::random()));
    let token = RefreshToken { session, generation: 0 };
    let record = SessionRecord {
        id: session,
        user: user.name.clone(),
        generation: 0,
        current: Hidden(token.hash(&gateway.config.sealing)),
        previous: None,
        opened_at: Millis(0),
        refreshed_at: Millis(0),
        expires_at: Millis::now().plus(limits::SESSION_MS),
    };
    let note = Note {
        object: format!("session:{session}"),
        ..origin.note(format!("user:{}", user.name), "password", "login", "")
    };
    let command = Command::Access(Box::new(AccessCommand::OpenSession { session: record }));
    let noted = Command::Noted { note: Box::new(note), command: Box::new(command) };
    gateway.control.propose(noted).await?;
    Ok(gateway.granted(&user, token)?)
}

/// Goes on with a login: both tokens anew; the one presented is spent.
#[utoipa::path(post, path = "/auth/refresh",
    request_body(content((Refresh = "application/json"), (Refresh = "application/x-www-form-urlencoded"))),
    responses((status = 200, description = "The login.", body = Granted), (status = 401), (status = 429), (status = 503)))]
pub(crate) async fn refresh(
    State(gateway): State<Arc<Gateway>>,
    request: Request,
) -> Result<Response, Problem> {
    let origin = Origin::of(&request);
    if let Some(failure) = gateway.throttle.refuses(origin.address) {
        return Err(failure.into());
    }
    let Refresh { grant_type, refresh_token } = read(request).await?;
    if grant_type.as_deref().is_some_and(|grant| grant != "refresh_token") {
        return Err(Failure::invalid("`grant_type` must be `refresh_token`").into());
    }
    let sealing = &gateway.config.sealing;
    let refuse = |reason: &str, actor: String| {
        gateway.throttle.failed(origin.address);
        gateway.refusals.add_unknown(origin.note(
            actor,
            "refresh-token",
            "session.refresh",
            reason,
        ));
        Problem(Failure::Unauthenticated("the refresh token is not valid; log in again"))
    };
    let Some(presented) = RefreshToken::parse(&refresh_token.0, sealing) else {
        return Err(refuse("refused: no refresh token of this cluster", "unknown".to_owned()));
    };
    let actor = format!("session:{}", presented.session);
    let successor = presented.successor();
    let command = AccessCommand::RefreshSession {
        id: presented.session,
        presented: Hidden(presented.hash(sealing)),
        successor: Hidden(successor.hash(sealing)),
        generation: successor.generation,
    };
    // Whose it is, before the answer may have ended it.
    let state = gateway.control.state();
    let known = state.access.sessions.get(&presented.session).map(|session| session.user.clone());
    match gateway.control.propose(Command::Access(Box::new(command))).await {
        Ok(Outcome::Reused { .. }) => {
            tracing::warn!(session = %presented.session, "a refresh token was presented that had been replaced: its login is ended");
            Err(refuse("refused: the token had been replaced; the login is ended", actor))
        }
        Ok(_) => {
            let state = gateway.control.state();
            let user = state.access.sessions.get(&presented.session).map(|s| s.user.clone());
            let user = user.or(known).and_then(|user| state.access.users.get(&user).cloned());
            match user.filter(|user| !user.disabled) {
                Some(user) => Ok(gateway.granted(&user, successor)?),
                None => Err(refuse("refused: no such user", actor)),
            }
        }
        Err(crate::ports::ControlError::Rejected(Rejection::Unknown { .. })) => {
            Err(refuse("refused: the login is over", actor))
        }
        Err(error) => Err(error.into()),
    }
}

/// Ends what a token or key is good for (RFC 7009).
///
/// An access token, a refresh token with all that follows from it, or an API key. Answers the same for what is none.
#[utoipa::path(post, path = "/auth/revoke",
    request_body(content((Revoke = "application/json"), (Revoke = "application/x-www-form-urlencoded"))),
    responses((status = 200, description = "It is good no more.", body = Nothing), (status = 429), (status = 503)))]
pub(crate) async fn revoke(
    State(gateway): State<Arc<Gateway>>,
    request: Request,
) -> Result<Response, Problem> {
    let origin = Origin::of(&request);
    if let Some(failure) = gateway.throttle.refuses(origin.address) {
        return Err(failure.into());
    }
    let Revoke { token } = read(request).await?;
    let state = gateway.control.state();
    let cluster = state.cluster.as_ref().map_or("", |cluster| cluster.id.as_str());
    let (access, now) = (&state.access, Millis::now());
    let command = if let Some(refresh) = RefreshToken::parse(&token.0, &gateway.config.sealing) {
        Some(AccessCommand::CloseSession { id: refresh.session })
    } else if let Some(key) = PresentedKey::parse(&token.0) {
        let kept =
            access.keys.get(&key.id).filter(|kept| crate::secrets::same(&kept.hash.0, &key.hash()));
        kept.map(|kept| AccessCommand::RevokeKey { id: kept.id })
    } else {
        gateway.tokens.verify(access, cluster, &token.0, now).map(|verified| {
            let until = Millis((verified.expires_s + 1 + limits::CLOCK_LEEWAY_S) * 1_000);
            AccessCommand::RevokeToken { token: RevokedToken { id: verified.id, until } }
        })
    };
    let Some(command) = command else {
        gateway.throttle.failed(origin.address);
        return Ok(stream::plain_json(&Nothing {}));
    };
    let (owner, object) = match &command {
        AccessCommand::CloseSession { id } => {
            let session = access.sessions.get(id);
            (session.map(|session| session.user.clone()), format!("session:{id}"))
        }
        AccessCommand::RevokeKey { id } => {
            (access.keys.get(id).map(|key| key.owner.clone()), format!("key:{id}"))
        }
        AccessCommand::RevokeToken { token } => (None, format!("access-token:{}", token.id)),
        _ => (None, String::new()),
    };
    let actor = owner.map_or("whoever holds it".to_owned(), |owner| format!("user:{owner}"));
    let note = Note { object, ..origin.note(actor, "the token itself", "token.revoke", "") };
    let command = Box::new(Command::Access(Box::new(command)));
    match gateway.control.propose(Command::Noted { note: Box::new(note), command }).await {
        Ok(_) | Err(crate::ports::ControlError::Rejected(Rejection::Unknown { .. })) => {
            Ok(stream::plain_json(&Nothing {}))
        }
        Err(error) => Err(error.into()),
    }
}

/// Ends the login it is asked with.
#[utoipa::path(post, path = "/auth/logout", responses((status = 200, description = "It is over.", body = Nothing)))]
pub(crate) async fn logout(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
) -> Result<Response, Problem> {
    let id = caller.session().ok_or_else(|| {
        Failure::invalid("this was not asked with the access token of a login; an API key is revoked with `keys revoke`")
    })?;
    let command = Command::Access(Box::new(AccessCommand::CloseSession { id }));
    caller.propose(&gateway, "logout", format!("session:{id}"), command).await?;
    Ok(stream::plain_json(&Nothing {}))
}

/// Tells who asks, and what they may do.
#[utoipa::path(get, path = "/auth/whoami", responses((status = 200, description = "The caller.", body = WhoAmI)))]
pub(crate) async fn whoami(State(gateway): State<Arc<Gateway>>, caller: Caller) -> Response {
    let state = gateway.control.state();
    let user = caller.user().and_then(|user| state.access.users.get(user));
    let nobody = gateway.config.anonymous.as_ref().filter(|_| caller.user().is_none());
    let roles = user.map(|user| &user.roles).or(nobody).cloned();
    let may = |action: &Action| caller.may(*action, Object::Some);
    let nodes = state.nodes.values().filter(|node| !node.leaving).map(|node| node.http.clone());
    let permissions: Vec<&str> =
        Action::ALL.iter().filter(|action| may(action)).map(|action| action.name()).collect();
    stream::plain_json(&WhoAmI {
        user: caller.user().map(str::to_owned),
        actor: caller.actor().to_owned(),
        via: caller.via(),
        key: caller.key().map(|key| key.to_string()),
        roles,
        permissions,
        cluster: state.cluster.as_ref().map(|cluster| cluster.id.clone()),
        nodes: nodes.collect(),
    })
}

/// Lists the public keys that access tokens are checked with.
#[utoipa::path(get, path = "/.well-known/jwks.json", responses((status = 200, description = "The keys.", body = KeysShown)))]
pub(crate) async fn jwks(State(gateway): State<Arc<Gateway>>) -> Response {
    stream::plain_json(&jwt::jwks(&gateway.control.state().access))
}

impl Gateway {
    fn granted(&self, user: &UserRecord, refresh: RefreshToken) -> Result<Response, Failure> {
        let state = self.control.state();
        let cluster = state.cluster.as_ref().map_or("", |cluster| cluster.id.as_str());
        let lifetime_ms = self.config.access_token_ms.min(limits::ACCESS_TOKEN_MAX_MS);
        let who = (user.name.as_str(), &user.roles);
        let now = Millis::now();
        let minted =
            self.tokens.mint(&state.access, cluster, who, refresh.session, (now, lifetime_ms));
        let access_token = minted.ok_or_else(|| {
            Failure::unavailable(
                "no key signs access tokens on this node yet; try again in a moment",
            )
        })?;
        Ok(stream::plain_json(&Granted {
            access_token,
            token_type: "Bearer",
            expires_in: lifetime_ms / 1_000,
            refresh_token: refresh.reveal(&self.config.sealing).as_str().to_owned(),
            user: user.name.clone(),
        }))
    }
}
