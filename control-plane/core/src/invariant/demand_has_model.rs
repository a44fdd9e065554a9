//! Only models of the catalogue are demanded.

use crate::state::State;

pub(super) fn check(state: &State) -> Vec<String> {
    let unknown = state.demands.keys().filter(|name| !state.models.contains_key(*name));
    unknown.map(|name| format!("model '{name}' is demanded but unknown")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariant;
    use crate::testing::World;

    fn violating() -> State {
        let mut world = World::with(&[], &[100]);
        world.demand("m0", 1);
        world.state.models.clear();
        world.state
    }

    #[test]
    fn the_violating_state_is_found_out_by_this_invariant_alone() {
        let found: Vec<&str> =
            invariant::check(&violating()).iter().map(|violation| violation.invariant).collect();
        assert_eq!(found, ["demand_has_model"]);
    }
}
