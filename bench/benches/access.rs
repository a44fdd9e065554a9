//! What it costs to know who asks: `cargo bench -p ollamamax-bench --bench access`. The whole way from the headers of a request
//! to a caller with permissions: a token that was seen before, one that was not (RS256 with 2048 bits), an API key, and an API
//! key that is wrong. A thousand users, a thousand keys, a thousand logins.

#![forbid(unsafe_code)]

use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use divan::{Bencher, black_box};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use ollamamax_core::access::{
    AccessChange, Action, Hidden, KeyId, KeyRecord, Object, SessionId, SessionRecord, UserRecord,
};
use ollamamax_core::record::ClusterRecord;
use ollamamax_core::{Command, Outcome, State};
use ollamamax_gateway::auth::jwt::{Alg, Tokens, new_signing_key};
use ollamamax_gateway::ports::{
    BlobError, Blobs, ControlError, ControlPlane, Hold, Maker, QuorumStatus,
};
use ollamamax_gateway::secrets::{self, SealingKey};
use ollamamax_gateway::{Config, Gateway};
use ollamamax_proto::{Digest, Millis, NodeId, Revision};
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

const CLUSTER: &str = "0123456789abcdef0123456789abcdef";
const MANY: u64 = 1_000;

struct Still(Arc<State>, watch::Sender<Revision>);

impl ControlPlane for Still {
    fn state(&self) -> Arc<State> {
        Arc::clone(&self.0)
    }

    fn revisions(&self) -> watch::Receiver<Revision> {
        self.1.subscribe()
    }

    fn propose(&self, _: Command) -> BoxFuture<'_, Result<Outcome, ControlError>> {
        Box::pin(async { Err(ControlError::Busy { waiting: 0 }) })
    }

    fn linearizable(&self) -> BoxFuture<'_, Result<Arc<State>, ControlError>> {
        Box::pin(async { Ok(self.state()) })
    }

    fn quorum(&self) -> QuorumStatus {
        let (leader, cluster) = (Some(NodeId(1)), CLUSTER.to_owned());
        QuorumStatus { node: NodeId(1), cluster, leader, term: 1, applied: 1, nodes: Vec::new() }
    }
}

struct Nothing;

impl Blobs for Nothing {
    fn stat(&self, _: Digest) -> Option<u64> {
        None
    }

    fn put(
        &self,
        digest: Digest,
        _: BoxStream<'static, io::Result<Bytes>>,
    ) -> BoxFuture<'_, Result<bool, BlobError>> {
        Box::pin(async move { Err(BlobError::NotFound(digest)) })
    }

    fn make(&self, _: Maker) -> BoxFuture<'_, Result<(Digest, u64), BlobError>> {
        Box::pin(async { Err(BlobError::NotFound(Digest::of(b""))) })
    }

    fn open(&self, digest: Digest) -> BoxFuture<'_, Result<PathBuf, BlobError>> {
        Box::pin(async move { Err(BlobError::NotFound(digest)) })
    }

    fn hold(&self, _: Digest) -> Hold {
        Hold::new(|| {})
    }

    fn incoming(&self) -> PathBuf {
        PathBuf::new()
    }

    fn adopt(&self, _: PathBuf, digest: Digest) -> BoxFuture<'_, Result<(), BlobError>> {
        Box::pin(async move { Err(BlobError::NotFound(digest)) })
    }
}

struct World {
    gateway: Arc<Gateway>,
    tokens: Vec<HeaderMap>,
    key: HeaderMap,
    wrong: HeaderMap,
}

fn bearer(text: &str) -> HeaderMap {
    let value = HeaderValue::from_str(&format!("Bearer {text}")).expect("plain text");
    HeaderMap::from_iter([(header::AUTHORIZATION, value)])
}

/// With so many different tokens.
fn world(tokens: u64) -> World {
    let sealing = SealingKey::random();
    let mut state = State {
        cluster: Some(ClusterRecord {
            id: CLUSTER.into(),
            name: "bench".into(),
            created_at: Millis(0),
        }),
        ..State::default()
    };
    let access = &mut state.access;
    access.evolve(AccessChange::SigningKeyPut(
        new_signing_key(&sealing, Alg::Rs256, Millis(0)).expect("a key"),
    ));
    let secret = "s".repeat(43);
    for nth in 0..MANY {
        access.evolve(AccessChange::UserPut(UserRecord {
            name: format!("user-{nth}"),
            service: false,
            password: None,
            roles: BTreeSet::from(["user".to_owned()]),
            disabled: false,
            created_at: Millis(0),
            not_before: Millis(0),
        }));
        access.evolve(AccessChange::KeyPut(KeyRecord {
            id: KeyId(nth),
            hash: Hidden(secrets::hash(&secret)),
            owner: format!("user-{nth}"),
            label: String::new(),
            scope: None,
            created_at: Millis(0),
            expires_at: None,
        }));
        access.evolve(AccessChange::SessionPut(SessionRecord {
            id: SessionId(nth.into()),
            user: format!("user-{nth}"),
            generation: 0,
            current: Hidden([0; 32]),
            previous: None,
            opened_at: Millis(0),
            refreshed_at: Millis(0),
            expires_at: Millis(u64::MAX),
        }));
    }
    let signer = Tokens::new(sealing.clone());
    let roles = BTreeSet::from(["user".to_owned()]);
    let now = Millis::now();
    let mint = |nth: u64| {
        let (user, session) = (format!("user-{}", nth % MANY), SessionId((nth % MANY).into()));
        let asked = (now, 600_000);
        signer.mint(&state.access, CLUSTER, (&user, &roles), session, asked).expect("it signs")
    };
    let tokens = (0..tokens).map(|nth| bearer(&mint(nth))).collect();
    let config = Config { sealing, ..Config::default() };
    let control = Arc::new(Still(Arc::new(state), watch::channel(Revision(1)).0));
    World {
        gateway: Gateway::new(control, Arc::new(Nothing), config),
        tokens,
        key: bearer(&format!("omk_{:016x}_{secret}", 500)),
        wrong: bearer(&format!("omk_{:016x}_{}", 500, "t".repeat(43))),
    }
}

fn main() {
    divan::main();
}

fn check(gateway: &Gateway, headers: &HeaderMap) -> bool {
    let caller = gateway.caller(black_box(headers), None, false, "request", Millis::now());
    caller.is_ok_and(|caller| caller.may(Action::RunInference, Object::Model("llama3:latest")))
}

#[divan::bench]
fn access_token_seen_before(bencher: Bencher<'_, '_>) {
    let world = world(64);
    assert!(world.tokens.iter().all(|token| check(&world.gateway, token)));
    let mut turn = world.tokens.iter().cycle();
    bencher.bench_local(|| check(&world.gateway, turn.next().expect("there are some")));
}

#[divan::bench(sample_size = 1, sample_count = 2_000)]
fn access_token_never_seen(bencher: Bencher<'_, '_>) {
    let world = world(2_200);
    let mut turn = world.tokens.iter();
    bencher.bench_local(|| check(&world.gateway, turn.next().expect("enough of them")));
}

#[divan::bench]
fn api_key(bencher: Bencher<'_, '_>) {
    let world = world(0);
    assert!(check(&world.gateway, &world.key));
    bencher.bench_local(|| check(&world.gateway, &world.key));
}

#[divan::bench]
fn api_key_that_is_wrong(bencher: Bencher<'_, '_>) {
    let world = world(0);
    assert!(!check(&world.gateway, &world.wrong));
    bencher.bench_local(|| check(&world.gateway, &world.wrong));
}
