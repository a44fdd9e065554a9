//! What goes out next: some records after the cursor, and where the cluster has forgotten some, word of that.

use imbl::OrdMap;
use ollamamax_proto::audit::{Gap, Line, Record};
use ollamamax_proto::{Millis, limits};

/// Lines in order; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece(pub Vec<Line>);

impl Piece {
    /// What follows the record `after`; `None`: nothing yet. Where nothing was exported before, a trail may begin anywhere.
    pub fn next(trail: &OrdMap<u64, Record>, after: Option<u64>, now: Millis) -> Option<Self> {
        let from = after.map_or(0, |after| after.saturating_add(1));
        let records = trail.range(from..).map(|(_, record)| record.clone());
        let records: Vec<Record> = records.take(limits::AUDIT_EXPORT_COUNT).collect();
        let first = records.first()?.number;
        let gap =
            (after.is_some() && first > from).then(|| Gap { from, to: first - 1, noticed_at: now });
        let records = records.into_iter().map(Box::new).map(Line::Record);
        Some(Self(gap.map(Line::Gap).into_iter().chain(records).collect()))
    }

    /// The number up to which it tells, and the hash of that record.
    pub fn last(&self) -> (u64, Option<[u8; 32]>) {
        match self.0.last() {
            Some(Line::Record(record)) => (record.number, Some(record.hash)),
            Some(Line::Gap(gap)) => (gap.to, None),
            None => (0, None),
        }
    }

    /// What it says to be missing.
    pub fn gap(&self) -> Option<Gap> {
        match self.0.first() {
            Some(Line::Gap(gap)) => Some(*gap),
            _ => None,
        }
    }

    /// As lines of text.
    pub fn text(&self) -> String {
        self.0.iter().map(|line| format!("{line}\n")).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use ollamamax_proto::audit::{Note, Verifier};

    pub fn trail(count: u64) -> OrdMap<u64, Record> {
        let mut trail: OrdMap<u64, Record> = OrdMap::new();
        for number in 1..=count {
            let note = Note { object: format!("m{number}"), ..Note::default() };
            let before = trail.get(&(number - 1)).cloned();
            trail.insert(number, Record::following(before.as_ref(), Millis(number), note));
        }
        trail
    }

    pub fn check(lines: &[Line]) -> Verifier {
        let mut verifier = Verifier::default();
        for line in lines {
            match line {
                Line::Record(record) => verifier.next(record).expect("it follows"),
                Line::Gap(gap) => verifier.gap(*gap).expect("it fits"),
            }
        }
        verifier
    }

    #[test]
    fn pieces_follow_each_other_without_loss_and_are_bounded() {
        let trail = trail(2 * limits::AUDIT_EXPORT_COUNT as u64 + 7);
        let (mut lines, mut after) = (Vec::new(), None);
        while let Some(piece) = Piece::next(&trail, after, Millis(0)) {
            assert!(piece.0.len() <= limits::AUDIT_EXPORT_COUNT);
            after = Some(piece.last().0);
            lines.extend(piece.0);
        }
        let verifier = check(&lines);
        assert_eq!((verifier.checked(), verifier.gaps().len()), (trail.len() as u64, 0));
    }

    #[test]
    fn what_was_forgotten_is_told_of_and_a_beginning_is_no_gap() {
        let trail = trail(20).split(&10).1;
        assert!(Piece::next(&trail, None, Millis(0)).expect("some").gap().is_none());
        let whole = Piece::next(&trail, Some(10), Millis(0)).expect("some");
        assert!(whole.gap().is_none(), "nothing is missing between 10 and 11");
        let piece = Piece::next(&trail, Some(4), Millis(9)).expect("some");
        assert_eq!(piece.gap(), Some(Gap { from: 5, to: 10, noticed_at: Millis(9) }));
        assert_eq!(piece.last().0, 20);
        assert!(Piece::next(&trail, Some(20), Millis(0)).is_none());
        assert!(Piece::next(&trail, Some(99), Millis(0)).is_none(), "this node is behind");
    }
}
