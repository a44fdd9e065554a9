//! What was refused, on its way into the trail: gathered for a moment and put there together, the same only once with its
//! number. A flood of refusals costs the cluster a command a second.

use crate::Gateway;
use ollamamax_core::Command;
use ollamamax_core::access::AccessCommand;
use ollamamax_proto::audit::Note;
use ollamamax_proto::limits;
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
}

impl Refusals {
    /// Takes a refusal in. Never waits.
    pub fn add(&self, note: Note) {
        let note = note.bounded(limits::AUDIT_TEXT_BYTES);
        let kind = (
            note.actor.clone(),
            note.from.clone(),
            note.action.clone(),
            note.object.clone(),
            note.outcome.clone(),
        );
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let room = waiting.notes.len() < limits::REFUSALS_COUNT;
        match waiting.notes.get_mut(&kind) {
            Some((_, times)) => *times += 1,
            None if room => drop(waiting.notes.insert(kind, (note, 1))),
            None => waiting.more += 1,
        }
    }

    fn take(&self) -> Vec<Note> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Waiting { notes, more } = std::mem::take(&mut *waiting);
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
                outcome: format!("refused: {more} more of other kinds in the same moment"),
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
