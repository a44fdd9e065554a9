//! A control-plane node in this process: it serves scripted assignment sets and blobs, records what it hears, and
//! misbehaves on request. It has a runtime of its own so that it can die like a process.

use super::CLUSTER;
use ollamamax_proto::placement::{Assigned, Assignment};
use ollamamax_proto::wire::blobs_server::{Blobs, BlobsServer};
use ollamamax_proto::wire::control_server::{Control, ControlServer};
use ollamamax_proto::wire::{self, *};
use ollamamax_proto::{AssignmentId, Digest, Millis, limits};
use ollamamax_tls::{Allow, Role, Who, removed};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt, wrappers::WatchStream};
use tonic::{Request, Response, Status};

/// How a node serves blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    Right,
    /// Breaks off after this many bytes of every transfer.
    BreaksAfter(usize),
    WrongBytes,
    LyingSize,
}

#[derive(Debug)]
pub struct Script {
    pub sets: watch::Sender<Option<AssignmentSet>>,
    pub blobs: Mutex<HashMap<String, Vec<u8>>>,
    pub serving: Mutex<Serving>,
    pub fetched_from: Mutex<Vec<u64>>,
    pub registered: Mutex<Vec<RegisterRequest>>,
    pub heartbeats: Mutex<Vec<HeartbeatRequest>>,
    pub watchers: AtomicU64,
    pub revision: AtomicU64,
    pub unknown: AtomicBool,
    pub fenced: AtomicBool,
    /// Whether it says that the worker was removed from the cluster.
    pub removed: AtomicBool,
    /// What it tells of the members.
    pub membership: Mutex<Option<Membership>>,
    pub renewed: AtomicU64,
    /// Bytes that were asked for.
    pub fetched_bytes: AtomicU64,
    pub silent: AtomicBool,
    pub others: Mutex<Vec<String>>,
}

/// Bytes of a chunk of a blob.
const CHUNK_BYTES: usize = 1_000;

/// One node.
#[derive(Debug)]
pub struct FakeNode {
    pub address: String,
    pub script: Arc<Script>,
    runtime: Option<Runtime>,
}

#[derive(Clone)]
struct Service(Arc<Script>);

impl FakeNode {
    pub fn start() -> Self {
        static NODES: AtomicU64 = AtomicU64::new(1);
        Self::start_as(NODES.fetch_add(1, SeqCst))
    }

    pub fn start_as(id: u64) -> Self {
        let script = Arc::new(Script {
            sets: watch::Sender::new(None),
            blobs: Mutex::default(),
            serving: Mutex::new(Serving::Right),
            fetched_from: Mutex::default(),
            registered: Mutex::default(),
            heartbeats: Mutex::default(),
            watchers: AtomicU64::new(0),
            revision: AtomicU64::new(1),
            unknown: AtomicBool::new(false),
            fenced: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            membership: Mutex::default(),
            renewed: AtomicU64::new(0),
            fetched_bytes: AtomicU64::new(0),
            silent: AtomicBool::new(false),
            others: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("set");
        let address = listener.local_addr().expect("an address").to_string();
        let service = Service(Arc::clone(&script));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            let tls = CLUSTER.node(id);
            let allow = Allow::new(tls.clone())
                .service("ollamamax.v1.Control", Who::NodeOrWorker)
                .service("ollamamax.v1.Blobs", Who::NodeOrWorker);
            tonic::transport::Server::builder()
                .layer(allow)
                .add_service(ControlServer::new(service.clone()))
                .add_service(BlobsServer::new(service))
                .serve_with_incoming(tls.incoming(listener, None))
                .await
        });
        Self { address, script, runtime: Some(runtime) }
    }

    pub fn put_blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.script.blobs.lock().expect("a lock").insert(digest.to_string(), bytes.to_vec());
        digest
    }

    pub fn serve(&self, serving: Serving) {
        *self.script.serving.lock().expect("a lock") = serving;
    }

    /// From now on the worker is to hold exactly these, each a whole model.
    pub fn assign(&self, revision: u64, assignments: &[Assignment]) {
        let whole =
            |assignment: &Assignment| Assigned { assignment: assignment.clone(), ring: None };
        self.assign_parts(revision, &assignments.iter().map(whole).collect::<Vec<_>>());
    }

    /// From now on the worker is to hold exactly these.
    pub fn assign_parts(&self, revision: u64, assigned: &[Assigned]) {
        let assignments = assigned.iter().map(Into::into).collect();
        self.script.sets.send_replace(Some(AssignmentSet { revision, assignments }));
    }

    /// The newest report about an assignment.
    pub fn report(&self, id: AssignmentId) -> Option<AssignmentReport> {
        let heartbeats = self.script.heartbeats.lock().expect("a lock");
        heartbeats.last()?.reports.iter().find(|report| report.id == id.0).cloned()
    }

    pub fn phase(&self, of: &Assignment) -> Option<String> {
        let report = self.report(of.id)?;
        (report.generation == of.generation.0).then_some(report.phase)
    }

    pub fn heartbeats(&self) -> usize {
        self.script.heartbeats.lock().expect("a lock").len()
    }

    pub fn registrations(&self) -> usize {
        self.script.registered.lock().expect("a lock").len()
    }

    /// Every connection breaks, the port is closed.
    pub fn die(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.die();
    }
}

impl Service {
    async fn answer_or_hang(&self) {
        if self.0.silent.load(SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Control for Service {
    type WatchAssignmentsStream = Streamed<AssignmentSet>;
    type WatchStateStream = Streamed<StateEvent>;

    async fn propose(&self, _: Request<ProposeRequest>) -> Result<Response<ProposeReply>, Status> {
        Err(Status::unimplemented("not in this script"))
    }

    async fn read_index(
        &self,
        _: Request<ReadIndexRequest>,
    ) -> Result<Response<ReadIndexReply>, Status> {
        Err(Status::unimplemented("not in this script"))
    }

    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterReply>, Status> {
        self.answer_or_hang().await;
        self.0.registered.lock().expect("a lock").push(request.into_inner());
        self.0.unknown.store(false, SeqCst);
        let control_planes = self.0.others.lock().expect("a lock").clone();
        let revision = self.0.revision.load(SeqCst);
        let membership = self.0.membership.lock().expect("a lock").clone();
        let heartbeat_ms = 50;
        Ok(Response::new(RegisterReply { revision, heartbeat_ms, control_planes, membership }))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatReply>, Status> {
        self.answer_or_hang().await;
        let request = request.into_inner();
        if self.0.removed.load(SeqCst) {
            return Err(removed(Role::Worker(request.worker.parse().expect("an id"))));
        }
        self.0.heartbeats.lock().expect("a lock").push(request);
        let known = !self.0.unknown.load(SeqCst);
        let fenced = self.0.fenced.load(SeqCst);
        let membership = self.0.membership.lock().expect("a lock").clone();
        Ok(Response::new(HeartbeatReply { known, fenced, control_planes: vec![], membership }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        let RenewRequest { worker, request } = request.into_inner();
        let role = Role::Worker(worker.parse().expect("an id"));
        let signed = CLUSTER.0.sign(&request, role, limits::TLS_LIFETIME_MS, Millis::now());
        self.0.renewed.fetch_add(1, SeqCst);
        Ok(Response::new(RenewReply {
            certificate: signed.expect("signed").der().to_vec().into(),
            authorities: vec![CLUSTER.0.certificate().der().to_vec().into()],
        }))
    }

    async fn watch_assignments(
        &self,
        _: Request<WatchAssignmentsRequest>,
    ) -> Result<Response<Self::WatchAssignmentsStream>, Status> {
        self.answer_or_hang().await;
        self.0.watchers.fetch_add(1, SeqCst);
        let sets = WatchStream::new(self.0.sets.subscribe()).filter_map(|set| set.map(Ok));
        Ok(Response::new(Box::pin(sets)))
    }

    async fn watch_state(
        &self,
        _: Request<WatchStateRequest>,
    ) -> Result<Response<Self::WatchStateStream>, Status> {
        Err(Status::unimplemented("not in this script"))
    }
}

#[tonic::async_trait]
impl Blobs for Service {
    type FetchStream = Streamed<wire::BlobChunk>;

    async fn stat(
        &self,
        request: Request<BlobStatRequest>,
    ) -> Result<Response<BlobStatReply>, Status> {
        let blobs = self.0.blobs.lock().expect("a lock");
        let lie = u64::from(*self.0.serving.lock().expect("a lock") == Serving::LyingSize);
        Ok(Response::new(match blobs.get(&request.into_inner().digest) {
            Some(blob) => BlobStatReply { present: true, bytes: blob.len() as u64 + lie },
            None => BlobStatReply { present: false, bytes: 0 },
        }))
    }

    async fn fetch(
        &self,
        request: Request<BlobFetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let BlobFetchRequest { digest, offset, length } = request.into_inner();
        let blob = self.0.blobs.lock().expect("a lock").get(&digest).cloned();
        let blob = blob.ok_or_else(|| Status::not_found("no such blob"))?;
        self.0.fetched_from.lock().expect("a lock").push(offset);
        let serving = *self.0.serving.lock().expect("a lock");
        let mut left = match serving {
            Serving::BreaksAfter(bytes) => bytes,
            _ => usize::MAX,
        };
        let mut chunks = Vec::new();
        let end = if length == 0 { blob.len() } else { (offset + length) as usize };
        self.0.fetched_bytes.fetch_add(end as u64 - offset, SeqCst);
        for (index, part) in blob[offset as usize..end].chunks(CHUNK_BYTES).enumerate() {
            if left < part.len() {
                chunks.push(Err(Status::unavailable("told to break off")));
                break;
            }
            left -= part.len();
            let mut data = part.to_vec();
            if serving == Serving::WrongBytes {
                data[0] ^= 1;
            }
            chunks.push(Ok(wire::BlobChunk {
                offset: offset + (index * CHUNK_BYTES) as u64,
                data: data.into(),
            }));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }
}
