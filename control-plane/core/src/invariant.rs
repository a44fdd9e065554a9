//! What holds of every state, each with a name, a file and one violating example. Used in unit
//! tests, cluster tests and chaos.

mod access_has_owner;
mod assignment_once;
mod cluster_first;
mod demand_has_model;
mod generation_unique;
mod ids_counted;
mod keys_match;
mod memory_kept;
mod part_in_replica;
mod placement_has_model;
mod placement_has_worker;
mod replica_complete;
mod rollout_has_versions;
mod sizes_bounded;
mod trail_unbroken;

use crate::state::State;

/// A state that should not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant's name.
    pub invariant: &'static str,
    /// What violates it.
    pub detail: String,
}

type Check = fn(&State) -> Vec<String>;

/// Every invariant by name.
const ALL: [(&str, Check); 15] = [
    ("cluster_first", cluster_first::check),
    ("keys_match", keys_match::check),
    ("ids_counted", ids_counted::check),
    ("generation_unique", generation_unique::check),
    ("demand_has_model", demand_has_model::check),
    ("placement_has_model", placement_has_model::check),
    ("placement_has_worker", placement_has_worker::check),
    ("assignment_once", assignment_once::check),
    ("replica_complete", replica_complete::check),
    ("part_in_replica", part_in_replica::check),
    ("rollout_has_versions", rollout_has_versions::check),
    ("memory_kept", memory_kept::check),
    ("sizes_bounded", sizes_bounded::check),
    ("access_has_owner", access_has_owner::check),
    ("trail_unbroken", trail_unbroken::check),
];

/// Everything that is wrong with `state`; empty when nothing is.
pub fn check(state: &State) -> Vec<Violation> {
    ALL.iter()
        .flat_map(|&(invariant, check)| {
            check(state).into_iter().map(move |detail| Violation { invariant, detail })
        })
        .collect()
}
