//! A control plane of one: the core's `apply` behind a lock, plus a planner that places a demanded model everywhere.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use ollamamax_core::command::{PlanStep, Transition};
use ollamamax_core::record::ClusterRecord;
use ollamamax_core::{Command, Entry, Outcome, State, apply};
use ollamamax_gateway::ports::{
    BlobError, Blobs, ControlError, ControlPlane, Hold, Maker, NodeStatus, QuorumStatus,
};
use ollamamax_gguf::{Array, GgmlType, GgufWriter, Value};
use ollamamax_proto::model::{ModelFacts, ModelVersion};
use ollamamax_proto::placement::{Assignment, Device, Phase, Stage, WorkerStatus};
use ollamamax_proto::{
    AssignmentId, Digest, Generation, Incarnation, Millis, ModelName, NodeId, Revision, WorkerId,
};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

pub struct FakeControl {
    state: Mutex<State>,
    revisions: watch::Sender<Revision>,
    pub commands: Mutex<Vec<Command>>,
    pub quorum: AtomicBool,
    pub auto_place: AtomicBool,
}

impl FakeControl {
    pub fn new() -> Arc<Self> {
        let control = Arc::new(Self {
            state: Mutex::default(),
            revisions: watch::channel(Revision(0)).0,
            commands: Mutex::default(),
            quorum: AtomicBool::new(true),
            auto_place: AtomicBool::new(true),
        });
        let id = "0123456789abcdef0123456789abcdef".to_owned();
        let cluster = ClusterRecord { id, name: "test".to_owned(), created_at: Millis::now() };
        control.apply(Command::Bootstrap {
            cluster,
            http: "127.0.0.1:11434".to_owned(),
            raft: "127.0.0.1:7400".to_owned(),
        });
        control
    }

    pub fn apply(&self, command: Command) -> Outcome {
        self.try_apply(command).expect("accepted")
    }

    fn try_apply(&self, command: Command) -> Result<Outcome, ControlError> {
        let mut state = self.state.lock().unwrap();
        let entry = Entry { index: 1, at: Millis::now(), command };
        let (outcome, _) = apply(&mut state, &entry);
        let revision = state.revision();
        drop(state);
        self.revisions.send_replace(revision);
        Ok(outcome?)
    }

    pub fn put_model(&self, name: &str) {
        self.put_version(name, version());
    }

    pub fn put_version(&self, name: &str, mut version: ModelVersion) {
        version.digest = version.compute_digest();
        let name = name.parse().unwrap();
        self.apply(Command::PutModel { name, version: Box::new(version) });
    }

    pub fn add_worker(&self, id: u128, address: &str) {
        let device =
            Device { kind: "cpu".into(), name: "test".into(), memory_bytes: 1 << 30, threads: 2 };
        self.apply(Command::RegisterWorker {
            id: WorkerId(id),
            incarnation: Incarnation(1),
            name: format!("w{id}"),
            address: address.to_owned(),
            device,
            pid: 7,
        });
    }

    pub fn set_worker(&self, id: u128, status: WorkerStatus) {
        self.apply(Command::SetWorkerStatus {
            id: WorkerId(id),
            incarnation: Incarnation(1),
            status,
            reason: "the test says so".to_owned(),
        });
    }

    /// Places a model on one worker and lets the worker report `phase`.
    pub fn place(&self, name: &str, worker: u128, phase: Phase) {
        let state = self.state();
        let model = &state.models[&name.parse::<ModelName>().unwrap()];
        let assignment = Assignment {
            id: AssignmentId(0),
            generation: Generation(0),
            model: model.name.clone(),
            blob: model.version.blob,
            blob_bytes: model.version.blob_bytes,
            stage: Stage::whole(model.version.facts.layers),
            context_length: 4096,
            sequences_max: 16,
        };
        let worker = WorkerId(worker);
        self.apply(Command::ApplyPlan {
            base: state.counters.placement_revision,
            steps: vec![PlanStep::Assign { worker, assignment }],
        });
        let state = self.state();
        let placement =
            state.placements.values().rfind(|placement| placement.worker == worker).unwrap();
        self.apply(Command::ReportPlacements {
            worker,
            incarnation: Incarnation(1),
            transitions: vec![Transition {
                id: placement.assignment.id,
                generation: placement.assignment.generation,
                phase,
                resident_bytes: 1000,
                load_ns: 5,
            }],
        });
    }

    fn place_everywhere(&self, name: &str) {
        let state = self.state();
        for worker in state.workers.values().filter(|w| w.status == WorkerStatus::Ready) {
            let held = state.placements.values().any(|placement| {
                placement.worker == worker.id && placement.assignment.model.to_string() == name
            });
            if !held {
                self.place(name, worker.id.0, Phase::Ready);
            }
        }
    }

    pub fn proposed(&self, wanted: impl Fn(&Command) -> bool) -> usize {
        self.commands.lock().unwrap().iter().filter(|command| wanted(command)).count()
    }
}

impl ControlPlane for FakeControl {
    fn state(&self) -> Arc<State> {
        Arc::new(self.state.lock().unwrap().clone())
    }

    fn revisions(&self) -> watch::Receiver<Revision> {
        self.revisions.subscribe()
    }

    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Outcome, ControlError>> {
        Box::pin(async move {
            let asked = match &command {
                Command::Noted { command, .. } => (**command).clone(),
                plain => plain.clone(),
            };
            self.commands.lock().unwrap().push(asked.clone());
            if !self.quorum.load(Ordering::SeqCst) {
                let reason = "2 of 3 nodes are silent".to_owned();
                return Err(ControlError::NoQuorum { reason, proposed: false });
            }
            let outcome = self.try_apply(command.clone())?;
            if let Command::DemandModel { demand } = &asked
                && self.auto_place.load(Ordering::SeqCst)
            {
                self.place_everywhere(&demand.model.to_string());
            }
            Ok(outcome)
        })
    }

    fn linearizable(&self) -> BoxFuture<'_, Result<Arc<State>, ControlError>> {
        Box::pin(async move {
            if self.quorum.load(Ordering::SeqCst) {
                return Ok(self.state());
            }
            let reason = "2 of 3 nodes are silent".to_owned();
            Err(ControlError::NoQuorum { reason, proposed: false })
        })
    }

    fn quorum(&self) -> QuorumStatus {
        let leads = self.quorum.load(Ordering::SeqCst);
        QuorumStatus {
            node: NodeId(1),
            cluster: "0123456789abcdef0123456789abcdef".to_owned(),
            leader: leads.then_some(NodeId(1)),
            term: 3,
            applied: 9,
            nodes: vec![NodeStatus {
                id: NodeId(1),
                role: if leads { "leader" } else { "candidate" }.to_owned(),
                http: "127.0.0.1:11434".to_owned(),
                raft: "127.0.0.1:7400".to_owned(),
                pid: 1,
                applied: Some(9),
                voter: true,
            }],
        }
    }
}

/// Blobs in a directory that goes with the test.
pub struct FakeBlobs {
    directory: tempfile::TempDir,
}

impl FakeBlobs {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { directory: tempfile::tempdir().unwrap() })
    }

    pub fn is_empty(&self) -> bool {
        std::fs::read_dir(self.directory.path()).unwrap().next().is_none()
    }

    pub fn count(&self) -> usize {
        std::fs::read_dir(self.directory.path()).unwrap().count()
    }

    /// Files that are coming, or have come and were not taken in.
    pub fn incoming_count(&self) -> usize {
        std::fs::read_dir(self.incoming()).map_or(0, Iterator::count)
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.directory.path().join(digest.hex())
    }

    pub fn add(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        std::fs::write(self.path(digest), bytes).unwrap();
        digest
    }
}

impl Blobs for FakeBlobs {
    fn stat(&self, digest: Digest) -> Option<u64> {
        std::fs::metadata(self.path(digest)).ok().map(|file| file.len())
    }

    fn put(
        &self,
        digest: Digest,
        mut body: BoxStream<'static, io::Result<Bytes>>,
    ) -> BoxFuture<'_, Result<bool, BlobError>> {
        Box::pin(async move {
            let mut bytes = Vec::new();
            while let Some(chunk) = body.next().await {
                bytes.extend(chunk.map_err(|error| BlobError::Upload(error.to_string()))?);
            }
            let got = Digest::of(&bytes);
            if got != digest {
                return Err(BlobError::Mismatch { expected: digest, got });
            }
            let known = self.stat(digest).is_some();
            self.add(&bytes);
            Ok(!known)
        })
    }

    fn make(&self, write: Maker) -> BoxFuture<'_, Result<(Digest, u64), BlobError>> {
        Box::pin(async move {
            let work = move || {
                let mut bytes = Vec::new();
                write(&mut bytes).map(|()| bytes)
            };
            let bytes = tokio::task::spawn_blocking(work).await.map_err(io::Error::other)??;
            Ok((self.add(&bytes), bytes.len() as u64))
        })
    }

    fn open(&self, digest: Digest) -> BoxFuture<'_, Result<PathBuf, BlobError>> {
        Box::pin(async move {
            self.stat(digest).map(|_| self.path(digest)).ok_or(BlobError::NotFound(digest))
        })
    }

    fn hold(&self, _: Digest) -> Hold {
        Hold::new(|| {})
    }

    fn incoming(&self) -> PathBuf {
        self.directory.path().join("incoming")
    }

    fn adopt(&self, file: PathBuf, digest: Digest) -> BoxFuture<'_, Result<(), BlobError>> {
        Box::pin(async move { Ok(std::fs::rename(file, self.path(digest))?) })
    }
}

pub fn version() -> ModelVersion {
    let facts = ModelFacts {
        architecture: "llama".into(),
        parameter_count: 134_515_008,
        quantization: "Q4_1".into(),
        context_length: 2048,
        embedding_length: 576,
        layers: 2,
        vocabulary: 1000,
        kv_bytes_per_token: 100,
        layer_bytes: vec![100, 100],
        embedding_bytes: 50,
        head_bytes: 0,
        has_chat_template: false,
        metadata_json: r#"{"general.architecture":"llama","llama.context_length":2048}"#.into(),
    };
    ModelVersion {
        digest: Digest::of(b""),
        blob: Digest::of(b"model bytes"),
        blob_bytes: 250,
        facts,
        template: None,
        system: None,
        parameters: Default::default(),
        messages: Vec::new(),
        licenses: Vec::new(),
        parent: None,
    }
}

/// A small but complete GGUF.
pub fn gguf() -> Vec<u8> {
    let mut file = GgufWriter::new();
    let tokens: Vec<String> = (0..8).map(|token| format!("t{token}")).collect();
    file.metadata("general.architecture", Value::Str("llama".into()))
        .metadata("llama.block_count", Value::U32(1))
        .metadata("llama.context_length", Value::U32(64))
        .metadata("llama.embedding_length", Value::U32(8))
        .metadata("llama.attention.head_count", Value::U32(2))
        .metadata("tokenizer.ggml.tokens", Value::Array(Array::Str(tokens.into())))
        .metadata("tokenizer.chat_template", Value::Str("{{ tools }}{{ messages }}".into()))
        .tensor("token_embd.weight", &[8, 8], GgmlType::F32, vec![0; 256])
        .tensor("blk.0.attn_q.weight", &[8, 8], GgmlType::F32, vec![0; 256]);
    file.to_bytes()
}
