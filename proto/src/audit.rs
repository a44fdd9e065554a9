//! The audit trail: who did what, on what, from where, and what came of it, each record bound to the one before by its hash.
//!
//! ```text
//! hash(n) = SHA-256( hash(n-1) | number | at | length and bytes of each text )      hash(0) = 32 zero bytes
//! ```
//!
//! Numbers are big-endian u64, lengths big-endian u32. The encoding is fixed for ever: records are checked years later, by
//! other programs, from nothing but their JSON lines. An edit, a gap or another order breaks the chain where it happens;
//! what is cut off at the end shows against the last hash the cluster has.

mod line;

use crate::Millis;
pub use line::{Gap, Line};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// What is told of an act before it has its place in the trail. No field ever holds a secret, a prompt or an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Who: `user:alice`, `key:1f00…`, `node:1`, `worker:…`, `system`, `anonymous`.
    pub actor: String,
    /// By what it was proven: `key`, `access-token`, `certificate`, `password`, or empty.
    pub via: String,
    /// The address it came from; empty for the cluster's own acts.
    pub from: String,
    /// The id of the request.
    pub request: String,
    /// What: `model.put`, `access.refused`, ...
    pub action: String,
    /// On what: a model, a worker, a user.
    pub object: String,
    /// `done`, or `refused` with a reason.
    pub outcome: String,
}

/// A note in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its place: 1, 2, 3, ... without gaps.
    pub number: u64,
    /// When, in milliseconds since the epoch, by the cluster's clock, which never goes back.
    pub at: Millis,
    /// What happened.
    pub note: Note,
    /// Binds it to all records before it.
    pub hash: [u8; 32],
}

impl Note {
    fn texts(&self) -> [&str; 7] {
        let Self { actor, via, from, request, action, object, outcome } = self;
        [actor, via, from, request, action, object, outcome]
    }

    /// The note with each text cut to `limit` bytes and without control characters: they come from outside.
    #[must_use]
    pub fn bounded(&self, limit: usize) -> Self {
        let clean = |text: &str| {
            let mut kept: String = text.chars().filter(|c| !c.is_control()).collect();
            while kept.len() > limit {
                kept.pop();
            }
            kept
        };
        let [actor, via, from, request, action, object, outcome] = self.texts().map(clean);
        Self { actor, via, from, request, action, object, outcome }
    }
}

/// The hash of a record that follows one with the hash `before`.
pub fn hash(before: &[u8; 32], number: u64, at: Millis, note: &Note) -> [u8; 32] {
    let mut sum = Sha256::new();
    sum.update(before);
    sum.update(number.to_be_bytes());
    sum.update(at.0.to_be_bytes());
    for text in note.texts() {
        // Texts are bounded far below this.
        sum.update(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
        sum.update(text.as_bytes());
    }
    sum.finalize().into()
}

impl Record {
    /// The record of `note` that follows the record `before`, the first one when there is none.
    pub fn following(before: Option<&Self>, at: Millis, note: Note) -> Self {
        let (number, previous) = before.map_or((0, [0; 32]), |record| (record.number, record.hash));
        let number = number + 1;
        let hash = hash(&previous, number, at, &note);
        Self { number, at, note, hash }
    }
}

/// Where a trail is broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A number is missing, comes twice, or comes too early.
    #[error(
        "record {expected} was expected, record {got} is there: something was removed, added or moved"
    )]
    Number {
        /// The number that should be there.
        expected: u64,
        /// The one that is.
        got: u64,
    },
    /// The record, or one before it, is not what was written.
    #[error("record {number} does not follow from the one before it: one of them was changed")]
    Hash {
        /// Which.
        number: u64,
    },
}

/// Follows a trail record by record.
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    last: Option<(u64, [u8; 32])>,
    checked: u64,
    gaps: Vec<Gap>,
    /// The number before the next record, where a gap was told of since the last one.
    skipped: Option<u64>,
}

impl Verifier {
    /// Looks at the next record. The first one is believed as it is unless it is number 1: older ones may have been exported
    /// and forgotten.
    ///
    /// # Errors
    /// When it does not follow from the one before.
    pub fn next(&mut self, record: &Record) -> Result<(), Broken> {
        let (expected, before) = match (self.skipped.take(), self.last) {
            (Some(number), _) => (number.saturating_add(1), None),
            (None, Some((number, hash))) => (number + 1, Some(hash)),
            (None, None) if record.number <= 1 => (1, Some([0; 32])),
            (None, None) => (record.number, None),
        };
        if record.number != expected {
            return Err(Broken::Number { expected, got: record.number });
        }
        if let Some(before) = before
            && hash(&before, record.number, record.at, &record.note) != record.hash
        {
            return Err(Broken::Hash { number: record.number });
        }
        self.last = Some((record.number, record.hash));
        self.checked += 1;
        Ok(())
    }

    /// Whoever exported the trail tells that records are missing here. What follows them is believed as a beginning is.
    ///
    /// # Errors
    /// When they are not the ones that would have come next.
    pub fn gap(&mut self, gap: Gap) -> Result<(), Broken> {
        let last = self.skipped.or(self.last.map(|(number, _)| number));
        let expected = last.map_or(gap.from, |number| number.saturating_add(1));
        if gap.from != expected || gap.to < gap.from {
            return Err(Broken::Number { expected, got: gap.from });
        }
        self.skipped = Some(gap.to);
        self.gaps.push(gap);
        Ok(())
    }

    /// What was told to be missing.
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Number and hash of the last record, if there was one.
    pub fn last(&self) -> Option<(u64, [u8; 32])> {
        self.last
    }

    /// How many records were looked at.
    pub fn checked(&self) -> u64 {
        self.checked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trail(count: u64) -> Vec<Record> {
        let mut records: Vec<Record> = Vec::new();
        for number in 1..=count {
            let note = Note {
                actor: format!("user:u{number}"),
                via: "key".into(),
                from: "10.0.0.1".into(),
                request: "r".into(),
                action: "model.put".into(),
                object: format!("m{number}"),
                outcome: "done".into(),
            };
            records.push(Record::following(records.last(), Millis(1_000 + number), note));
        }
        records
    }

    fn verify(records: &[Record]) -> Result<u64, Broken> {
        let mut verifier = Verifier::default();
        records.iter().try_for_each(|record| verifier.next(record))?;
        Ok(verifier.checked())
    }

    #[test]
    fn the_hash_is_what_it_was_for_ever() {
        let records = trail(2);
        let hex = |hash: [u8; 32]| crate::Digest(hash).hex();
        assert_eq!(
            hex(records[1].hash),
            "867994c4e45a7befb198ee472dd650fbe1fa77eac8e0effe79c02cbf93078985",
            "the encoding changed: trails that were exported can no longer be checked"
        );
    }

    #[test]
    fn a_gap_is_believed_where_it_is_told_of_and_only_as_wide_as_that() {
        let records = trail(9);
        let with = |from, to, rest: usize| {
            let mut verifier = Verifier::default();
            records[..3].iter().try_for_each(|record| verifier.next(record))?;
            verifier.gap(Gap { from, to, noticed_at: Millis(5) })?;
            records[rest..].iter().try_for_each(|record| verifier.next(record))?;
            Ok::<_, Broken>((verifier.checked(), verifier.gaps().len()))
        };
        assert_eq!(with(4, 6, 6), Ok((6, 1)));
        assert!(with(4, 5, 6).is_err() && with(4, 7, 6).is_err(), "another width");
        assert!(with(5, 6, 6).is_err() && with(3, 6, 6).is_err(), "another place");
        assert!(with(4, 3, 3).is_err(), "none at all");
    }

    #[test]
    fn a_trail_may_begin_later_but_not_miss_anything() {
        let records = trail(6);
        assert_eq!(verify(&records), Ok(6));
        assert_eq!(verify(&records[3..]), Ok(3));
        let mut gap = records.clone();
        gap.remove(2);
        assert_eq!(verify(&gap), Err(Broken::Number { expected: 3, got: 4 }));
        let mut swapped = records.clone();
        swapped.swap(1, 2);
        assert!(verify(&swapped).is_err());
        let mut doubled = records;
        doubled.insert(1, doubled[0].clone());
        assert!(verify(&doubled).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn any_edit_shows(at in 0usize..8, field in 0usize..9, byte in 0u8..32) {
            let mut records = trail(8);
            let record = &mut records[at];
            let note = &mut record.note;
            match field {
                0 => note.actor.push('x'),
                1 => note.via.push('x'),
                2 => note.from.clear(),
                3 => note.request.push('x'),
                4 => note.action.push('x'),
                // Moving a byte from one text to the next changes no concatenation.
                5 => { let c = note.object.remove(0); note.action.push(c); }
                6 => note.outcome.push('x'),
                7 => record.at = record.at.plus(1),
                _ => record.hash[usize::from(byte)] ^= 1,
            }
            prop_assert!(verify(&records).is_err());
        }
    }
}
