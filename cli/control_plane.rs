//! `control-plane`: one node of the quorum, until it is told to stop.

use crate::daemon::{self, StopSignals};
use crate::exit::Failure;
use crate::{edge, human, oidc, out, secret, sources};
use ollamamax_control_plane::{ControlPlaneNode, NodeConfig, Policy, Sharing, Target};
use ollamamax_proto::limits;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Longest context that can be asked for, in tokens: models that are trained for more are not known.
const CONTEXT_MAX: i64 = 16 * 1024 * 1024;

/// How to start a node.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    node: NodeArgs,
    /// Start a new cluster with this node as its first
    #[arg(long, conflicts_with = "join_token_file")]
    bootstrap: bool,
    /// Name of a new cluster
    #[arg(long, default_value = "ollamamax")]
    name: String,
}

/// How to join a cluster with a node on this machine.
#[derive(Clone, Debug, clap::Args)]
pub struct JoinArgs {
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
struct NodeArgs {
    /// Where the node keeps everything; a directory that holds a node goes on as that node
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Where the API listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:11434")]
    listen: SocketAddr,
    /// Where the gRPC services for nodes and workers listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7400")]
    raft_listen: SocketAddr,
    /// host:port others reach the API by
    #[arg(long, value_name = "HOST:PORT")]
    advertise_http: Option<String>,
    /// host:port others reach the gRPC services by
    #[arg(long, value_name = "HOST:PORT")]
    advertise_raft: Option<String>,
    /// A file with the join token that lets this node into a cluster (`join-token create node`); the environment
    /// variable OLLAMAMAX_JOIN_TOKEN may hold it, too. Not read when the directory holds a node already
    #[arg(long, value_name = "FILE")]
    join_token_file: Option<PathBuf>,
    /// A file with the cluster's sealing key, which opens its private keys; the environment variable OLLAMAMAX_SEALING_KEY, or
    /// `ollamamax-sealing-key` among the credentials of a systemd service, may hold it, too. Else it is kept in the directory
    #[arg(long, value_name = "FILE")]
    sealing_key_file: Option<PathBuf>,
    /// Roles of requests from this machine that bring no credential; without it every request needs one
    #[arg(long, value_name = "ROLE", value_delimiter = ',')]
    anonymous: Vec<String>,
    /// How long a model stays loaded after its last use
    #[arg(long, value_name = "DURATION", env = "OLLAMA_KEEP_ALIVE", allow_hyphen_values = true)]
    keep_alive: Option<String>,
    /// Requests held for one model before more are refused
    #[arg(long, value_name = "N", env = "OLLAMA_MAX_QUEUE")]
    max_queue: Option<usize>,
    /// How long a request waits for its model to be loaded
    #[arg(long, value_name = "DURATION", env = "OLLAMA_LOAD_TIMEOUT")]
    load_timeout: Option<String>,
    /// Tokens a sequence may hold when neither the request nor the model says otherwise; 0: 4096
    #[arg(long, value_name = "TOKENS", env = "OLLAMA_CONTEXT_LENGTH", value_parser = clap::value_parser!(u32).range(0..=CONTEXT_MAX))]
    context_length: Option<u32>,
    /// How requests are spread over replicas where a deployment does not say: round-robin, weighted, least-tokens, latency or
    /// prefix
    #[arg(long, value_name = "POLICY", env = "OLLAMAMAX_BALANCING")]
    balancing: Option<String>,
    /// Export the audit trail for as long as the node runs: file:PATH (JSON lines), stdout, or otlp:URL (a receiver of OTLP
    /// logs over gRPC; the leader sends, so give it to every node). May be given several times, or with commas
    #[arg(long, value_name = "TARGET", env = "OLLAMAMAX_AUDIT_EXPORT", value_delimiter = ',')]
    audit_export: Vec<Target>,
    /// Whose requests share what is cached of prompts: each `user` with itself alone, or the whole `cluster`. How fast a first
    /// token comes tells those that share how prompts of the others begin. The same on every node
    #[arg(long, value_name = "user|cluster", env = "OLLAMAMAX_PREFIX_SHARING")]
    prefix_sharing: Option<String>,
    /// How long certificates of nodes and workers are good, from 5s to 24h; they are renewed after two thirds of it. Shorter ones
    /// make a stolen one worth less, and an authority is replaced sooner. The same on every node
    #[arg(long, value_name = "DURATION", env = "OLLAMAMAX_CERTIFICATE_LIFETIME")]
    certificate_lifetime: Option<String>,
    #[command(flatten)]
    edge: edge::Args,
    #[command(flatten)]
    sources: sources::Args,
    #[command(flatten)]
    oidc: oidc::Args,
    #[command(flatten)]
    daemon: daemon::Args,
}

impl From<JoinArgs> for Args {
    fn from(args: JoinArgs) -> Self {
        Self { node: args.node, bootstrap: false, name: String::new() }
    }
}

/// Runs it.
pub async fn run(args: Args) -> Result<(), Failure> {
    args.node.daemon.begin()?;
    let mut signals = StopSignals::listen(args.node.daemon.exit_with_stdin)?;
    let config = config(args)?;
    let started = tokio::select! {
        started = ControlPlaneNode::start(config) => started,
        reason = signals.asked() => {
            tracing::info!(reason, "stopped before the node was up");
            return Ok(());
        }
    };
    let running = started
        .map_err(|error| Failure::Daemon { code: error.exit_code(), message: error.to_string() })?;
    tokio::select! {
        reason = signals.asked() => tracing::info!(reason, "stopping"),
        failure = running.failed() => {
            let failed = Failure::Daemon { code: failure.exit_code(), message: failure.to_string() };
            running.stop().await;
            if failure.exit_code() == 0 {
                out::say(&failure.to_string());
                return Ok(());
            }
            return Err(failed);
        }
    }
    signals.next_kills();
    running.stop().await;
    Ok(())
}

fn config(args: Args) -> Result<NodeConfig, Failure> {
    let Args { node, bootstrap, name } = args;
    let join = match bootstrap {
        true => None,
        false => secret::join_token(node.join_token_file.as_deref(), &node.data_dir)?,
    };
    let sealing = secret::sealing(node.sealing_key_file)?;
    let mut config = NodeConfig::new(node.data_dir);
    config.http_listen = node.listen;
    config.raft_listen = node.raft_listen;
    config.http_advertise = node.advertise_http;
    config.raft_advertise = node.advertise_raft;
    config.bootstrap = bootstrap;
    config.join = join;
    node.edge.apply(&mut config)?;
    node.sources.apply(&mut config)?;
    node.oidc.apply(&mut config)?;
    config.sealing = sealing;
    config.audit_export = node.audit_export;
    config.audit_headers = secret::receiver_headers()?;
    if !node.anonymous.is_empty() {
        config.gateway.anonymous = Some(node.anonymous.into_iter().collect());
    }
    if !name.is_empty() {
        config.cluster_name = name;
    }
    let duration = |flag: &str, text: &str| {
        human::parse_duration_ms(text).ok_or_else(|| {
            Failure::Usage(format!("{flag} `{text}` is no duration; expected e.g. 300, 5m or -1"))
        })
    };
    if let Some(text) = &node.keep_alive {
        config.gateway.keep_alive_ms = duration("--keep-alive", text)?;
    }
    if let Some(requests) = node.max_queue {
        config.gateway.requests_queued = requests;
    }
    if let Some(tokens) = node.context_length {
        config.gateway.context_tokens = tokens;
    }
    if let Some(text) = &node.balancing {
        let policy = text.parse::<Policy>();
        config.gateway.balancing = policy.map_err(|error| Failure::Usage(error.to_string()))?;
    }
    if let Some(text) = &node.certificate_lifetime {
        let ms = u64::try_from(duration("--certificate-lifetime", text)?).unwrap_or(0);
        let (least, most) = (limits::CERTIFICATE_MIN_MS, limits::CERTIFICATE_MAX_MS);
        if !(least..=most).contains(&ms) {
            let text =
                format!("--certificate-lifetime `{text}` is out of range; expected 5s to 24h");
            return Err(Failure::Usage(text));
        }
        config.timings.certificate_ms = ms;
        // What is replaced often is replaced quickly.
        config.timings.authority_lead_ms = config.timings.authority_lead_ms.min(ms);
    }
    if let Some(text) = &node.prefix_sharing {
        let sharing = text.parse::<Sharing>();
        config.gateway.sharing = sharing.map_err(|error| Failure::Usage(error.to_string()))?;
    }
    if let Some(text) = &node.load_timeout {
        let ms = duration("--load-timeout", text)?;
        // As Ollama has it: no time at all means no limit.
        let ms = u64::try_from(ms).ok().filter(|ms| *ms > 0).unwrap_or(u64::from(u32::MAX));
        config.gateway.load_timeout = Duration::from_millis(ms);
    }
    Ok(config)
}
