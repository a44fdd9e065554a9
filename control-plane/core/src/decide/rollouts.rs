//! Changes of versions: begun, shifted, reverted and ended. What serves stays until something else does.

use super::draft::Draft;
use super::{check, models};
use crate::change::Change;
use crate::record::ModelRecord;
use crate::rejection::Rejection;
use crate::rollout::{Rollout, VersionRecord, VersionState};
use crate::state::State;
use ollamamax_proto::model::ModelVersion;
use ollamamax_proto::placement::Phase;
use ollamamax_proto::{Digest, ModelName, Revision, limits};

/// Without something that serves, or with the same bytes, there is nothing to be careful with: the name changes at once.
pub(super) fn roll_out(
    draft: &mut Draft,
    name: &ModelName,
    version: &ModelVersion,
    weight: u32,
) -> Result<(), Rejection> {
    models::check_version(version)?;
    check_weight(weight)?;
    let Some(known) = draft.state().models.get(name).cloned() else {
        return models::put(draft, name, version);
    };
    if known.version == *version {
        return Ok(());
    }
    let state = draft.state();
    let rollout = state.rollouts.get(name).cloned();
    let base = state.old_version(name).unwrap_or(&known.version).clone();
    if let Some(rollout) = rollout.filter(|_| base == *version) {
        return revert(draft, name, rollout.began, "it was replaced by what it had replaced");
    }
    let beside = is_wanted(draft, name) && base.blob != version.blob && lives(state, name, &base);
    if weight < 100 && !beside {
        return Err(alone(name, weight));
    }
    let resized = |other: &ModelVersion| {
        other.blob == version.blob
            && (other.facts != version.facts || other.blob_bytes != version.blob_bytes)
    };
    let stale = resized(&base) || resized(&known.version);
    let old = base.digest;
    remember(draft, name, known.version, VersionState::Served);
    draft.drop_placements(|placement| {
        let assignment = &placement.assignment;
        let other = assignment.blob != version.blob;
        assignment.model == *name && if other { !beside } else { stale }
    });
    point(draft, name, version);
    if beside {
        draft.push(Change::RolloutPut(Rollout {
            model: name.clone(),
            old,
            weight,
            began_at: draft.now(),
            began: draft.next_revision(),
        }));
    } else {
        end(draft, name);
    }
    bound(draft, name);
    Ok(())
}

/// By hand: how much goes to which version.
pub(super) fn shift(
    draft: &mut Draft,
    name: &ModelName,
    version: Option<Digest>,
    weight: u32,
) -> Result<(), Rejection> {
    let current = models::find(draft, name)?.version.digest;
    if weight > 100 {
        return check_weight(weight);
    }
    let target = version.unwrap_or(current);
    let rollout = draft.state().rollouts.get(name).cloned();
    match rollout {
        Some(rollout) if target == rollout.old && weight == 100 => {
            revert(draft, name, rollout.began, "it was rolled back by hand")
        }
        Some(rollout) if target == current || target == rollout.old => {
            let weight = if target == current { weight } else { 100 - weight };
            let state = draft.state();
            let old = state.old_version(name);
            if weight < 100 && !old.is_some_and(|old| lives(state, name, old)) {
                return Err(alone(name, weight));
            }
            draft.push(Change::RolloutPut(Rollout { weight, ..rollout }));
            Ok(())
        }
        None if target == current && weight == 100 => Ok(()),
        None if target == current => Err(alone(name, weight)),
        _ => {
            let known = draft.state().versions.get(&(name.clone(), target));
            let unknown =
                || Rejection::UnknownVersion { model: name.clone(), version: Box::new(target) };
            let version = known.ok_or_else(unknown)?.version.clone();
            roll_out(draft, name, &version, weight)
        }
    }
}

/// The name stands for its old version again. Late ones, of a rollout that has ended, are refused.
pub(super) fn revert(
    draft: &mut Draft,
    name: &ModelName,
    began: Revision,
    reason: &str,
) -> Result<(), Rejection> {
    let known = models::find(draft, name)?.version.clone();
    let state = draft.state();
    let rollout = state.rollouts.get(name).filter(|rollout| rollout.began == began);
    let old = rollout.and_then(|_| state.old_version(name)).cloned();
    let old = old.ok_or_else(|| Rejection::UnknownRollout(name.clone()))?;
    let reason = check::cut_reason(reason);
    remember(draft, name, known, VersionState::Failed { reason });
    draft.push(Change::RolloutRemoved(name.clone()));
    point(draft, name, &old);
    bound(draft, name);
    Ok(())
}

/// Ends the rollouts that are done: everything goes to the new version, and nothing is left of the old one.
pub(super) fn settle(draft: &mut Draft) {
    let state = draft.state();
    let done = |rollout: &&Rollout| {
        let name = &rollout.model;
        let Some(current) = state.models.get(name) else { return true };
        let of = |blob: Digest| {
            let all = state.placements.values().map(move |placement| (placement, blob));
            all.filter(|(p, blob)| p.assignment.model == *name && p.assignment.blob == *blob)
        };
        let Some(old) = state.old_version(name) else { return true };
        let ready = of(current.version.blob).any(|(p, _)| p.phase == Phase::Ready);
        let wanted = state.demands.contains_key(name);
        rollout.weight == 100 && of(old.blob).next().is_none() && (ready || !wanted)
    };
    let over: Vec<ModelName> =
        state.rollouts.values().filter(done).map(|rollout| rollout.model.clone()).collect();
    for name in over {
        draft.push(Change::RolloutRemoved(name));
    }
}

/// The name stands for one version from now on.
pub(super) fn end(draft: &mut Draft, name: &ModelName) {
    draft.push(Change::RolloutRemoved(name.clone()));
}

/// Nothing is left of a name.
pub(super) fn forget(draft: &mut Draft, name: &ModelName) {
    end(draft, name);
    let digests: Vec<Digest> =
        draft.state().versions_of(name).map(|record| record.version.digest).collect();
    for digest in digests {
        draft.push(Change::VersionRemoved(name.clone(), digest));
    }
}

fn check_weight(weight: u32) -> Result<(), Rejection> {
    if (1..=100).contains(&weight) {
        return Ok(());
    }
    let reason = format!("{weight}, expected 1 to 100 percent; the other version gets the rest");
    Err(check::invalid("weight", reason))
}

fn alone(name: &ModelName, weight: u32) -> Rejection {
    let reason = format!(
        "{weight} percent for one version of '{name}', and no other one serves the rest; expected 100"
    );
    check::invalid("weight", reason)
}

fn is_wanted(draft: &Draft, name: &ModelName) -> bool {
    let now = draft.now();
    draft.state().demands.get(name).is_some_and(|demand| demand.is_live(now))
}

/// Whether a version is loaded somewhere, or about to be.
fn lives(state: &State, name: &ModelName, version: &ModelVersion) -> bool {
    state.placements.values().any(|placement| {
        placement.assignment.model == *name
            && placement.assignment.blob == version.blob
            && !matches!(placement.phase, Phase::Failed { .. })
    })
}

fn point(draft: &mut Draft, name: &ModelName, version: &ModelVersion) {
    draft.push(Change::ModelPut(Box::new(ModelRecord {
        name: name.clone(),
        version: version.clone(),
        modified_at: draft.now(),
        revision: draft.next_revision(),
    })));
    draft.push(Change::VersionRemoved(name.clone(), version.digest));
}

fn remember(draft: &mut Draft, name: &ModelName, version: ModelVersion, state: VersionState) {
    let (model, since) = (name.clone(), draft.now());
    draft.push(Change::VersionPut(Box::new(VersionRecord { model, version, state, since })));
}

/// Forgets the oldest of too many former versions, and what is still loaded of it.
fn bound(draft: &mut Draft, name: &ModelName) {
    loop {
        let state = draft.state();
        let old = state.rollouts.get(name).map(|rollout| rollout.old);
        let free = state.versions_of(name).filter(|record| Some(record.version.digest) != old);
        let kept = state.versions_of(name).count();
        let oldest = free.min_by_key(|record| (record.since, record.version.digest)).cloned();
        let Some(oldest) = oldest.filter(|_| kept > limits::MODEL_VERSIONS_COUNT) else { return };
        draft.push(Change::VersionRemoved(name.clone(), oldest.version.digest));
        if draft.state().known_version(name, oldest.version.blob).is_none() {
            draft.drop_placements(|placement| {
                placement.assignment.model == *name
                    && placement.assignment.blob == oldest.version.blob
            });
        }
    }
}
