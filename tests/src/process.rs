//! One process of a cluster: its arguments are kept, so that it can be killed and started again as it was.
//!
//! Its stdin is a pipe that ends with this process, and its output goes to a file: nothing outlives a test, and a failure can be
//! explained.

use crate::error::HarnessError;
use crate::wait::wait_until;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Lines of a log shown in an error.
const TAIL_LINES: usize = 25;
const TAIL_BYTES: usize = 64 * 1024;

/// A process, running or not.
#[derive(Debug)]
pub struct Process {
    /// `node-1`, `worker-1`, `up`.
    pub name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Starts a program.
    pub fn start(
        name: &str,
        program: &Path,
        args: Vec<OsString>,
        env: Vec<(OsString, OsString)>,
        log: &Path,
    ) -> Result<Self, HarnessError> {
        let (program, log) = (program.to_owned(), log.to_owned());
        let mut process = Self { name: name.to_owned(), program, args, env, log, child: None };
        process.restart()?;
        Ok(process)
    }

    /// Starts it again as it was; what still runs is killed first.
    pub fn restart(&mut self) -> Result<(), HarnessError> {
        self.kill9();
        let open = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = open.map_err(HarnessError::io(&self.log))?;
        let again = |log: &File| log.try_clone().map_err(HarnessError::io(&self.log));
        let child = Command::new(&self.program)
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(again(&log)?)
            .stderr(again(&log)?)
            .spawn()
            .map_err(HarnessError::io(&self.program))?;
        self.child = Some(child);
        Ok(())
    }

    /// Its process id while it has been started and not been reaped.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// How it ended, if it has.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// An error when it has ended.
    pub fn check(&mut self) -> Result<(), HarnessError> {
        let Some(status) = self.exit_status() else { return Ok(()) };
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exited with code {code}"),
            (None, signal) => format!("was ended by signal {}", signal.unwrap_or(0)),
        };
        Err(HarnessError::Died { name: self.name.clone(), how, log: self.tail() })
    }

    /// SIGKILL, and gone when this returns.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends any signal.
    pub fn signal(&self, signal: Signal) -> Result<(), HarnessError> {
        let pid = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pid =
            pid.ok_or_else(|| HarnessError::Other(format!("`{}` does not run", self.name)))?;
        kill_process(pid, signal).map_err(|error| HarnessError::Other(error.to_string()))
    }

    /// SIGTERM, then waits for its end; the exit code.
    pub async fn stop(&mut self, deadline: Duration) -> Result<Option<i32>, HarnessError> {
        self.signal(Signal::TERM)?;
        self.wait(deadline).await
    }

    /// Waits for its end; the exit code, `None` after a signal.
    pub async fn wait(&mut self, deadline: Duration) -> Result<Option<i32>, HarnessError> {
        let what = format!("the end of {}", self.name);
        let ended =
            wait_until(deadline, &what, async || self.exit_status().ok_or_else(|| self.tail()))
                .await?;
        self.child = None;
        Ok(ended.code())
    }

    /// Where its output goes.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The end of its output.
    pub fn tail(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let end = &bytes[bytes.len().saturating_sub(TAIL_BYTES)..];
        let text = String::from_utf8_lossy(end);
        let lines: Vec<&str> = text.lines().collect();
        let shown = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        format!("\n--- {} ---\n{}\n", self.name, shown.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn shell(script: &str, directory: &Path) -> Process {
        let args = vec!["-c".into(), script.into()];
        let log = directory.join("log");
        Process::start("sh", Path::new("/bin/sh"), args, Vec::new(), &log).expect("started")
    }

    #[tokio::test]
    async fn a_process_can_be_killed_restarted_and_stopped() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut process = shell("echo up; exec cat", directory.path());
        let first = process.pid().expect("running");
        process.kill9();
        assert!(!process.is_running());
        process.restart().expect("started again");
        assert_ne!(process.pid().expect("running"), first);
        assert!(process.is_running());
        assert_eq!(process.stop(DEADLINE).await.expect("ended"), None);
    }

    #[tokio::test]
    async fn a_death_brings_its_last_words() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut process = shell("echo no such port; exit 3", directory.path());
        let error =
            wait_until(DEADLINE, "death", async || process.check().err().ok_or("still running"));
        let text = error.await.expect("it dies").to_string();
        assert!(text.contains("exited with code 3") && text.contains("no such port"), "{text}");
    }
}
