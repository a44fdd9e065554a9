//! The audit trail is whole: each record follows from the one before, every node ends in the same one, and every write that was
//! acknowledged has its record.

use super::{Bars, Verdict};
use crate::history::{History, Trail};
use ollamamax_proto::Digest;
use ollamamax_proto::audit::{Line, Verifier};

/// Judges.
pub fn check(history: &History, _: &Bars) -> Verdict {
    let Some(trail) = &history.trail else {
        return Verdict::Unknown { why: "the trail could not be exported".to_owned() };
    };
    let findings = judge(trail).err().into_iter().collect();
    Verdict::of(findings, trail.lines.len(), "the trail is empty")
}

fn judge(trail: &Trail) -> Result<(), String> {
    let mut verifier = Verifier::default();
    let mut writes = 0;
    for (at, line) in trail.lines.iter().enumerate() {
        let at = at + 1;
        match Line::parse(line) {
            None => return Err(format!("line {at} is no record")),
            Some(Line::Gap(gap)) => {
                return Err(format!("records {} to {} are missing", gap.from, gap.to));
            }
            Some(Line::Record(record)) => {
                let wrote = record.note.action == "checkpoint.put" && record.note.outcome == "done";
                writes += usize::from(wrote);
                verifier.next(&record).map_err(|broken| format!("line {at}: {broken}"))?;
            }
        }
    }
    let last = verifier.last().map(|(number, hash)| (number, Digest(hash).hex()));
    for head in &trail.heads {
        if last.as_ref() != Some(head) {
            return Err(format!("the trail ends in {last:?}, a node says {head:?}"));
        }
    }
    if writes < trail.writes {
        let acknowledged = trail.writes;
        return Err(format!("{acknowledged} writes were acknowledged, {writes} are in the trail"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollamamax_proto::Millis;
    use ollamamax_proto::audit::{Note, Record};

    fn trail() -> Trail {
        let mut records: Vec<Record> = Vec::new();
        for nth in 0..5 {
            let (action, outcome) = ("checkpoint.put".to_owned(), "done".to_owned());
            let note = Note { action, outcome, ..Note::default() };
            records.push(Record::following(records.last(), Millis(nth), note));
        }
        let head = records.last().map(|record| (record.number, Digest(record.hash).hex()));
        let lines = records.into_iter().map(|record| Line::Record(Box::new(record)).to_string());
        Trail { lines: lines.collect(), heads: head.into_iter().collect(), writes: 5 }
    }

    #[test]
    fn a_whole_trail_passes() {
        assert_eq!(judge(&trail()), Ok(()));
    }

    #[test]
    fn whatever_is_removed_changed_moved_or_missing_fails() {
        let changes: [fn(&mut Trail); 7] = [
            |trail| drop(trail.lines.remove(2)),
            |trail| drop(trail.lines.pop()),
            |trail| trail.lines.swap(1, 2),
            |trail| trail.lines[1] = trail.lines[1].replace("done", "gone"),
            |trail| trail.lines[1] = "nonsense".to_owned(),
            |trail| trail.heads[0].0 = 4,
            |trail| trail.writes = 6,
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut changed = trail();
            change(&mut changed);
            assert!(judge(&changed).is_err(), "change {index}");
        }
        assert!(matches!(check(&History::default(), &Bars::default()), Verdict::Unknown { .. }));
    }
}
