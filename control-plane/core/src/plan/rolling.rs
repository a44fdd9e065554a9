//! Two versions of a name in the plan: each has a view, and what one of them may do depends on the other.
//!
//! ```text
//! new loads beside old -> new serves as much as old did -> old drains (no new requests, those that run end) -> old goes
//! no room for both     -> one replica of the old goes for one of the new, while another one serves
//! ```

use super::rings::Held;
use super::room::{Key, Room, held_bytes};
use super::score::Choice;
use super::step::Drops;
use super::view::View;
use super::{Observed, PlanLimits};
use crate::record::{Demand, ModelRecord, Placement};
use crate::replica::ReplicaRecord;
use crate::state::State;
use ollamamax_proto::placement::{Phase, WorkerStatus};
use ollamamax_proto::{Digest, Millis, ModelName, limits};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What a view of one of two versions knows of the rollout.
#[derive(Default)]
pub(super) struct Rolling<'a> {
    /// Whether it is the version that goes.
    pub(super) old: bool,
    /// Percent of the requests for the new version.
    pub(super) weight: u32,
    /// Whether the other version takes requests.
    pub(super) other_ready: bool,
    /// Replicas of the other version as wanted.
    pub(super) others: usize,
    /// Of a version that goes, what still has requests, or may get some from a gateway that has not heard of it.
    pub(super) busy: Vec<&'a Placement>,
}

/// The version that a demanded name comes from.
pub(super) fn old_view<'a>(
    state: &'a State,
    demand: &Demand,
    limits: &PlanLimits,
) -> Option<View<'a>> {
    let current = state.models.get(&demand.model)?;
    let version = state.old_version(&demand.model)?.clone();
    let record = Cow::<'a, ModelRecord>::Owned(ModelRecord { version, ..current.clone() });
    Some(View::new(state, record, demand, limits))
}

/// Whether a placement of a version that nobody wants any more stays until its requests end.
pub(super) fn lasts(
    state: &State,
    observed: &Observed,
    (name, _): (&ModelName, Digest),
    placement: &Placement,
    now: Millis,
) -> bool {
    let wanted = state.demands.get(name).is_some_and(|demand| demand.is_live(now));
    let status = state.workers.get(&placement.worker).map(|worker| worker.status);
    wanted
        && matches!(status, Some(WorkerStatus::Ready | WorkerStatus::Suspect))
        && is_busy(observed, placement)
}

fn is_busy(observed: &Observed, placement: &Placement) -> bool {
    let requests = observed.requests.get(&placement.assignment.id);
    placement.phase == Phase::Ready && requests.is_some_and(|requests| *requests > 0)
}

/// Tells the two views of each rollout of each other.
pub(super) fn pair<'a>(
    state: &'a State,
    observed: &Observed,
    now: Millis,
    views: &mut BTreeMap<Key, View<'a>>,
    drops: &mut Drops,
) {
    for rollout in state.rollouts.values() {
        let name = &rollout.model;
        let Some(old_blob) = state.old_version(name).map(|version| version.blob) else { continue };
        let Some(new_blob) = state.models.get(name).map(|record| record.version.blob) else {
            continue;
        };
        let old_key = (name.clone(), old_blob);
        let Some(mut old) = views.remove(&old_key) else { continue };
        let Some(new) = views.get_mut(&(name.clone(), new_blob)) else { continue };
        let weight = rollout.weight;
        let of = |old: bool, other: &View<'_>| Rolling {
            old,
            weight,
            other_ready: other.has_ready(),
            others: other.serving_count(),
            busy: Vec::new(),
        };
        let (for_old, for_new) = (of(true, new), of(false, &old));
        (old.rolling, new.rolling) = (Some(for_old), Some(for_new));
        // A model that moves goes on when it is one version again.
        (old.migration, new.migration) = (None, None);
        let enough = new.replicas.min(old.serving_count().max(1));
        // More that are on their way change nothing: what they are for serves already.
        let done = new.ready_count() >= enough;
        if weight == 100 && done {
            let drained_at = ready_since(new).plus(limits::ROLLOUT_DRAIN_MS);
            drain(&mut old, state, observed, now < drained_at, drops);
        } else if weight == 100 {
            // What is lost of it now is not worth a load.
            old.replicas = old.replicas.min(old.serving_count());
        } else {
            // The new version makes up for what is lost of it, but not for the last.
            old.replicas = old.replicas.min(old.serving_count().max(1));
        }
        views.insert(old_key, old);
    }
}

/// Since when the version has served as it does.
fn ready_since(view: &View<'_>) -> Millis {
    let ready = view.serving.iter().filter(|placement| placement.phase == Phase::Ready);
    let whole = ready.map(|placement| placement.since);
    let rings = view.rings.serving.iter().filter(|held| held.ready).map(|held| held.since);
    whole.chain(rings).max().unwrap_or(Millis(0))
}

/// What has no requests any more goes.
fn drain<'a>(
    view: &mut View<'a>,
    state: &State,
    observed: &Observed,
    early: bool,
    drops: &mut Drops,
) {
    let stays = |placement: &Placement| {
        is_busy(observed, placement) || (early && placement.phase == Phase::Ready)
    };
    let (mut busy, mut idle) = (Vec::new(), Vec::new());
    for shelf in [&mut view.serving, &mut view.small, &mut view.leaving, &mut view.cooling] {
        let (stay, go): (Vec<_>, Vec<_>) =
            std::mem::take(shelf).into_iter().partition(|p| stays(p));
        busy.extend(stay);
        idle.extend(go);
    }
    drops.placements.extend(idle.iter().map(|placement| placement.assignment.id));
    if let Some(rolling) = &mut view.rolling {
        rolling.busy = busy;
    }
    let rings = std::mem::take(&mut view.rings);
    let all = [rings.serving, rings.old, rings.leaving, rings.cooling].into_iter().flatten();
    let last = |record: &ReplicaRecord| record.placements(state).any(stays);
    let (stay, go): (Vec<Held<'_>>, Vec<_>) = all.partition(|held| held.ready && last(held.record));
    view.rings.busy = stay;
    drops.rings.extend(go.iter().map(|held| held.record.id));
    view.replicas = 0;
}

/// Where there is no room for both versions, a replica of the old one goes for one of the new: one at a time, never the last that
/// serves, the one with the fewest requests first.
pub(super) fn replace_old(
    views: &mut [View<'_>],
    chosen: &mut Vec<Choice>,
    drops: &mut Drops,
    room: &mut Room,
    observed: &Observed,
) {
    for index in 0..views.len() {
        let Some(position) = giving_way(views, index, chosen, room, observed) else { continue };
        let (at, nth) = position;
        let gone = views[at].serving.remove(nth);
        drops.placements.push(gone.assignment.id);
        let bytes = held_bytes(&views[at].record.version, gone);
        room.give_back(gone.worker, views[at].key(), bytes);
        // It is not to be loaded anew where memory for it just went.
        views[at].replicas = views[at].replicas.min(views[at].serving_count());
        let view = &views[index];
        room.take(gone.worker, view.key(), view.least_bytes);
        let first = view.serving_count() == 0;
        chosen.push(Choice { view: index, first, worker: gone.worker });
    }
}

/// The old view of the new one at `index`, and which of its whole replicas could go.
fn giving_way(
    views: &[View<'_>],
    index: usize,
    chosen: &[Choice],
    room: &Room,
    observed: &Observed,
) -> Option<(usize, usize)> {
    let new = &views[index];
    let rolling = new.rolling.as_ref().filter(|rolling| !rolling.old)?;
    let placed = chosen.iter().any(|choice| choice.view == index);
    let needed = rolling.weight == 100 || new.serving_count() == 0;
    if placed || !needed || new.missing_whole() == 0 || !new.is_settled() {
        return None;
    }
    let (at, old) = views
        .iter()
        .enumerate()
        .find(|(at, view)| *at != index && view.rolls() && view.name() == new.name())?;
    let ready = |placement: &&Placement| placement.phase == Phase::Ready;
    let serving = old.serving.iter().filter(|p| ready(p)).count()
        + new.serving.iter().filter(|p| ready(p)).count()
        + old.rings.serving.iter().chain(&new.rings.serving).filter(|held| held.ready).count();
    if serving < 2 {
        return None;
    }
    let fits = |placement: &Placement| {
        let bytes = held_bytes(&old.record.version, placement);
        room.seats.get(&placement.worker).is_some_and(|seat| {
            let without = seat.taken_bytes.saturating_sub(bytes);
            new.may_use(placement.worker, seat)
                && without.saturating_add(new.least_bytes) <= seat.usable_bytes
        })
    };
    let requests = |placement: &Placement| {
        observed.requests.get(&placement.assignment.id).copied().unwrap_or(0)
    };
    let open = old.serving.iter().enumerate().filter(|(_, placement)| fits(placement));
    let least = open.min_by_key(|(_, p)| (requests(p), p.assignment.id));
    least.map(|(nth, _)| (at, nth))
}
