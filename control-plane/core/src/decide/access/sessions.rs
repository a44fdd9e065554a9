//! Sessions and void access tokens.

use super::users::find;
use super::{exists, push, unknown};
use crate::access::{AccessChange, Hidden, RefreshVerdict, RevokedToken, SessionId, SessionRecord};
use crate::decide::draft::Draft;
use crate::decide::{Said, check};
use crate::rejection::Rejection;
use ollamamax_proto::audit::Note;
use ollamamax_proto::limits;

pub(super) fn open(draft: &mut Draft, session: &SessionRecord) -> Result<(), Rejection> {
    let (user, now) = (find(draft, &session.user)?, draft.now());
    if user.disabled {
        return Err(check::invalid("user", format!("`{}` is disabled", user.name)));
    }
    let sessions = &draft.state().access.sessions;
    if sessions.contains_key(&session.id) {
        return Err(exists("session", session.id));
    }
    if sessions.len() >= limits::SESSIONS_COUNT {
        return Err(check::over("sessions", limits::SESSIONS_COUNT));
    }
    // Whoever logs in again and again pushes out the own oldest login, nobody else's.
    let mut own: Vec<_> = sessions.values().filter(|other| other.user == session.user).collect();
    own.sort_by_key(|other| (other.refreshed_at, other.id));
    let surplus = (own.len() + 1).saturating_sub(limits::SESSIONS_OF_USER_COUNT);
    let oldest: Vec<SessionId> = own.iter().take(surplus).map(|other| other.id).collect();
    for id in oldest {
        push(draft, AccessChange::SessionRemoved(id));
    }
    let latest = now.plus(limits::SESSION_MS);
    push(
        draft,
        AccessChange::SessionPut(SessionRecord {
            generation: 0,
            previous: None,
            opened_at: now,
            refreshed_at: now,
            expires_at: session.expires_at.min(latest),
            ..session.clone()
        }),
    );
    Ok(())
}

pub(super) fn refresh(
    draft: &mut Draft,
    id: SessionId,
    presented: &Hidden<[u8; 32]>,
    successor: &Hidden<[u8; 32]>,
    generation: u64,
) -> Result<Said, Rejection> {
    let session = draft.state().access.sessions.get(&id).cloned();
    let session = session.ok_or_else(|| unknown("session", id))?;
    let now = draft.now();
    match session.judge(presented, now) {
        RefreshVerdict::Good if generation == session.generation + 1 => {
            let refreshed = SessionRecord {
                generation,
                current: successor.clone(),
                previous: Some(presented.clone()),
                refreshed_at: now,
                ..session
            };
            push(draft, AccessChange::SessionPut(refreshed));
            Ok(Said::Done)
        }
        // The same answer as before: it must have got lost.
        RefreshVerdict::Again if session.current == *successor => Ok(Said::Done),
        RefreshVerdict::Over => Err(unknown("session", id)),
        RefreshVerdict::Good | RefreshVerdict::Again | RefreshVerdict::Reused => {
            let note = Note {
                actor: format!("user:{}", session.user),
                via: "refresh-token".to_owned(),
                action: "session.reuse".to_owned(),
                object: format!("session:{id}"),
                ..Note::default()
            };
            super::trail::note(
                draft,
                &note,
                "refused: the token had been replaced; the login is ended",
            );
            push(draft, AccessChange::SessionRemoved(id));
            Ok(Said::Reused)
        }
    }
}

pub(super) fn close(draft: &mut Draft, id: SessionId) -> Result<(), Rejection> {
    if !draft.state().access.sessions.contains_key(&id) {
        return Err(unknown("session", id));
    }
    push(draft, AccessChange::SessionRemoved(id));
    Ok(())
}

pub(super) fn revoke(draft: &mut Draft, token: RevokedToken) -> Result<(), Rejection> {
    let now = draft.now();
    let revoked = &draft.state().access.revoked;
    if token.until <= now {
        return Ok(());
    }
    if !revoked.contains_key(&token.id) && revoked.len() >= limits::REVOKED_TOKENS_COUNT {
        return Err(check::over("revoked access tokens", limits::REVOKED_TOKENS_COUNT));
    }
    let until = token.until.min(now.plus(limits::ACCESS_TOKEN_MAX_MS));
    push(draft, AccessChange::TokenRevoked(RevokedToken { until, ..token }));
    Ok(())
}
