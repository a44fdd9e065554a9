//! What members of a cluster really say to each other, as far as a client can record it or make it: where mutants begin.

use ollamamax_core::{Command, codec};
use ollamamax_proto::limits;
use ollamamax_proto::wire::raft_server::{Raft, RaftServer};
use ollamamax_proto::wire::*;
use ollamamax_tls::{Credential, Request as CertificateRequest, Tls};
use prost::Message as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

/// A call: where it goes, and its message.
#[derive(Clone)]
pub struct Case {
    pub path: &'static str,
    pub message: Vec<u8>,
}

fn case(path: &'static str, message: impl prost::Message) -> Case {
    Case { path, message: message.encode_to_vec() }
}

type Heard = Arc<Mutex<Vec<(&'static str, RaftRequest)>>>;

/// Listens where a dead node did, and writes down what the others say to it.
pub struct Recorder {
    pub heard: Heard,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Listens(Heard);

impl Listens {
    fn note(&self, path: &'static str, request: RaftRequest) -> Status {
        let mut heard = self.0.lock().expect("a lock");
        if heard.iter().filter(|(known, _)| *known == path).count() < 50 {
            heard.push((path, request));
        }
        Status::unavailable("it only listens")
    }
}

const APPEND: &str = "/ollamamax.v1.Raft/Append";
const VOTE: &str = "/ollamamax.v1.Raft/Vote";
const TRANSFER: &str = "/ollamamax.v1.Raft/TransferLeader";
const SNAPSHOT: &str = "/ollamamax.v1.Raft/InstallSnapshot";

#[tonic::async_trait]
impl Raft for Listens {
    async fn append(&self, said: Request<RaftRequest>) -> Result<Response<RaftReply>, Status> {
        Err(self.note(APPEND, said.into_inner()))
    }

    async fn vote(&self, said: Request<RaftRequest>) -> Result<Response<RaftReply>, Status> {
        Err(self.note(VOTE, said.into_inner()))
    }

    async fn transfer_leader(
        &self,
        said: Request<RaftRequest>,
    ) -> Result<Response<RaftReply>, Status> {
        Err(self.note(TRANSFER, said.into_inner()))
    }

    async fn install_snapshot(
        &self,
        said: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<RaftReply>, Status> {
        let first = said.into_inner().message().await?.and_then(|chunk| chunk.header);
        Err(self.note(SNAPSHOT, first.unwrap_or_default()))
    }
}

impl Recorder {
    pub async fn start(tls: &Tls, address: SocketAddr) -> Self {
        let heard = Heard::default();
        let listener = TcpListener::bind(address).await.expect("the dead node's port");
        let service = RaftServer::new(Listens(Arc::clone(&heard)))
            .max_decoding_message_size(limits::RPC_MESSAGE_BYTES);
        let serve = Server::builder().add_service(service);
        let serve = serve.serve_with_incoming(tls.incoming(listener, None));
        Self { heard, task: tokio::spawn(async move { drop(serve.await) }) }
    }

    /// What was heard of this kind.
    pub fn count(&self, path: &str) -> usize {
        self.heard.lock().expect("a lock").iter().filter(|(known, _)| *known == path).count()
    }

    pub fn votes(&self) -> usize {
        self.count(VOTE)
    }

    pub fn appends(&self) -> usize {
        self.count(APPEND)
    }
}

/// Raft believes its members: who has the certificate of a node may say whatever a message can say, and lead others astray with
/// it. So in an envelope that is right the message stays what it was; messages that no node sends are tried where Raft is.
pub fn honest(case: &Case, mutant: Vec<u8>) -> Vec<u8> {
    if !case.path.starts_with("/ollamamax.v1.Raft/") {
        return mutant;
    }
    let envelope = |bytes: &[u8]| match case.path {
        SNAPSHOT => SnapshotChunk::decode(bytes).ok().and_then(|chunk| chunk.header),
        _ => RaftRequest::decode(bytes).ok(),
    };
    match (envelope(&mutant), envelope(&case.message)) {
        (Some(mutant), Some(good))
            if mutant.payload != good.payload
                && (mutant.from, mutant.to, &mutant.cluster)
                    == (good.from, good.to, &good.cluster) =>
        {
            case.message.clone()
        }
        _ => mutant,
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a cluster calls its things.
pub struct Names {
    pub cluster: String,
    /// The node that attacks.
    pub from: u64,
    /// The node that is attacked.
    pub to: u64,
    /// The worker that attacks.
    pub worker: String,
    /// Which life of it.
    pub incarnation: u64,
    pub blob: String,
    pub assignment: u64,
    pub generation: u64,
    pub model: String,
}

/// What a node is asked for.
pub fn for_node(names: &Names, heard: &[(&'static str, RaftRequest)]) -> Vec<Case> {
    let again = |said: &RaftRequest| RaftRequest { from: names.from, to: names.to, ..said.clone() };
    let mut cases: Vec<Case> = heard.iter().map(|(path, said)| case(path, again(said))).collect();
    if let Some((_, said)) = heard.first() {
        cases.push(case(TRANSFER, again(said)));
        let data = bytes::Bytes::from_static(b"a piece");
        let chunk = SnapshotChunk { header: Some(again(said)), offset: 0, data, last: true };
        cases.push(case(SNAPSHOT, chunk));
    }
    cases.extend(control(names));
    let used = AccountUsage {
        models: 1,
        blob_bytes: 1_000,
        of: "user:alice".to_owned(),
        requests: 1,
        prompt_tokens: 10,
        output_tokens: 20,
        streams: 1,
    };
    cases.push(case("/ollamamax.v1.Usage/Share", UsageNews { accounts: vec![used] }));
    let digest = names.blob.clone();
    cases.push(case("/ollamamax.v1.Blobs/Stat", BlobStatRequest { digest: digest.clone() }));
    let fetch = BlobFetchRequest { digest, offset: 5, length: 100 };
    cases.push(case("/ollamamax.v1.Blobs/Fetch", fetch));
    cases.extend(joins(names));
    cases
}

fn control(names: &Names) -> Vec<Case> {
    let put = Command::PutCheckpoint {
        name: "fuzz".to_owned(),
        value: b"value".to_vec(),
        expected: None,
    };
    let cluster = names.cluster.clone();
    let command = codec::encode_command(&put).expect("encoded").into();
    let worker = names.worker.clone();
    let device = Device {
        kind: "cpu".to_owned(),
        name: "none".to_owned(),
        memory_bytes: 1 << 20,
        threads: 1,
    };
    let report = AssignmentReport {
        id: names.assignment,
        generation: names.generation,
        phase: "ready".to_owned(),
        detail: "well".to_owned(),
        resident_bytes: 1_000,
        running: 1,
        ..AssignmentReport::default()
    };
    let request = CertificateRequest::new().expect("a request").der().to_vec().into();
    vec![
        case(
            "/ollamamax.v1.Control/Propose",
            ProposeRequest { command, forwarded: false, cluster: cluster.clone() },
        ),
        case("/ollamamax.v1.Control/ReadIndex", ReadIndexRequest { forwarded: false, cluster }),
        case(
            "/ollamamax.v1.Control/Register",
            RegisterRequest {
                worker: worker.clone(),
                incarnation: names.incarnation,
                name: "fuzz".to_owned(),
                address: "127.0.0.1:9".to_owned(),
                device: Some(device),
                pid: 1,
                forwarded: false,
            },
        ),
        case(
            "/ollamamax.v1.Control/Heartbeat",
            HeartbeatRequest {
                worker: worker.clone(),
                incarnation: names.incarnation,
                reports: vec![report],
                health: Some(DeviceHealth { celsius: Some(40), ..DeviceHealth::default() }),
                ns_per_mib: 100_000,
                ..HeartbeatRequest::default()
            },
        ),
        case(
            "/ollamamax.v1.Control/WatchAssignments",
            WatchAssignmentsRequest { worker: worker.clone(), incarnation: names.incarnation },
        ),
        case("/ollamamax.v1.Control/WatchState", WatchStateRequest { from_revision: 1 }),
        case("/ollamamax.v1.Control/Renew", RenewRequest { worker, request }),
    ]
}

fn joins(names: &Names) -> Vec<Case> {
    let credential = Credential::generate().expect("random").reveal().to_vec();
    let request = CertificateRequest::new().expect("a request").der().to_vec();
    let join = |member| JoinRequest {
        credential: credential.clone().into(),
        request: request.clone().into(),
        member: Some(member),
    };
    let node = JoiningNode { http: "127.0.0.1:9".to_owned(), raft: "127.0.0.1:10".to_owned() };
    let worker = JoiningWorker { worker: names.worker.clone() };
    vec![
        case("/ollamamax.v1.Join/Join", join(join_request::Member::Worker(worker))),
        case("/ollamamax.v1.Join/Join", join(join_request::Member::Node(node))),
    ]
}

/// What a worker is asked for.
pub fn for_worker(names: &Names) -> Vec<Case> {
    let options = Options {
        predict_tokens: 2,
        temperature: 0.5,
        top_k: 10,
        top_p: 0.9,
        repeat_last: 8,
        repeat_penalty: 1.1,
        seed: 1,
        stop: vec!["x".to_owned()],
        logprobs: Some(2),
        ..Options::default()
    };
    let format =
        OutputFormat { kind: "schema".to_owned(), text: r#"{"type":"object"}"#.to_owned() };
    let message = Message {
        role: "user".to_owned(),
        content: "hello".to_owned(),
        extra_json: r#"{"name":"a"}"#.to_owned(),
    };
    let chat = ChatPrompt { messages: vec![message], ..ChatPrompt::default() };
    let generate = |kind: &str, options: Options| GenerateRequest {
        request_id: "fuzz".to_owned(),
        attempt: 1,
        model: names.model.clone(),
        blob: names.blob.clone(),
        assignment: names.assignment,
        generation: names.generation,
        chat: Some(chat.clone()),
        text: "once upon a time".to_owned(),
        tokens: vec![1, 2, 3],
        options: Some(options),
        kind: kind.to_owned(),
        caller: "user:alice".to_owned(),
        time_left_ms: 2_000,
        prefix: Some(Prefix { hashes: vec![1, 2], bytes: 100 }),
        ..GenerateRequest::default()
    };
    const GENERATE: &str = "/ollamamax.v1.Inference/Generate";
    let text = EmbedInput { input: Some(embed_input::Input::Text("a text".to_owned())) };
    let (assignment, generation) = (names.assignment, names.generation);
    let (blob, request_id) = (names.blob.clone(), "fuzz".to_owned());
    vec![
        case(GENERATE, generate("chat", options.clone())),
        case(GENERATE, generate("text", options.clone())),
        case(GENERATE, generate("tokens", options.clone())),
        case(GENERATE, generate("text", Options { format: Some(format), ..options })),
        case(
            "/ollamamax.v1.Inference/Embed",
            EmbedRequest {
                request_id,
                blob: blob.clone(),
                assignment,
                generation,
                inputs: vec![text],
                time_left_ms: 2_000,
                ..EmbedRequest::default()
            },
        ),
        case(
            "/ollamamax.v1.Inference/Tokenize",
            TokenizeRequest { blob: blob.clone(), text: "a text".to_owned(), chat: None },
        ),
        case(
            "/ollamamax.v1.Inference/CacheEvents",
            CacheEventsRequest { assignment, generation, blob },
        ),
    ]
}

/// What greets a stage: a length and a message.
pub fn greeting(names: &Names) -> Vec<u8> {
    let stage = Stage { end_layer: 10, embedding: true, shards: 1, ..Stage::default() };
    let peer = |assignment: u64, stage: Stage| Peer {
        assignment,
        generation: names.generation,
        address: "127.0.0.1:9".to_owned(),
        stage: Some(stage),
        first_head: 0,
        end_head: 3,
        worker: names.worker.clone(),
    };
    let second =
        Stage { first_layer: 10, end_layer: 30, head: true, shards: 1, ..Stage::default() };
    let ring = Ring {
        replica: 1,
        activations: "f32".to_owned(),
        steps_in_flight: 1,
        peers: vec![peer(names.assignment, stage), peer(names.assignment + 1, second)],
    };
    let hello = StageHello {
        session: 1,
        ring: Some(ring),
        from: 0,
        to: 1,
        purpose: "steps".to_owned(),
        blocks: 10,
        kv_type: "f16".to_owned(),
    };
    hello.encode_to_vec()
}

/// The bytes with which a client of ours begins HTTP/2 and asks for something, without TLS.
pub async fn http2() -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let asking = tokio::spawn(async move {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let channel = endpoint.connect().await.expect("connected");
        let mut client = blobs_client::BlobsClient::new(channel);
        let _ = client.stat(BlobStatRequest { digest: "sha256:0".to_owned() }).await;
    });
    let (mut socket, _) = listener.accept().await.expect("a connection");
    let mut recorded = Vec::new();
    // Preface, settings, and an answer to them, then headers and data.
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    tokio::io::AsyncWriteExt::write_all(&mut socket, &settings).await.expect("written");
    while !recorded.windows(6).any(|piece| piece == b"sha256") {
        socket.read_buf(&mut recorded).await.expect("bytes");
    }
    asking.abort();
    recorded
}

/// The bytes with which a client of ours begins a handshake.
pub async fn client_hello(tls: &Tls) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let tls = tls.clone();
    let dialing = tokio::spawn(async move {
        let expect = ollamamax_tls::Expect::Any(ollamamax_tls::Kind::Node);
        drop(tls.dial(&address, expect, ollamamax_tls::Protocol::Grpc).await);
    });
    let (mut socket, _) = listener.accept().await.expect("a connection");
    let mut recorded = Vec::new();
    // A record tells its length.
    while recorded.len() < 5
        || recorded.len() < 5 + usize::from(recorded[3]) * 256 + usize::from(recorded[4])
    {
        socket.read_buf(&mut recorded).await.expect("bytes");
    }
    dialing.abort();
    recorded
}
