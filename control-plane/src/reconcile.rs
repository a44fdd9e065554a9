//! The leader's loop that makes what is into what should be: overdue demands expire, placements are planned, replicas follow
//! the load, and when nothing else is to do, models move away from slow and full workers.
//!
//! A plan carries the placement revision it was computed from, so one made from an old look is refused, not applied.

use crate::client::Client;
use crate::leader::Leadership;
use crate::watch::Published;
use crate::workers::Workers;
use ollamamax_core::plan::{Observed, PlanLimits, moves, plan, predicted_bytes};
use ollamamax_core::record::Lifetime;
use ollamamax_core::rollout::unloadable;
use ollamamax_core::scale::Scaler;
use ollamamax_core::{Command, State};
use ollamamax_gateway::ports::ControlError;
use ollamamax_gateway::streams::PREFIX;
use ollamamax_proto::{Generation, Millis, WorkerId, limits};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// The loop's parts.
pub struct Reconciler {
    /// Who leads.
    pub leadership: Leadership,
    /// The state.
    pub published: Arc<Published>,
    /// How busy the workers are.
    pub workers: Arc<Workers>,
    /// The way to propose.
    pub client: Client,
    /// How often to look when nothing changes.
    pub period: Duration,
}

/// What one leadership remembers between two rounds.
#[derive(Default)]
struct Memory {
    scaler: Scaler,
    /// Placements that were found to take more than was predicted.
    larger: BTreeSet<Generation>,
    /// Workers that were found slow.
    slow: BTreeSet<WorkerId>,
}

impl Reconciler {
    /// Runs until cancelled.
    pub async fn run(self) {
        let mut revisions = self.published.revisions();
        let mut memory = Memory::default();
        loop {
            let _ = tokio::time::timeout(self.period, revisions.changed()).await;
            if self.leadership.leads() {
                self.round(&mut memory).await;
            } else {
                memory = Memory::default();
            }
        }
    }

    async fn round(&self, memory: &mut Memory) {
        let state = self.published.state();
        let now = Millis::now().max(state.counters.clock);
        if overdue(&state, now) {
            self.propose(Command::ExpireDemands).await;
        }
        for name in forgotten(&state, now) {
            self.propose(Command::DeleteCheckpoint { name, expected: None }).await;
        }
        let state = self.published.state();
        let (observed, limits) = (self.workers.observed(), PlanLimits::default());
        memory.compare(&state);
        memory.notice(&observed);
        for scale in memory.scaler.round(&state, &observed.requests, now) {
            let (model, from, to) = (&scale.model, scale.from, scale.to);
            tracing::info!(%model, from, to, "the load asks for another number of replicas");
            self.propose(scale.command()).await;
        }
        let state = self.published.state();
        let planned = plan(&state, &observed, &limits, now);
        let given_up = unloadable(&state, &planned);
        if !given_up.is_empty() {
            for command in given_up {
                tracing::warn!(?command, "a new version is given up");
                self.propose(command).await;
            }
            return;
        }
        for note in &planned.report {
            tracing::debug!(?note, "plan");
        }
        if !planned.steps.is_empty() {
            tracing::info!(steps = planned.steps.len(), base = %planned.base, "placing models");
            self.propose(Command::ApplyPlan { base: planned.base, steps: planned.steps }).await;
            return;
        }
        for step in moves(&state, &observed, &limits, now) {
            let (name, from, to) = (step.model, step.from, step.to);
            tracing::info!(model = %name, %from, %to, "moving a model off a slow or full worker");
            self.propose(Command::MigrateModel { name, from, to }).await;
        }
    }

    async fn propose(&self, command: Command) {
        match self.client.propose(command).await {
            Ok(_) => {}
            // The state moved on while the plan was on its way; the change that did it wakes this loop.
            Err(ControlError::Rejected(rejection)) => tracing::debug!(%rejection, "not reconciled"),
            Err(error) => tracing::warn!(%error, "not reconciled"),
        }
    }
}

impl Memory {
    /// Says once of a worker that it has become slow, and once that it is so no more.
    fn notice(&mut self, observed: &Observed) {
        for worker in observed.slow.difference(&self.slow) {
            tracing::warn!(%worker, "its steps take much longer than usual");
        }
        for worker in self.slow.difference(&observed.slow) {
            tracing::info!(%worker, "not slow any more");
        }
        self.slow.clone_from(&observed.slow);
    }

    /// Says once of each placement that it takes more memory than was predicted; the plan counts what it takes.
    fn compare(&mut self, state: &State) {
        let held = state.placements.values();
        let larger = held.filter(|held| held.resident_bytes > predicted_bytes(state, held));
        let mut now = BTreeSet::new();
        for held in larger {
            let (model, worker, used) = (&held.assignment.model, held.worker, held.resident_bytes);
            if !self.larger.contains(&held.assignment.generation) {
                let predicted = predicted_bytes(state, held);
                tracing::warn!(%model, %worker, used, predicted, "takes more memory than predicted");
            }
            now.insert(held.assignment.generation);
        }
        self.larger = now;
    }
}

/// What is kept of streams that nobody has gone on with.
fn forgotten(state: &State, now: Millis) -> Vec<String> {
    let kept = state.checkpoints.range(PREFIX.to_owned()..);
    let kept = kept.take_while(|(name, _)| name.starts_with(PREFIX));
    let old = kept.filter(|(_, kept)| kept.modified_at.plus(limits::STREAM_KEPT_MS) <= now);
    old.map(|(name, _)| name.clone()).take(limits::STREAMS_FORGOTTEN_COUNT).collect()
}

fn overdue(state: &State, now: Millis) -> bool {
    state
        .demands
        .values()
        .any(|demand| matches!(demand.lifetime, Lifetime::Until(end) if end <= now))
}
