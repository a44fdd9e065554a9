//! `worker`: one process that runs models, until it is told to stop.

use crate::daemon::{self, StopSignals};
use crate::exit::Failure;
use crate::secret;
use ollamamax_control_plane::error::{EXIT_CONFIG, EXIT_DENIED};
use ollamamax_tls::{JoinError, JoinToken};
use ollamamax_worker::agent::Dismissed;
use ollamamax_worker::credentials::CredentialError;
use ollamamax_worker::sandbox::{self, Confined, Surroundings};
use ollamamax_worker::{DeviceChoice, Ended, KvType, StartError, WorkerConfig, WorkerNode};
use std::net::SocketAddr;
use std::path::PathBuf;

/// How to start a worker.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where its identity and the models' bytes are kept
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Where its gRPC service listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7500")]
    listen: SocketAddr,
    /// host:port nodes reach it by
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// A file with the join token that lets this worker into a cluster (`join-token create`); the environment variable
    /// OLLAMAMAX_JOIN_TOKEN may hold it, too. Not read when the directory holds a certificate that is good
    #[arg(long, value_name = "FILE")]
    join_token_file: Option<PathBuf>,
    /// gRPC addresses of nodes beside those that the join token names and that were learned; one that answers is enough
    #[arg(long, value_name = "HOST:PORT", num_args = 1.., value_delimiter = ',')]
    control_plane: Vec<String>,
    /// Compute threads; 0: what the machine offers
    #[arg(long, default_value_t = 0)]
    threads: u32,
    /// What it computes on: auto (the first GPU that can be used, else the CPU), cpu, or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// Bytes for weights and KV cache; 0: what is free, less some headroom
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    memory: u64,
    /// What keys and values are kept as: f16, or q8_0 in little more than half the memory; the same for all workers of a cluster
    #[arg(long, value_name = "TYPE", default_value = "f16", env = "OLLAMA_KV_CACHE_TYPE")]
    kv_type: KvType,
    /// Sequences it runs at once per model; 0: as many as are allowed
    #[arg(long, value_name = "N", default_value_t = 0, env = "OLLAMA_NUM_PARALLEL")]
    parallel: u32,
    /// Its name, for people
    #[arg(long, default_value = "worker")]
    name: String,
    /// Directories on this machine that may hold models' bytes already
    #[arg(long, value_name = "DIR", hide = true)]
    blob_hint: Vec<PathBuf>,
    /// Milliseconds that running answers may take to finish when it stops
    #[arg(long, value_name = "MS")]
    drain_ms: Option<u64>,
    /// Let the process read, write and start whatever its user may; without it, it writes to its own directory alone and starts
    /// nothing
    #[arg(long, env = "OLLAMAMAX_NO_SANDBOX", value_parser = clap::builder::FalseyValueParser::new())]
    no_sandbox: bool,
    #[command(flatten)]
    daemon: daemon::Args,
    #[arg(skip)]
    confined: Option<Confined>,
}

impl Args {
    /// Confines this process. To be called while it has one thread.
    pub fn confine(&mut self) -> Result<(), Failure> {
        // Without a directory the start fails, and says better why.
        if self.no_sandbox || std::fs::create_dir_all(&self.data_dir).is_err() {
            return Ok(());
        }
        let gpu = self.device != DeviceChoice::Cpu;
        if gpu {
            sandbox::wake_gpu();
        }
        let reads = self.blob_hint.iter().chain(&self.join_token_file).cloned().collect();
        let mut around = Surroundings::look(self.data_dir.clone(), reads, self.listen.port(), gpu);
        around.binds_calls = self.daemon.dial_from.is_some();
        let entered = sandbox::enter(&around);
        self.confined = Some(entered.map_err(|error| Failure::Other(error.to_string()))?);
        Ok(())
    }

    fn tell(&self) {
        match &self.confined {
            Some(confined) if confined.is_less() => tracing::warn!("{confined}"),
            Some(confined) => tracing::info!("{confined}"),
            None => tracing::warn!("this worker reads, writes and starts whatever its user may"),
        }
    }
}

/// Runs it.
pub async fn run(args: Args) -> Result<(), Failure> {
    args.daemon.begin()?;
    args.tell();
    let mut signals = StopSignals::listen(args.daemon.exit_with_stdin)?;
    let started = WorkerNode::start(config(args)?).await;
    let mut running = started.map_err(|error| Failure::Daemon {
        code: start_exit_code(&error),
        message: error.to_string(),
    })?;
    let ended = tokio::select! {
        reason = signals.asked() => {
            tracing::info!(reason, "draining");
            None
        }
        ended = running.ended() => Some(ended),
    };
    match ended {
        Some(ended) => {
            let code = match ended {
                Ended::Dismissed(Dismissed::Removed) => EXIT_DENIED,
                _ => 1,
            };
            Err(Failure::Daemon { code, message: ended.to_string() })
        }
        None => {
            signals.next_kills();
            running.stop().await;
            Ok(())
        }
    }
}

fn config(args: Args) -> Result<WorkerConfig, Failure> {
    let join = join_token(&args)?;
    let mut config = WorkerConfig::new(args.data_dir, args.listen, args.control_plane);
    config.join = join;
    config.advertise = args.advertise;
    config.name = args.name;
    config.threads = args.threads;
    config.memory_bytes = args.memory;
    config.device = args.device;
    config.kv_type = args.kv_type;
    config.blob_hints = args.blob_hint;
    if args.parallel > 0 {
        config.sequences_max = config.sequences_max.min(args.parallel);
    }
    if let Some(drain_ms) = args.drain_ms {
        config.drain_ms = drain_ms;
    }
    Ok(config)
}

fn join_token(args: &Args) -> Result<Option<JoinToken>, Failure> {
    secret::join_token(args.join_token_file.as_deref(), &args.data_dir)
}

fn start_exit_code(error: &StartError) -> u8 {
    match error {
        StartError::Credentials(CredentialError::Join(JoinError::Refused { .. })) => EXIT_DENIED,
        StartError::Credentials(
            CredentialError::NoIdentity { .. }
            | CredentialError::Ended { .. }
            | CredentialError::Join(JoinError::OtherKind { .. }),
        ) => EXIT_CONFIG,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn fewer_sequences_than_are_allowed_may_be_asked_for_but_not_more() {
        let usual = WorkerConfig::new("/x", ([127, 0, 0, 1], 0).into(), Vec::new()).sequences_max;
        for (parallel, runs) in [("0", usual), ("1", 1), ("3", 3), ("999", usual)] {
            let line = ["worker", "--data-dir", "/x", "--parallel", parallel];
            let args = Line::try_parse_from(line).expect("sound").args;
            assert_eq!(config(args).expect("sound").sequences_max, runs, "{parallel}");
        }
    }
}
