//! A name on its way from one version to another: both are loaded, requests go to them by weight, and in the end one is left.
//!
//! ```text
//! RollOut -> the name stands for the new version, the old one is kept beside it
//!         -> new ready: requests by weight -> at 100 the old one drains and goes -> done
//!         -> new cannot be loaded (`unloadable`), or fails where it runs (`failing`) -> RevertRollout: the old one again
//! ```

use crate::command::{Command, PlanStep};
use crate::plan::Plan;
use crate::record::Placement;
use crate::state::State;
use ollamamax_proto::model::ModelVersion;
use ollamamax_proto::placement::Phase;
use ollamamax_proto::{Digest, Millis, ModelName, Revision, limits};
use serde::{Deserialize, Serialize};

/// A change of versions on its way. The name stands for the new version already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Which name.
    pub model: ModelName,
    /// The digest of the old version, which is kept among the former ones.
    pub old: Digest,
    /// Percent of the requests that go to the new version once it is ready, 0 to 100.
    pub weight: u32,
    /// When it began.
    pub began_at: Millis,
    /// The revision at which it began: its identity.
    pub began: Revision,
}

/// What became of a former version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VersionState {
    /// It was replaced, or is being replaced.
    Served,
    /// It was rolled back.
    Failed {
        /// Why, in words.
        reason: String,
    },
}

/// A version that a name stood for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// The name.
    pub model: ModelName,
    /// The version.
    pub version: ModelVersion,
    /// What became of it.
    pub state: VersionState,
    /// Since when.
    pub since: Millis,
}

impl State {
    /// The version that a name is coming from, during a rollout.
    pub fn old_version(&self, name: &ModelName) -> Option<&ModelVersion> {
        let rollout = self.rollouts.get(name)?;
        let known = self.versions.get(&(name.clone(), rollout.old));
        known.map(|record| &record.version)
    }

    /// The version with these bytes that shall be loaded: what the name stands for, or what it comes from.
    pub fn wanted_version(&self, name: &ModelName, blob: Digest) -> Option<&ModelVersion> {
        let current = self.models.get(name).map(|record| &record.version);
        let mut wanted = current.into_iter().chain(self.old_version(name));
        wanted.find(|version| version.blob == blob)
    }

    /// The version with these bytes, wanted or former.
    pub fn known_version(&self, name: &ModelName, blob: Digest) -> Option<&ModelVersion> {
        let former = || self.versions_of(name).map(|record| &record.version);
        self.wanted_version(name, blob).or_else(|| former().find(|version| version.blob == blob))
    }

    /// The former versions of a name, by digest.
    pub fn versions_of<'a>(
        &'a self,
        name: &ModelName,
    ) -> impl Iterator<Item = &'a VersionRecord> + use<'a> {
        let name = name.clone();
        let known = self.versions.range((name.clone(), Digest([0; 32]))..);
        known.map(|(_, record)| record).take_while(move |record| record.model == name)
    }
}

/// Attempts at one version and how many of them failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All attempts.
    pub attempts: u32,
    /// Those that the worker or the version broke.
    pub failures: u32,
}

impl Tally {
    /// Counts an attempt.
    pub fn note(&mut self, success: bool) {
        self.attempts = self.attempts.saturating_add(1);
        self.failures = self.failures.saturating_add(u32::from(!success));
    }

    /// Whether more of its attempts fail than of the other's.
    fn is_worse_than(self, other: Self) -> bool {
        let cross = |a: Self, b: Self| u64::from(a.failures) * u64::from(b.attempts.max(1));
        cross(self, other) > cross(other, self)
    }
}

/// Why the new version is given up, from what one gateway saw since the rollout began; `None`: it may go on.
pub fn failing(new: Tally, old: Tally) -> Option<String> {
    let Tally { attempts, failures } = new;
    let half = u64::from(attempts) * u64::from(limits::ROLLOUT_FAILURES_PERCENT);
    let bad = attempts >= limits::ROLLOUT_ATTEMPTS_COUNT
        && u64::from(failures) * 100 > half
        && new.is_worse_than(old);
    bad.then(|| {
        format!(
            "{failures} of {attempts} attempts at it failed, of the old version {} of {}",
            old.failures, old.attempts
        )
    })
}

/// The version a request goes to, as `true` for the new one. `coin` is uniform in [0, 1). While one is not ready the other takes
/// all.
pub fn takes_new(weight: u32, new_ready: bool, old_ready: bool, coin: f64) -> bool {
    match (new_ready, old_ready) {
        (true, true) => coin * 100.0 < f64::from(weight),
        (false, true) => false,
        _ => true,
    }
}

/// The rollouts whose new version cannot be loaded: every try failed, and `planned` makes no other or there were enough.
pub fn unloadable(state: &State, planned: &Plan) -> Vec<Command> {
    let revert = |rollout: &Rollout| {
        let name = &rollout.model;
        let blob = state.models.get(name)?.version.blob;
        let mut failed = Vec::new();
        for placement in state.placements.values() {
            let assignment = &placement.assignment;
            if assignment.model != *name || assignment.blob != blob {
                continue;
            }
            match &placement.phase {
                Phase::Failed { reason } => failed.push(reason),
                // A member of a replica that failed with another one is no hope.
                _ => {
                    let ring = state.replica_of(assignment.id);
                    let broken = |member: &Placement| matches!(member.phase, Phase::Failed { .. });
                    if !ring.is_some_and(|ring| ring.placements(state).any(broken)) {
                        return None;
                    }
                }
            }
        }
        let of_it = |step: &PlanStep| match step {
            PlanStep::Assign { assignment, .. } => {
                assignment.model == *name && assignment.blob == blob
            }
            PlanStep::AddReplica { replica } => {
                let first = replica.members.first();
                replica.model == *name && first.is_some_and(|first| first.assignment.blob == blob)
            }
            _ => false,
        };
        let again = planned.steps.iter().any(of_it);
        let reason = failed.first()?;
        (!again || failed.len() >= limits::ROLLOUT_LOADS_COUNT).then(|| Command::RevertRollout {
            name: name.clone(),
            began: rollout.began,
            reason: format!("{} workers could not load it: {reason}", failed.len()),
        })
    };
    state.rollouts.values().filter_map(revert).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config;
    use proptest::prelude::*;

    fn tally(attempts: u32, failures: u32) -> Tally {
        Tally { attempts, failures: failures.min(attempts) }
    }

    #[test]
    fn a_version_is_given_up_for_its_own_failures_only() {
        assert_eq!(failing(tally(19, 19), tally(0, 0)), None, "too few");
        assert_eq!(failing(tally(20, 10), tally(0, 0)), None, "no more than half");
        assert!(failing(tally(20, 11), tally(0, 0)).is_some());
        assert_eq!(failing(tally(20, 11), tally(20, 12)), None, "the old one is no better");
        let reason = failing(tally(40, 30), tally(10, 1)).expect("it is bad");
        assert_eq!(reason, "30 of 40 attempts at it failed, of the old version 1 of 10");
    }

    proptest! {
        #![proptest_config(config(256))]

        #[test]
        fn more_failures_never_save_a_version(
            attempts in 0u32..1_000, failures in 0u32..1_000,
            old_attempts in 0u32..1_000, old_failures in 0u32..1_000,
        ) {
            let (new, old) = (tally(attempts, failures), tally(old_attempts, old_failures));
            let verdict = failing(new, old).is_some();
            if verdict {
                prop_assert!(failing(tally(attempts, new.failures + 1), old).is_some());
                prop_assert!(failing(new, tally(old.attempts + 1, old.failures)).is_some());
                let share = |t: Tally| f64::from(t.failures) / f64::from(t.attempts.max(1));
                prop_assert!(share(new) > 0.5 && share(new) > share(old));
            }
            prop_assert_eq!(failing(new, new), None);
        }

        #[test]
        fn weights_are_met_and_what_is_not_ready_gets_nothing(
            weight in 0u32..=100, new in any::<bool>(), old in any::<bool>(),
        ) {
            let picks = (0..1_000).map(|nth| takes_new(weight, new, old, f64::from(nth) / 1_000.0));
            let count = picks.filter(|new| *new).count() as u32;
            let expected = match (new, old) {
                (true, true) => weight * 10,
                (false, true) => 0,
                _ => 1_000,
            };
            prop_assert!(count.abs_diff(expected) <= 1, "{} where {} is due", count, expected);
        }
    }
}
