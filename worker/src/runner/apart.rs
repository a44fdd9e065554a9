//! A runner whose machine drives a ring that is open: its requests end, so that they go on elsewhere, and it tries to close the
//! ring until it is closed or nobody wants it any more.

use super::work::Work;
use super::{Command, RunnerState};
use ollamamax_proto::limits;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use tonic::Status;

impl Work<'_> {
    /// Ends what was running.
    pub(super) fn come_apart(&mut self, reason: &str) {
        tracing::warn!(reason, "the ring is open");
        self.state.send_replace(RunnerState::Apart(reason.to_owned()));
        let status = || Status::unavailable(format!("the stages came apart: {reason}"));
        for id in self.live.keys().copied().collect::<Vec<_>>() {
            self.end(id, Err(status()), "apart");
        }
        self.embeds.end_all(&status);
    }

    /// Tries once to close the ring; takes commands until it is worth trying again.
    pub(super) fn join(&mut self, inbound: &Receiver<Command>) {
        match self.machine.join() {
            Ok(()) => {
                tracing::info!("the ring is closed");
                self.state.send_replace(RunnerState::Running);
                return;
            }
            Err(reason) => {
                let apart = RunnerState::Apart(reason);
                let news = self.state.send_if_modified(|state| {
                    let news = *state != apart;
                    state.clone_from(&apart);
                    news
                });
                if news {
                    tracing::warn!(state = ?apart, "the ring cannot be closed yet");
                }
            }
        }
        let next = Instant::now() + Duration::from_millis(limits::STAGE_REJOIN_MS);
        loop {
            let left = next.saturating_duration_since(Instant::now());
            match inbound.recv_timeout(left) {
                // What was on its way when the ring opened; the machine answers that it is apart.
                Ok(command) => self.take_apart(command),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => {
                    self.deadline = Some(Instant::now());
                    return;
                }
            }
            if self.deadline.is_some() {
                return;
            }
        }
    }

    fn take_apart(&mut self, command: Command) {
        let status = || Status::unavailable("the stages of this replica are not connected now");
        match command {
            Command::Stop { deadline } => self.deadline = Some(deadline),
            Command::Embed(texts) => texts.refuse(status()),
            Command::Submit(submission) => submission.call.outbox.end(Err(status())),
        }
    }
}
