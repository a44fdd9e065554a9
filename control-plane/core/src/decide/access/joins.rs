//! Join tokens and who came in by them.

use super::{exists, push, unknown};
use crate::access::{AccessChange, Enrolment, Hidden, JoinRole, JoinToken, JoinTokenId};
use crate::decide::draft::Draft;
use crate::decide::{check, nodes, orders};
use crate::record::NodeRecord;
use crate::rejection::Rejection;
use ollamamax_proto::placement::WorkerStatus;
use ollamamax_proto::{NodeId, WorkerId, limits};

pub(super) fn create(draft: &mut Draft, token: &JoinToken) -> Result<(), Rejection> {
    let (tokens, now) = (&draft.state().access.join_tokens, draft.now());
    if tokens.contains_key(&token.id) {
        return Err(exists("join token", token.id));
    }
    if tokens.len() >= limits::JOIN_TOKENS_COUNT {
        return Err(check::over("join tokens", limits::JOIN_TOKENS_COUNT));
    }
    if token.uses_left == 0 || token.uses_left > limits::JOIN_TOKEN_USES_COUNT {
        let reason = format!("expected 1 to {}", limits::JOIN_TOKEN_USES_COUNT);
        return Err(check::invalid("uses", reason));
    }
    if token.expires_at <= now || token.expires_at > now.plus(limits::JOIN_TOKEN_MAX_MS) {
        let hours = limits::JOIN_TOKEN_MAX_MS / 3_600_000;
        return Err(check::invalid("expires_at", format!("expected within {hours} hours")));
    }
    if let JoinRole::Worker { labels } = &token.role {
        orders::check_labels(labels)?;
    }
    push(draft, AccessChange::JoinTokenPut(JoinToken { created_at: now, ..token.clone() }));
    Ok(())
}

pub(super) fn revoke(draft: &mut Draft, id: JoinTokenId) -> Result<(), Rejection> {
    if !draft.state().access.join_tokens.contains_key(&id) {
        return Err(unknown("join token", id));
    }
    push(draft, AccessChange::JoinTokenRemoved(id));
    Ok(())
}

pub(super) fn enrol(
    draft: &mut Draft,
    id: JoinTokenId,
    presented: &Hidden<[u8; 32]>,
    worker: WorkerId,
) -> Result<(), Rejection> {
    let token = good(draft, id, presented)?;
    let JoinRole::Worker { labels } = &token.role else { return Err(Rejection::NotLetIn) };
    // Whoever has that id and lives keeps it: a token does not make anybody somebody else.
    let known = draft.state().workers.get(&worker).map(|known| known.status);
    if known.is_some_and(|status| status != WorkerStatus::Down) {
        return Err(Rejection::NotLetIn);
    }
    let enrolments = &draft.state().access.enrolments;
    if !enrolments.contains_key(&worker) && enrolments.len() >= limits::WORKERS_COUNT {
        return Err(check::over("enrolled workers", limits::WORKERS_COUNT));
    }
    use_up(draft, &token);
    let (at, labels) = (draft.now(), labels.clone());
    push(draft, AccessChange::Enrolled(Enrolment { worker, token: id, at, labels }));
    if known.is_some() {
        // What operators said of the one before was not said of this one.
        orders::forget(draft, worker);
        label(draft, worker)?;
    }
    Ok(())
}

pub(super) fn enrol_node(
    draft: &mut Draft,
    id: JoinTokenId,
    presented: &Hidden<[u8; 32]>,
    http: &str,
    raft: &str,
) -> Result<NodeId, Rejection> {
    let token = good(draft, id, presented)?;
    let JoinRole::Node { voter } = token.role else { return Err(Rejection::NotLetIn) };
    // The answer to the first try may have been lost; but a node that was there since then is not to be replaced.
    let taken = |node: &NodeRecord| node.raft == raft && !node.leaving && node.pid != 0;
    if draft.state().nodes.values().any(taken) {
        return Err(Rejection::NotLetIn);
    }
    let node = nodes::admit(draft, http, raft, voter)?;
    use_up(draft, &token);
    Ok(node)
}

/// The labels a worker came in with, when it registers for the first time.
pub(in crate::decide) fn label(draft: &mut Draft, worker: WorkerId) -> Result<(), Rejection> {
    let enrolment = draft.state().access.enrolments.get(&worker).cloned();
    let labels = enrolment.map(|enrolment| enrolment.labels).unwrap_or_default();
    if labels.is_empty() {
        return Ok(());
    }
    let given = labels.into_iter().map(|(key, value)| (key, Some(value))).collect();
    orders::label(draft, worker, &given)
}

/// A removed worker does not come back with the certificate it has.
pub(in crate::decide) fn unenrol(draft: &mut Draft, worker: WorkerId) {
    push(draft, AccessChange::Unenrolled(worker));
}

/// Hashes of 256-bit secrets may be compared as they are: whoever knew one bit by bit still lacks what gives it.
fn good(
    draft: &Draft,
    id: JoinTokenId,
    presented: &Hidden<[u8; 32]>,
) -> Result<JoinToken, Rejection> {
    let token = draft.state().access.join_tokens.get(&id);
    token
        .filter(|token| token.hash == *presented && draft.now() < token.expires_at)
        .cloned()
        .ok_or(Rejection::NotLetIn)
}

fn use_up(draft: &mut Draft, token: &JoinToken) {
    let change = match token.uses_left {
        0 | 1 => AccessChange::JoinTokenRemoved(token.id),
        more => AccessChange::JoinTokenPut(JoinToken { uses_left: more - 1, ..token.clone() }),
    };
    push(draft, change);
}
