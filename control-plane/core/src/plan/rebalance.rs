//! Moves that would even out what the workers hold, when somebody asks for them.
//!
//! A move goes from the fullest worker to the emptiest, by share of memory, and only if the fuller one stays the fuller
//! one: doing it again finds nothing to undo.

use super::room::{Key, Room, held_bytes};
use super::view;
use super::{Observed, PlanLimits};
use crate::orders::Migration;
use crate::state::State;
use ollamamax_proto::placement::{Phase, WorkerStatus};
use ollamamax_proto::{Millis, WorkerId, limits};
use std::collections::BTreeSet;

/// What it evens out, which model, from where to where, and its bytes.
type Move<'a> = (u64, &'a Key, WorkerId, WorkerId, u64);

/// At most [`limits::REBALANCE_MOVES_COUNT`] moves of whole models, each of another model.
pub fn rebalance(
    state: &State,
    observed: &Observed,
    plan_limits: &PlanLimits,
    now: Millis,
) -> Vec<Migration> {
    let mut room = Room::new(state, observed, plan_limits);
    let (views, _) = view::sort(state, observed, plan_limits, now, &mut room);
    let mut moved: BTreeSet<_> = state.migrations.keys().cloned().collect();
    let mut moves = Vec::new();
    while moves.len() < limits::REBALANCE_MOVES_COUNT {
        let mut best: Option<Move<'_>> = None;
        for view in views.iter().filter(|view| !view.rolls() && !moved.contains(view.name())) {
            let ready = view.serving.iter().filter(|placement| placement.phase == Phase::Ready);
            for placement in ready {
                let (from, bytes) = (placement.worker, held_bytes(&view.record.version, placement));
                let open = room
                    .seats
                    .iter()
                    .filter(|(id, seat)| view.may_use(**id, seat) && seat.free_bytes() >= bytes);
                for (&to, _) in open {
                    let Some(gain) = gain(&room, from, to, bytes) else { continue };
                    if best.as_ref().is_none_or(|best| gain > best.0) {
                        best = Some((gain, view.key(), from, to, bytes));
                    }
                }
            }
        }
        let Some((_, key, from, to, bytes)) = best else { break };
        room.give_back(from, key, bytes);
        room.take(to, key, bytes);
        let name = key.0.clone();
        moved.insert(name.clone());
        moves.push(Migration { model: name, from, to });
    }
    moves
}

/// By how many thousandths of its memory the fuller worker stays fuller than the other would be; `None`: it would not.
pub(super) fn gain(room: &Room, from: WorkerId, to: WorkerId, bytes: u64) -> Option<u64> {
    let share = |id, more: u64, less: u64| {
        let seat = room.seats.get(&id).filter(|seat| seat.status == WorkerStatus::Ready)?;
        let taken = (seat.taken_bytes + more).saturating_sub(less);
        let share = u128::from(taken) * 1_000 / u128::from(seat.usable_bytes.max(1));
        u64::try_from(share).ok()
    };
    let before = share(from, 0, 0)?;
    let after = share(to, bytes, 0)?.max(share(from, 0, bytes)?);
    let gain = before.checked_sub(after)?;
    (gain >= limits::REBALANCE_GAIN_THOUSANDTHS).then_some(gain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::testing::{World, register};

    fn moves(world: &World) -> Vec<Migration> {
        rebalance(&world.state, &Observed::default(), &PlanLimits::default(), world.now)
    }

    #[test]
    fn a_new_worker_gets_its_share_and_then_nothing_moves_any_more() {
        let mut world = World::with(&[100_000], &[20_000, 20_000, 20_000, 20_000]);
        for model in ["m0", "m1", "m2", "m3"] {
            world.demand(model, 1);
        }
        world.plan();
        world.all_ready();
        assert!(moves(&world).is_empty(), "there is nowhere to go");
        world.ok(register(2, 1, 100_000));
        let planned = moves(&world);
        assert_eq!(planned.len(), 2);
        for Migration { model, from, to } in planned {
            world.ok(Command::MigrateModel { name: model, from, to });
        }
        for _ in 0..3 {
            world.plan();
            world.all_ready();
        }
        let on = |worker| world.state.placements.values().filter(|p| p.worker == worker).count();
        assert_eq!((on(WorkerId(1)), on(WorkerId(2))), (2, 2));
        assert!(moves(&world).is_empty());
    }
}
