//! Nothing exists before the cluster has its identity.

use crate::state::State;

pub(super) fn check(state: &State) -> Vec<String> {
    let rest = State { cluster: None, ..state.clone() };
    if state.cluster.is_none() && rest != State::default() {
        return vec!["there are records but no cluster".to_owned()];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariant;
    use crate::testing::World;

    fn violating() -> State {
        let mut world = World::with(&[1_000], &[]);
        world.state.cluster = None;
        world.state
    }

    #[test]
    fn the_violating_state_is_found_out_by_this_invariant_alone() {
        let found: Vec<&str> =
            invariant::check(&violating()).iter().map(|violation| violation.invariant).collect();
        assert_eq!(found, ["cluster_first"]);
    }
}
