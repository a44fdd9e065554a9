//! No worker is given more than its memory, by the planner's numbers.

use crate::plan::{PlanLimits, member_bytes, need_bytes, usable_bytes};
use crate::replica::Member;
use crate::state::State;
use ollamamax_proto::{AssignmentId, WorkerId};
use std::collections::BTreeMap;

pub(super) fn check(state: &State) -> Vec<String> {
    let mut taken: BTreeMap<WorkerId, u64> = BTreeMap::new();
    let mut shares: BTreeMap<AssignmentId, (u32, u32)> = BTreeMap::new();
    for replica in state.replicas.values() {
        let heads = replica.heads();
        let share = |m: &Member| (m.assignment, (m.end_head.saturating_sub(m.first_head), heads));
        shares.extend(replica.members.iter().map(share));
    }
    for placement in state.placements.values() {
        let assignment = &placement.assignment;
        let known = state.known_version(&assignment.model, assignment.blob);
        let Some(version) = known else { continue };
        let bytes = match shares.get(&assignment.id) {
            Some(share) => member_bytes(version, assignment, *share),
            None => need_bytes(
                version,
                &assignment.stage,
                assignment.context_length,
                assignment.sequences_max,
            ),
        };
        let sum = taken.entry(placement.worker).or_default();
        *sum = sum.saturating_add(bytes);
    }
    let headroom = PlanLimits::default().headroom_percent;
    let mut found = Vec::new();
    for (id, bytes) in taken {
        let Some(worker) = state.workers.get(&id) else { continue };
        let usable = usable_bytes(&worker.device, headroom);
        if bytes > usable {
            found.push(format!("worker `{id}` is given {bytes} bytes of {usable}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariant;
    use crate::testing::World;
    use crate::testing::device;

    fn violating() -> State {
        let mut world = World::with(&[1_000], &[100]);
        world.demand("m0", 1);
        world.plan();
        let mut worker = world.worker(1).clone();
        worker.device = device(500);
        world.state.workers.insert(worker.id, worker);
        world.state
    }

    #[test]
    fn the_violating_state_is_found_out_by_this_invariant_alone() {
        let found: Vec<&str> =
            invariant::check(&violating()).iter().map(|violation| violation.invariant).collect();
        assert_eq!(found, ["memory_kept"]);
    }
}
