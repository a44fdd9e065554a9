//! Moves that nobody asked for: away from a worker that has turned slow or is full, to one that is clearly better.
//!
//! Little and seldom. A model is left alone for [`limits::MOVE_COOLDOWN_MS`] after anything of it has changed place or
//! phase, which the state itself remembers; it must be complete and ready; and the gain must pass a threshold in either
//! kind of move. A move is a migration: the old replica serves until the new one does. So the same model never goes back
//! and forth, and the last replica never stops.

use super::room::{Room, held_bytes};
use super::view::{self, View};
use super::{Observed, PlanLimits, rebalance};
use crate::orders::Migration;
use crate::state::State;
use ollamamax_proto::placement::{Phase, WorkerStatus};
use ollamamax_proto::{Millis, ModelName, WorkerId, limits};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// The least is done first. The order of the fields is the policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Urgency {
    /// Slow workers come before full ones: their clients wait.
    full: bool,
    /// In thousandths: of the time it takes, or of the memory that is evened out.
    gain: Reverse<u64>,
    /// Decides what is left, the same way each time.
    model: ModelName,
    from: WorkerId,
    to: WorkerId,
}

/// The moves to begin now: with those on their way at most [`limits::REBALANCE_MOVES_COUNT`].
pub fn moves(
    state: &State,
    observed: &Observed,
    plan_limits: &PlanLimits,
    now: Millis,
) -> Vec<Migration> {
    let mut room = Room::new(state, observed, plan_limits);
    let (views, _) = view::sort(state, observed, plan_limits, now, &mut room);
    let cool: Vec<&View<'_>> = views.iter().filter(|view| is_cool(state, view, now)).collect();
    let mut moved: BTreeSet<ModelName> = state.migrations.keys().cloned().collect();
    let mut begun = Vec::new();
    while moved.len() < limits::REBALANCE_MOVES_COUNT {
        let open = cool.iter().filter(|view| !moved.contains(view.name()));
        let Some((urgency, bytes)) = open.filter_map(|view| best(view, &room)).min() else { break };
        let Urgency { model, from, to, .. } = urgency;
        let key = cool.iter().find(|view| *view.name() == model).map(|view| view.key());
        let Some(key) = key else { break };
        room.give_back(from, key, bytes);
        room.take(to, key, bytes);
        moved.insert(model.clone());
        begun.push(Migration { model, from, to });
    }
    begun
}

/// Whether the model is as wanted, takes requests everywhere, and has been so for a while.
fn is_cool(state: &State, view: &View<'_>, now: Millis) -> bool {
    let mut held = state.placements.values().filter(|held| held.assignment.model == *view.name());
    // What changes its version moves anyway.
    !view.rolls()
        && view.missing() == 0
        && view.is_settled()
        && view.small.is_empty()
        && view.leaving.is_empty()
        && held.all(|held| {
            held.phase == Phase::Ready && now >= held.since.plus(limits::MOVE_COOLDOWN_MS)
        })
}

fn best(view: &View<'_>, room: &Room) -> Option<(Urgency, u64)> {
    let mut best: Option<(Urgency, u64)> = None;
    for placement in &view.serving {
        let (from, bytes) = (placement.worker, held_bytes(&view.record.version, placement));
        let here = room.seats.get(&from).filter(|seat| seat.status == WorkerStatus::Ready);
        let Some(here) = here else { continue };
        let full = here.taken_bytes as u128 * 1_000
            >= u128::from(here.usable_bytes) * u128::from(limits::WORKER_FULL_THOUSANDTHS);
        if !here.slow && !full {
            continue;
        }
        let open = room.seats.iter().filter(|(id, seat)| {
            view.may_use(**id, seat) && !seat.slow && seat.free_bytes() >= bytes
        });
        for (&to, there) in open {
            let faster = here.ns_per_mib.saturating_mul(100)
                >= there.ns_per_mib.saturating_mul(limits::MOVE_SPEED_PERCENT);
            let gain = match here.slow && faster {
                true => Some(here.ns_per_mib.saturating_mul(1_000) / there.ns_per_mib.max(1)),
                false => rebalance::gain(room, from, to, bytes).filter(|_| full),
            };
            let Some(gain) = gain else { continue };
            let full = !(here.slow && faster);
            let model = view.name().clone();
            let urgency = Urgency { full, gain: Reverse(gain), model, from, to };
            if best.as_ref().is_none_or(|(best, _)| urgency < *best) {
                best = Some((urgency, bytes));
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::testing::{World, register};

    fn observed(slow: &[u128]) -> Observed {
        let speed = |worker: u128| if slow.contains(&worker) { 400_000 } else { 100_000 };
        Observed {
            slow: slow.iter().map(|id| WorkerId(*id)).collect(),
            ns_per_mib: (1..=9).map(|worker| (WorkerId(worker), speed(worker))).collect(),
            ..Observed::default()
        }
    }

    fn moves_of(world: &World, slow: &[u128]) -> Vec<(String, u128, u128)> {
        let moves = moves(&world.state, &observed(slow), &PlanLimits::default(), world.now);
        moves.iter().map(|m| (m.model.model().to_owned(), m.from.0, m.to.0)).collect()
    }

    fn settled(memories: &[u64], weights: &[u64]) -> World {
        let mut world = World::with(memories, weights);
        for nth in 0..weights.len() {
            world.demand(&format!("m{nth}"), 1);
        }
        world.plan();
        world.all_ready();
        world.now = world.now.plus(limits::MOVE_COOLDOWN_MS);
        world
    }

    #[test]
    fn a_slow_worker_gives_its_models_away_where_a_fast_one_has_room() {
        let mut world = settled(&[9_000], &[1_000]);
        assert!(moves_of(&world, &[1]).is_empty(), "there is nobody else");
        world.ok(register(2, 1, 9_000));
        assert!(moves_of(&world, &[]).is_empty(), "nothing is wrong");
        assert!(moves_of(&world, &[1, 2]).is_empty(), "the other is slow, too");
        assert_eq!(moves_of(&world, &[1]), [("m0".to_owned(), 1, 2)]);
    }

    #[test]
    fn a_model_that_has_just_moved_stays_where_it_is() {
        let mut world = settled(&[9_000, 9_000], &[1_000]);
        let (from, to) = (WorkerId(1), WorkerId(2));
        world.ok(Command::MigrateModel { name: crate::testing::name("m0"), from, to });
        for _ in 0..2 {
            world.plan();
            world.all_ready();
        }
        assert_eq!(world.map(), ["m0@2 ready"]);
        assert!(moves_of(&world, &[2]).is_empty());
        world.now = world.now.plus(limits::MOVE_COOLDOWN_MS);
        assert_eq!(moves_of(&world, &[2]), [("m0".to_owned(), 2, 1)]);
    }

    #[test]
    fn a_full_worker_gives_away_until_it_is_not_full() {
        let mut world = settled(&[100_000], &[28_000, 28_000, 28_000]);
        world.ok(register(2, 1, 100_000));
        let moves = moves_of(&world, &[]);
        assert_eq!(moves.len(), 1, "{moves:?}");
    }

    #[test]
    fn no_more_than_a_few_are_on_their_way_at_once() {
        let mut world = settled(&[90_000], &[1_000; 8]);
        world.ok(register(2, 1, 90_000));
        assert_eq!(moves_of(&world, &[1]).len(), limits::REBALANCE_MOVES_COUNT);
    }
}
