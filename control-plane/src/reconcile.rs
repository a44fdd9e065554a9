//! The leader's loop that makes what is into what should be: overdue demands expire, placements are planned.
//!
//! A plan carries the placement revision it was computed from, so one made from an old look is refused, not applied.

use crate::client::Client;
use crate::leader::Leadership;
use crate::watch::Published;
use crate::workers::Workers;
use ollamamax_core::plan::{PlanLimits, plan};
use ollamamax_core::record::Lifetime;
use ollamamax_core::rollout::unloadable;
use ollamamax_core::{Command, State};
use ollamamax_gateway::ports::ControlError;
use ollamamax_gateway::streams::PREFIX;
use ollamamax_proto::{Millis, limits};
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

impl Reconciler {
    /// Runs until cancelled.
    pub async fn run(self) {
        let mut revisions = self.published.revisions();
        loop {
            let _ = tokio::time::timeout(self.period, revisions.changed()).await;
            if self.leadership.leads() {
                self.round().await;
            }
        }
    }

    async fn round(&self) {
        let state = self.published.state();
        let now = Millis::now().max(state.counters.clock);
        if overdue(&state, now) {
            self.propose(Command::ExpireDemands).await;
        }
        for name in forgotten(&state, now) {
            self.propose(Command::DeleteCheckpoint { name, expected: None }).await;
        }
        let state = self.published.state();
        let planned = plan(&state, &self.workers.observed(), &PlanLimits::default(), now);
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
