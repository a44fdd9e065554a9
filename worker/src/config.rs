//! What a worker process is told at its start.

use crate::device::DeviceChoice;
use ollamamax_engine::cpu::KvType;
use ollamamax_proto::limits;
use ollamamax_tls::JoinToken;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Settings of one worker; [`WorkerConfig::new`] fills everything that has a sensible default.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Identity, lock and blobs live here; created when absent.
    pub data_dir: PathBuf,
    /// Where the gRPC service listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `host:port` that nodes and gateways reach it by; `None`: the listening address.
    pub advertise: Option<String>,
    /// Lets it into a cluster; not looked at when it is in one already.
    pub join: Option<JoinToken>,
    /// gRPC addresses (`host:port`) of nodes beside those that are in the token or were learned; one that answers is enough.
    pub control_planes: Vec<String>,
    /// Shown to people.
    pub name: String,
    /// Compute threads; 0 takes what the machine offers.
    pub threads: u32,
    /// Memory for weights and KV cache; 0 takes what is available now, less the headroom.
    pub memory_bytes: u64,
    /// What it computes on.
    pub device: DeviceChoice,
    /// What keys and values are kept as; the same for all workers of a cluster.
    pub kv_type: KvType,
    /// Sequences run at once per model, below what an assignment allows.
    pub sequences_max: u32,
    /// Tokens one step may process.
    pub step_tokens: usize,
    /// Directories on this machine that may already hold blobs, as `<hex>` or `sha256-<hex>`; verified before use.
    pub blob_hints: Vec<PathBuf>,
    /// Bytes of unneeded blobs kept.
    pub blob_cache_bytes: u64,
    /// How long running sequences may go on after [`crate::Running::stop`], in milliseconds.
    pub drain_ms: u64,
}

impl WorkerConfig {
    /// A worker in `data_dir` that listens on `listen` and reports to `control_planes`.
    pub fn new(
        data_dir: impl Into<PathBuf>,
        listen: SocketAddr,
        control_planes: Vec<String>,
    ) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen,
            advertise: None,
            join: None,
            control_planes,
            name: "worker".to_owned(),
            threads: 0,
            memory_bytes: 0,
            device: DeviceChoice::Auto,
            kv_type: KvType::F16,
            sequences_max: limits::SEQUENCES_COUNT,
            step_tokens: limits::STEP_TOKENS_CPU,
            blob_hints: Vec::new(),
            blob_cache_bytes: limits::WORKER_BLOB_CACHE_BYTES,
            drain_ms: limits::WORKER_DRAIN_MS,
        }
    }

    /// Where blobs are kept.
    pub fn blobs_dir(&self) -> PathBuf {
        self.data_dir.join("blobs")
    }
}
