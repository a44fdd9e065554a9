//! The same figures through a ring of stages, each in a process of its own: what splitting a model costs on one machine.

use super::{Setting, Task, Timed};
use crate::llama::{Failures, LlamaLoader};
use crate::machine::Loader;
use crate::pace::Paced;
use crate::stage::frame::{self, Frame};
use crate::stage::{Driver, Links, StageRunner, accept};
use ollamamax_engine::backend::{BlockId, Logits, Slice, StepBatch};
use ollamamax_engine::cpu::KvType;
use ollamamax_engine::engine::{Engine, TextModel};
use ollamamax_engine::weights::Mapping;
use ollamamax_gguf::Gguf;
use ollamamax_proto::placement::{Activations, Assigned, Assignment, Peer, Ring, Stage};
use ollamamax_proto::{AssignmentId, Digest, Generation, ReplicaId, limits};
use std::io::BufReader;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

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
}

impl Cut {
    /// A model in `stages` parts with about as much to do for each: the head counts as some layers.
    pub fn even(path: &Path, stages: u32) -> Result<Self, String> {
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
        Ok(Self { layers, addresses, heads, width, steps_in_flight: 1 })
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
    _incoming: crate::stage::Accepted,
}

impl BenchStage {
    /// Loads stage `index` of a cut.
    pub async fn start(path: &Path, threads: u32, cut: &Cut, index: usize) -> Result<Self, String> {
        let (listener, address) = listen().await?;
        let links = Arc::<Links>::default();
        let incoming = accept(listener, Arc::clone(&links));
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
    _incoming: crate::stage::Accepted,
}

impl RingBench {
    /// Loads the last stage of a cut whose other stages are listening, and closes the ring.
    pub async fn close(path: &Path, threads: u32, mut cut: Cut) -> Result<Self, String> {
        let words = |error: &dyn std::error::Error| format!("`{}`: {error}", path.display());
        let (listener, address) = listen().await?;
        let links = Arc::<Links>::default();
        let incoming = accept(listener, Arc::clone(&links));
        let last = cut.addresses.len().saturating_sub(1);
        if let Some(own) = cut.addresses.last_mut() {
            *own = address;
        }
        let assigned = cut.assigned(last)?;
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

/// Sends every frame of residuals of `width` back over the connections of a listener, whose address it returns.
pub fn echo(width: usize) -> Result<String, String> {
    let failed = |error: std::io::Error| error.to_string();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?.to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (mut read, mut written) = (Vec::new(), Vec::new());
            let Ok(input) = stream.set_nodelay(true).and_then(|()| stream.try_clone()) else {
                continue;
            };
            let mut input = BufReader::new(input);
            let mut turn = || -> std::io::Result<()> {
                let Frame { step, batch, residuals } = frame::read(&mut input, &mut read, width)?;
                let rows = residuals.unwrap_or_default();
                frame::write(
                    &mut stream,
                    &mut written,
                    (step, &batch),
                    Some((&rows, Activations::F32)),
                )
            };
            while turn().is_ok() {}
        }
    });
    Ok(address)
}

/// Half of the median time that the residual of one token takes there and back, from process to process: what a hop costs
/// when nothing is computed.
pub fn hop(address: &str, width: usize, rounds: usize) -> Result<Duration, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = std::net::TcpStream::connect(address).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let mut input = BufReader::new(stream.try_clone().map_err(failed)?);
    let slice = Slice {
        start: 0,
        tokens: vec![0],
        blocks: (0..16).map(BlockId).collect(),
        logits: Logits::Last,
    };
    let (batch, rows) = (StepBatch { slices: vec![slice] }, vec![0.5; width]);
    let (mut read, mut written, mut times) = (Vec::new(), Vec::new(), Vec::new());
    for step in 0..rounds as u32 {
        let begun = Instant::now();
        let residuals = Some((&rows[..], Activations::F32));
        frame::write(&mut stream, &mut written, (step, &batch), residuals).map_err(failed)?;
        frame::read(&mut input, &mut read, width).map_err(failed)?;
        times.push(begun.elapsed() / 2);
    }
    times.sort();
    times.get(times.len() / 2).copied().ok_or_else(|| "no rounds".to_owned())
}
