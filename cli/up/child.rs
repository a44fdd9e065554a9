//! A supervised child process: started with a pipe for its stdin, so that it ends when this process does; its output goes to a
//! log; when it dies unasked it is started again, unless that is of no use.
//!
//! ```text
//! start -> running -- dies --> verdict: again after a wait | leave it
//!             \---- stop asked --> SIGTERM, grace, SIGKILL
//! ```

use super::log::{Log, ROTATE_BYTES};
use crate::exit::Failure;
use crate::secret::JOIN_TOKEN;
use ollamamax_proto::backoff;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

/// A child that lived shorter than this died at once.
const QUICK_DEATH: Duration = Duration::from_secs(5);
/// Deaths at once in a row after which another start is of no use while the cluster is being started.
pub const QUICK_DEATHS_MAX: u32 = 3;
/// A child that lived longer than this starts with a clean record.
const GOOD_LIFE: Duration = Duration::from_secs(30);
const FIRST_WAIT_MS: u64 = 200;
const LONGEST_WAIT_MS: u64 = 15_000;
/// How long the rest of a dead child's output is waited for.
const DRAIN_OUTPUT: Duration = Duration::from_millis(500);
/// Exit codes after which the same start can only fail the same way.
const HOPELESS_CODES: [i32; 4] = [2, 70, 77, 78];

/// What to start. Not to be shown: its environment may hold a join token.
#[derive(Clone)]
pub struct Spec {
    /// `node-1`, `worker-2`.
    pub name: String,
    /// The program: this one.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// A join token, which goes into its environment.
    pub join_token: Option<Zeroizing<String>>,
    /// Where its output goes.
    pub log: PathBuf,
}

/// When to start a child again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Restart {
    /// Never.
    Never,
    /// Whenever it dies unasked.
    Always,
}

/// Something a supervised child did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// Who.
    pub name: String,
    /// How, in words.
    pub how: String,
    /// Its exit code, when it had one.
    pub code: Option<i32>,
    /// How many times in a row it died at once.
    pub quick: u32,
    /// When it is started again; `None`: never.
    pub again_in: Option<Duration>,
}

/// A child under supervision.
#[derive(Debug)]
pub struct Supervised {
    pid: Arc<AtomicU32>,
    stop: watch::Sender<Option<Duration>>,
    task: JoinHandle<()>,
}

impl Supervised {
    /// Starts it and keeps it.
    pub fn start(
        spec: Spec,
        restart: Restart,
        deaths: mpsc::UnboundedSender<Death>,
    ) -> Result<Self, Failure> {
        let log = Log::open(&spec.log, ROTATE_BYTES).map_err(Failure::file("write", &spec.log))?;
        let log = Arc::new(Mutex::new(log));
        let pid = Arc::new(AtomicU32::new(0));
        let (stop, stopped) = watch::channel(None);
        let first = spawn(&spec, &log)?;
        pid.store(first.child.id().unwrap_or(0), Ordering::Relaxed);
        let task = tokio::spawn(keep(spec, restart, first, log, Arc::clone(&pid), stopped, deaths));
        Ok(Self { pid, stop, task })
    }

    /// Asks it to stop, waits up to `grace`, then kills it.
    pub async fn stop(self, grace: Duration) {
        self.stop.send_replace(Some(grace));
        // A supervising task that panicked has dropped its child, which kills it.
        let _ = self.task.await;
    }

    /// What can end it at once, even while it is being stopped.
    pub fn handle(&self) -> KillHandle {
        KillHandle(Arc::clone(&self.pid))
    }
}

/// Ends a child at once.
#[derive(Clone, Debug)]
pub struct KillHandle(Arc<AtomicU32>);

impl KillHandle {
    /// SIGKILL to the process that runs now, if one does.
    pub fn kill(&self) {
        signal(self.0.load(Ordering::Relaxed), Signal::KILL);
    }
}

struct Running {
    child: Child,
    output: Vec<JoinHandle<()>>,
    since: Instant,
}

fn spawn(spec: &Spec, log: &Arc<Mutex<Log>>) -> Result<Running, Failure> {
    let mut child = Command::new(&spec.program)
        .args(&spec.args)
        .env_remove(JOIN_TOKEN)
        .envs(spec.join_token.iter().map(|token| (JOIN_TOKEN, token.as_str())))
        // A terminal's Ctrl-C must reach only the supervisor, which stops the children in order.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(Failure::file("run", &spec.program))?;
    let mut output = Vec::new();
    output.extend(child.stdout.take().map(|out| tokio::spawn(pump(out, Arc::clone(log)))));
    output.extend(child.stderr.take().map(|out| tokio::spawn(pump(out, Arc::clone(log)))));
    Ok(Running { child, output, since: Instant::now() })
}

async fn pump(mut from: impl AsyncRead + Unpin, log: Arc<Mutex<Log>>) {
    let mut piece = vec![0; 16 * 1024];
    while let Ok(read) = from.read(&mut piece).await {
        if read == 0 {
            return;
        }
        // A full disk loses log lines, not the child: what it says must go on being read.
        if let Ok(mut log) = log.lock() {
            let _ = log.write(&piece[..read]);
        }
    }
}

async fn keep(
    spec: Spec,
    restart: Restart,
    first: Running,
    log: Arc<Mutex<Log>>,
    pid: Arc<AtomicU32>,
    mut stopped: watch::Receiver<Option<Duration>>,
    deaths: mpsc::UnboundedSender<Death>,
) {
    let mut running = first;
    let mut record = Record::default();
    loop {
        // Held until the child has ended: the end of its stdin tells it to stop.
        let stdin = running.child.stdin.take();
        let status = tokio::select! {
            status = running.child.wait() => status,
            grace = wait_for_stop(&mut stopped) => {
                end(&mut running.child, grace).await;
                pid.store(0, Ordering::Relaxed);
                return finish_output(running.output).await;
            }
        };
        drop(stdin);
        pid.store(0, Ordering::Relaxed);
        finish_output(std::mem::take(&mut running.output)).await;
        let again_in = record.judge(restart, running.since.elapsed(), &status, rand::random());
        let code = status.as_ref().ok().and_then(ExitStatus::code);
        let how = status.map_or_else(|error| error.to_string(), describe);
        let death = Death { name: spec.name.clone(), how, code, quick: record.quick, again_in };
        // The supervisor may be gone; then stop is set too.
        let _ = deaths.send(death);
        let Some(wait) = again_in else { return };
        running = loop {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = wait_for_stop(&mut stopped) => return,
            }
            match spawn(&spec, &log) {
                Ok(running) => break running,
                Err(failure) => tracing::warn!(name = spec.name, %failure, "not started"),
            }
        };
        pid.store(running.child.id().unwrap_or(0), Ordering::Relaxed);
    }
}

/// The grace given, once somebody asks for the stop; none when nobody is left to ask.
async fn wait_for_stop(stopped: &mut watch::Receiver<Option<Duration>>) -> Duration {
    stopped.wait_for(Option::is_some).await.ok().and_then(|grace| *grace).unwrap_or_default()
}

async fn finish_output(output: Vec<JoinHandle<()>>) {
    for pump in output {
        // A grandchild may hold the pipe open; the log then misses its words only.
        let _ = tokio::time::timeout(DRAIN_OUTPUT, pump).await;
    }
}

async fn end(child: &mut Child, grace: Duration) {
    signal(child.id().unwrap_or(0), Signal::TERM);
    if tokio::time::timeout(grace, child.wait()).await.is_err() {
        // It is gone or will be: SIGKILL cannot be ignored.
        let _ = child.kill().await;
    }
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // A process that has ended meanwhile needs no signal.
        let _ = kill_process(pid, signal);
    }
}

/// How a process ended, in words.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The deaths of one child.
#[derive(Debug, Default)]
struct Record {
    quick: u32,
    deaths: u32,
}

impl Record {
    /// When to start it again, if at all.
    fn judge(
        &mut self,
        restart: Restart,
        lived: Duration,
        status: &std::io::Result<ExitStatus>,
        coin: f64,
    ) -> Option<Duration> {
        // Somebody's SIGKILL or SIGTERM says nothing about the child's health.
        let own = status.as_ref().is_ok_and(|status| !matches!(status.signal(), Some(9 | 15)));
        self.quick = if own && lived < QUICK_DEATH { self.quick + 1 } else { 0 };
        self.deaths = if lived < GOOD_LIFE { self.deaths + 1 } else { 1 };
        let code = status.as_ref().ok().and_then(ExitStatus::code);
        let hopeless = code.is_some_and(|code| code == 0 || HOPELESS_CODES.contains(&code));
        if restart == Restart::Never || hopeless {
            return None;
        }
        let wait = backoff::delay_ms(self.deaths - 1, FIRST_WAIT_MS, LONGEST_WAIT_MS, coin);
        Some(Duration::from_millis(wait))
    }
}

#[cfg(test)]
#[path = "child_tests.rs"]
mod tests;
