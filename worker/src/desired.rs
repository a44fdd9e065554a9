//! What to load and unload: the difference between what is held and what is wanted, fenced by revision and generation.
//!
//! A set names all assignments of this worker as of a revision, so any one set is enough and a lost one does no harm.
//! Sets may come from nodes that lag behind one another: a set older than one already seen is ignored, and within a
//! set an assignment older than the one held is ignored too.

use ollamamax_proto::placement::Assigned;
use ollamamax_proto::{AssignmentId, Generation, Revision};
use std::collections::BTreeMap;

/// All assignments of this worker as of a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AssignmentSet {
    /// The state they were read from.
    pub revision: Revision,
    /// In no particular order; of several with one id the newest generation counts.
    pub assignments: Vec<Assigned>,
}

/// One thing to do to come closer to the set. Unloads come before loads: they give memory back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give this up.
    Unload {
        /// Which one.
        id: AssignmentId,
        /// The generation held.
        generation: Generation,
    },
    /// Fetch and load this.
    Load(Box<Assigned>),
}

/// The newest revision seen: the fence against sets from nodes that lag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fence {
    seen: Revision,
}

impl Fence {
    /// Whether a set of `revision` may be acted on; remembers it if so. The same revision may come again.
    pub fn admit(&mut self, revision: Revision) -> bool {
        let fresh = revision >= self.seen;
        self.seen = self.seen.max(revision);
        fresh
    }

    /// A registration was committed at `revision`. A lower one than already seen can only come from another history (a
    /// cluster that was set up anew), whose sets must not be taken for old ones.
    pub fn registered(&mut self, revision: Revision) {
        self.seen = self.seen.min(revision);
    }
}

/// What to do so that exactly the `wanted` assignments are held. `held` maps ids to the generation held or being loaded.
pub fn diff(held: &BTreeMap<AssignmentId, Generation>, wanted: &[Assigned]) -> Vec<Action> {
    let mut newest: BTreeMap<AssignmentId, &Assigned> = BTreeMap::new();
    for assigned in wanted {
        let assignment = &assigned.assignment;
        let entry = newest.entry(assignment.id).or_insert(assigned);
        if assignment.generation > entry.assignment.generation {
            *entry = assigned;
        }
    }
    let replaced = |id: &AssignmentId, generation: &Generation| {
        newest.get(id).is_none_or(|wanted| wanted.assignment.generation > *generation)
    };
    let unloads = held
        .iter()
        .filter(|(id, generation)| replaced(id, generation))
        .map(|(&id, &generation)| Action::Unload { id, generation });
    let loads = newest
        .values()
        .filter(|wanted| {
            let wanted = &wanted.assignment;
            held.get(&wanted.id).is_none_or(|held| *held < wanted.generation)
        })
        .map(|&wanted| Action::Load(Box::new(wanted.clone())));
    unloads.chain(loads).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollamamax_proto::Digest;
    use ollamamax_proto::placement::{Assignment, Stage};
    use proptest::prelude::*;

    fn assigned(id: u64, generation: u64) -> Assigned {
        let assignment = Assignment {
            id: AssignmentId(id),
            generation: Generation(generation),
            model: "m".parse().expect("a name"),
            blob: Digest::of(b"x"),
            blob_bytes: 1,
            stage: Stage::whole(1),
            context_length: 16,
            sequences_max: 1,
        };
        Assigned { assignment, ring: None }
    }

    fn apply(held: &mut BTreeMap<AssignmentId, Generation>, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Unload { id, generation } => {
                    assert_eq!(held.remove(id), Some(*generation), "only what is held is unloaded");
                }
                Action::Load(wanted) => {
                    let Assignment { id, generation, .. } = wanted.assignment;
                    let before = held.insert(id, generation);
                    assert_eq!(before, None, "nothing is loaded over something held");
                }
            }
        }
    }

    fn pairs() -> impl Strategy<Value = Vec<(u64, u64)>> {
        prop::collection::vec((0u64..6, 0u64..4), 0..8)
    }

    proptest! {
        #[test]
        fn acting_on_the_diff_reaches_the_wanted_set_and_never_goes_back(
            held in pairs(), wanted in pairs(),
        ) {
            let before: BTreeMap<_, _> =
                held.into_iter().map(|(id, g)| (AssignmentId(id), Generation(g))).collect();
            let wanted: Vec<Assigned> = wanted.into_iter().map(|(id, g)| assigned(id, g)).collect();
            let mut held = before.clone();
            apply(&mut held, &diff(&before, &wanted));
            for Assigned { assignment: wanted, .. } in &wanted {
                prop_assert!(held[&wanted.id] >= wanted.generation);
            }
            for (id, generation) in &held {
                prop_assert!(wanted.iter().any(|wanted| wanted.assignment.id == *id));
                prop_assert!(before.get(id).is_none_or(|before| before <= generation));
            }
            prop_assert_eq!(diff(&held, &wanted), vec![]);
        }

        #[test]
        fn revisions_never_go_back_without_a_registration(revisions in prop::collection::vec(0u64..20, 1..30)) {
            let mut fence = Fence::default();
            let mut acted = Revision(0);
            for revision in revisions.into_iter().map(Revision) {
                if fence.admit(revision) {
                    prop_assert!(revision >= acted);
                    acted = revision;
                } else {
                    prop_assert!(revision < acted);
                }
            }
        }
    }

    #[test]
    fn a_registration_in_another_history_lowers_the_fence() {
        let mut fence = Fence::default();
        assert!(fence.admit(Revision(500)));
        assert!(!fence.admit(Revision(3)));
        fence.registered(Revision(2));
        assert!(fence.admit(Revision(3)));
        fence.registered(Revision(900));
        assert!(fence.admit(Revision(4)), "a set may lag behind the registration it is under");
    }
}
