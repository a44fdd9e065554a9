//! No two assignments share a generation.

use crate::state::State;
use std::collections::BTreeMap;

pub(super) fn check(state: &State) -> Vec<String> {
    let mut seen = BTreeMap::new();
    let mut found = Vec::new();
    for (id, placement) in &state.placements {
        let generation = placement.assignment.generation;
        if let Some(other) = seen.insert(generation, id) {
            found.push(format!("assignments `{other}` and `{id}` share generation `{generation}`"));
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
        let mut world = World::with(&[1_000, 1_000], &[100]);
        world.demand("m0", 2);
        world.plan();
        let mut second = world.state.placements[&AssignmentId(2)].clone();
        second.assignment.generation = Generation(1);
        world.state.placements.insert(AssignmentId(2), second);
        world.state
    }

    #[test]
    fn the_violating_state_is_found_out_by_this_invariant_alone() {
        let found: Vec<&str> =
            invariant::check(&violating()).iter().map(|violation| violation.invariant).collect();
        assert_eq!(found, ["generation_unique"]);
    }
}
