//! The same figures through a ring of stages, each in a process of its own: what splitting a model costs on one machine.

use super::{Setting, Task, Timed};
use crate::llama::{Failures, LlamaLoader};
use crate::machine::Loader;
use crate::pace::Paced;
use crate::stage::frame::{self, Frame};
use crate::stage::{Driver, Links, StageRunner};
use ollamamax_engine::backend::{BlockId, Logits, Slice, StepBatch};
use ollamamax_engine::cpu::KvType;
use ollamamax_engine::engine::{Engine, TextModel};
use ollamamax_engine::weights::Mapping;
use ollamamax_gguf::Gguf;
use ollamamax_proto::placement::{Activations, Assigned, Assignment, Peer, Ring, Stage};
use ollamamax_proto::{AssignmentId, Digest, Generation, Millis, ReplicaId, WorkerId, limits};
use ollamamax_tls::{
    Authority, Expect, Identity, Incoming, OnStage, Protocol, Request, Role, Stream, Tls,
};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::runtime::Handle;

/// How a model is cut, and where its stages listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Where the layers are cut, both ends included.
    pub layers: Vec<u32>,
    /// host:port by stage; those of stages that are not started yet may be anything.
    pub addresses: Vec<String>,
    /// Key-value heads of the model.
    pub heads: u32,
    /// Width of a residual.
    pub width: usize,
    /// Steps on their way at once.
    pub steps_in_flight: u32,
    /// Where the stages find who they are, as [`identities`] made it.
    pub identities: PathBuf,
}

fn bench_worker(index: usize) -> WorkerId {
    WorkerId(index as u128 + 1)
}

/// Makes a cluster of `count` workers in `dir`, so that stages in processes of their own know each other.
pub fn identities(dir: &Path, count: usize) -> Result<(), String> {
    let failed = |error: &dyn std::error::Error| error.to_string();
    let (cluster, now) = ("bench".parse(), Millis::now());
    let cluster = cluster.map_err(|error: ollamamax_tls::InvalidCluster| failed(&error))?;
    let authority = Authority::create(&cluster, now).map_err(|error| failed(&error))?;
    for index in 0..count {
        let request = Request::new().map_err(|error| failed(&error))?;
        let role = Role::Worker(bench_worker(index));
        let signed = authority.sign(request.der(), role, limits::TLS_LIFETIME_MS, now);
        let signed = signed.map_err(|error| failed(&error))?;
        let identity = request.identity(signed, vec![authority.certificate().clone()]);
        let saved = identity.and_then(|identity| identity.save(&dir.join(index.to_string())));
        saved.map_err(|error| failed(&error))?;
    }
    Ok(())
}

/// The connections of worker `index` of [`identities`].
fn tls(dir: &Path, index: usize) -> Result<Tls, String> {
    let identity = Identity::load(&dir.join(index.to_string()));
    let identity = identity.map_err(|error| error.to_string())?;
    let identity = identity.ok_or_else(|| format!("stage {index} has no identity"))?;
    Tls::new(identity).map_err(|error| error.to_string())
}

impl Cut {
    /// A model in `stages` parts with about as much to do for each: the head counts as some layers.
    pub fn even(path: &Path, stages: u32, identities: &Path) -> Result<Self, String> {
        let words = |error: &dyn std::error::Error| format!("`{}`: {error}", path.display());
        let mapping = Mapping::open(path).map_err(|error| words(&error))?;
        let gguf = Gguf::parse(mapping.bytes()).map_err(|error| words(&error))?;
        let facts = ollamamax_gguf::model_facts(&gguf).map_err(|error| words(&error))?;
        let key = format!("{}.attention.head_count_kv", facts.architecture);
        let heads = gguf.get_u32(&key).map_err(|error| words(&error))?;
        let head = if facts.head_bytes > 0 { facts.head_bytes } else { facts.embedding_bytes };
        let total = facts.layer_bytes.iter().sum::<u64>() + head;
        let (mut layers, mut sum) = (vec![0], 0);
        for (index, bytes) in facts.layer_bytes.iter().enumerate() {
            let next = layers.len() as u64;
            if next < u64::from(stages) && sum + bytes / 2 >= total * next / u64::from(stages) {
                layers.push(index as u32);
            }
            sum += bytes;
        }
        layers.push(facts.layers);
        if layers.len() as u32 != stages + 1 || layers.windows(2).any(|cut| cut[0] == cut[1]) {
            return Err(format!("{} layers do not make {stages} stages", facts.layers));
        }
        let addresses = vec!["127.0.0.1:1".to_owned(); stages as usize];
        let width = facts.embedding_length as usize;
        let identities = identities.to_owned();
        Ok(Self { layers, addresses, heads, width, steps_in_flight: 1, identities })
    }

    fn ring(&self) -> Ring {
        let end = self.layers.last().copied().unwrap_or_default();
        let peer = |(index, (cut, address)): (usize, (&[u32], &String))| Peer {
            assignment: AssignmentId(index as u64 + 1),
            generation: Generation(1),
            worker: bench_worker(index),
            address: address.clone(),
            stage: Stage {
                first_layer: cut[0],
                end_layer: cut[1],
                embedding: cut[0] == 0,
                head: cut[1] == end,
                shard: 0,
                shards: 1,
            },
            first_head: 0,
            end_head: self.heads,
        };
        let peers = self.layers.windows(2).zip(&self.addresses).enumerate().map(peer).collect();
        let (activations, steps_in_flight) = (Activations::F32, self.steps_in_flight);
        Ring { replica: ReplicaId(1), activations, steps_in_flight, peers }
    }

    fn assigned(&self, index: usize) -> Result<Assigned, String> {
        let ring = self.ring();
        let peer = ring.peers.get(index).ok_or_else(|| format!("there is no stage {index}"))?;
        let model = "bench".parse().map_err(|error| format!("{error}"))?;
        let assignment = Assignment {
            id: peer.assignment,
            generation: peer.generation,
            model,
            blob: Digest([0; 32]),
            blob_bytes: 0,
            stage: peer.stage,
            context_length: limits::CONTEXT_TOKENS,
            sequences_max: limits::SEQUENCES_COUNT,
        };
        Ok(Assigned { assignment, ring: Some(ring) })
    }
}

fn loader(threads: u32) -> LlamaLoader {
    let (step_tokens, kv_type) = (limits::STEP_TOKENS_CPU, KvType::F16);
    LlamaLoader {
        threads,
        step_tokens,
        memory_bytes: u64::MAX,
        kv_type,
        gpu: None,
        failures: Failures::default(),
    }
}

async fn listen() -> Result<(TcpListener, String), String> {
    let failed = |error: std::io::Error| error.to_string();
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?.to_string();
    Ok((listener, address))
}

/// A stage that waits for rings. It ends when it is dropped.
#[derive(Debug)]
pub struct BenchStage {
    /// Where it listens.
    pub address: String,
    _runner: StageRunner,
    _incoming: Incoming,
}

impl BenchStage {
    /// Loads stage `index` of a cut.
    pub async fn start(path: &Path, threads: u32, cut: &Cut, index: usize) -> Result<Self, String> {
        let (listener, address) = listen().await?;
        let tls = tls(&cut.identities, index)?;
        let links = Arc::new(Links::new(tls.clone(), Handle::current()));
        let incoming = tls.incoming(listener, Some(links.door()));
        links.expect(&[cut.assigned(index)?]);
        let (assigned, loader, path) = (cut.assigned(index)?, loader(threads), path.to_owned());
        let (assignment, kv) = (Arc::new(assigned.assignment.clone()), loader.kv_type().to_owned());
        let load = move || -> Result<Paced, String> {
            loader.load_stage(&path, &assigned).map_err(|error| error.to_string())
        };
        let runner = StageRunner::start(Box::new(load), assignment, kv, links).await?;
        Ok(Self { address, _runner: runner, _incoming: incoming })
    }
}

/// The driver of a ring, loaded to be measured.
#[derive(Debug)]
pub struct RingBench {
    timed: Timed,
    _driver: Driver,
    _incoming: Incoming,
}

impl RingBench {
    /// Loads the last stage of a cut whose other stages are listening, and closes the ring.
    pub async fn close(path: &Path, threads: u32, mut cut: Cut) -> Result<Self, String> {
        let words = |error: &dyn std::error::Error| format!("`{}`: {error}", path.display());
        let (listener, address) = listen().await?;
        let last = cut.addresses.len().saturating_sub(1);
        let tls = tls(&cut.identities, last)?;
        let links = Arc::new(Links::new(tls.clone(), Handle::current()));
        let incoming = tls.incoming(listener, Some(links.door()));
        if let Some(own) = cut.addresses.last_mut() {
            *own = address;
        }
        let assigned = cut.assigned(last)?;
        links.expect(std::slice::from_ref(&assigned));
        let loader = loader(threads);
        let backend = loader.load_stage(path, &assigned).map_err(|error| error.to_string())?;
        let text = {
            let mapping = Mapping::open(path).map_err(|error| words(&error))?;
            let gguf = Gguf::parse(mapping.bytes()).map_err(|error| words(&error))?;
            TextModel::from_gguf(&gguf).map_err(|error| words(&error))?
        };
        let vocabulary = text.tokenizer().vocabulary().tokens.len() as u32;
        let me = (assigned.assignment.id, assigned.assignment.generation);
        let ring = Arc::new(Mutex::new(cut.ring()));
        let mut driver =
            Driver::new(me, ring, Box::new(backend), loader.kv_type().to_owned(), links);
        let closed = tokio::task::spawn_blocking(move || {
            let backend = driver.close().map_err(|error| error.to_string());
            (driver, backend)
        });
        let (driver, backend) = closed.await.map_err(|error| error.to_string())?;
        let setting = Setting::default();
        let engine = Engine::new(Box::new(backend?), Arc::new(text), setting.limits());
        let timed = Timed { engine, vocabulary, context_tokens: setting.context_tokens, salt: 0 };
        Ok(Self { timed, _driver: driver, _incoming: incoming })
    }

    /// Runs one task.
    pub fn run(&mut self, task: Task) -> Result<Duration, String> {
        self.timed.run(task)
    }
}

/// Sends every frame of residuals of the cut's width back over the connections of two listeners, whose addresses it returns: one
/// speaks as stages do, the other without TLS.
pub async fn echo(cut: &Cut, index: usize) -> Result<String, String> {
    let plain = std::net::TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let plain_address = plain.local_addr().map_err(|error| error.to_string())?;
    let plain_width = cut.width;
    std::thread::spawn(move || {
        for stream in plain.incoming().flatten() {
            if stream.set_nodelay(true).is_ok() {
                std::thread::spawn(move || back(stream, plain_width));
            }
        }
    });
    let (listener, address) = listen().await?;
    let (tls, width) = (tls(&cut.identities, index)?, cut.width);
    let on_stage: OnStage = Arc::new(move |stream: Stream, _| {
        let Ok(stream) = stream.into_blocking() else { return };
        std::thread::spawn(move || back(stream, width));
    });
    let incoming = tls.incoming(listener, Some(on_stage));
    // Accepting ends with it; the process does not need that.
    std::mem::forget(incoming);
    Ok(format!("{address},{plain_address}"))
}

/// Sends frames back until the connection ends.
fn back(stream: impl Read + Write, width: usize) {
    let (mut read, mut written) = (Vec::new(), Vec::new());
    let mut stream = BufReader::new(stream);
    let mut turn = || -> io::Result<()> {
        let Frame { step, batch, residuals } = frame::read(&mut stream, &mut read, width)?;
        let rows = residuals.unwrap_or_default();
        let rows = Some((&rows[..], Activations::F32));
        frame::write(stream.get_mut(), &mut written, (step, &batch), rows)
    };
    while turn().is_ok() {}
}

/// Half of the median time that the residuals of so many tokens take there and back, from process to process: what a hop costs
/// when nothing is computed. First as between stages, then over the same kind of socket without TLS.
pub async fn hop(
    cut: &Cut,
    addresses: &str,
    (tokens, rounds): (usize, usize),
) -> Result<(Duration, Duration), String> {
    let (address, plain) = addresses.split_once(',').ok_or("two addresses are expected")?;
    let tls = tls(&cut.identities, cut.addresses.len() - 1)?;
    let expect = Expect::Worker(bench_worker(0));
    let stream = tls.dial(address, expect, Protocol::Stage).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let stream = stream.into_blocking().map_err(|error| error.to_string())?;
    let width = cut.width;
    let plain = std::net::TcpStream::connect(plain).map_err(|error| error.to_string())?;
    plain.set_nodelay(true).map_err(|error| error.to_string())?;
    let timed = tokio::task::spawn_blocking(move || {
        let plain = turns(plain, width, (tokens, rounds))?;
        Ok((turns(stream, width, (tokens, rounds))?, plain))
    });
    timed.await.map_err(|error| error.to_string())?
}

fn turns(
    stream: impl Read + Write,
    width: usize,
    (tokens, rounds): (usize, usize),
) -> Result<Duration, String> {
    let failed = |error: io::Error| error.to_string();
    let mut stream = BufReader::new(stream);
    let slice = Slice {
        start: 0,
        tokens: vec![0; tokens],
        blocks: (0..16).map(BlockId).collect(),
        logits: Logits::Last,
    };
    let (batch, rows) = (StepBatch { slices: vec![slice] }, vec![0.5; tokens * width]);
    let (mut read, mut written, mut times) = (Vec::new(), Vec::new(), Vec::new());
    for step in 0..rounds as u32 {
        let begun = Instant::now();
        let residuals = Some((&rows[..], Activations::F32));
        frame::write(stream.get_mut(), &mut written, (step, &batch), residuals).map_err(failed)?;
        frame::read(&mut stream, &mut read, width).map_err(failed)?;
        times.push(begun.elapsed() / 2);
    }
    times.sort();
    times.get(times.len() / 2).copied().ok_or_else(|| "no rounds".to_owned())
}
