//! Models spread over several workers, with the real engine and real sockets: what comes out, and what happens when a stage
//! goes.

use crate::support::{Answer, CLUSTER, FakeNode, TestWorker, enrol, generate, until};
use ollamamax_proto::inference::{GenerateRequest, Options, Predict, Prompt};
use ollamamax_proto::placement::{Activations, Assigned, Assignment, Peer, Ring, Stage};
use ollamamax_proto::{AssignmentId, Digest, Generation, ReplicaId, WorkerId, wire};
use ollamamax_tests::model;
use ollamamax_tls::{Expect, Protocol, Tls};
use ollamamax_worker::{WorkerConfig, WorkerNode};
use prost::Message;
use std::io::{Read, Write};
use std::ops::Range;
use std::sync::atomic::Ordering::SeqCst;
use tempfile::TempDir;

const LAYERS: u32 = 30;
const HEADS: u32 = 3;

/// Layers, heads, and the worker that holds them.
type Part = (Range<u32>, Range<u32>, usize);

/// A worker, and the node it reports to.
struct Member {
    node: FakeNode,
    worker: TestWorker,
}

struct Ringed {
    members: Vec<Member>,
    hints: Option<TempDir>,
    activations: Activations,
    revision: u64,
}

fn blob() -> Digest {
    format!("sha256:{}", model::SMOLLM2_SHA256).parse().expect("a digest")
}

/// Where the model's bytes lie on this machine, as a worker looks for them.
fn hints() -> TempDir {
    let hints = tempfile::tempdir().expect("a directory");
    let hint = hints.path().join(format!("sha256-{}", blob().hex()));
    std::os::unix::fs::symlink(model::smollm2(), hint).expect("linked");
    hints
}

impl Ringed {
    fn new(hints: Option<TempDir>) -> Self {
        Self { members: Vec::new(), hints, activations: Activations::F32, revision: 1 }
    }

    async fn join(&mut self) -> usize {
        let node = FakeNode::start();
        let dir = tempfile::tempdir().expect("a directory");
        enrol(dir.path());
        let listen = "127.0.0.1:0".parse().expect("an address");
        let mut config = WorkerConfig::new(dir.path(), listen, vec![node.address.clone()]);
        config.memory_bytes = 1 << 30;
        config.threads = 1;
        config.blob_hints = self.hints.iter().map(|dir| dir.path().to_owned()).collect();
        let running = WorkerNode::start(config).await.expect("the worker starts");
        self.members.push(Member { node, worker: TestWorker { running, dir } });
        self.members.len() - 1
    }

    /// Spreads the model: for each part its layers, its heads, and which worker holds it. The driver's assignment and worker.
    fn spread(&mut self, parts: &[Part]) -> (Assignment, usize) {
        self.revision += 1;
        let revision = self.revision;
        let shards = |layers: &Range<u32>| -> Vec<&Part> {
            parts.iter().filter(|part| part.0 == *layers).collect()
        };
        let peer = |(layers, heads, at): &Part| Peer {
            // The same part on the same worker stays the same assignment.
            assignment: AssignmentId(
                [layers.start, layers.end, heads.start, heads.end]
                    .iter()
                    .fold(*at as u64 + 1, |id, part| 100 * id + u64::from(*part)),
            ),
            generation: Generation(1),
            worker: self.members[*at].worker.running.worker(),
            address: self.members[*at].worker.running.address().to_string(),
            stage: Stage {
                first_layer: layers.start,
                end_layer: layers.end,
                embedding: layers.start == 0,
                head: layers.end == LAYERS,
                shard: shards(layers).iter().position(|part| part.1 == *heads).expect("itself")
                    as u32,
                shards: shards(layers).len() as u32,
            },
            first_head: heads.start,
            end_head: heads.end,
        };
        let peers: Vec<Peer> = parts.iter().map(peer).collect();
        let ring = (parts.len() > 1).then(|| Ring {
            replica: ReplicaId(1),
            activations: self.activations,
            steps_in_flight: 2,
            peers: peers.clone(),
        });
        let assigned = |peer: &Peer| Assigned {
            assignment: Assignment {
                id: peer.assignment,
                generation: peer.generation,
                model: "smollm2:135m".parse().expect("a name"),
                blob: blob(),
                blob_bytes: model::SMOLLM2_BYTES,
                stage: peer.stage,
                context_length: 512,
                sequences_max: 8,
            },
            ring: ring.clone(),
        };
        for (at, member) in self.members.iter().enumerate() {
            let mine = parts.iter().zip(&peers).filter(|(part, _)| part.2 == at);
            let mine: Vec<_> = mine.map(|(_, peer)| assigned(peer)).collect();
            member.node.assign_parts(revision, &mine);
        }
        let driver = match &ring {
            Some(ring) => ring.driver().expect("a driver"),
            None => &peers[0],
        };
        let at = peers.iter().position(|peer| peer.assignment == driver.assignment);
        (assigned(driver).assignment, parts[at.expect("itself")].2)
    }

    async fn ready(&self, held: &Assignment, at: usize) {
        until("ready", || self.members[at].node.phase(held).as_deref() == Some("ready")).await;
    }

    async fn ask(
        &self,
        of: &Assignment,
        at: usize,
        request: &Ask,
    ) -> Result<Answer, tonic::Status> {
        let mut client = self.members[at].worker.client().await;
        generate(&mut client, request.to(of)).await
    }
}

#[derive(Clone)]
struct Ask {
    text: &'static str,
    predict: u32,
    temperature: f32,
    resume: Vec<u32>,
}

impl Ask {
    fn new(text: &'static str, predict: u32, temperature: f32) -> Self {
        Self { text, predict, temperature, resume: Vec::new() }
    }

    fn to(&self, of: &Assignment) -> wire::GenerateRequest {
        let mut options = Options {
            predict: Predict::AtMost(self.predict),
            ignore_end: true,
            ..Options::default()
        };
        options.sampling.temperature = self.temperature;
        options.sampling.seed = 42;
        (&GenerateRequest {
            request_id: "r".to_owned(),
            attempt: 0,
            model: of.model.clone(),
            blob: of.blob,
            assignment: of.id,
            generation: of.generation,
            prompt: Prompt::Text(self.text.to_owned()),
            options,
            resume: self.resume.clone(),
            caller: String::new(),
            time_left: None,
            prefix: Default::default(),
            salt: Default::default(),
        })
            .into()
    }
}

fn asks() -> [Ask; 3] {
    [
        Ask::new("The capital of France is", 24, 0.0),
        Ask::new("Once upon a time there was a", 40, 0.8),
        Ask::new("1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,", 24, 0.0),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_in_stages_and_shards_says_what_the_whole_model_says() {
    let mut ring = Ringed::new(Some(hints()));
    for _ in 0..3 {
        ring.join().await;
    }
    let (whole, at) = ring.spread(&[(0..LAYERS, 0..HEADS, 0)]);
    ring.ready(&whole, at).await;
    let mut expected = Vec::new();
    for ask in asks() {
        expected.push(ring.ask(&whole, at, &ask).await.expect("an answer"));
    }
    let all = || 0..HEADS;
    let spreads = [
        vec![(0..13, all(), 1), (13..LAYERS, all(), 2)],
        vec![(0..1, all(), 2), (1..29, all(), 0), (29..LAYERS, all(), 1)],
        vec![(0..LAYERS, 0..2, 0), (0..LAYERS, 2..3, 1)],
        vec![(0..LAYERS, 0..1, 0), (0..LAYERS, 1..2, 1), (0..LAYERS, 2..3, 2)],
        vec![(0..9, 0..1, 0), (0..9, 1..3, 1), (9..LAYERS, 0..3, 2)],
        vec![(0..20, 0..3, 2), (20..LAYERS, 0..2, 0), (20..LAYERS, 2..3, 1)],
    ];
    for spread in spreads {
        let (driver, at) = ring.spread(&spread);
        ring.ready(&driver, at).await;
        let sharded = spread.iter().any(|(_, heads, _)| *heads != all());
        // Beside each other, so that several steps are on their way.
        let answers = futures_util::future::join_all(
            asks().iter().map(|ask| ring.ask(&driver, at, ask)).collect::<Vec<_>>(),
        )
        .await;
        for ((ask, answer), expected) in asks().iter().zip(answers).zip(&expected) {
            let answer = answer.expect("an answer");
            if !sharded || ask.temperature == 0.0 {
                assert_eq!(answer.tokens, expected.tokens, "{spread:?} {}", ask.text);
                assert_eq!(answer.text, expected.text, "{spread:?}");
            }
        }
        // What does not drive takes no requests.
        let other = spread.iter().find(|(.., other)| *other != at).expect("another").2;
        let held = ring.members[other].worker.running.holder().reports()[0].clone();
        let stage = Assignment { id: held.id, generation: held.generation, ..driver.clone() };
        let refused = ring.ask(&stage, other, &asks()[0]).await.expect_err("refused");
        assert!(refused.message().contains("does not drive"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_that_loses_a_stage_says_so_at_once_and_closes_again_around_another() {
    let mut ring = Ringed::new(Some(hints()));
    for _ in 0..3 {
        ring.join().await;
    }
    let parts = |middle: usize| vec![(0..10, 0..HEADS, middle), (10..LAYERS, 0..HEADS, 0)];
    let (driver, at) = ring.spread(&parts(1));
    ring.ready(&driver, at).await;
    let long = Ask::new("Once upon a time there was a", 300, 0.8);
    let whole = ring.ask(&driver, at, &long).await.expect("an answer");
    let mut client = ring.members[at].worker.client().await;
    let mut stream = client.generate(long.to(&driver)).await.expect("taken").into_inner();
    let mut tokens = Vec::new();
    while tokens.len() < 20 {
        let chunk = stream.message().await.expect("no error").expect("not the end");
        tokens.extend(chunk.tokens);
    }
    // The stage goes in the middle of it.
    ring.members[1].node.assign_parts(1_000, &[]);
    let status = loop {
        match stream.message().await {
            Ok(chunk) => tokens.extend(chunk.expect("it cannot end").tokens),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
    until("apart", || ring.members[at].node.phase(&driver).as_deref() == Some("loading")).await;
    let refused = ring.ask(&driver, at, &long).await.expect_err("it is apart");
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    // Another worker takes the place; the driver keeps its part, and the stream goes on.
    ring.revision = 2_000;
    let (again, at) = ring.spread(&parts(2));
    assert_eq!(again, driver);
    ring.ready(&driver, at).await;
    let rest = Ask { resume: tokens.clone(), ..long };
    let rest = ring.ask(&driver, at, &rest).await.expect("an answer");
    tokens.extend(rest.tokens);
    assert_eq!(tokens, whole.tokens);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rounded_activations_still_make_sense() {
    let mut ring = Ringed::new(Some(hints()));
    ring.activations = Activations::Bf16;
    for _ in 0..2 {
        ring.join().await;
    }
    let (driver, at) = ring.spread(&[(0..15, 0..HEADS, 0), (15..LAYERS, 0..HEADS, 1)]);
    ring.ready(&driver, at).await;
    let answer = ring.ask(&driver, at, &asks()[0]).await.expect("an answer");
    assert!(answer.text.starts_with(" Paris"), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_fetches_only_what_it_needs() {
    let mut ring = Ringed::new(None);
    let bytes = std::fs::read(model::smollm2()).expect("the model");
    for _ in 0..2 {
        let at = ring.join().await;
        ring.members[at].node.put_blob(&bytes);
    }
    let (driver, at) = ring.spread(&[(0..15, 0..HEADS, 0), (15..LAYERS, 0..HEADS, 1)]);
    ring.ready(&driver, at).await;
    let answer = ring.ask(&driver, at, &asks()[0]).await.expect("an answer");
    assert!(answer.text.starts_with(" Paris"), "{}", answer.text);
    for member in &ring.members {
        let fetched = member.node.script.fetched_bytes.load(SeqCst);
        // Both hold the embedding, which is the head, too, and a third of the file.
        assert!(fetched < model::SMOLLM2_BYTES * 3 / 4, "{fetched} of {}", model::SMOLLM2_BYTES);
    }
}

/// What a stage answers to a greeting of who shows this certificate.
async fn greet(tls: &Tls, peer: &wire::Peer, hello: wire::StageHello) -> wire::StageWelcome {
    let expect = Expect::Worker(peer.worker.parse().expect("an id"));
    let stream = tls.dial(&peer.address, expect, Protocol::Stage).await.expect("connected");
    let mut stream = stream.into_blocking().expect("blocking");
    let answer = tokio::task::spawn_blocking(move || {
        let body = hello.encode_to_vec();
        stream.write_all(&(body.len() as u32).to_le_bytes()).expect("written");
        stream.write_all(&body).expect("written");
        stream.flush().expect("flushed");
        let mut len = [0; 4];
        stream.read_exact(&mut len).expect("an answer");
        let mut body = vec![0; u32::from_le_bytes(len) as usize];
        stream.read_exact(&mut body).expect("all of it");
        wire::StageWelcome::decode(&body[..]).expect("a welcome")
    });
    answer.await.expect("no panic")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_without_a_part_of_a_replica_gets_into_no_ring() {
    let mut ring = Ringed::new(Some(hints()));
    for _ in 0..2 {
        ring.join().await;
    }
    let (driver, at) = ring.spread(&[(0..15, 0..HEADS, 0), (15..LAYERS, 0..HEADS, 1)]);
    ring.ready(&driver, at).await;
    let set = ring.members[0].node.script.sets.borrow().clone().expect("a set");
    let known = set.assignments[0].ring.clone().expect("a ring");
    let hello = |ring: wire::Ring| wire::StageHello {
        session: u64::MAX,
        ring: Some(ring),
        from: 1,
        to: 0,
        purpose: "steps".to_owned(),
        blocks: 1,
        kv_type: "f16".to_owned(),
    };
    let stranger = CLUSTER.worker(903);
    let mut own = known.clone();
    own.peers[1].worker = WorkerId(903).to_string();
    let refused = greet(&stranger, &known.peers[0], hello(own)).await;
    assert!(refused.error.contains("holds no part"), "{refused:?}");
    let refused = greet(&stranger, &known.peers[0], hello(known.clone())).await;
    assert!(refused.error.contains("in the name of"), "{refused:?}");
    let answer = ring.ask(&driver, at, &asks()[0]).await.expect("the ring goes on");
    assert!(answer.text.starts_with(" Paris"), "{}", answer.text);
}
