//! Which of the two versions of a name in a rollout a request goes to, and how each of them does here.
//!
//! ```text
//! request -> weight, coin, which is ready -> its version, to the end
//!              nothing of it shown yet and it fails: the other version
//! ends of attempts -> tallies of both versions -> failing? -> RevertRollout
//! ```

use crate::Gateway;
use crate::error::Failure;
use ollamamax_core::record::ModelRecord;
use ollamamax_core::rollout::{Rollout, Tally, VersionState, failing, takes_new};
use ollamamax_core::{Command, State};
use ollamamax_proto::placement::{Assignment, Phase};
use ollamamax_proto::{Digest, ModelName, Revision};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// How the versions of the rollouts on their way do at this gateway.
#[derive(Debug, Default)]
pub struct Versions(Mutex<HashMap<ModelName, Watched>>);

#[derive(Debug)]
struct Watched {
    began: Revision,
    new: Tally,
    old: Tally,
    /// Whether it was proposed to go back: once is enough.
    given_up: bool,
}

/// The record of a name as it is with the version of these bytes, if that shall be loaded or still is.
pub(crate) fn with_bytes(state: &State, name: &ModelName, blob: Digest) -> Option<ModelRecord> {
    let record = state.models.get(name)?;
    let held = || {
        state.placements.values().any(|placement| {
            placement.phase == Phase::Ready
                && placement.assignment.model == *name
                && placement.assignment.blob == blob
        })
    };
    let former = || state.known_version(name, blob).filter(|_| held());
    let version = state.wanted_version(name, blob).or_else(former)?.clone();
    Some(ModelRecord { version, ..record.clone() })
}

impl Gateway {
    /// The version a new request for `current` goes to.
    pub(crate) fn version_for(&self, current: ModelRecord) -> ModelRecord {
        let state = self.control.state();
        let Some(rollout) = state.rollouts.get(&current.name) else { return current };
        let Some(version) = state.old_version(&current.name) else { return current };
        let old = ModelRecord { version: version.clone(), ..current.clone() };
        let ready = |model: &ModelRecord| !self.workers.route(&state, model).seats().is_empty();
        let new = takes_new(rollout.weight, ready(&current), ready(&old), rand::random());
        if new { current } else { old }
    }

    /// Another version of the same name that a request can go to instead: one that is `ready`, or any.
    pub(crate) fn other_version(&self, model: &ModelRecord, ready: bool) -> Option<ModelRecord> {
        let state = self.control.state();
        let current = state.models.get(&model.name)?;
        let old = state.old_version(&model.name);
        let old = old.map(|version| ModelRecord { version: version.clone(), ..current.clone() });
        let fits = |other: &ModelRecord| {
            other.version.blob != model.version.blob
                && (!ready || !self.workers.route(&state, other).seats().is_empty())
        };
        old.into_iter().chain([current.clone()]).find(fits)
    }

    /// Notes how an attempt at a placement ended; a new version that fails too often is given up.
    pub(crate) fn note_attempt(&self, assignment: &Assignment, success: bool) {
        let state = self.control.state();
        let name = &assignment.model;
        let Some(rollout) = state.rollouts.get(name) else { return };
        let current = state.models.get(name).map(|model| model.version.blob);
        let is_new = current == Some(assignment.blob);
        let is_old = state.old_version(name).is_some_and(|old| old.blob == assignment.blob);
        if !is_new && !is_old {
            return;
        }
        if let Some(reason) = self.versions.note(rollout, is_new, success) {
            tracing::warn!(model = %name, reason, "the new version is given up");
            self.revert(rollout.clone(), reason);
        }
    }

    fn revert(&self, rollout: Rollout, reason: String) {
        let control = std::sync::Arc::clone(&self.control);
        tokio::spawn(async move {
            let (name, began) = (rollout.model, rollout.began);
            let command = Command::RevertRollout { name: name.clone(), began, reason };
            if let Err(error) = control.propose(command).await {
                tracing::warn!(model = %name, %error, "could not go back to the old version");
            }
        });
    }

    /// Goes back to the version before: of the rollout on its way, or else the last one that served.
    pub(crate) fn way_back(&self, name: &ModelName) -> Result<Command, Failure> {
        let state = self.control.state();
        if let Some(rollout) = state.rollouts.get(name) {
            let reason = "it was rolled back by hand".to_owned();
            return Ok(Command::RevertRollout { name: name.clone(), began: rollout.began, reason });
        }
        let served = state.versions_of(name).filter(|kept| kept.state == VersionState::Served);
        let last = served.max_by_key(|kept| (kept.since, kept.version.digest));
        let last = last.ok_or_else(|| {
            Failure::NotFound(format!("model '{name}' has no former version to go back to"))
        })?;
        let version = Some(last.version.digest);
        Ok(Command::ShiftTraffic { name: name.clone(), version, weight: 100 })
    }
}

impl Versions {
    /// Counts an attempt; why the new version is to be given up, once.
    fn note(&self, rollout: &Rollout, is_new: bool, success: bool) -> Option<String> {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (new, old) = Default::default();
        let fresh = || Watched { began: rollout.began, new, old, given_up: false };
        let watched = book.entry(rollout.model.clone()).or_insert_with(fresh);
        if watched.began != rollout.began {
            *watched = fresh();
        }
        let tally = if is_new { &mut watched.new } else { &mut watched.old };
        tally.note(success);
        if watched.given_up {
            return None;
        }
        let reason = failing(watched.new, watched.old);
        watched.given_up = reason.is_some();
        reason
    }
}
