//! The trail: numbers without gaps, each record bound to the one before.

use super::push;
use crate::access::AccessChange;
use crate::decide::check;
use crate::decide::draft::Draft;
use crate::rejection::Rejection;
use ollamamax_proto::audit::{Note, Record};
use ollamamax_proto::{limits, mutant};

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
    if mutant::planted("forgetful-trail") && draft.next_revision().0.is_multiple_of(10) {
        return;
    }
    let note = note.bounded(limits::AUDIT_TEXT_BYTES);
    let trail = &draft.state().access.trail;
    let mut record = Record::following(draft.state().access.last_record(), draft.now(), note);
    if mutant::planted("edited-trail") && record.number.is_multiple_of(50) {
        record.note.actor.push('?');
    }
    let surplus = (trail.len() + 1).saturating_sub(limits::AUDIT_RECORDS_COUNT);
    let oldest: Vec<u64> = trail.keys().take(surplus).copied().collect();
    push(draft, AccessChange::Recorded(Box::new(record)));
    for number in oldest {
        push(draft, AccessChange::RecordForgotten(number));
    }
}

/// Remembers how far the trail was sent; of too many receivers, the one that is furthest behind is forgotten.
pub(super) fn exported(draft: &mut Draft, sink: &str, number: u64) -> Result<(), Rejection> {
    check::display_name("sink", sink)?;
    let access = &draft.state().access;
    let last = access.last_record().map_or(0, |record| record.number);
    if number > last {
        return Err(check::invalid("number", format!("the trail ends at {last}")));
    }
    let known = access.exported.get(sink).copied();
    if known.is_some_and(|known| known >= number) {
        return Ok(());
    }
    let full = known.is_none() && access.exported.len() >= limits::AUDIT_RECEIVERS_COUNT;
    let behind = access.exported.iter().min_by_key(|(_, number)| **number);
    let behind = behind.filter(|_| full).map(|(sink, _)| sink.clone());
    if let Some(behind) = behind {
        push(draft, AccessChange::ExportedRemoved(behind));
    }
    push(draft, AccessChange::ExportedPut(sink.to_owned(), number));
    Ok(())
}
