//! No acknowledged write is lost: at the end every node has of each register the newest that was acknowledged, or something newer
//! that somebody wrote.
//!
//! [`super::linearizable`] would notice, too; this one tells what is missing and where, and needs no search.

use super::{Bars, Verdict};
use crate::history::{Asked, History, Outcome};
use std::collections::{BTreeMap, BTreeSet};

/// Judges.
pub fn check(history: &History, _: &Bars) -> Verdict {
    let mut newest: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    let mut written: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for operation in &history.operations {
        let Asked::Write { value, .. } = &operation.asked else { continue };
        written.entry(&operation.key).or_default().insert(value);
        if let Some(revision) = operation.written() {
            let known = newest.entry(&operation.key).or_insert((revision, value));
            *known = (*known).max((revision, value));
        }
    }
    let mut nodes: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
    let mut findings = Vec::new();
    for last in &history.finals {
        let Outcome::Read { found, .. } = &last.outcome else { continue };
        let (key, node) = (last.key.as_str(), last.node);
        nodes.entry(node).or_default().insert(key);
        let at = format!("register `{key}` at node {}", node + 1);
        let known = written.get(key);
        match (found, newest.get(key)) {
            (Some(found), _) if !known.is_some_and(|w| w.contains(found.value.as_str())) => {
                findings.push(format!("{at}: `{}` is there, which nobody wrote", found.value));
            }
            (None, Some((revision, value))) => findings.push(format!(
                "{at}: nothing is there, `{value}` was acknowledged at revision {revision}"
            )),
            (Some(found), Some((revision, value)))
                if found.revision < *revision
                    || found.revision == *revision && found.value != *value =>
            {
                findings.push(format!(
                    "{at}: `{}` of revision {} is there, `{value}` was acknowledged at revision {revision}",
                    found.value, found.revision
                ));
            }
            _ => {}
        }
    }
    for (node, read) in &nodes {
        let missing = newest.keys().filter(|key| !read.contains(*key)).count();
        if missing > 0 {
            let why = format!("{missing} registers could not be read at node {}", node + 1);
            return match findings.is_empty() {
                true => Verdict::Unknown { why },
                false => Verdict::Fail { findings },
            };
        }
    }
    let looked_at = if nodes.is_empty() { 0 } else { newest.len() };
    Verdict::of(findings, looked_at, "nothing was acknowledged, or nothing read at the end")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{history, read, unknown, wrote};
    use super::*;

    fn judge(last: Option<(&str, u64)>) -> Verdict {
        let acknowledged = vec![wrote(0, 1, "a", None, 1), wrote(2, 3, "b", None, 5)];
        let mut history = history(acknowledged);
        history.operations.push(unknown(4, 5, "c", None));
        history.finals = vec![read(9, 10, last)];
        check(&history, &Bars::default())
    }

    #[test]
    fn the_newest_acknowledged_or_a_newer_unknown_one_passes() {
        assert_eq!(judge(Some(("b", 5))), Verdict::Pass { looked_at: 1 });
        assert!(judge(Some(("c", 6))).is_pass());
    }

    #[test]
    fn nothing_an_older_one_and_one_of_nobody_fail() {
        for last in [None, Some(("a", 1)), Some(("a", 5)), Some(("x", 7))] {
            assert!(judge(last).is_failure(), "{last:?}");
        }
    }

    #[test]
    fn what_was_not_read_is_not_known() {
        let mut history = history(vec![wrote(0, 1, "a", None, 1)]);
        assert!(matches!(check(&history, &Bars::default()), Verdict::Unknown { .. }));
        history.finals = vec![read(9, 10, Some(("a", 1)))];
        history.operations[0].key = "other".to_owned();
        history.operations.push(wrote(0, 1, "a", None, 1));
        assert!(matches!(check(&history, &Bars::default()), Verdict::Unknown { .. }));
    }
}
