//! A placement of a part of a model belongs to exactly one replica, a whole one to none.

use crate::state::State;
use ollamamax_proto::AssignmentId;
use std::collections::BTreeMap;

pub(super) fn check(state: &State) -> Vec<String> {
    let mut replicas: BTreeMap<AssignmentId, usize> = BTreeMap::new();
    for member in state.replicas.values().flat_map(|replica| &replica.members) {
        *replicas.entry(member.assignment).or_default() += 1;
    }
    let mut found = Vec::new();
    for (id, placement) in &state.placements {
        let assignment = &placement.assignment;
        let known = state.known_version(&assignment.model, assignment.blob);
        let Some(version) = known else { continue };
        let whole = assignment.stage.is_whole(version.facts.layers);
        let count = replicas.get(id).copied().unwrap_or(0);
        if count != usize::from(!whole) {
            found.push(format!("assignment `{id}` is in {count} replicas"));
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
        let mut world = World::with_ring();
        let replica = world.replica().id;
        world.state.replicas.remove(&replica);
        world.state
    }

    #[test]
    fn the_violating_state_is_found_out_by_this_invariant_alone() {
        let mut found: Vec<&str> =
            invariant::check(&violating()).iter().map(|violation| violation.invariant).collect();
        found.dedup();
        assert_eq!(found, ["part_in_replica"]);
    }
}
