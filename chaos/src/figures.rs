//! What a run measured: how long things took, how much was done, when it was not.

use crate::history::{History, Operation};
use serde::Serialize;
use std::collections::BTreeMap;

/// Figures of a run; times in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Acknowledged writes.
    pub writes: usize,
    /// Reads that were answered.
    pub reads: usize,
    /// Operations of which nobody knows whether they happened.
    pub unknown: usize,
    /// Acknowledged writes a second before the first fault.
    pub calm_writes_per_s: f64,
    /// Median and 99th percentile of acknowledged writes, over the whole run.
    pub write_us: (u64, u64),
    /// The longest time between two acknowledged writes.
    pub longest_gap_us: u64,
    /// Streams that ended, that went on elsewhere, that were asked for anew.
    pub streams: (usize, usize, usize),
    /// 99th percentile and longest of the longest pause of each stream.
    pub pause_us: (u64, u64),
    /// The longest pause of a stream.
    pub longest_pause_us: u64,
    /// Leaders, counted by term.
    pub leaders: usize,
    /// Of each kind of fault: how often, and the median and longest time from its begin to the next acknowledged write.
    pub faults: BTreeMap<String, (usize, u64, u64)>,
}

impl Figures {
    /// Of a history.
    pub fn of(history: &History) -> Self {
        let first_fault = history.first_fault_us();
        let written: Vec<&Operation> = {
            let all = history.operations.iter();
            let mut written: Vec<_> =
                all.filter(|operation| operation.written().is_some()).collect();
            written.sort_by_key(|operation| operation.ended_us);
            written
        };
        let begin = history.operations.iter().map(|operation| operation.begun_us).min();
        let calm = written.iter().filter(|operation| operation.ended_us < first_fault).count();
        let calm_s = begin.map_or(0.0, |begin| {
            let end = first_fault.min(written.last().map_or(begin, |last| last.ended_us));
            end.saturating_sub(begin) as f64 / 1e6
        });
        let took = |operation: &&Operation| operation.ended_us - operation.begun_us;
        let took: Vec<u64> = written.iter().map(took).collect();
        let gaps = written.windows(2).map(|two| two[1].ended_us - two[0].ended_us);
        let mut terms: Vec<u64> = history
            .sightings
            .iter()
            .filter(|sighting| sighting.leader.is_some())
            .map(|sighting| sighting.term)
            .collect();
        terms.sort_unstable();
        terms.dedup();
        let pauses: Vec<u64> = history.streams.iter().map(|stream| stream.pause_us).collect();
        let ended = history.streams.iter().filter(|stream| stream.error.is_none());
        let moved = history.streams.iter().filter(|stream| stream.moves > 0);
        let anew = history.streams.iter().filter(|stream| stream.restarts > 0);
        use crate::history::Outcome;
        let of = |outcome: fn(&Outcome) -> bool| {
            history.operations.iter().filter(|operation| outcome(&operation.outcome)).count()
        };
        Self {
            writes: written.len(),
            reads: of(|outcome| matches!(outcome, Outcome::Read { .. })),
            unknown: of(|outcome| *outcome == Outcome::Unknown),
            calm_writes_per_s: if calm_s > 0.0 { calm as f64 / calm_s } else { 0.0 },
            write_us: (percentile(took.clone(), 50), percentile(took, 99)),
            longest_gap_us: gaps.max().unwrap_or(0),
            streams: (ended.count(), moved.count(), anew.count()),
            pause_us: (percentile(pauses.clone(), 50), percentile(pauses.clone(), 99)),
            longest_pause_us: pauses.into_iter().max().unwrap_or(0),
            leaders: terms.len(),
            faults: by_fault(history, &written),
        }
    }
}

fn by_fault(history: &History, written: &[&Operation]) -> BTreeMap<String, (usize, u64, u64)> {
    let mut next: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for fault in &history.faults {
        // One that was sent after the begin: what was under way shows nothing.
        let after = written.iter().filter(|operation| operation.begun_us >= fault.begun_us);
        let first = after.map(|operation| operation.ended_us).min();
        let took = first.unwrap_or(u64::MAX).saturating_sub(fault.begun_us);
        next.entry(fault.what.clone()).or_default().push(took);
    }
    let figures = next.into_iter().map(|(what, took)| {
        let longest = took.iter().copied().max().unwrap_or(0);
        (what, (took.len(), percentile(took, 50), longest))
    });
    figures.collect()
}

/// The value that so many of a hundred do not exceed; 0 where there is none.
pub fn percentile(mut values: Vec<u64>, percent: usize) -> u64 {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values.get(rank - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::testing::{history, unknown, wrote};
    use crate::history::Span;

    #[test]
    fn what_is_counted_is_what_was_seen() {
        let mut history = history(vec![
            wrote(0, 1_000_000, "a", None, 1),
            wrote(1_000_000, 2_000_000, "b", None, 2),
            unknown(4_100_000, 6_000_000, "c", None),
            wrote(6_500_000, 7_000_000, "d", None, 3),
        ]);
        let (target, means) = (String::new(), String::new());
        let (begun_us, ended_us) = (4_000_000, 5_000_000);
        let what = "kill".to_owned();
        history.faults = vec![Span { what, target, means, begun_us, ended_us }];
        let figures = Figures::of(&history);
        assert_eq!((figures.writes, figures.unknown), (3, 1));
        assert_eq!(figures.longest_gap_us, 5_000_000);
        assert_eq!(figures.write_us, (1_000_000, 1_000_000));
        assert_eq!(figures.faults["kill"], (1, 3_000_000, 3_000_000));
        assert!((figures.calm_writes_per_s - 0.5).abs() < 0.01, "{}", figures.calm_writes_per_s);
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(values.clone(), 50), 50);
        assert_eq!(percentile(values.clone(), 99), 99);
        assert_eq!(percentile(vec![7], 99), 7);
        assert_eq!(percentile(Vec::new(), 99), 0);
    }
}
