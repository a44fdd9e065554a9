//! What each command of access does, and when it is refused.

use super::joins::join_token;
use crate::Rejection;
use crate::access::{
    AccessCommand, Action, Grant, Hidden, JoinRole, KeyId, KeyRecord, Object, RevokedToken,
    RoleRecord, SessionId, SessionRecord, SigningKey, SigningKeyId, Subject, TokenId, UserRecord,
};
use crate::command::{Command, Outcome};
use crate::testing::{World, name};
use ollamamax_proto::audit::{Note, Verifier};
use ollamamax_proto::{Millis, limits};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(ToString::to_string).collect()
}

pub(super) fn ask(command: AccessCommand) -> Command {
    Command::Access(Box::new(command))
}

pub(super) fn user(name: &str, roles: &[&str]) -> Command {
    let user = UserRecord {
        name: name.into(),
        service: false,
        password: Some(Hidden("$argon2id$v=19$x".into())),
        roles: set(roles),
        disabled: false,
        created_at: Millis(0),
        not_before: Millis(0),
    };
    ask(AccessCommand::CreateUser { user })
}

pub(super) fn key(id: u64, owner: &str, expires_at: Option<Millis>) -> Command {
    let key = KeyRecord {
        id: KeyId(id),
        hash: Hidden([1; 32]),
        owner: owner.into(),
        label: String::new(),
        scope: None,
        created_at: Millis(0),
        expires_at,
    };
    ask(AccessCommand::CreateKey { key })
}

pub(super) fn session(id: u128, user: &str, current: u8) -> Command {
    let session = SessionRecord {
        id: SessionId(id),
        user: user.into(),
        generation: 0,
        current: Hidden([current; 32]),
        previous: None,
        opened_at: Millis(0),
        refreshed_at: Millis(0),
        expires_at: Millis(u64::MAX),
    };
    ask(AccessCommand::OpenSession { session })
}

/// Token `n` of a session hashes to `[n; 32]`.
pub(super) fn refresh(id: u128, presented: u8) -> Command {
    let successor = presented + 1;
    ask(AccessCommand::RefreshSession {
        id: SessionId(id),
        presented: Hidden([presented; 32]),
        successor: Hidden([successor; 32]),
        generation: u64::from(successor),
    })
}

fn role(name: &str, inherits: &[&str], grants: &[&str]) -> Command {
    let grants = grants.iter().map(|text| text.parse().expect("a grant")).collect();
    let inherits = set(inherits);
    let role = RoleRecord { name: name.into(), description: String::new(), inherits, grants };
    ask(AccessCommand::PutRole { role })
}

fn subject(roles: &[&str]) -> Subject {
    Subject { roles: set(roles), scope: None }
}

fn signing(id: u64, signs_from: u64, emergency: bool) -> Command {
    let key = SigningKey {
        id: SigningKeyId(id),
        algorithm: "RS256".into(),
        public: vec![1],
        sealed: Hidden(vec![2]),
        created_at: Millis(0),
        signs_from: Millis(signs_from),
        believed_until: None,
    };
    ask(AccessCommand::PutSigningKey { key, lifetime_ms: 600_000, emergency })
}

#[test]
fn an_administrator_is_always_left() {
    let mut world = World::new();
    world.ok(user("alice", &["admin"]));
    world.ok(user("bob", &["user"]));
    let last = Rejection::LastAdmin("alice".into());
    let delete = |user: &str| ask(AccessCommand::DeleteUser { user: user.into() });
    let disable =
        |user: &str| ask(AccessCommand::DisableUser { user: user.into(), disabled: true });
    let demote = AccessCommand::SetRoles { user: "alice".into(), roles: set(&["user"]) };
    assert_eq!(world.err(delete("alice")), last);
    assert_eq!(world.err(disable("alice")), last);
    assert_eq!(world.err(ask(demote.clone())), last);
    world.ok(user("carol", &["admin"]));
    world.ok(ask(demote));
    world.ok(delete("alice"));
    assert_eq!(world.err(delete("carol")), Rejection::LastAdmin("carol".into()));
    world.ok(delete("bob"));
}

#[test]
fn what_is_no_user_is_refused() {
    let mut world = World::new();
    for wrong in ["", "A", "-a", "a b", "a/b", "a\n", "é", &"a".repeat(65)] {
        assert!(matches!(world.err(user(wrong, &[])), Rejection::Invalid { .. }), "{wrong:?}");
    }
    assert!(matches!(world.err(user("a", &["boss"])), Rejection::Unknown { .. }));
    world.ok(user("a", &[]));
    assert!(matches!(world.err(user("a", &[])), Rejection::Exists { .. }));
    assert!(matches!(world.err(key(1, "b", None)), Rejection::Unknown { .. }));
    assert!(matches!(world.err(key(1, "a", Some(Millis(1)))), Rejection::Invalid { .. }));
    let plain = Some(Hidden("hunter2".to_owned()));
    let set = AccessCommand::SetPassword { user: "a".into(), password: plain };
    assert!(matches!(world.err(ask(set)), Rejection::Invalid { .. }));
}

#[test]
fn denied_is_what_nothing_allows_or_anything_denies() {
    let mut world = World::new();
    world.ok(role("team", &["user"], &["!inference:run@secret*", "model:manage@team/*"]));
    world.ok(role("night", &["team"], &["node:manage@rack=a*"]));
    let access = &world.state.access;
    let may = |roles: &[&str], action, object| access.may(&subject(roles), action, object);
    use Action as A;
    let nowhere = BTreeMap::new();
    let (model, rack) = (Object::Model, BTreeMap::from([("rack".to_owned(), "a1".to_owned())]));
    assert!(may(&["night"], A::RunInference, model("llama:latest")));
    assert!(!may(&["night"], A::RunInference, model("secret:latest")));
    assert!(!may(&["night", "admin"], A::RunInference, model("secret:latest")), "denials win");
    assert!(may(&["admin"], A::RunInference, model("secret:latest")));
    assert!(may(&["night"], A::ManageModels, model("team/a:latest")));
    assert!(!may(&["night"], A::ManageModels, model("llama:latest")));
    assert!(may(&["night"], A::ManageModels, Object::Some), "there are models it manages");
    assert!(!may(&["night"], A::ManageModels, Object::All), "but not all");
    assert!(may(&["night"], A::ManageNodes, Object::Worker(&rack)));
    assert!(!may(&["night"], A::ManageNodes, Object::Worker(&nowhere)));
    assert!(
        !may(&[], A::ReadModels, Object::Some) && !may(&["ghost"], A::ReadModels, Object::Some)
    );
    let scope: BTreeSet<Grant> =
        ["model:read", "access:manage"].map(|g| g.parse().expect("a grant")).into();
    let scoped = Subject { scope: Some(scope), ..subject(&["night"]) };
    assert!(access.may(&scoped, A::ReadModels, model("llama:latest")));
    assert!(!access.may(&scoped, A::RunInference, model("llama:latest")), "not in the scope");
    assert!(!access.may(&scoped, A::ManageAccess, Object::Some), "a scope adds nothing");
}

/// Each built-in role against each action: what the documentation says, line by line.
#[test]
fn built_in_roles_allow_what_the_documentation_says() {
    let world = World::new();
    let mut table = String::new();
    for action in Action::ALL {
        let cell = |role: &str| {
            let allowed = world.state.access.may(&subject(&[role]), action, Object::All);
            if allowed { " yes |" } else { " |" }
        };
        let roles = crate::access::BUILT_IN.iter().map(|(role, ..)| cell(role));
        table += &format!("| `{}` |{}\n", action.name(), roles.collect::<String>());
    }
    let documentation = include_str!("../../../../docs/security.md");
    assert!(documentation.contains(&table), "docs/security.md should have:\n{table}");
}

#[test]
fn roles_in_use_stay_and_none_inherits_from_itself() {
    let mut world = World::new();
    world.ok(role("a", &["user"], &[]));
    world.ok(role("b", &["a"], &[]));
    assert!(matches!(world.err(role("a", &["b"], &[])), Rejection::Invalid { .. }));
    assert!(matches!(world.err(role("admin", &[], &[])), Rejection::Exists { .. }));
    world.ok(user("u", &["b"]));
    let delete = |name: &str| ask(AccessCommand::DeleteRole { name: name.into() });
    assert!(matches!(world.err(delete("b")), Rejection::Invalid { .. }));
    assert!(matches!(world.err(delete("a")), Rejection::Invalid { .. }));
    assert!(matches!(world.err(delete("user")), Rejection::Unknown { .. }));
}

#[test]
fn a_replaced_refresh_token_ends_its_session_unless_the_answer_may_have_been_lost() {
    let mut world = World::new();
    world.ok(user("u", &["user"]));
    world.ok(session(1, "u", 0));
    world.ok(refresh(1, 0));
    // The same again at once: the same answer, and nothing changes.
    let (reply, changes) = world.run(refresh(1, 0));
    assert!(matches!(reply, Ok(Outcome::Done { changed: false, .. })) && changes.is_empty());
    // The successor was used: now the old one is a copy in wrong hands.
    world.ok(refresh(1, 1));
    assert!(matches!(world.run(refresh(1, 0)).0, Ok(Outcome::Reused { .. })));
    assert!(world.state.access.sessions.is_empty());
    assert!(matches!(world.err(refresh(1, 2)), Rejection::Unknown { .. }));
    // And after the grace even the last one is.
    world.ok(session(2, "u", 0));
    world.ok(refresh(2, 0));
    world.now = world.now.plus(limits::REFRESH_GRACE_MS + 1);
    assert!(matches!(world.run(refresh(2, 0)).0, Ok(Outcome::Reused { .. })));
}

#[test]
fn logging_out_voids_what_was_issued_before() {
    let mut world = World::new();
    world.ok(user("u", &["user"]));
    world.ok(session(1, "u", 0));
    world.ok(session(2, "u", 0));
    world.now = world.now.plus(5);
    world.ok(ask(AccessCommand::LogOut { user: "u".into() }));
    assert!(world.state.access.sessions.is_empty());
    assert_eq!(world.state.access.users["u"].not_before, world.now);
    world.ok(session(3, "u", 0));
    world.ok(ask(AccessCommand::DisableUser { user: "u".into(), disabled: true }));
    assert!(world.state.access.sessions.is_empty());
    assert!(matches!(world.err(session(4, "u", 0)), Rejection::Invalid { .. }));
}

#[test]
fn many_logins_push_out_ones_own_oldest() {
    let mut world = World::new();
    world.ok(user("u", &["user"]));
    world.ok(user("v", &["user"]));
    world.ok(session(1_000, "v", 0));
    for id in 0..=limits::SESSIONS_OF_USER_COUNT as u128 {
        world.now = world.now.plus(1);
        world.ok(session(id, "u", 0));
    }
    let sessions = &world.state.access.sessions;
    assert_eq!(sessions.len(), limits::SESSIONS_OF_USER_COUNT + 1);
    assert!(!sessions.contains_key(&SessionId(0)) && sessions.contains_key(&SessionId(1_000)));
}

#[test]
fn signing_keys_overlap_but_not_in_an_emergency() {
    let mut world = World::new();
    let start = world.now;
    world.ok(signing(1, 0, false));
    world.ok(signing(2, start.0 + 60_000, false));
    let signs = |world: &World, now: Millis| world.state.access.signs(now).map(|key| key.id.0);
    assert_eq!(signs(&world, start), Some(1));
    assert_eq!(signs(&world, start.plus(60_000)), Some(2));
    let until = start.plus(60_000 + 600_000);
    assert_eq!(world.state.access.signing_keys[&SigningKeyId(1)].believed_until, Some(until));
    world.now = until;
    world.ok(ask(AccessCommand::Expire));
    assert!(!world.state.access.signing_keys.contains_key(&SigningKeyId(1)));
    world.ok(signing(3, 0, true));
    assert_eq!(world.state.access.signing_keys.len(), 1);
    assert_eq!(signs(&world, world.now), Some(3));
    let drop = ask(AccessCommand::DropSigningKey { id: SigningKeyId(3) });
    assert!(matches!(world.err(drop), Rejection::Invalid { .. }), "nothing else signs");
}

#[test]
fn what_has_expired_is_forgotten() {
    let mut world = World::new();
    world.ok(user("u", &["user"]));
    let soon = world.now.plus(1_000);
    world.ok(key(1, "u", Some(soon)));
    world.ok(key(2, "u", None));
    world.ok(ask(AccessCommand::RevokeToken {
        token: RevokedToken { id: TokenId(1), until: soon },
    }));
    world.ok(join_token(1, JoinRole::Node { voter: true }, 1, soon));
    assert!(!world.state.access.has_expired(world.now));
    world.now = soon;
    assert!(world.state.access.has_expired(world.now));
    world.ok(ask(AccessCommand::Expire));
    let access = &world.state.access;
    assert!(!access.has_expired(world.now));
    assert_eq!((access.keys.len(), access.revoked.len(), access.join_tokens.len()), (1, 0, 0));
}

#[test]
fn what_is_done_is_in_the_trail_in_the_same_moment_and_what_is_refused_is_not_done() {
    let mut world = World::with(&[], &[100]);
    let note = Note { actor: "user:u".into(), action: "model.delete".into(), ..Note::default() };
    let delete = |model: &str| Command::Noted {
        note: Box::new(note.clone()),
        command: Box::new(Command::DeleteModel { name: name(model) }),
    };
    world.ok(delete("m0"));
    world.err(delete("m0"));
    let record = world.state.access.last_record().expect("it was noted").clone();
    assert_eq!((record.number, record.note.outcome.as_str()), (1, "done"));
    let refused = Note { outcome: "refused: no".into(), object: "a\r\nb".into(), ..note };
    world.ok(ask(AccessCommand::Record { notes: vec![refused; 3] }));
    assert_eq!(world.state.access.trail.len(), 4);
    assert_eq!(world.state.access.trail[&2].note.object, "ab", "no second line");
}

#[test]
fn the_trail_is_bounded_and_stays_checkable() {
    let mut world = World::new();
    let notes = vec![Note::default(); limits::AUDIT_NOTES_COUNT];
    for _ in 0..limits::AUDIT_RECORDS_COUNT / limits::AUDIT_NOTES_COUNT + 2 {
        world.ok(ask(AccessCommand::Record { notes: notes.clone() }));
    }
    let trail = &world.state.access.trail;
    assert_eq!(trail.len(), limits::AUDIT_RECORDS_COUNT);
    let mut verifier = Verifier::default();
    trail.values().for_each(|record| verifier.next(record).expect("unbroken"));
    assert!(trail.keys().next().is_some_and(|first| *first > 1));
}
