//! A rollout goes from a version that is kept to the one that its name stands for; of each name few versions are kept.

use crate::rollout::Rollout;
use crate::state::State;
use ollamamax_proto::limits;

pub(super) fn check(state: &State) -> Vec<String> {
    let wrong = |rollout: &&Rollout| {
        let current = state.models.get(&rollout.model).map(|record| &record.version);
        let old = state.old_version(&rollout.model);
        rollout.weight > 100
            || old.is_none()
            || current.is_none_or(|current| old.is_some_and(|old| old.blob == current.blob))
    };
    let wrong = state.rollouts.values().filter(wrong);
    let wrong = wrong.map(|rollout| format!("rollout of '{}' has not two versions", rollout.model));
    let names: std::collections::BTreeSet<_> =
        state.versions.values().map(|record| &record.model).collect();
    let many = names.into_iter().filter_map(|name| {
        let count = state.versions_of(name).count();
        let known = state.models.contains_key(name);
        (count > limits::MODEL_VERSIONS_COUNT || !known)
            .then(|| format!("{count} former versions of '{name}'"))
    });
    wrong.chain(many).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariant;
    use crate::testing::{World, name};

    fn violating() -> State {
        let mut world = World::with(&[1_000], &[100]);
        world.demand("m0", 1);
        world.plan();
        world.roll("m0", 120, 100);
        world.state.rollouts[&name("m0")].weight = 101;
        world.state
    }

    #[test]
    fn the_violating_state_is_found_out_by_this_invariant_alone() {
        let found: Vec<&str> =
            invariant::check(&violating()).iter().map(|violation| violation.invariant).collect();
        assert_eq!(found, ["rollout_has_versions"]);
    }
}
