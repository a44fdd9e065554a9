//! The trail on its way out, by the nodes themselves: into files, onto stdout, to a receiver of OTLP logs.
//!
//! ```text
//! replicated trail --- after the cursor --> Piece: lines, where records are missing a gap --> file | stdout | receiver
//!        \__ the cursor: the file's own end | a file of this node | the state (whoever leads sends)
//! ```
//!
//! Every node writes its own files; they are copies of one another. To a receiver the leader alone sends, and the cluster
//! remembers how far it is. What fails is tried again for as long as the node runs: the trail itself is what waits, so that
//! nothing is held in memory but one piece. When a target is away for so long that the cluster has forgotten what it lacks, it
//! is told which records are missing.

mod cursor;
mod file;
mod headers;
mod otlp;
mod piece;
mod stdout;
mod target;

use crate::client::Client;
use crate::leader::Leadership;
use crate::watch::Published;
use file::FileSink;
pub use headers::{Headers, InvalidHeaders};
use ollamamax_core::State;
use ollamamax_proto::{Digest, Millis, backoff, limits};
use otlp::OtlpSink;
use piece::Piece;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stdout::StdoutSink;
pub use target::{InvalidTarget, Target};

/// Why a piece did not go out. It is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    /// The disk, or what reads our stdout.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The receiver did not take it.
    #[error("the receiver says {code}: {message}")]
    Receiver {
        /// Its code.
        code: tonic::Code,
        /// Its words.
        message: String,
    },
    /// What is there is not the beginning of this trail.
    #[error("{0}")]
    Foreign(String),
}

/// One target, followed for as long as the node runs.
pub(crate) struct Export {
    target: Target,
    sink: Sink,
    published: Arc<Published>,
    leadership: Leadership,
    /// Since when the target has been ahead of this node.
    ahead_since: Option<Instant>,
}

enum Sink {
    File(FileSink),
    Stdout(StdoutSink),
    Otlp(Box<OtlpSink>),
}

/// What a step has come to.
enum Step {
    /// Something went out.
    Went,
    /// There is nothing that could.
    Nothing,
}

impl Export {
    /// Opens a target; `dir` is for what has to be remembered of it.
    ///
    /// # Errors
    /// When it can never work: a directory that is not there, a file that is no trail.
    pub fn open(
        target: Target,
        dir: &Path,
        published: Arc<Published>,
        (leadership, client): (Leadership, Client),
        headers: &Headers,
    ) -> Result<Self, ExportError> {
        let id = Digest::of(target.to_string().as_bytes()).hex()[..16].to_owned();
        let cursor = cursor::Cursor::new(dir.join("audit-export").join(&id));
        let sink = match &target {
            Target::File(path) => Sink::File(FileSink::open(path.clone(), cursor)?),
            Target::Stdout => Sink::Stdout(StdoutSink::open(cursor)?),
            Target::Otlp(url) => {
                let sink = OtlpSink::new(url, id, (leadership.clone(), client), headers);
                Sink::Otlp(Box::new(sink.map_err(ExportError::Foreign)?))
            }
        };
        Ok(Self { target, sink, published, leadership, ahead_since: None })
    }

    /// Runs until cancelled.
    pub async fn run(mut self) {
        let mut revisions = self.published.revisions();
        let period = Duration::from_millis(limits::AUDIT_EXPORT_PERIOD_MS);
        let mut failures = 0u32;
        loop {
            revisions.borrow_and_update();
            match self.step().await {
                Ok(step) => {
                    if failures > 0 {
                        tracing::info!(target_of = %self.target, "the trail is exported again");
                    }
                    failures = 0;
                    tokio::time::sleep(period).await;
                    if matches!(step, Step::Nothing) {
                        // Leading, too, may begin without a change of the state.
                        let look_again = Duration::from_millis(limits::ACCESS_CHECK_MS);
                        let _ = tokio::time::timeout(look_again, revisions.changed()).await;
                    }
                }
                Err(error) => {
                    let target = self.target.to_string();
                    metrics::counter!("ollamamax_audit_export_failures_total", "target" => target.clone())
                        .increment(1);
                    if failures == 0 {
                        tracing::warn!(target_of = %target, %error, "the trail is not exported; it is tried again");
                    }
                    let most = limits::AUDIT_EXPORT_RETRY_MS;
                    let wait = backoff::delay_ms(failures, 250, most, rand::random());
                    failures = failures.saturating_add(1);
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                }
            }
        }
    }

    async fn step(&mut self) -> Result<Step, ExportError> {
        let state = self.published.state();
        let last = match &mut self.sink {
            Sink::File(file) => file.last()?,
            Sink::Stdout(stdout) => stdout.last(),
            Sink::Otlp(otlp) => match otlp.last(&state) {
                Some(last) => last,
                None => return Ok(Step::Nothing),
            },
        };
        let trail = &state.access.trail;
        if let Some((number, hash)) = last
            && let (Some(hash), Some(known)) = (hash, trail.get(&number))
            && known.hash != hash
        {
            return Err(ExportError::Foreign(format!(
                "record {number} there is not the one of this cluster: it was changed, or is of another cluster; move it away"
            )));
        }
        let after = last.map(|(number, _)| number);
        self.check_ahead(&state, after.unwrap_or(0))?;
        self.measure(&state, after.unwrap_or(0));
        let Some(piece) = Piece::next(trail, after, Millis::now()) else {
            if let Sink::Otlp(otlp) = &mut self.sink {
                otlp.remember(&state).await;
            }
            return Ok(Step::Nothing);
        };
        if let Some(gap) = piece.gap() {
            let (from, to) = (gap.from, gap.to);
            tracing::warn!(target_of = %self.target, from, to, "records of the trail were forgotten before they were exported");
        }
        match &mut self.sink {
            Sink::File(file) => file.write(piece).await?,
            Sink::Stdout(stdout) => stdout.write(piece).await?,
            Sink::Otlp(otlp) => otlp.send(&state, piece).await?,
        }
        Ok(Step::Went)
    }

    /// A node that catches up is behind for a while; one that leads never is.
    fn check_ahead(&mut self, state: &State, after: u64) -> Result<(), ExportError> {
        let last = state.access.last_record().map_or(0, |record| record.number);
        if after <= last {
            self.ahead_since = None;
            return Ok(());
        }
        let since = *self.ahead_since.get_or_insert_with(Instant::now);
        let patience = Duration::from_millis(limits::AUDIT_AHEAD_MS);
        if !self.leadership.leads() && since.elapsed() < patience {
            return Ok(());
        }
        Err(ExportError::Foreign(format!(
            "it ends with record {after}, the trail of this cluster with {last}: it is of another cluster; move it away"
        )))
    }

    fn measure(&self, state: &State, after: u64) {
        let last = state.access.last_record().map_or(0, |record| record.number);
        let target = self.target.to_string();
        metrics::gauge!("ollamamax_audit_export_waiting", "target" => target)
            .set(last.saturating_sub(after) as f64);
    }
}
