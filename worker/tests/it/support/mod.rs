//! A control-plane node that follows a script, an engine that obeys knobs, and a client: everything around a worker.

pub mod machine;
pub mod node;

use ollamamax_proto::inference::{Options, Predict, Prompt};
use ollamamax_proto::placement::{Assignment, Stage};
use ollamamax_proto::wire::inference_client::InferenceClient;
use ollamamax_proto::{
    AssignmentId, Digest, Generation, Millis, WorkerId, inference, limits, wire,
};
use ollamamax_tls::testing::TestCluster;
use ollamamax_tls::{Authority, Expect, Role};
use ollamamax_worker::{Running, WorkerConfig, WorkerNode};
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

pub use machine::{Knobs, expected_tokens};
pub use node::FakeNode;

/// Waits until `condition` holds; fails with `what` after ten seconds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "not within ten seconds: {what}");
}

/// An assignment of `blob` with place for four sequences.
pub fn assignment(id: u64, generation: u64, blob: &[u8]) -> Assignment {
    Assignment {
        id: AssignmentId(id),
        generation: Generation(generation),
        model: "test:1".parse().expect("a name"),
        blob: Digest::of(blob),
        blob_bytes: blob.len() as u64,
        stage: Stage::whole(1),
        context_length: 512,
        sequences_max: 4,
    }
}

/// A worker with its directory.
pub struct TestWorker {
    pub running: Running,
    pub dir: TempDir,
}

/// Whose members the nodes and workers of these tests are.
pub static CLUSTER: LazyLock<TestCluster> = LazyLock::new(|| {
    // Since two days, so that there are certificates of yesterday.
    let past = Millis(Millis::now().0 - 2 * limits::TLS_LIFETIME_MS);
    let name = "test".parse().expect("a label");
    TestCluster(Authority::create(&name, past).expect("keys can be made"))
});

/// Leaves a certificate for a new worker in `dir`, unless there is one.
pub fn enrol(dir: &Path) {
    static WORKERS: AtomicU64 = AtomicU64::new(1);
    let dir = dir.join("identity");
    if !dir.exists() {
        let id = WorkerId(WORKERS.fetch_add(1, Ordering::Relaxed).into());
        CLUSTER.identity(Role::Worker(id)).save(&dir).expect("saved");
    }
}

/// Starts a worker with the obedient engine that reports to `nodes`.
pub async fn start(nodes: &[&FakeNode], knobs: &Knobs) -> TestWorker {
    start_in(tempfile::tempdir().expect("a directory"), nodes, knobs, |_| {}).await
}

/// Starts a worker in `dir`, with changed settings.
pub async fn start_in(
    dir: TempDir,
    nodes: &[&FakeNode],
    knobs: &Knobs,
    change: impl FnOnce(&mut WorkerConfig),
) -> TestWorker {
    let addresses = nodes.iter().map(|node| node.address.clone()).collect();
    enrol(dir.path());
    let listen = "127.0.0.1:0".parse().expect("an address");
    let mut config = WorkerConfig::new(dir.path(), listen, addresses);
    config.memory_bytes = 1 << 30;
    change(&mut config);
    let running = WorkerNode::start_with(config, knobs.loader()).await.expect("the worker starts");
    TestWorker { running, dir }
}

impl TestWorker {
    pub async fn client(&self) -> InferenceClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.running.address()));
        let expect = Expect::Worker(self.running.worker());
        InferenceClient::new(CLUSTER.node(99).channel(&endpoint.expect("a url"), expect))
    }
}

/// A request for `predict` tokens after the prompt tokens.
pub fn request(of: &Assignment, prompt: &[u32], predict: u32) -> wire::GenerateRequest {
    let options = Options { predict: Predict::AtMost(predict), ..Options::default() };
    (&inference::GenerateRequest {
        request_id: "r".to_owned(),
        attempt: 0,
        model: of.model.clone(),
        blob: of.blob,
        assignment: of.id,
        generation: of.generation,
        prompt: Prompt::Tokens(prompt.to_vec()),
        options,
        resume: vec![],
        caller: String::new(),
        time_left: None,
        prefix: Default::default(),
        salt: Default::default(),
    })
        .into()
}

/// Everything a stream brought.
#[derive(Debug, Default)]
pub struct Answer {
    pub tokens: Vec<u32>,
    pub text: String,
    pub chunks: usize,
    pub started: Option<wire::Started>,
    pub done: Option<wire::Done>,
}

/// Reads a stream to its end and checks its form: one start, first; one end, last; indices without gaps.
pub async fn collect(
    mut stream: tonic::Streaming<wire::TokenChunk>,
) -> Result<Answer, tonic::Status> {
    let mut answer = Answer::default();
    let mut next_index = None;
    while let Some(chunk) = stream.message().await? {
        assert!(answer.done.is_none(), "nothing comes after the end");
        assert_eq!(chunk.started.is_some(), answer.chunks == 0, "the first chunk alone starts");
        if !chunk.tokens.is_empty() {
            let index = *next_index.get_or_insert(chunk.index);
            assert_eq!(chunk.index, index, "tokens come without gaps");
            next_index = Some(index + chunk.tokens.len() as u32);
        }
        answer.chunks += 1;
        answer.tokens.extend(chunk.tokens);
        answer.text.push_str(&chunk.text);
        answer.started = answer.started.or(chunk.started);
        answer.done = chunk.done;
    }
    assert!(answer.done.is_some(), "a complete stream has an end");
    Ok(answer)
}

/// Sends a request and collects the answer.
pub async fn generate(
    client: &mut InferenceClient<Channel>,
    request: wire::GenerateRequest,
) -> Result<Answer, tonic::Status> {
    collect(client.generate(request).await?.into_inner()).await
}
