//! `up`: a whole local cluster in one command. Nodes and workers are processes of this same binary; this one starts them,
//! watches over them, brings a model, and stops them in order.
//!
//! ```text
//! lock -> layout -> ports free? -> nodes -> leader -> workers -> model -> ready
//!                                    \________ supervised ________/        |
//!                                                     Ctrl-C: workers drain, then nodes stop
//! ```

mod access;
mod announce;
mod child;
mod https;
mod layout;
mod lock;
mod log;
mod ports;
mod ready;
mod share;
mod start;

use crate::daemon::StopSignals;
use crate::dumps;
use crate::exit::Failure;
use crate::known_nodes::data_directory;
use crate::out;
use crate::progress::Progress;
use crate::sources;
use child::{Death, KillHandle, Restart};
use layout::{Asked, Layout};
use lock::Lock;
use start::Cluster;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// What to start.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Control-plane nodes; 3 for a new cluster, else as many as there are
    #[arg(long, value_name = "N")]
    nodes: Option<usize>,
    /// Workers; 1 for a new cluster, else as many as there are
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Where the first node's API listens; the other nodes take the ports after it
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Serve HTTPS, with a certificate for this machine that the command line believes by itself; stays so for this cluster
    /// until `--tls=false`
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls: Option<bool>,
    /// Where everything is kept; a directory of the user's when absent
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The model to serve: a catalogue name, a path, a URL, or `none`
    #[arg(long, value_name = "NAME|PATH|URL")]
    model: Option<String>,
    /// Compute threads of each worker; the cores are shared out when absent
    #[arg(long, value_name = "N")]
    threads: Option<u32>,
    /// Bytes each worker may use; the free memory is shared out when absent
    #[arg(long, value_name = "BYTES")]
    memory: Option<u64>,
    /// Whether a process that dies is started again
    #[arg(long, value_enum, default_value_t = Restart::Always)]
    restart: Restart,
    /// Print what is ready as one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sources: sources::Args,
    #[command(flatten)]
    dumps: dumps::Args,
}

impl Args {
    /// As `serve` starts it: one node, one worker and no model, where nothing else was said or is there already.
    pub fn serving(self, listen: Option<SocketAddr>) -> Self {
        let new = directory(self.data_dir.as_deref())
            .is_ok_and(|directory| matches!(Layout::load(&directory), Ok(None)));
        Self {
            nodes: self.nodes.or(new.then_some(1)),
            listen: self.listen.or(listen),
            model: self.model.or_else(|| Some("none".to_owned())),
            ..self
        }
    }
}

/// Starts it, keeps it, stops it.
pub async fn run(args: Args) -> Result<(), Failure> {
    if let Err(why) = args.dumps.apply() {
        out::say(&why);
    }
    crate::environment::warn();
    let mut signals = StopSignals::listen(false)?;
    let progress = Progress::new();
    let directory = directory(args.data_dir.as_deref())?;
    let lock = Lock::take(&directory)?;
    let layout = prepare(&args, &directory)?;
    let mut cluster = Cluster::new(&args, directory, layout)?;
    if let Err(failure) = cluster.check_ports(lock.was_broken_off, &progress).await {
        // Nothing was started, so nothing is left behind.
        lock.end()?;
        return Err(failure);
    }
    cluster.prepare_https()?;
    let brought_up = tokio::select! {
        brought_up = cluster.bring_up(&progress) => Some(brought_up),
        _ = signals.asked() => None,
    };
    progress.finish();
    let outcome = match brought_up {
        None => Ok(()),
        Some(Err(failure)) => Err(failure),
        Some(Ok(model)) => {
            cluster.announce(model.as_deref(), args.json);
            watch(&mut cluster, &mut signals).await;
            Ok(())
        }
    };
    out::say("stopping; once more kills");
    let processes = cluster.kill_handles();
    tokio::select! {
        () = cluster.stop() => {}
        _ = signals.asked() => {
            processes.iter().for_each(KillHandle::kill);
            std::process::exit(130);
        }
    }
    lock.end()?;
    outcome
}

/// Tells of deaths until somebody says stop.
async fn watch(cluster: &mut Cluster, signals: &mut StopSignals) {
    loop {
        tokio::select! {
            _ = signals.asked() => return,
            death = cluster.next_death() => out::say(&describe(&death)),
        }
    }
}

fn describe(death: &Death) -> String {
    let Death { name, how, again_in, .. } = death;
    match again_in {
        Some(wait) => format!("{name} {how}; it is started again in {} ms", wait.as_millis()),
        None => format!("{name} {how}; it is not started again"),
    }
}

fn directory(given: Option<&Path>) -> Result<PathBuf, Failure> {
    let chosen = given.map(Path::to_owned).or_else(|| Some(data_directory()?.join("up")));
    let chosen = chosen.ok_or_else(|| {
        Failure::Usage("no home directory is known; name a directory with --data-dir".to_owned())
    })?;
    // Children must find it wherever they run.
    std::path::absolute(&chosen).map_err(Failure::file("find", chosen))
}

fn prepare(args: &Args, directory: &Path) -> Result<(Layout, usize), Failure> {
    let last = Layout::load(directory)?;
    let mut free = ports::FreePorts::default();
    let asked =
        Asked { nodes: args.nodes, workers: args.workers, listen: args.listen, tls: args.tls };
    for node in last.iter().flat_map(|last| &last.nodes) {
        free.reserve(node.raft.port());
    }
    let first = args.listen.or(last.as_ref().map(|last| last.listen));
    let first = first.map_or(crate::host::DEFAULT_PORT, |listen| listen.port());
    for step in 0..args.nodes.unwrap_or(9).min(9) as u16 {
        free.reserve(first.saturating_add(step));
    }
    layout::settle(last, &asked, || free.next())
}
