//! A worker holds a stage of a version of a model once.

use crate::state::State;
use std::collections::BTreeMap;

pub(super) fn check(state: &State) -> Vec<String> {
    let mut seen = BTreeMap::new();
    let mut found = Vec::new();
    for (id, placement) in &state.placements {
        let assignment = &placement.assignment;
        let what = (placement.worker, &assignment.model, assignment.blob, assignment.stage);
        if let Some(other) = seen.insert(what, id) {
            found.push(format!("assignments `{other}` and `{id}` are the same"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariant;
    use crate::testing::World;
    use ollamamax_proto::{AssignmentId, Generation};

    fn violating() -> State {
        let mut world = World::with(&[1_000], &[100]);
        world.demand("m0", 1);
        world.plan();
        let mut twin = world.state.placements[&AssignmentId(1)].clone();
        twin.assignment.id = AssignmentId(2);
        twin.assignment.generation = Generation(2);
        // Given out, and small enough for both, so that nothing else is wrong.
        twin.assignment.sequences_max = 1;
        world.state.placements.insert(AssignmentId(1), {
            let mut first = twin.clone();
            first.assignment.id = AssignmentId(1);
            first.assignment.generation = Generation(1);
            first
        });
        world.state.placements.insert(AssignmentId(2), twin);
        world.state.counters.last_assignment = AssignmentId(2);
        world.state.counters.last_generation = 2;
        world.state
    }

    #[test]
    fn the_violating_state_is_found_out_by_this_invariant_alone() {
        let found: Vec<&str> =
            invariant::check(&violating()).iter().map(|violation| violation.invariant).collect();
        assert_eq!(found, ["assignment_once"]);
    }
}
