//! Who asks, and whether they may.
//!
//! ```text
//! request -> guard (one for each route, with what that route needs)
//!              credential -> Caller: an API key, an access token, or nobody in particular on this machine
//!              may the caller do that at all?  no -> 401, 403, noted in the trail
//!         -> handler: may it on this model, this worker? -> Caller::check
//! ```
//!
//! A credential that is not good is refused with the same words whatever is wrong with it. What a caller may do is looked up
//! with every request: a key that is revoked or a role that is taken away counts as soon as this node has heard of it.

pub mod credential;
pub mod guard;
pub mod jwt;
pub mod oidc;
pub mod password;
pub mod refusals;
pub mod throttle;

use crate::Gateway;
use crate::error::Failure;
use crate::keep_alive::KeepAlive;
use crate::names;
use crate::ports::ControlError;
use crate::quotas::Payer;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, header};
use credential::PresentedKey;
use ollamamax_core::access::{
    Access, Action, KeyId, Object, Permissions, SessionId, Subject, UserRecord,
};
use ollamamax_core::record::{Lifetime, ModelRecord};
use ollamamax_core::{Command, Outcome, State};
use ollamamax_proto::audit::Note;
use ollamamax_proto::{Millis, ModelName, mutant};
use std::net::IpAddr;
use std::sync::Arc;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// What a client hears whose credential is missing or not good, whatever is wrong with it.
pub const WHO: &str = "the API key or access token is missing, not valid, or expired; send one as `Authorization: Bearer ...` \
                       (`ollamamax login` keeps one for this command line)";

/// A credential that is missing where one is needed, or not good: which of it is nobody's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotGood;

/// Somebody who asks, and whose identity has been proven.
#[derive(Clone, Debug)]
pub struct Caller(Arc<Known>);

#[derive(Debug)]
struct Known {
    actor: String,
    user: Option<String>,
    key: Option<KeyId>,
    session: Option<SessionId>,
    via: &'static str,
    from: String,
    request: String,
    permissions: Permissions,
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = crate::error::Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| Failure::Internal("a route without a guard".to_owned()).into())
    }
}

impl Caller {
    /// The user it acts for; nobody is anonymous by name.
    pub fn user(&self) -> Option<&str> {
        self.0.user.as_deref()
    }

    /// The API key it came with.
    pub fn key(&self) -> Option<KeyId> {
        self.0.key
    }

    /// Whose quotas it uses.
    pub fn payer(&self) -> Payer {
        Payer { user: self.0.user.clone(), key: self.0.key }
    }

    /// The login it came with.
    pub fn session(&self) -> Option<SessionId> {
        self.0.session
    }

    /// As the trail has it: `user:alice`, `anonymous`.
    pub fn actor(&self) -> &str {
        &self.0.actor
    }

    /// Whom it shares its fair part of places with: itself, or everybody at the same address.
    pub fn share(&self) -> &str {
        if self.0.user.is_some() { &self.0.actor } else { &self.0.from }
    }

    /// By what it was proven.
    pub fn via(&self) -> &'static str {
        self.0.via
    }

    /// Whether it may do `action` to `object`.
    pub fn may(&self, action: Action, object: Object<'_>) -> bool {
        self.0.permissions.allow(action, object)
    }

    /// Whether it may know that there is this model.
    pub fn sees(&self, model: &ModelName) -> bool {
        self.may(Action::ReadModels, Object::Model(&model.to_string()))
    }

    /// Refuses what it may not do; `name` is for the words only.
    pub fn check(&self, action: Action, object: Object<'_>, name: &str) -> Result<(), Failure> {
        if self.may(action, object) {
            return Ok(());
        }
        let on = if name.is_empty() { String::new() } else { format!(" on `{name}`") };
        let who = self.actor();
        Err(Failure::Forbidden(format!(
            "{who} has no permission `{action}`{on}; whoever has `access:manage` can give a role that has it"
        )))
    }

    /// The record of a model that a client named, if the caller may do `action` to it. A model that the caller may not even see
    /// is not there.
    pub fn model(
        &self,
        state: &State,
        asked: &str,
        action: Action,
    ) -> Result<ModelRecord, Failure> {
        let model = names::resolve(state, asked)?;
        self.named(&model.name, asked, action).map(|()| model)
    }

    /// Refuses what it may not do to a model of that name, wherever that is.
    pub fn named(&self, name: &ModelName, asked: &str, action: Action) -> Result<(), Failure> {
        let name = name.to_string();
        if self.may(action, Object::Model(&name)) {
            return Ok(());
        }
        if !self.may(Action::ReadModels, Object::Model(&name)) {
            return Err(Failure::unknown_model(asked));
        }
        self.check(action, Object::Model(&name), &name)
    }

    /// What `asked` of a model's stay in memory counts for: who may only use it neither pins it nor takes away what others have
    /// pinned.
    pub fn may_keep(
        &self,
        state: &State,
        model: &ModelName,
        asked: Option<KeepAlive>,
    ) -> Option<KeepAlive> {
        let asked = asked?;
        let is_pinned =
            state.demands.get(model).is_some_and(|demand| demand.lifetime == Lifetime::Forever);
        let manages = || self.may(Action::ManageModels, Object::Model(&model.to_string()));
        ((!is_pinned && asked.0 >= 0) || manages()).then_some(asked)
    }

    /// A note of what it does: to be completed by what came of it.
    pub fn note(&self, action: &str, object: impl ToString) -> Note {
        let known = &self.0;
        Note {
            actor: known.actor.clone(),
            via: known.via.to_owned(),
            from: known.from.clone(),
            request: known.request.clone(),
            action: action.to_owned(),
            object: object.to_string(),
            outcome: String::new(),
        }
    }

    /// Proposes a command in its name: what comes of it is in the trail in the same moment.
    pub async fn propose(
        &self,
        gateway: &Gateway,
        action: &str,
        object: impl ToString,
        command: Command,
    ) -> Result<Outcome, ControlError> {
        let note = Box::new(self.note(action, object));
        gateway.control.propose(Command::Noted { note, command: Box::new(command) }).await
    }
}

/// What a request brings that may tell who asks.
struct Presented<'a> {
    text: &'a str,
}

impl<'a> Presented<'a> {
    /// `None`: nothing was presented. Several, or something that is no credential, are not good.
    fn of(headers: &'a HeaderMap) -> Result<Option<Self>, ()> {
        let mut all = headers.get_all(header::AUTHORIZATION).iter();
        let mut keys = headers.get_all(API_KEY).iter();
        match (all.next(), keys.next(), all.next(), keys.next()) {
            (None, None, ..) => Ok(None),
            (Some(value), None, None, None) => {
                let text = value.to_str().map_err(drop)?;
                let (scheme, text) = text.split_once(' ').ok_or(())?;
                if !scheme.eq_ignore_ascii_case("bearer") {
                    return Err(());
                }
                Ok(Some(Self { text: text.trim() }))
            }
            // Anthropic's clients send their key so.
            (None, Some(value), None, None) => {
                let text = value.to_str().map_err(drop)?.trim();
                if credential::is_key(text) { Ok(Some(Self { text })) } else { Err(()) }
            }
            _ => Err(()),
        }
    }
}

impl Gateway {
    /// Who asks, by what `headers` present; `here` says that the request comes from a program on this machine.
    ///
    /// # Errors
    /// When that is not good.
    pub fn caller(
        &self,
        headers: &HeaderMap,
        address: Option<IpAddr>,
        here: bool,
        request: &str,
        now: Millis,
    ) -> Result<Caller, NotGood> {
        let state = self.control.state();
        let access = &state.access;
        let from = address.map(|address| address.to_string()).unwrap_or_default();
        let request = request.to_owned();
        let presented = match Presented::of(headers) {
            // Clients that must be given some key are given any, where none is needed: it says nothing.
            Ok(Some(Presented { text })) if here && self.config.anonymous.is_some() => {
                credential::looks_like_ours(text).then_some(Presented { text })
            }
            other => other.map_err(|()| NotGood)?,
        };
        let Some(Presented { text }) = presented else {
            let roles = self.config.anonymous.as_ref().ok_or(NotGood)?;
            here.then_some(()).ok_or(NotGood)?;
            let subject = Subject { roles: roles.clone(), scope: None };
            let permissions = access.permissions(&subject);
            return Ok(Caller(Arc::new(Known {
                actor: "anonymous".to_owned(),
                user: None,
                key: None,
                session: None,
                via: "",
                from,
                request,
                permissions,
            })));
        };
        let (user, key, session, via) = if credential::is_key(text) {
            let key = key_of(access, text, now).ok_or(NotGood)?;
            (user_of(access, &key.owner).ok_or(NotGood)?, Some(key), None, "key")
        } else {
            // A node that has not heard of the others for long may not know what was revoked meanwhile.
            if self.control.silence() > self.config.stale_after {
                return Err(NotGood);
            }
            let cluster = state.cluster.as_ref().map_or("", |cluster| cluster.id.as_str());
            let Some(token) = self.tokens.verify(access, cluster, text, now) else {
                return self.foreign_caller(access, text, (from, request), now);
            };
            let user = user_of(access, &token.user).ok_or(NotGood)?;
            // Seconds are all that a token has: one issued in the same second as the end of others is void, too.
            let is_void = access.revoked.contains_key(&token.id)
                || !access.sessions.contains_key(&token.session)
                || token.issued_s < user.not_before.0 / 1_000;
            if is_void && !mutant::planted("revocation-ignored") {
                return Err(NotGood);
            }
            (user, None, Some(token.session), "access-token")
        };
        let scope = key.and_then(|key| key.scope.clone());
        let subject = Subject { roles: user.roles.clone(), scope };
        Ok(Caller(Arc::new(Known {
            actor: format!("user:{}", user.name),
            user: Some(user.name.clone()),
            key: key.map(|key| key.id),
            session,
            via,
            from,
            request,
            permissions: access.permissions(&subject),
        })))
    }
}

impl Gateway {
    /// Somebody whom an OpenID provider vouches for.
    fn foreign_caller(
        &self,
        access: &Access,
        text: &str,
        (from, request): (String, String),
        now: Millis,
    ) -> Result<Caller, NotGood> {
        let known = self.oidc.as_ref().ok_or(NotGood)?.verify(text, now).ok_or(NotGood)?;
        let subject = Subject { roles: known.roles.clone(), scope: None };
        let user = format!("oidc:{}", known.subject);
        Ok(Caller(Arc::new(Known {
            actor: format!("user:{user}"),
            user: Some(user),
            key: None,
            session: None,
            via: "openid",
            from,
            request,
            permissions: access.permissions(&subject),
        })))
    }
}

fn key_of<'a>(
    access: &'a Access,
    text: &str,
    now: Millis,
) -> Option<&'a ollamamax_core::access::KeyRecord> {
    let presented = PresentedKey::parse(text)?;
    // Also done for a key that is not there: both take as long.
    let hash = presented.hash();
    let key = access.keys.get(&presented.id);
    let kept = key.map_or([0; 32], |key| key.hash.0);
    let good = crate::secrets::same(&kept, &hash);
    key.filter(|key| good && key.expires_at.is_none_or(|end| now < end))
}

fn user_of<'a>(access: &'a Access, name: &str) -> Option<&'a UserRecord> {
    access.users.get(name).filter(|user| !user.disabled)
}
