//! Placements are on workers that exist and are not down.

use crate::state::State;
use ollamamax_proto::placement::WorkerStatus;

pub(super) fn check(state: &State) -> Vec<String> {
    let mut found = Vec::new();
    for (id, placement) in &state.placements {
        let worker = placement.worker;
        match state.workers.get(&worker).map(|record| record.status) {
            None => found.push(format!("assignment `{id}` is on unknown worker `{worker}`")),
            Some(WorkerStatus::Down) => {
                found.push(format!("assignment `{id}` is on down worker `{worker}`"));
            }
            Some(_) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariant;
    use crate::testing::World;

    fn violating() -> State {
        let mut world = World::with(&[1_000], &[100]);
        world.demand("m0", 1);
        world.plan();
        let mut worker = world.worker(1).clone();
        worker.status = WorkerStatus::Down;
        world.state.workers.insert(worker.id, worker);
        world.state
    }

    #[test]
    fn the_violating_state_is_found_out_by_this_invariant_alone() {
        let found: Vec<&str> =
            invariant::check(&violating()).iter().map(|violation| violation.invariant).collect();
        assert_eq!(found, ["placement_has_worker"]);
    }
}
