//! The members of every replica exist, are on workers of their own, and hold each layer and head of its model once.

use crate::record::Placement;
use crate::replica::{Cover, ReplicaRecord, covers};
use crate::state::State;
use ollamamax_proto::WorkerId;
use std::collections::BTreeSet;

pub(super) fn check(state: &State) -> Vec<String> {
    let wrong = |replica: &ReplicaRecord| {
        wrong(state, replica).map(|reason| format!("replica `{}`: {reason}", replica.id))
    };
    state.replicas.values().filter_map(wrong).collect()
}

fn wrong(state: &State, replica: &ReplicaRecord) -> Option<String> {
    let placements: Vec<&Placement> = replica.placements(state).collect();
    if placements.len() != replica.members.len() {
        return Some(format!("has {} of {} members", placements.len(), replica.members.len()));
    }
    let workers: BTreeSet<WorkerId> = placements.iter().map(|placement| placement.worker).collect();
    if workers.len() != placements.len() {
        return Some("has two members on one worker".to_owned());
    }
    if placements.iter().any(|placement| placement.assignment.model != replica.model) {
        return Some("has members of another model".to_owned());
    }
    let parts: Vec<Cover> = placements
        .iter()
        .zip(&replica.members)
        .map(|(placement, m)| (placement.assignment.stage, m.first_head, m.end_head))
        .collect();
    // That the model is there is for another to say.
    let blob = placements.first()?.assignment.blob;
    if placements.iter().any(|placement| placement.assignment.blob != blob) {
        return Some("has members of two versions".to_owned());
    }
    let layers = state.known_version(&replica.model, blob)?.facts.layers;
    covers(layers, &parts).err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariant;
    use crate::testing::World;

    fn violating() -> State {
        let mut world = World::with_ring();
        let mut replica = world.replica().clone();
        replica.members.reverse();
        world.state.replicas.insert(replica.id, replica);
        world.state
    }

    #[test]
    fn the_violating_state_is_found_out_by_this_invariant_alone() {
        let found: Vec<&str> =
            invariant::check(&violating()).iter().map(|violation| violation.invariant).collect();
        assert_eq!(found, ["replica_complete"]);
    }
}
