//! What the daemons have in common: logs on stderr, and when to stop.
//!
//! A daemon stops gracefully on SIGTERM, SIGINT, or, when a supervisor asks for it, on the end of stdin: so no child outlives a
//! supervisor that was killed. A second signal ends it at once.

use crate::exit::Failure;
use crate::{dumps, environment};
use ollamamax_proto::limits;
use std::fmt::{self, Write as _};
use std::io::Read;
use std::net::IpAddr;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

/// How a daemon logs and ends.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// How log lines look
    #[arg(long, value_enum, default_value_t = LogFormat::Text, env = "OLLAMAMAX_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// Address that connections to nodes and workers come from, on a machine with several
    #[arg(long, value_name = "ADDR", env = "OLLAMAMAX_DIAL_FROM")]
    pub dial_from: Option<IpAddr>,
    /// Stop gracefully when stdin ends
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,
    #[command(flatten)]
    pub dumps: dumps::Args,
}

impl Args {
    /// What every daemon does before anything else: it tells of variables that are set in vain, unless whoever supervises it has
    /// done so, starts its log, and shuts others out of its memory.
    pub fn begin(&self) -> Result<(), Failure> {
        if !self.exit_with_stdin {
            environment::warn();
        }
        log(self.log_format)?;
        if let Err(why) = self.dumps.apply() {
            tracing::warn!("{why}");
        }
        if let Some(source) = self.dial_from {
            ollamamax_tls::dial_from(source);
        }
        Ok(())
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Sends logs to stderr. `OLLAMAMAX_LOG`, else `RUST_LOG`, filters them; without either: `info`, of Raft only warnings, and of our
/// own code what `OLLAMA_DEBUG` asks for.
fn log(format: LogFormat) -> Result<(), Failure> {
    let wanted = ["OLLAMAMAX_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|name| Some((name, std::env::var(name).ok().filter(|text| !text.is_empty())?)));
    let filter = match wanted {
        // openraft tells every vote and every missed heartbeat at `info`.
        None => match environment::debug_level() {
            None => EnvFilter::new("info,openraft=warn"),
            Some(level) => EnvFilter::new(debug_filter(level)),
        },
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
        LogFormat::Text => builder.fmt_fields(debug_fn(field).delimited(" ")).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// Our own crates at a level, the others as usual.
fn debug_filter(level: &str) -> String {
    const OURS: [&str; 8] =
        ["", "_control_plane", "_gateway", "_core", "_storage", "_worker", "_engine", "_tls"];
    let ours = OURS.iter().map(|name| format!(",ollamamax{name}={level}"));
    ours.fold("info,openraft=warn".to_owned(), |filter, crate_filter| filter + &crate_filter)
}

/// Writes one field. Errors quote what clients and models say: none of it may begin a line or move a cursor (JSON escapes by
/// itself).
fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    match field.name() {
        // What the `log` crate adds of its own is in the line already.
        name if name.starts_with("log.") => return Ok(()),
        "message" => {}
        name => write!(writer, "{name}=")?,
    }
    write!(Plain { writer, left: limits::LOG_FIELD_CHARS }, "{value:?}")
}

/// Passes on so many characters, control characters escaped.
struct Plain<W> {
    writer: W,
    left: usize,
}

impl<W: fmt::Write> fmt::Write for Plain<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match self.left {
                0 => return Ok(()),
                1 => self.writer.write_char('…')?,
                _ if c.is_control() => write!(self.writer, "{}", c.escape_default())?,
                _ => self.writer.write_char(c)?,
            }
            self.left -= 1;
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// What a subscriber made as ours writes.
    fn logged(run: impl FnOnce()) -> String {
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&written);
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || Sink(Arc::clone(&sink)))
            .with_ansi(false)
            .fmt_fields(debug_fn(field).delimited(" "))
            .finish();
        tracing::subscriber::with_default(subscriber, run);
        let bytes = written.lock().expect("whole").clone();
        String::from_utf8(bytes).expect("text")
    }

    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("whole").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_quoted_in_a_log_line_stays_in_its_field() {
        for hostile in ["a\r\n2026-01-01 INFO forged", "\u{1b}[2J\u{9b}1m", "\0\u{8}\u{7f}\t"] {
            let line = logged(|| {
                let _span = tracing::info_span!("request", model = %hostile).entered();
                tracing::warn!(error = %hostile, text = hostile, count = 7, "failed: {hostile}");
            });
            assert!(line.ends_with('\n') && line.matches('\n').count() == 1, "{line:?}");
            assert!(!line.trim_end().chars().any(char::is_control), "{line:?}");
            assert!(line.contains("count=7") && line.contains("error="), "{line:?}");
        }
        let long = logged(|| tracing::warn!(error = %"x".repeat(1_000_000), "failed"));
        assert!(long.len() < limits::LOG_FIELD_CHARS + 200, "{}", long.len());
    }
}
