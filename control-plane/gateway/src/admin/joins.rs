//! `/admin/v1/join-tokens`: what lets nodes and workers into the cluster.

use super::keys::Identified;
use super::users::access;
use crate::auth::Caller;
use crate::error::{Failure, Problem};
use crate::request::Path;
use crate::{Gateway, body, stream};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::access::{AccessCommand, Hidden, JoinRole, JoinToken, JoinTokenId};
use ollamamax_core::{Command, State as Snapshot};
use ollamamax_proto::{Digest, Millis, Revision, limits};
use ollamamax_tls::{Credential, Kind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::ToSchema;

/// A join token, without its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = JoinToken)]
pub(crate) struct Shown {
    /// 16 hex digits.
    id: String,
    /// `worker` or `node`.
    role: &'static str,
    /// Of a worker.
    labels: Option<BTreeMap<String, String>>,
    /// Of a node: whether it votes.
    voter: Option<bool>,
    uses_left: u32,
    /// Milliseconds since 1970.
    #[schema(value_type = u64)]
    created_at: Millis,
    #[schema(value_type = u64)]
    expires_at: Millis,
    /// The token itself: only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

/// All join tokens.
#[derive(Serialize, ToSchema)]
pub(crate) struct JoinTokens {
    /// Of the state they were read from.
    #[schema(value_type = u64)]
    revision: Revision,
    join_tokens: Vec<Shown>,
}

fn shown(token: &JoinToken) -> Shown {
    let (role, labels, voter) = match &token.role {
        JoinRole::Node { voter } => ("node", None, Some(*voter)),
        JoinRole::Worker { labels } => ("worker", Some(labels.clone()), None),
    };
    Shown {
        id: token.id.to_string(),
        role,
        labels,
        voter,
        uses_left: token.uses_left,
        created_at: token.created_at,
        expires_at: token.expires_at,
        token: None,
    }
}

/// Lists join tokens.
#[utoipa::path(get, path = "/admin/v1/join-tokens", responses((status = 200, description = "All.", body = JoinTokens)))]
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>) -> Response {
    let state = gateway.control.state();
    let join_tokens = state.access.join_tokens.values().map(shown).collect();
    stream::plain_json(&JoinTokens { revision: state.revision(), join_tokens })
}

/// A join token that shall be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewJoinToken, examples(json!({"role": "worker", "uses": 10, "lifetime_s": 900})))]
pub(crate) struct New {
    /// `worker` or `node`.
    #[schema(examples("worker"))]
    role: String,
    /// How long it is good.
    #[serde(default)]
    lifetime_s: Option<u64>,
    /// How many it lets in.
    #[serde(default)]
    uses: Option<u32>,
    /// Of a worker: labels it gets.
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    /// Of a node: whether it shall vote.
    #[serde(default)]
    voter: Option<bool>,
}

impl New {
    fn role(&self) -> Result<(Kind, JoinRole), Failure> {
        match (self.role.as_str(), &self.labels, self.voter) {
            ("worker", labels, None) => {
                let labels = labels.clone().unwrap_or_default();
                Ok((Kind::Worker, JoinRole::Worker { labels }))
            }
            ("node", None, voter) => {
                Ok((Kind::Node, JoinRole::Node { voter: voter.unwrap_or(true) }))
            }
            ("worker", ..) => Err(Failure::invalid("`voter` is for nodes; a worker does not vote")),
            ("node", ..) => Err(Failure::invalid("`labels` are for workers; a node has none")),
            _ => Err(Failure::invalid("`role` must be `worker` or `node`")),
        }
    }
}

/// Makes what lets nodes or workers in. This is the only answer that shows the token itself.
#[utoipa::path(post, path = "/admin/v1/join-tokens", request_body = New,
    responses((status = 200, description = "The token.", body = Shown), (status = 500)))]
pub(crate) async fn create(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    body: Body,
) -> Result<Response, Problem> {
    let new: New = body::json(body, limits::LOGIN_BODY_BYTES).await?;
    let (kind, role) = new.role()?;
    let now = Millis::now();
    let lifetime_ms = new.lifetime_s.map_or(limits::JOIN_TOKEN_MS, |s| s.saturating_mul(1_000));
    let state = gateway.control.state();
    let token = fresh(&state, kind, now)?;
    let record = JoinToken {
        id: id_of(&token.credential),
        hash: Hidden(token.credential.hash().0),
        role,
        uses_left: new.uses.unwrap_or(1),
        created_at: now,
        expires_at: now.plus(lifetime_ms),
    };
    let mut answer = shown(&record);
    let object = format!("join-token:{} for a {kind}", record.id);
    let command = access(AccessCommand::CreateJoinToken { token: record });
    caller.propose(&gateway, "join-token.create", object, command).await?;
    answer.token = Some(token.reveal().as_str().to_owned());
    Ok(stream::plain_json(&answer))
}

/// A token with a new secret, for whoever reaches the nodes that there are now.
fn fresh(state: &Snapshot, kind: Kind, now: Millis) -> Result<ollamamax_tls::JoinToken, Failure> {
    let authority = state.access.certifies(now).map(|record| Digest(record.fingerprint));
    let authority = authority.ok_or_else(|| {
        Failure::unavailable("the cluster has no certificate authority yet; try again in a moment")
    })?;
    let credential =
        Credential::generate().map_err(|error| Failure::Internal(error.to_string()))?;
    let nodes = state.nodes.values().filter(|node| !node.leaving);
    let addresses = nodes.map(|node| node.raft.clone()).collect();
    Ok(ollamamax_tls::JoinToken { kind, credential, authority, addresses })
}

/// The id under which the state knows a credential.
pub fn id_of(credential: &Credential) -> JoinTokenId {
    // Both are 16 hex digits.
    JoinTokenId(u64::from_str_radix(&credential.id(), 16).unwrap_or_default())
}

/// Makes a join token good for nothing.
#[utoipa::path(delete, path = "/admin/v1/join-tokens/{id}", params(("id" = String, Path, example = "00000000000000aa")),
    responses((status = 200, description = "It lets nobody in.", body = Identified)))]
pub(crate) async fn revoke(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(text): Path<String>,
) -> Result<Response, Problem> {
    let id: JoinTokenId = text.parse().map_err(|()| {
        let text: String = text.chars().take(24).collect();
        Failure::NotFound(format!("join token `{text}` not found"))
    })?;
    let command: Command = access(AccessCommand::RevokeJoinToken { id });
    let object = format!("join-token:{id}");
    let outcome = caller.propose(&gateway, "join-token.revoke", object, command).await?;
    Ok(stream::plain_json(&Identified { id: id.to_string(), revision: outcome.revision() }))
}
