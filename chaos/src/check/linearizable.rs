//! Registers with compare-and-set, linearizable: each by itself, by the search of [`super::order`].
//!
//! A register is a value and the revision at which it was set. Reads tell both, an acknowledged write tells its revision, which
//! must be higher than the one before; a write that expects a revision happens just when that one is there.
//!
//! A write whose outcome is unknown stays open to the end. Where a read has seen its value, that read tells its revision, and it
//! did happen. Where none has, and nobody met a conflict at the register, it changes nothing that was seen, and is left out: each
//! one kept doubles the work.

use super::order::{Order, Timed, search};
use super::{Bars, Verdict};
use crate::history::{Asked, Found, History, Operation, Outcome};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A register; values by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Register {
    value: Option<usize>,
    /// At which it was set, or a lower one when that was never seen.
    revision: u64,
    is_seen: bool,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Read(Option<(usize, u64)>),
    Write { value: usize, expected: Option<u64>, revision: Option<u64>, is_certain: bool },
    Conflict { expected: u64 },
}

impl Register {
    const EMPTY: Self = Self { value: None, revision: 0, is_seen: true };

    /// `None` where nobody can tell.
    fn meets(&self, expected: u64) -> bool {
        match self.value {
            None => expected == 0,
            Some(_) => self.is_seen && self.revision == expected,
        }
    }

    fn step(&self, step: &Step) -> Option<Self> {
        match *step {
            Step::Read(None) => self.value.is_none().then_some(*self),
            Step::Read(Some((value, revision))) => {
                let same = self.value == Some(value)
                    && (self.revision == revision || !self.is_seen && revision > self.revision);
                same.then_some(Self { value: Some(value), revision, is_seen: true })
            }
            Step::Conflict { expected } => (!self.meets(expected)).then_some(*self),
            Step::Write { value, expected, revision, is_certain } => {
                if expected.is_some_and(|expected| !self.meets(expected)) {
                    return (!is_certain).then_some(*self);
                }
                match revision {
                    Some(revision) => (revision > self.revision).then_some(Self {
                        value: Some(value),
                        revision,
                        is_seen: true,
                    }),
                    None => Some(Self { value: Some(value), is_seen: false, ..*self }),
                }
            }
        }
    }
}

/// Judges each register.
pub fn check(history: &History, bars: &Bars) -> Verdict {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in history.operations.iter().chain(&history.finals) {
        keys.entry(&operation.key).or_default().push(operation);
    }
    let (mut findings, mut looked_at, mut steps) = (Vec::new(), 0, bars.search_steps);
    let mut too_much = Vec::new();
    for (key, operations) in keys {
        looked_at += operations.len();
        match register(key, &operations, &mut steps) {
            Ok(true) => {}
            Ok(false) => too_much.push(key),
            Err(finding) => findings.push(finding),
        }
    }
    if findings.is_empty() && !too_much.is_empty() {
        let why = format!(
            "{} steps were not enough to find an order for {}",
            bars.search_steps,
            too_much.join(", ")
        );
        return Verdict::Unknown { why };
    }
    Verdict::of(findings, looked_at, "no register was used")
}

/// Whether there is an order; `Ok(false)`: nobody knows.
fn register(key: &str, operations: &[&Operation], steps: &mut u64) -> Result<bool, String> {
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    for operation in operations {
        if let Asked::Write { value, .. } = &operation.asked {
            let number = numbers.len();
            if numbers.insert(value, number).is_some() {
                return Err(format!("register `{key}`: two writes of `{value}`"));
            }
        }
    }
    let mut seen: HashMap<&str, u64> = HashMap::new();
    for operation in operations {
        if let Outcome::Read { found: Some(Found { value, revision }), .. } = &operation.outcome {
            if !numbers.contains_key(value.as_str()) {
                return Err(format!("register `{key}`: `{value}` was read and never written"));
            }
            seen.insert(value, *revision);
        }
    }
    let conflicts = operations.iter().any(|operation| operation.outcome == Outcome::Conflict);
    let mut timed = Vec::new();
    let mut which = Vec::new();
    let mut twice = BTreeSet::new();
    for operation in operations {
        let (step, is_open) = match (&operation.asked, &operation.outcome) {
            (Asked::Read, Outcome::Read { found, .. }) => {
                let found = found.as_ref();
                let found = found.map(|found| (numbers[found.value.as_str()], found.revision));
                (Step::Read(found), false)
            }
            (Asked::Write { value, expected }, Outcome::Written(revision)) => {
                if !twice.insert(*revision) {
                    return Err(format!("register `{key}`: revision {revision} was given twice"));
                }
                let (value, revision) = (numbers[value.as_str()], Some(*revision));
                (Step::Write { value, expected: *expected, revision, is_certain: true }, false)
            }
            (Asked::Write { expected: Some(expected), .. }, Outcome::Conflict) => {
                (Step::Conflict { expected: *expected }, false)
            }
            (Asked::Write { value, expected }, Outcome::Unknown) => {
                let revision = seen.get(value.as_str()).copied();
                if revision.is_none() && !conflicts {
                    continue;
                }
                let value = numbers[value.as_str()];
                let is_certain = revision.is_some();
                (Step::Write { value, expected: *expected, revision, is_certain }, true)
            }
            (Asked::Write { expected: None, .. }, Outcome::Conflict) => {
                return Err(format!(
                    "register `{key}`: a write that expects nothing met a conflict"
                ));
            }
            _ => continue,
        };
        let ended = if is_open { u64::MAX } else { operation.ended_us };
        timed.push(Timed { begun: operation.begun_us, ended, operation: step });
        which.push(*operation);
    }
    match search(Register::EMPTY, &timed, Register::step, steps) {
        Order::Found => Ok(true),
        Order::TooMuch => Ok(false),
        Order::None { without_place, placed } => {
            let lost = which[without_place];
            Err(format!(
                "register `{key}`: no order explains its {} operations; after {placed} of them client {} at node {} at {} ms \
                 has no place: {:?} gave {:?}",
                timed.len(),
                lost.client,
                lost.node + 1,
                lost.begun_us / 1_000,
                lost.asked,
                lost.outcome
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{conflict, history, read, unknown, wrote};
    use super::*;

    fn judge(operations: Vec<Operation>) -> Verdict {
        check(&history(operations), &Bars::default())
    }

    #[test]
    fn what_one_after_the_other_would_give_passes() {
        let verdict = judge(vec![
            read(0, 5, None),
            wrote(6, 10, "a", None, 3),
            read(11, 12, Some(("a", 3))),
            wrote(13, 20, "b", Some(3), 7),
            conflict(21, 25, "c", 3),
            read(26, 27, Some(("b", 7))),
        ]);
        assert_eq!(verdict, Verdict::Pass { looked_at: 6 });
    }

    #[test]
    fn a_stale_read_fails_and_is_named() {
        let verdict = judge(vec![
            wrote(0, 10, "a", None, 3),
            wrote(11, 20, "b", None, 4),
            read(21, 30, Some(("a", 3))),
        ]);
        let Verdict::Fail { findings } = verdict else { unreachable!("{verdict:?}") };
        assert!(
            findings[0].contains("register `r`") && findings[0].contains("Read"),
            "{findings:?}"
        );
    }

    #[test]
    fn two_writes_that_both_expected_the_same_fail() {
        let (a, b) = (wrote(0, 10, "a", Some(0), 3), wrote(0, 10, "b", Some(0), 4));
        assert!(judge(vec![a.clone(), b]).is_failure());
        assert!(judge(vec![a, conflict(0, 10, "b", 0)]).is_pass());
    }

    #[test]
    fn a_conflict_where_the_expected_was_there_fails() {
        assert!(judge(vec![wrote(0, 1, "a", None, 3), conflict(2, 3, "b", 3)]).is_failure());
    }

    #[test]
    fn what_was_never_written_and_revisions_that_fall_fail() {
        assert!(judge(vec![read(0, 1, Some(("x", 1)))]).is_failure());
        let falling = vec![wrote(0, 1, "a", None, 9), wrote(2, 3, "b", None, 8)];
        assert!(judge(falling).is_failure());
        let same = vec![wrote(0, 9, "a", None, 9), wrote(2, 3, "b", None, 9)];
        assert!(judge(same).is_failure());
    }

    #[test]
    fn an_unknown_write_may_come_late_but_does_not_go_again() {
        let late = |last| {
            vec![
                wrote(0, 5, "a", None, 1),
                unknown(6, 10, "b", None),
                read(11, 12, Some(("a", 1))),
                read(20, 21, Some(("b", 2))),
                read(22, 23, Some(last)),
            ]
        };
        assert!(judge(late(("b", 2))).is_pass());
        assert!(judge(late(("a", 1))).is_failure());
    }

    #[test]
    fn a_write_that_nobody_saw_explains_a_conflict() {
        let operations = |unseen: Option<Operation>| {
            let mut all = vec![wrote(0, 5, "a", None, 1), conflict(20, 25, "c", 1)];
            all.extend(unseen);
            judge(all)
        };
        assert!(operations(None).is_failure());
        assert!(operations(Some(unknown(6, 10, "b", None))).is_pass());
        // One that expected another revision can not have happened.
        assert!(operations(Some(unknown(6, 10, "b", Some(7)))).is_failure());
    }

    #[test]
    fn an_acknowledged_write_that_is_gone_at_the_end_fails() {
        let mut history = history(vec![wrote(0, 5, "a", None, 1), wrote(6, 9, "b", None, 2)]);
        history.finals = vec![read(100, 101, Some(("a", 1)))];
        assert!(check(&history, &Bars::default()).is_failure());
    }

    #[test]
    fn without_steps_nobody_knows() {
        let bars = Bars { search_steps: 1, ..Bars::default() };
        let verdict =
            check(&history(vec![wrote(0, 5, "a", None, 1), wrote(6, 9, "b", None, 2)]), &bars);
        assert!(matches!(verdict, Verdict::Unknown { .. }), "{verdict:?}");
        assert!(matches!(judge(Vec::new()), Verdict::Unknown { .. }));
    }
}
