//! The trail has no gap, and each record follows from the one before.

use crate::state::State;
use ollamamax_proto::audit::Verifier;

pub(super) fn check(state: &State) -> Vec<String> {
    let mut verifier = Verifier::default();
    // The last ones: those before were looked at when they were the last.
    let records = state.access.trail.values().rev().take(8).collect::<Vec<_>>();
    let broken = records.into_iter().rev().find_map(|record| verifier.next(record).err());
    broken.map(|broken| broken.to_string()).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariant;
    use ollamamax_proto::Millis;
    use ollamamax_proto::audit::{Note, Record};

    fn violating() -> State {
        let mut state = crate::testing::World::with(&[], &[]).state;
        let record = Record::following(None, Millis(1), Note::default());
        state.access.trail.insert(1, Record { at: Millis(2), ..record });
        state
    }

    #[test]
    fn the_violating_state_is_found_out_by_this_invariant_alone() {
        let found: Vec<&str> =
            invariant::check(&violating()).iter().map(|violation| violation.invariant).collect();
        assert_eq!(found, ["trail_unbroken"]);
    }
}
