//! The trail: numbers without gaps, each record bound to the one before.

use super::push;
use crate::access::AccessChange;
use crate::decide::check;
use crate::decide::draft::Draft;
use crate::rejection::Rejection;
use ollamamax_proto::audit::{Note, Record};
use ollamamax_proto::limits;

pub(super) fn record(draft: &mut Draft, notes: &[Note]) -> Result<(), Rejection> {
    if notes.len() > limits::AUDIT_NOTES_COUNT {
        return Err(check::over("notes of one command", limits::AUDIT_NOTES_COUNT));
    }
    notes.iter().for_each(|note| append(draft, note));
    Ok(())
}

/// Puts a note into the trail with what came of it.
pub(in crate::decide) fn note(draft: &mut Draft, note: &Note, outcome: &str) {
    append(draft, &Note { outcome: outcome.to_owned(), ..note.clone() });
}

fn append(draft: &mut Draft, note: &Note) {
    let note = note.bounded(limits::AUDIT_TEXT_BYTES);
    let trail = &draft.state().access.trail;
    let record = Record::following(draft.state().access.last_record(), draft.now(), note);
    let surplus = (trail.len() + 1).saturating_sub(limits::AUDIT_RECORDS_COUNT);
    let oldest: Vec<u64> = trail.keys().take(surplus).copied().collect();
    push(draft, AccessChange::Recorded(Box::new(record)));
    for number in oldest {
        push(draft, AccessChange::RecordForgotten(number));
    }
}
