//! What the daemons have in common: logs on stderr, and when to stop.
//!
//! A daemon stops gracefully on SIGTERM, SIGINT, or, when a supervisor asks for it, on the end of stdin: so no child outlives a
//! supervisor that was killed. A second signal ends it at once.

use crate::exit::Failure;
use std::io::Read;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

/// How a daemon logs and ends.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// How log lines look
    #[arg(long, value_enum, default_value_t = LogFormat::Text, env = "OLLAMAMAX_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// Stop gracefully when stdin ends
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Sends logs to stderr. `OLLAMAMAX_LOG`, else `RUST_LOG`, filters them; without either: `info`, of Raft only warnings.
pub fn log(format: LogFormat) -> Result<(), Failure> {
    let wanted = ["OLLAMAMAX_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|name| Some((name, std::env::var(name).ok().filter(|text| !text.is_empty())?)));
    let filter = match wanted {
        // openraft tells every vote and every missed heartbeat at `info`.
        None => EnvFilter::new("info,openraft=warn"),
        Some((name, text)) => EnvFilter::try_new(&text)
            .map_err(|error| Failure::Usage(format!("`{name}` is no log filter: {error}")))?,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A closed stderr must not end a daemon.
        .log_internal_errors(false)
        .with_ansi(false);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// Waits for the moment to stop.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    stdin_ended: Option<oneshot::Receiver<()>>,
}

impl StopSignals {
    /// Starts to listen.
    pub fn listen(exit_with_stdin: bool) -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::Other(format!("cannot listen to signals: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            stdin_ended: exit_with_stdin.then(watch_stdin),
        })
    }

    /// The reason to stop, in a word, once there is one.
    pub async fn asked(&mut self) -> &'static str {
        let stdin_ended = async {
            match &mut self.stdin_ended {
                Some(ended) => ended.await.unwrap_or(()),
                None => std::future::pending().await,
            }
        };
        let reason = tokio::select! {
            _ = self.interrupt.recv() => "interrupt",
            _ = self.terminate.recv() => "terminate",
            () = stdin_ended => "supervisor gone",
        };
        self.stdin_ended = None;
        reason
    }

    /// From here on a further signal ends the process at once.
    pub fn next_kills(mut self) {
        tokio::spawn(async move {
            self.asked().await;
            std::process::exit(130);
        });
    }
}

fn watch_stdin() -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let mut piece = [0; 256];
        let mut stdin = std::io::stdin().lock();
        while stdin.read(&mut piece).is_ok_and(|read| read > 0) {}
        // The daemon may be stopping already.
        let _ = sender.send(());
    });
    receiver
}
