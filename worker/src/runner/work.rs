//! The thread of a runner: it owns the machine, takes commands between steps, and delivers what a step brings.

use super::embeds::Embeds;
use super::live::Live;
use super::{Command, Gauges, RunnerState, Submission, late_status, nanos};
use crate::machine::{BadRequest, Machine, MachineFailure};
use crate::telemetry;
use ollamamax_engine::engine::{Emission, SequenceId};
use ollamamax_proto::inference::{Started, TokenChunk};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;
use tokio::sync::watch;
use tonic::Status;

/// The thread's own state.
pub(super) struct Work<'a> {
    pub(super) machine: Box<dyn Machine>,
    pub(super) gauges: &'a Gauges,
    pub(super) state: &'a watch::Sender<RunnerState>,
    pub(super) live: BTreeMap<SequenceId, Live>,
    pub(super) embeds: Embeds,
    pub(super) deadline: Option<Instant>,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        machine: Box<dyn Machine>,
        gauges: &'a Gauges,
        state: &'a watch::Sender<RunnerState>,
    ) -> Self {
        let embeds = Embeds::default();
        Self { machine, gauges, state, live: BTreeMap::new(), embeds, deadline: None }
    }

    fn is_idle(&self) -> bool {
        self.live.is_empty() && self.embeds.is_empty()
    }

    pub(super) fn run(mut self, inbound: &Receiver<Command>) -> RunnerState {
        loop {
            if !self.machine.is_together() && self.deadline.is_none() {
                self.join(inbound);
                continue;
            }
            if self.is_idle() && self.deadline.is_none() {
                match inbound.recv() {
                    Ok(command) => self.take(command),
                    Err(_) => return RunnerState::Stopped,
                }
            }
            loop {
                match inbound.try_recv() {
                    Ok(command) => self.take(command),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return RunnerState::Stopped,
                }
            }
            self.end_the_late();
            self.cancel_the_gone();
            if self.deadline.is_some_and(|at| self.is_idle() || Instant::now() >= at) {
                return RunnerState::Stopped;
            }
            if self.is_idle() {
                continue;
            }
            match self.step() {
                Ok(()) => {}
                Err(MachineFailure::Dead(reason)) => return RunnerState::Failed(reason),
                Err(MachineFailure::Apart(reason)) => self.come_apart(&reason),
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Stop { deadline } => self.deadline = Some(deadline),
            Command::Embed(texts) => self.embeds.take(&mut *self.machine, *texts),
            Command::Submit(submission) => {
                let Submission { prepared, resume, call } = *submission;
                match self.machine.submit(prepared, &resume) {
                    Ok(id) => {
                        let last = call.submitted;
                        self.live.insert(id, Live { call, admitted: None, first: None, last });
                    }
                    Err(BadRequest(reason)) => {
                        call.outbox.end(Err(Status::invalid_argument(reason)));
                        telemetry::sequence_ended("refused");
                    }
                }
            }
        }
    }

    fn cancel_the_gone(&mut self) {
        let machine = &mut self.machine;
        self.live.retain(|id, live| {
            let gone = live.call.outbox.is_gone();
            if gone {
                machine.cancel(*id);
                telemetry::sequence_ended("cancelled");
            }
            !gone
        });
        self.embeds.cancel_the_gone(&mut **machine);
        self.gauges.running.store(self.machine.running(), Ordering::Relaxed);
    }

    fn end_the_late(&mut self) {
        let now = Instant::now();
        let late = |(id, live): (&SequenceId, &Live)| {
            live.call.deadline.filter(|at| *at <= now).map(|_| (*id, now - live.call.submitted))
        };
        let late: Vec<_> = self.live.iter().filter_map(late).collect();
        for (id, after) in late {
            self.machine.cancel(id);
            self.end(id, Err(late_status(after)), "late");
        }
        self.embeds.end_the_late(&mut *self.machine, now);
    }

    fn step(&mut self) -> Result<(), MachineFailure> {
        if self.machine.is_idle() {
            let reason = "the engine lost a sequence it had accepted";
            return Err(MachineFailure::Dead(reason.to_owned()));
        }
        let begun = Instant::now();
        for emission in self.machine.admit() {
            self.deliver(emission, begun);
        }
        let emissions = self.machine.step()?;
        let now = Instant::now();
        let running = self.machine.running();
        self.gauges.running.store(running, Ordering::Relaxed);
        telemetry::step(running, emissions.iter().map(|emission| emission.tokens.len()).sum());
        for emission in emissions {
            self.deliver(emission, now);
        }
        self.embeds.deliver(self.machine.embedded());
        Ok(())
    }

    fn deliver(&mut self, emission: Emission, now: Instant) {
        let Some(live) = self.live.get_mut(&emission.sequence) else { return };
        let mut chunk = TokenChunk {
            index: emission.index,
            tokens: emission.tokens,
            text: emission.text,
            logprobs: emission.logprobs,
            mu: emission.mu,
            ..TokenChunk::default()
        };
        if let Some(admitted) = emission.started {
            live.admitted = Some(now);
            chunk.started = Some(Started {
                prompt_tokens: admitted.prompt_tokens,
                cached_tokens: admitted.cached_tokens,
                queue_ns: nanos(now - live.call.submitted),
            });
        }
        if !chunk.tokens.is_empty() {
            live.first.get_or_insert(now);
            live.last = now;
        }
        let reason = emission.finished.as_ref().map(|finished| finished.reason);
        chunk.done = emission.finished.map(|finished| live.done(finished, now));
        live.call.outbox.push(chunk);
        if let Some(reason) = reason {
            self.end(emission.sequence, Ok(()), reason.as_str());
        } else if let Some(why) = emission.failed {
            // The request's own fault, so that no other worker is tried.
            self.end(emission.sequence, Err(Status::invalid_argument(why)), "failed");
        }
    }

    pub(super) fn end(&mut self, sequence: SequenceId, end: Result<(), Status>, how: &'static str) {
        if let Some(live) = self.live.remove(&sequence) {
            live.call.outbox.end(end);
            telemetry::sequence_ended(how);
        }
    }
}
