//! One leader per term; and as long as a node lives, neither its term nor what it has applied goes back.

use super::{Bars, Verdict};
use crate::history::History;
use std::collections::BTreeMap;

/// Judges.
pub fn check(history: &History, _: &Bars) -> Verdict {
    let mut sightings: Vec<_> = history.sightings.iter().collect();
    sightings.sort_by_key(|sighting| sighting.at_us);
    let mut leaders: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
    let mut last: BTreeMap<usize, (u32, u64, u64)> = BTreeMap::new();
    let mut findings = Vec::new();
    for sighting in &sightings {
        let (node, at) = (sighting.node, sighting.at_us / 1_000);
        if let Some(leader) = sighting.leader {
            let (first, whose) = leaders.entry(sighting.term).or_insert((leader, node));
            if *first != leader {
                findings.push(format!(
                    "term {}: node {} says that {first} leads, node {} at {at} ms that {leader} does",
                    sighting.term,
                    *whose + 1,
                    node + 1
                ));
            }
        }
        let now = (sighting.life, sighting.term, sighting.applied);
        if let Some((life, term, applied)) = last.insert(node, now) {
            if sighting.term < term {
                findings.push(format!(
                    "node {} went from term {term} back to {} at {at} ms",
                    node + 1,
                    sighting.term
                ));
            }
            if life == sighting.life && sighting.applied < applied {
                findings.push(format!(
                    "node {} had applied {applied} entries and at {at} ms only {}",
                    node + 1,
                    sighting.applied
                ));
            }
        }
    }
    Verdict::of(findings, sightings.len(), "no node said who leads")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Sighting;

    fn seen(at_us: u64, node: usize, term: u64, leader: Option<u64>) -> Sighting {
        Sighting { at_us, node, life: 0, term, leader, revision: 0, applied: 0 }
    }

    fn judge(sightings: Vec<Sighting>) -> Verdict {
        check(&History { sightings, ..History::default() }, &Bars::default())
    }

    #[test]
    fn one_leader_after_the_other_passes_and_two_in_a_term_fail() {
        let mut sightings = vec![
            seen(1, 0, 1, Some(1)),
            seen(2, 1, 1, Some(1)),
            seen(3, 1, 2, None),
            seen(4, 1, 2, Some(2)),
            // It has not heard yet.
            seen(5, 0, 1, Some(1)),
        ];
        assert_eq!(judge(sightings.clone()), Verdict::Pass { looked_at: 5 });
        sightings.push(seen(6, 2, 2, Some(3)));
        assert!(judge(sightings).is_failure());
        assert!(matches!(judge(Vec::new()), Verdict::Unknown { .. }));
    }

    #[test]
    fn a_node_that_forgets_its_term_or_what_it_applied_fails() {
        assert!(judge(vec![seen(1, 0, 3, None), seen(2, 0, 2, None)]).is_failure());
        let applied = |life| {
            let before = Sighting { applied: 9, ..seen(1, 0, 3, None) };
            judge(vec![before, Sighting { applied: 8, life, ..seen(2, 0, 3, None) }])
        };
        assert!(applied(0).is_failure());
        assert!(applied(1).is_pass(), "a node that was started again applies its log again");
    }
}
