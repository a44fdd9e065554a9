//! What must hold after every step, beside the invariants of the state itself, and what is remembered to tell.

use super::World;
use ollamamax_core::{Change, State, invariant};
use std::fmt;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant's name.
    pub invariant: &'static str,
    /// What violates it.
    pub detail: String,
    /// The step in which that showed.
    pub step: u64,
    /// When, in microseconds from the start.
    pub us: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { invariant, detail, step, us } = self;
        write!(f, "`{invariant}` does not hold in step {step}, at {us} us: {detail}")
    }
}

impl World {
    /// Notes a violation; the first one counts.
    pub(super) fn violated(&mut self, invariant: &'static str, detail: impl fmt::Display) {
        if self.violation.is_none() {
            let (step, us, detail) = (self.steps, self.now, detail.to_string());
            self.violation = Some(Violation { invariant, detail, step, us });
        }
    }

    /// Notes a violation unless `holds`.
    pub(super) fn demand(
        &mut self,
        holds: bool,
        invariant: &'static str,
        detail: impl FnOnce() -> String,
    ) {
        if !holds {
            self.violated(invariant, detail());
        }
    }

    /// What must hold of a committed command: it advances numbers, and the state it leaves keeps all its promises.
    pub(super) fn check_applied(&mut self, before: &State, changes: &[Change], after: &State) {
        let (old, new) = (&before.counters, &after.counters);
        self.demand(new.clock >= old.clock, "clock_goes_on", || format!("{old:?} {new:?}"));
        if changes.is_empty() {
            return;
        }
        let moved = changes.iter().any(Change::concerns_placement);
        let counted = new.revision == old.revision.next()
            && new.placement_revision.0 == old.placement_revision.0 + u64::from(moved);
        self.demand(counted, "revisions_count_up", || format!("{old:?} {new:?}"));
        for change in changes {
            match change {
                Change::PlacementPut(placement) => {
                    let (id, generation) =
                        (placement.assignment.id, placement.assignment.generation);
                    let known = before.placements.get(&id).map(|known| &known.assignment);
                    let same = known.is_some_and(|known| *known == placement.assignment);
                    // A life of a worker that ends takes its generations with it.
                    let fresh = generation.0 > old.last_generation
                        && (known.is_some() || id > old.last_assignment);
                    self.demand(fresh || same, "generations_are_never_reused", || {
                        format!("{placement:?} after {old:?}")
                    });
                }
                Change::NodePut(node) if !before.nodes.contains_key(&node.id) => {
                    let fresh = node.id > old.last_node;
                    self.demand(fresh, "node_ids_are_never_reused", || node.id.to_string());
                }
                _ => {}
            }
        }
        if let Some(wrong) = invariant::check(after).into_iter().next() {
            self.violated(wrong.invariant, wrong.detail);
        }
    }
}
