//! One of each command and change of access.

use ollamamax_core::access::{
    AccessChange, AccessCommand, AuthorityRecord, Enrolment, Hidden, JoinRole, JoinToken,
    JoinTokenId, KeyId, KeyRecord, Making, Quota, QuotaOf, RevokedToken, RoleRecord, SessionId,
    SessionRecord, SigningKey, SigningKeyId, TokenId, UserRecord,
};
use ollamamax_proto::audit::{Note, Record};
use ollamamax_proto::{Millis, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(ToString::to_string).collect()
}

pub(super) fn note() -> Note {
    Note {
        actor: "user:a".into(),
        via: "key".into(),
        from: "10.0.0.1".into(),
        request: "r".into(),
        action: "model.put".into(),
        object: "m".into(),
        outcome: "done".into(),
    }
}

fn user() -> UserRecord {
    UserRecord {
        name: "alice".into(),
        service: false,
        password: Some(Hidden("$argon2id$x".into())),
        roles: set(&["admin"]),
        disabled: true,
        created_at: Millis(1),
        not_before: Millis(2),
    }
}

fn role() -> RoleRecord {
    RoleRecord {
        name: "team".into(),
        description: "d".into(),
        inherits: set(&["user"]),
        grants: ["model:read@a*", "!*@b"].iter().filter_map(|grant| grant.parse().ok()).collect(),
    }
}

fn key() -> KeyRecord {
    KeyRecord {
        id: KeyId(3),
        hash: Hidden([4; 32]),
        owner: "alice".into(),
        label: "l".into(),
        scope: Some(role().grants),
        created_at: Millis(5),
        expires_at: Some(Millis(6)),
    }
}

fn session() -> SessionRecord {
    SessionRecord {
        id: SessionId(7),
        user: "alice".into(),
        generation: 8,
        current: Hidden([9; 32]),
        previous: Some(Hidden([10; 32])),
        opened_at: Millis(11),
        refreshed_at: Millis(12),
        expires_at: Millis(13),
    }
}

fn signing_key() -> SigningKey {
    SigningKey {
        id: SigningKeyId(14),
        algorithm: "RS256".into(),
        public: vec![15],
        sealed: Hidden(vec![16]),
        created_at: Millis(17),
        signs_from: Millis(18),
        believed_until: Some(Millis(19)),
    }
}

fn authority() -> AuthorityRecord {
    AuthorityRecord {
        fingerprint: [20; 32],
        certificate: "c".into(),
        sealed: Hidden(vec![21]),
        created_at: Millis(22),
        signs_from: Millis(23),
        trusted_until: None,
    }
}

fn join_token(role: JoinRole) -> JoinToken {
    JoinToken {
        id: JoinTokenId(24),
        hash: Hidden([25; 32]),
        role,
        uses_left: 2,
        created_at: Millis(26),
        expires_at: Millis(27),
    }
}

fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([("rack".to_owned(), "a1".to_owned())])
}

const TOKEN: RevokedToken = RevokedToken { id: TokenId(28), until: Millis(29) };
const WORKER: WorkerId = WorkerId(30);
const QUOTA: Quota = Quota {
    requests_per_minute: Some(1),
    prompt_tokens_per_minute: Some(2),
    output_tokens_per_minute: Some(3),
    tokens_per_day: Some(4),
    streams: Some(5),
};

const MAKING: Making = Making { models_per_day: Some(6), blob_bytes_per_day: Some(7) };

fn quotas() -> [QuotaOf; 4] {
    let user = QuotaOf::User("alice".into());
    [QuotaOf::Key(KeyId(3)), user, QuotaOf::Model("m:latest".into()), QuotaOf::Anybody]
}

pub(super) fn commands() -> Vec<AccessCommand> {
    use AccessCommand as C;
    let alice = || "alice".to_owned();
    let presented = || Hidden([31; 32]);
    let mut all = vec![
        C::CreateUser { user: user() },
        C::SetPassword { user: alice(), password: None },
        C::SetRoles { user: alice(), roles: set(&["user"]) },
        C::DisableUser { user: alice(), disabled: true },
        C::DeleteUser { user: alice() },
        C::LogOut { user: alice() },
        C::PutRole { role: role() },
        C::DeleteRole { name: "team".into() },
        C::CreateKey { key: key() },
        C::RevokeKey { id: KeyId(3) },
        C::OpenSession { session: session() },
        C::RefreshSession {
            id: SessionId(7),
            presented: presented(),
            successor: Hidden([32; 32]),
            generation: 33,
        },
        C::CloseSession { id: SessionId(7) },
        C::RevokeToken { token: TOKEN },
        C::PutSigningKey { key: signing_key(), lifetime_ms: 34, emergency: true },
        C::PutAuthority { authority: authority(), lifetime_ms: 35 },
        C::CreateJoinToken { token: join_token(JoinRole::Node { voter: true }) },
        C::CreateJoinToken { token: join_token(JoinRole::Worker { labels: labels() }) },
        C::RevokeJoinToken { id: JoinTokenId(24) },
        C::Enrol { token: JoinTokenId(24), presented: presented(), worker: WORKER },
        C::EnrolNode {
            token: JoinTokenId(24),
            presented: presented(),
            http: "h:1".into(),
            raft: "h:2".into(),
        },
        C::Record { notes: vec![note()] },
        C::Expire,
        C::DropSigningKey { id: SigningKeyId(14) },
        C::RevokeTokenId { id: TokenId(28), lifetime_ms: 36 },
    ];
    all.extend(quotas().map(|of| C::SetQuota { of, quota: Some(QUOTA) }));
    let of = QuotaOf::User("alice".into());
    all.push(C::Exported { sink: "0a1b".into(), number: 40 });
    all.push(C::SetQuotas { of, quota: Some(QUOTA), making: Some(MAKING) });
    all
}

pub(super) fn changes() -> Vec<AccessChange> {
    use AccessChange as C;
    let mut all = vec![
        C::UserPut(user()),
        C::UserRemoved("alice".into()),
        C::RolePut(role()),
        C::RoleRemoved("team".into()),
        C::KeyPut(key()),
        C::KeyRemoved(KeyId(3)),
        C::SessionPut(session()),
        C::SessionRemoved(SessionId(7)),
        C::TokenRevoked(TOKEN),
        C::TokenForgotten(TokenId(28)),
        C::SigningKeyPut(signing_key()),
        C::SigningKeyRemoved(SigningKeyId(14)),
        C::AuthorityPut(authority()),
        C::AuthorityRemoved([20; 32]),
        C::JoinTokenPut(join_token(JoinRole::Worker { labels: labels() })),
        C::JoinTokenRemoved(JoinTokenId(24)),
        C::Enrolled(Enrolment {
            worker: WORKER,
            token: JoinTokenId(24),
            at: Millis(37),
            labels: labels(),
        }),
        C::Unenrolled(WORKER),
        C::QuotaRemoved(QuotaOf::Anybody),
        C::Recorded(Box::new(Record::following(None, Millis(38), note()))),
        C::RecordForgotten(39),
    ];
    all.extend(quotas().map(|of| C::QuotaPut(of, QUOTA)));
    all.push(C::ExportedPut("0a1b".into(), 41));
    all.push(C::ExportedRemoved("0a1b".into()));
    all.push(C::MakingPut(QuotaOf::User("alice".into()), MAKING));
    all.push(C::MakingRemoved(QuotaOf::User("alice".into())));
    all
}
