//! A client never sees an older state than it has seen or made, whichever nodes it asks: the revisions in its answers never fall.

use super::{Bars, Verdict};
use crate::history::{History, Operation, Outcome};
use std::collections::BTreeMap;

/// Judges.
pub fn check(history: &History, _: &Bars) -> Verdict {
    let mut clients: BTreeMap<usize, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        clients.entry(operation.client).or_default().push(operation);
    }
    let (mut findings, mut looked_at) = (Vec::new(), 0);
    for (client, mut operations) in clients {
        operations.sort_by_key(|operation| operation.begun_us);
        let mut newest = 0;
        for operation in operations {
            let (revision, is_new) = match &operation.outcome {
                Outcome::Read { state: Some(state), .. } => (*state, false),
                Outcome::Written(revision) => (*revision, true),
                _ => continue,
            };
            looked_at += 1;
            if revision < newest || is_new && revision == newest {
                findings.push(format!(
                    "client {client} at node {} at {} ms: revision {revision} after {newest}",
                    operation.node + 1,
                    operation.begun_us / 1_000
                ));
            }
            newest = newest.max(revision);
        }
    }
    Verdict::of(findings, looked_at, "no client saw a revision")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{history, read, wrote};
    use super::*;

    fn judge(revisions: [u64; 3]) -> Verdict {
        let mut middle = read(2, 3, None);
        middle.outcome = Outcome::Read { found: None, state: Some(revisions[1]) };
        let operations = vec![
            wrote(4, 5, "b", None, revisions[2]),
            wrote(0, 1, "a", None, revisions[0]),
            middle,
        ];
        check(&history(operations), &Bars::default())
    }

    #[test]
    fn revisions_may_rise_and_stay_where_nothing_is_written() {
        assert_eq!(judge([1, 1, 2]), Verdict::Pass { looked_at: 3 });
        assert!(judge([1, 5, 9]).is_pass());
    }

    #[test]
    fn revisions_that_fall_or_are_given_twice_fail() {
        for revisions in [[2, 1, 3], [1, 5, 4], [1, 5, 5]] {
            assert!(judge(revisions).is_failure(), "{revisions:?}");
        }
    }
}
