//! A cluster in this process, and waiting with a deadline.

use ollamamax_control_plane::{ControlPlaneNode, NodeConfig, Running};
use ollamamax_core::access::{self, AccessCommand, Hidden, JoinRole};
use ollamamax_core::{Command, Outcome, State};
use ollamamax_gateway::join_token_id;
use ollamamax_gateway::ports::{ControlError, ControlPlane};
use ollamamax_proto::model::{ModelFacts, ModelVersion};
use ollamamax_proto::{Digest, Millis, ModelName, NodeId, WorkerId};
use ollamamax_tls::{Credential, Expect, Identity, JoinToken, Joining, Kind, Tls, join};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

pub const PATIENCE: Duration = Duration::from_secs(15);

/// Nodes by id; node 1 bootstraps, the others join through it.
pub struct Cluster {
    dir: TempDir,
    pub nodes: BTreeMap<u64, Running>,
    places: BTreeMap<u64, (SocketAddr, SocketAddr, PathBuf)>,
    tune: Box<dyn Fn(&mut NodeConfig)>,
}

impl Cluster {
    pub async fn start(count: usize) -> Self {
        Self::start_with(count, |_| {}).await
    }

    pub async fn start_with(count: usize, tune: impl Fn(&mut NodeConfig) + 'static) -> Self {
        let tune = Box::new(tune);
        let dir = TempDir::new().expect("a temporary directory");
        let mut cluster = Self { dir, nodes: BTreeMap::new(), places: BTreeMap::new(), tune };
        for _ in 0..count {
            cluster.add().await;
        }
        cluster.settle(count).await;
        eventually("there is a first user with a key", || {
            let state = cluster.control(1).state();
            !state.access.users.is_empty() && !state.access.keys.is_empty()
        })
        .await;
        cluster
    }

    /// One more node: the first one bootstraps.
    pub async fn add(&mut self) -> u64 {
        self.add_as(true).await
    }

    /// One more node, which votes or only listens.
    pub async fn add_as(&mut self, voter: bool) -> u64 {
        let data = self.dir.path().join(format!("node-{}", self.places.len()));
        let mut config = NodeConfig::new(&data);
        let own = SocketAddr::new(loopback(), 0);
        (config.http_listen, config.raft_listen) = (own, own);
        (self.tune)(&mut config);
        match self.nodes.keys().next() {
            None => config.bootstrap = true,
            Some(_) => config.join = Some(self.token(JoinRole::Node { voter }).await),
        }
        let node = ControlPlaneNode::start(config).await.expect("the node starts");
        let id = node.node_id().0;
        self.places.insert(id, (node.http_addr(), node.raft_addr(), data));
        self.nodes.insert(id, node);
        id
    }

    /// A join token for one, good for a minute.
    pub async fn token(&self, role: JoinRole) -> JoinToken {
        self.token_with(role, 1, 60_000).await
    }

    pub async fn token_with(&self, role: JoinRole, uses: u32, lifetime_ms: u64) -> JoinToken {
        let id = *self.nodes.keys().next().expect("a node");
        let control = self.control(id);
        eventually("there is an authority", || {
            control.state().access.certifies(Millis::now()).is_some()
        })
        .await;
        let kind = match role {
            JoinRole::Node { .. } => Kind::Node,
            JoinRole::Worker { .. } => Kind::Worker,
        };
        let credential = Credential::generate().expect("random bytes");
        let token = access::JoinToken {
            id: join_token_id(&credential),
            hash: Hidden(credential.hash().0),
            role,
            uses_left: uses,
            created_at: Millis(0),
            expires_at: Millis::now().plus(lifetime_ms),
        };
        let create = AccessCommand::CreateJoinToken { token };
        let create = || control.propose(Command::Access(Box::new(create.clone())));
        retried("a join token", PATIENCE, create).await;
        let state = control.state();
        let authority = state.access.certifies(Millis::now()).expect("there is one");
        let authority = Digest(authority.fingerprint);
        let addresses = self.nodes.values().map(|node| node.raft_addr().to_string()).collect();
        JoinToken { kind, credential, authority, addresses }
    }

    /// The connections of a worker that was let in.
    pub async fn enrol(&self, id: u128) -> Tls {
        let token = self.token(JoinRole::Worker { labels: BTreeMap::new() }).await;
        let joined = join(&token, &Joining::Worker(WorkerId(id)), || 0.5).await;
        Tls::new(joined.expect("it is let in").identity).expect("usable")
    }

    /// The connections of a node, as who reads its directory could make them.
    pub fn node_tls(&self, id: u64) -> Tls {
        let identity = Identity::load(&self.data_dir(id).join("identity"));
        Tls::new(identity.expect("readable").expect("there is one")).expect("usable")
    }

    /// A gRPC channel to a node.
    pub fn channel(&self, tls: &Tls, id: u64) -> Channel {
        let address = format!("http://{}", self.nodes[&id].raft_addr());
        let endpoint = Endpoint::from_shared(address).expect("an address");
        tls.channel(&endpoint, Expect::Node(NodeId(id)))
    }

    /// Where a node's gRPC services listen, or did.
    pub fn address(&self, id: u64) -> SocketAddr {
        self.places[&id].1
    }

    /// Where a node keeps everything.
    pub fn data_dir(&self, id: u64) -> &Path {
        &self.places[&id].2
    }

    /// The node will be restarted on free ports.
    pub fn forget_ports(&mut self, id: u64) {
        let place = self.places.get_mut(&id).expect("it was started");
        place.0.set_port(0);
        place.1.set_port(0);
    }

    /// A stopped node again, from its directory and on its ports.
    pub async fn restart(&mut self, id: u64) {
        let (http, raft, data) = self.places[&id].clone();
        let mut config = NodeConfig::new(data);
        (self.tune)(&mut config);
        config.http_listen = http;
        config.raft_listen = raft;
        let node = ControlPlaneNode::start(config).await.expect("the node starts again");
        assert_eq!(node.node_id().0, id);
        self.nodes.insert(id, node);
    }

    /// How many snapshots a node keeps.
    pub fn snapshots(&self, id: u64) -> usize {
        let files = std::fs::read_dir(self.places[&id].2.join("snapshots")).expect("readable");
        let names = files.map(|file| file.expect("readable").file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".snap")).count()
    }

    /// Until `voters` nodes vote and every running one knows the leader.
    pub async fn settle(&self, voters: usize) {
        eventually("the cluster settles", || {
            self.nodes.values().all(|node| {
                let quorum = node.control().quorum();
                let voting = quorum.nodes.iter().filter(|node| node.voter).count();
                quorum.leader.is_some() && voting == voters
            })
        })
        .await;
    }

    pub fn control(&self, id: u64) -> Arc<dyn ControlPlane> {
        self.nodes[&id].control()
    }

    pub async fn leader(&self) -> u64 {
        let ask = || {
            let leaders: Vec<Option<NodeId>> =
                self.nodes.values().map(|node| node.control().quorum().leader).collect();
            let first = leaders[0]?;
            (leaders.iter().all(|leader| *leader == Some(first))
                && self.nodes.contains_key(&first.0))
            .then_some(first.0)
        };
        eventually("a leader is agreed on", || ask().is_some()).await;
        ask().expect("just agreed on")
    }

    pub async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        *self.nodes.keys().find(|id| **id != leader).expect("more than one node")
    }

    pub async fn put(&self, id: u64, name: &str, value: &str) -> Result<Outcome, ControlError> {
        self.control(id).propose(checkpoint(name, value)).await
    }

    /// Until all running nodes have the same state.
    pub async fn converge(&self) -> Arc<State> {
        let same = || {
            let states: Vec<Arc<State>> =
                self.nodes.values().map(|node| node.control().state()).collect();
            states.windows(2).all(|pair| pair[0] == pair[1])
        };
        eventually("all states are equal", same).await;
        let state = self.nodes.values().next().expect("a node").control().state();
        assert_eq!(ollamamax_core::invariant::check(&state), Vec::new());
        state
    }

    pub async fn stop(self) {
        for (_, node) in self.nodes {
            node.stop().await;
        }
    }
}

/// A loopback address that no other node of this process has. Connections go out from 127.0.0.1, so none of them is given
/// the port of a node that is stopped and will be restarted on it.
fn loopback() -> IpAddr {
    static NODES: AtomicU16 = AtomicU16::new(0);
    let [high, low] = NODES.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    Ipv4Addr::new(127, 1, high, low).into()
}

pub fn checkpoint(name: &str, value: &str) -> Command {
    Command::PutCheckpoint { name: name.to_owned(), value: value.into(), expected: None }
}

pub fn value(state: &State, name: &str) -> Option<String> {
    let checkpoint = state.checkpoints.get(name)?;
    Some(String::from_utf8_lossy(&checkpoint.value).into_owned())
}

/// A small model made of `blob`.
pub fn model(name: &str, blob: &[u8]) -> Command {
    let mut version = ModelVersion {
        digest: Digest([0; 32]),
        blob: Digest::of(blob),
        blob_bytes: blob.len() as u64,
        facts: ModelFacts {
            architecture: "llama".to_owned(),
            context_length: 2_048,
            layers: 2,
            layer_bytes: vec![1_000; 2],
            embedding_bytes: 1_000,
            kv_bytes_per_token: 16,
            metadata_json: "{}".to_owned(),
            ..ModelFacts::default()
        },
        template: None,
        system: None,
        parameters: BTreeMap::new(),
        messages: Vec::new(),
        licenses: Vec::new(),
        parent: None,
    };
    version.digest = version.compute_digest();
    let name: ModelName = name.parse().expect("a model name");
    Command::PutModel { name, version: Box::new(version) }
}

pub async fn eventually(what: &str, condition: impl FnMut() -> bool) {
    within(what, PATIENCE, condition).await;
}

pub async fn within(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Repeats `attempt` until it succeeds.
pub async fn retried<T, E, F>(what: &str, patience: Duration, mut attempt: impl FnMut() -> F) -> T
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let deadline = Instant::now() + patience;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < deadline, "{what}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
