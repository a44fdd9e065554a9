//! Memory and descriptors come back: at the end, when nothing is under way, each process has little more than before the first
//! fault.
//!
//! A process that was started again is compared with what it had in its former life: it has done less.

use super::{Bars, Verdict};
use crate::history::{History, Sample};
use std::collections::BTreeMap;

/// Judges.
pub fn check(history: &History, bars: &Bars) -> Verdict {
    let first_fault = history.first_fault_us();
    let mut members: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
    for sample in &history.samples {
        members.entry(&sample.member).or_default().push(sample);
    }
    let (mut findings, mut looked_at) = (Vec::new(), 0);
    for (member, mut samples) in members {
        samples.sort_by_key(|sample| sample.at_us);
        let before: Vec<_> =
            samples.iter().filter(|sample| sample.at_us < first_fault).copied().collect();
        let Some(last) = samples.last().filter(|last| last.at_us >= first_fault) else { continue };
        let Some(memory) = before.iter().map(|sample| sample.resident_bytes).max() else {
            continue;
        };
        looked_at += 1;
        let more = last.resident_bytes.saturating_sub(memory);
        if more > bars.memory_bytes {
            findings.push(format!(
                "{member} had {} MiB before the faults and has {} MiB at the end, {} MiB more are good",
                memory >> 20,
                last.resident_bytes >> 20,
                bars.memory_bytes >> 20
            ));
        }
        let descriptors = before.iter().filter_map(|sample| sample.descriptors).max();
        if let (Some(before), Some(now)) = (descriptors, last.descriptors)
            && now > before + bars.descriptors
        {
            findings.push(format!(
                "{member} had {before} descriptors before the faults and has {now} at the end, {} more are good",
                bars.descriptors
            ));
        }
    }
    Verdict::of(findings, looked_at, "no process was looked at before and after the faults")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Span;

    fn sample(at_us: u64, resident_mib: u64, descriptors: Option<u64>) -> Sample {
        let (member, resident_bytes) = ("node-1".to_owned(), resident_mib << 20);
        Sample { at_us, member, life: 0, resident_bytes, descriptors, disk_bytes: 0 }
    }

    fn judge(last: Option<Sample>) -> Verdict {
        let (what, target, means) = (String::new(), String::new(), String::new());
        let faults = vec![Span { what, target, means, begun_us: 10, ended_us: 20 }];
        let samples = [sample(1, 100, Some(20)), sample(15, 900, Some(900))];
        let samples = samples.into_iter().chain(last).collect();
        check(&History { samples, faults, ..History::default() }, &Bars::default())
    }

    #[test]
    fn more_under_way_is_good_and_more_at_the_end_fails() {
        assert_eq!(judge(Some(sample(99, 150, Some(30)))), Verdict::Pass { looked_at: 1 });
        assert!(judge(Some(sample(99, 150, None))).is_pass());
        assert!(judge(Some(sample(99, 300, Some(30)))).is_failure());
        assert!(judge(Some(sample(99, 150, Some(90)))).is_failure());
    }
}
