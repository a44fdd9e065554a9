//! Ids and revisions in use were given out: none lies above its counter.

use crate::state::State;

pub(super) fn check(state: &State) -> Vec<String> {
    let counters = &state.counters;
    let mut found = Vec::new();
    for id in state.nodes.keys().filter(|id| **id > counters.last_node) {
        found.push(format!("node `{id}` above `{}`", counters.last_node));
    }
    for id in state.placements.keys().filter(|id| **id > counters.last_assignment) {
        found.push(format!("assignment `{id}` above `{}`", counters.last_assignment));
    }
    for placement in state.placements.values() {
        let generation = placement.assignment.generation;
        if generation.0 > counters.last_generation {
            found.push(format!("generation `{generation}` above `{}`", counters.last_generation));
        }
    }
    for id in state.replicas.keys().filter(|id| id.0 > counters.last_generation) {
        found.push(format!("replica `{id}` above `{}`", counters.last_generation));
    }
    for model in state.models.values().filter(|model| model.revision > counters.revision) {
        found.push(format!("model `{}` of a revision to come", model.name));
    }
    for checkpoint in state.checkpoints.values().filter(|c| c.revision > counters.revision) {
        found.push(format!("checkpoint `{}` of a revision to come", checkpoint.name));
    }
    if counters.placement_revision > counters.revision {
        found.push("more placement revisions than revisions".to_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariant;
    use crate::testing::World;
    use ollamamax_proto::NodeId;

    fn violating() -> State {
        let mut world = World::new();
        world.state.counters.last_node = NodeId(0);
        world.state
    }

    #[test]
    fn the_violating_state_is_found_out_by_this_invariant_alone() {
        let found: Vec<&str> =
            invariant::check(&violating()).iter().map(|violation| violation.invariant).collect();
        assert_eq!(found, ["ids_counted"]);
    }
}
