//! What is placed is what the model's name stands for or stood for, and lies within its layers.

use crate::state::State;

pub(super) fn check(state: &State) -> Vec<String> {
    let mut found = Vec::new();
    for (id, placement) in &state.placements {
        let assignment = &placement.assignment;
        let Some(record) = state.models.get(&assignment.model) else {
            found.push(format!("assignment `{id}` is of unknown model '{}'", assignment.model));
            continue;
        };
        let known = state.known_version(&assignment.model, assignment.blob);
        if known.is_none() {
            found.push(format!("assignment `{id}` is of no known version of '{}'", record.name));
        }
        let version = known.unwrap_or(&record.version);
        let stage = &assignment.stage;
        let inside = stage.first_layer <= stage.end_layer
            && stage.end_layer <= version.facts.layers
            && stage.shard < stage.shards;
        if !inside {
            found.push(format!("assignment `{id}` lies outside of '{}'", record.name));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariant;
    use crate::testing::World;
    use crate::testing::{name, version};

    fn violating() -> State {
        let mut world = World::with(&[1_000], &[100]);
        world.demand("m0", 1);
        world.plan();
        let mut model = world.state.models[&name("m0")].clone();
        model.version.blob = version(7).blob;
        world.state.models.insert(name("m0"), model);
        world.state
    }

    #[test]
    fn the_violating_state_is_found_out_by_this_invariant_alone() {
        let found: Vec<&str> =
            invariant::check(&violating()).iter().map(|violation| violation.invariant).collect();
        assert_eq!(found, ["placement_has_model"]);
    }
}
