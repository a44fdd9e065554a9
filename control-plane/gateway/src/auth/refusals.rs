//! What was refused, on its way into the trail: gathered for a moment and put there together, the same only once with its
//! number. Whoever is unknown is told of by address alone, and so many a minute: a flood costs the cluster little, and does
//! not push out of the trail what is worth keeping.

use crate::Gateway;
use ollamamax_core::Command;
use ollamamax_core::access::AccessCommand;
use ollamamax_proto::audit::Note;
use ollamamax_proto::{Millis, limits};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError, Weak};
use std::time::Duration;

/// What distinguishes one refusal from another.
type Kind = (String, String, String, String, String);

/// Refusals that are not in the trail yet.
#[derive(Debug, Default)]
pub struct Refusals {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    notes: BTreeMap<Kind, (Note, u64)>,
    /// How many more there were than could be kept apart.
    more: u64,
    /// When as many kinds of unknown callers as at first may be told of again.
    unknown_until: Millis,
    /// When those that were only counted were last told of.
    counted_at: Millis,
}

impl Refusals {
    /// Takes a refusal of somebody unknown in, of whom the address is all that counts.
    pub fn add_unknown(&self, note: Note) {
        self.take_in(Note { request: String::new(), object: String::new(), ..note }, true);
    }

    /// Takes a refusal in. Never waits.
    pub fn add(&self, note: Note) {
        self.take_in(note, false);
    }

    fn take_in(&self, note: Note, is_unknown: bool) {
        let note = note.bounded(limits::AUDIT_TEXT_BYTES);
        let kind = (
            note.actor.clone(),
            note.from.clone(),
            note.action.clone(),
            note.object.clone(),
            note.outcome.clone(),
        );
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut room = waiting.notes.len() < limits::REFUSALS_COUNT;
        if is_unknown && room && !waiting.notes.contains_key(&kind) {
            let (now, each) = (Millis::now(), limits::REFUSALS_UNKNOWN_MS);
            let owed = waiting.unknown_until.since(now);
            room = owed <= (limits::REFUSALS_UNKNOWN_COUNT - 1) * each;
            if room {
                waiting.unknown_until = waiting.unknown_until.max(now).plus(each);
            }
        }
        match waiting.notes.get_mut(&kind) {
            Some((_, times)) => *times += 1,
            None if room => drop(waiting.notes.insert(kind, (note, 1))),
            None => waiting.more += 1,
        }
    }

    fn take(&self) -> Vec<Note> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let notes = std::mem::take(&mut waiting.notes);
        let now = Millis::now();
        let is_time = now.since(waiting.counted_at) >= limits::REFUSALS_COUNTED_MS;
        let more = if is_time { std::mem::take(&mut waiting.more) } else { 0 };
        if more > 0 {
            waiting.counted_at = now;
        }
        let times = |(mut note, times): (Note, u64)| {
            if times > 1 {
                note.outcome = format!("{} ({times} times)", note.outcome);
            }
            note
        };
        let mut notes: Vec<Note> = notes.into_values().map(times).collect();
        if more > 0 {
            notes.push(Note {
                actor: "unknown".to_owned(),
                action: "access.refused".to_owned(),
                outcome: format!("refused: {more} more, which were only counted"),
                ..Note::default()
            });
        }
        notes
    }

    /// What could not be written comes again with the next ones.
    fn put_back(&self, notes: Vec<Note>) {
        notes.into_iter().for_each(|note| self.add(note));
    }
}

/// Puts refusals into the trail for as long as the gateway lives.
pub async fn run(gateway: Weak<Gateway>) {
    let pause = Duration::from_millis(limits::REFUSALS_PERIOD_MS);
    loop {
        tokio::time::sleep(pause).await;
        let Some(gateway) = gateway.upgrade() else { return };
        let notes = gateway.refusals.take();
        if notes.is_empty() {
            continue;
        }
        let command = AccessCommand::Record { notes: notes.clone() };
        if let Err(error) = gateway.control.propose(Command::Access(Box::new(command))).await {
            tracing::warn!(%error, refusals = notes.len(), "refusals are not in the trail yet");
            gateway.refusals.put_back(notes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_unknown_callers_leaves_the_trail_its_room() {
        let refusals = Refusals::default();
        let mut told = 0;
        for nth in 0..20_000u32 {
            refusals.add_unknown(Note {
                actor: "unknown".into(),
                from: format!("10.{}.{}.1", nth / 250 % 250, nth % 250),
                object: format!("GET /x/{nth}"),
                ..Note::default()
            });
            if nth % 100 == 0 {
                told += refusals.take().len();
            }
        }
        told += refusals.take().len();
        assert!(told as u64 <= limits::REFUSALS_UNKNOWN_COUNT + 5, "{told}");
    }

    #[test]
    fn the_same_is_told_once_with_its_number_and_a_flood_is_bounded() {
        let refusals = Refusals::default();
        let note =
            |object: String| Note { object, outcome: "refused: x".into(), ..Note::default() };
        for _ in 0..5 {
            refusals.add(note("a".into()));
        }
        for nth in 0..2 * limits::REFUSALS_COUNT {
            refusals.add(note(format!("b{nth}")));
        }
        let notes = refusals.take();
        assert_eq!(notes.len(), limits::REFUSALS_COUNT + 1);
        assert_eq!(
            notes.iter().find(|n| n.object == "a").map(|n| n.outcome.as_str()),
            Some("refused: x (5 times)")
        );
        let more = &notes[limits::REFUSALS_COUNT].outcome;
        assert!(more.contains(&(limits::REFUSALS_COUNT + 1).to_string()), "{more}");
        assert!(refusals.take().is_empty());
    }
}
