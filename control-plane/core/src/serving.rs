//! Which placements take requests for a model: whole ones, and the drivers of replicas of which every member is ready.

use crate::record::{ModelRecord, Placement, WorkerRecord};
use crate::state::State;
use ollamamax_proto::placement::{Phase, WorkerStatus};

/// The placements that can answer for `model` now, suspect workers included. Where there is none, those on workers that
/// an operator drains: they answer until another does.
pub fn serving<'a>(
    state: &'a State,
    model: &ModelRecord,
) -> Vec<(&'a WorkerRecord, &'a Placement)> {
    let usable = |worker: &WorkerRecord| {
        matches!(worker.status, WorkerStatus::Ready | WorkerStatus::Suspect)
    };
    let found = of(state, model, &usable);
    if !found.is_empty() || state.orders.is_empty() {
        return found;
    }
    let drained = |worker: &WorkerRecord| {
        let ordered = state.orders.get(&worker.id).is_some_and(|orders| orders.drained.is_some());
        usable(worker) || (ordered && worker.status == WorkerStatus::Draining)
    };
    of(state, model, &drained)
}

fn of<'a>(
    state: &'a State,
    model: &ModelRecord,
    usable: &dyn Fn(&WorkerRecord) -> bool,
) -> Vec<(&'a WorkerRecord, &'a Placement)> {
    let layers = model.version.facts.layers;
    let ready = |placement: &'a Placement| {
        let current = placement.assignment.blob == model.version.blob;
        let worker = state.workers.get(&placement.worker).filter(|worker| usable(worker))?;
        (placement.phase == Phase::Ready && current).then_some((worker, placement))
    };
    let whole = state
        .placements
        .values()
        .filter(|placement| placement.assignment.stage.is_whole(layers))
        .filter_map(ready);
    let drivers = state.replicas.values().filter(|replica| replica.model == model.name);
    let drivers = drivers
        .filter(|replica| replica.placements(state).all(|member| ready(member).is_some()))
        .filter_map(|replica| replica.driver(state).and_then(ready));
    whole.chain(drivers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::testing::{World, name};
    use ollamamax_proto::WorkerId;

    fn who(world: &World) -> Vec<u128> {
        let model = &world.state.models[&name("m0")];
        serving(&world.state, model).iter().map(|(worker, _)| worker.id.0).collect()
    }

    #[test]
    fn the_driver_answers_when_every_member_is_ready() {
        let mut world = World::with_ring();
        assert!(who(&world).is_empty());
        let ids: Vec<_> = world.state.placements.keys().copied().collect();
        let report = world.report_of(ids[1], Phase::Ready);
        world.ok(report);
        assert!(who(&world).is_empty(), "the first stage is not ready");
        world.all_ready();
        assert_eq!(who(&world), [2]);
        world.status(1, WorkerStatus::Suspect);
        assert_eq!(who(&world), [2]);
        world.status(1, WorkerStatus::Draining);
        assert!(who(&world).is_empty(), "its process ends");
    }

    #[test]
    fn a_worker_that_an_operator_drains_answers_until_another_does() {
        let mut world = World::with(&[900, 900], &[100]);
        world.demand("m0", 1);
        world.plan();
        world.all_ready();
        world.ok(Command::DrainWorker { id: WorkerId(1), reason: "repair".into() });
        world.plan();
        assert_eq!(who(&world), [1]);
        world.all_ready();
        assert_eq!(who(&world), [2]);
    }
}
