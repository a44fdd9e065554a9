//! Which workers are alive, judged by the leader alone from their heartbeats. Heartbeats stay in
//! memory; only a changed verdict is proposed.
//!
//! ```text
//! heard lately -> ready (or draining, once it said so)
//! silent -> suspect -> down         heard again -> ready
//! ```
//!
//! A new leader has heard nobody: for a while it judges nobody, then it counts silence from when it
//! began.

use crate::record::WorkerRecord;
use crate::state::State;
use ollamamax_proto::placement::WorkerStatus;
use ollamamax_proto::{Incarnation, Millis, WorkerId, limits};
use std::collections::BTreeMap;

/// What the leader has heard since it leads.
#[derive(Clone, Debug)]
pub struct Liveness {
    leads_since: Millis,
    heard: BTreeMap<WorkerId, Heard>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    at: Millis,
    incarnation: Incarnation,
    draining: bool,
}

/// A status that differs from the known one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whose.
    pub worker: WorkerId,
    /// In which life.
    pub incarnation: Incarnation,
    /// What it is now.
    pub status: WorkerStatus,
    /// Why, in words.
    pub reason: String,
}

impl Liveness {
    /// Begins to lead, having heard nobody.
    pub fn new(now: Millis) -> Self {
        Self { leads_since: now, heard: BTreeMap::new() }
    }

    /// A heartbeat or registration came.
    pub fn heard(
        &mut self,
        worker: WorkerId,
        incarnation: Incarnation,
        draining: bool,
        now: Millis,
    ) {
        let news = Heard { at: now, incarnation, draining };
        let known = self.heard.entry(worker).or_insert(news);
        if incarnation >= known.incarnation {
            let at = known.at.max(now);
            *known = Heard { at, ..news };
        }
    }

    /// Forgets workers that `state` no longer has.
    pub fn forget_unknown(&mut self, state: &State) {
        self.heard.retain(|worker, _| state.workers.contains_key(worker));
    }

    /// The workers whose status should change, in the order of their ids.
    pub fn verdicts(&self, state: &State, now: Millis) -> Vec<Verdict> {
        state.workers.values().filter_map(|worker| self.verdict(worker, now)).collect()
    }

    fn verdict(&self, known: &WorkerRecord, now: Millis) -> Option<Verdict> {
        let heard = self.heard.get(&known.id).filter(|h| h.incarnation == known.incarnation);
        let since = heard.map_or(self.leads_since, |heard| heard.at);
        let silent_ms = now.since(since);
        let grace = now.since(self.leads_since) < limits::WORKER_GRACE_MS;
        let silent = || format!("silent for {silent_ms} ms");
        let (status, reason) = match (known.status, heard) {
            (WorkerStatus::Down, None) => return None,
            (WorkerStatus::Down, _) if silent_ms >= limits::WORKER_SUSPECT_MS => return None,
            (_, _) if silent_ms >= limits::WORKER_DOWN_MS && !grace => {
                (WorkerStatus::Down, silent())
            }
            // It takes nothing new anyway, so there is nothing to suspect it of.
            (WorkerStatus::Draining, _) => return None,
            (_, Some(heard)) if heard.draining => {
                (WorkerStatus::Draining, "it is shutting down".to_owned())
            }
            (_, _) if silent_ms >= limits::WORKER_SUSPECT_MS => {
                if grace {
                    return None;
                }
                (WorkerStatus::Suspect, silent())
            }
            (_, Some(_)) => (WorkerStatus::Ready, String::new()),
            (_, None) => return None,
        };
        (status != known.status).then_some(Verdict {
            worker: known.id,
            incarnation: known.incarnation,
            status,
            reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Change;
    use ollamamax_proto::placement::Device;

    const LIFE: Incarnation = Incarnation(7);
    const ID: WorkerId = WorkerId(1);

    fn state(status: WorkerStatus) -> State {
        let mut state = State::default();
        state.evolve(&Change::WorkerPut(WorkerRecord {
            id: ID,
            incarnation: LIFE,
            name: "w".into(),
            address: "127.0.0.1:1".into(),
            device: Device { kind: "cpu".into(), name: "x".into(), memory_bytes: 1, threads: 1 },
            pid: 1,
            status,
            reason: String::new(),
            since: Millis(0),
        }));
        state
    }

    fn verdict(liveness: &Liveness, known: WorkerStatus, now: u64) -> Option<WorkerStatus> {
        let verdicts = liveness.verdicts(&state(known), Millis(now));
        assert!(verdicts.iter().all(|v| v.worker == ID && v.incarnation == LIFE));
        verdicts.first().map(|verdict| verdict.status)
    }

    #[test]
    fn silence_makes_suspect_then_down_and_a_word_makes_ready() {
        use WorkerStatus::{Down, Draining, Ready, Suspect};
        // known status, heard at, draining, now, verdict; the leader leads since 0
        for (known, heard, draining, now, expected) in [
            (Ready, 10_000, false, 10_000, None),
            (Ready, 10_000, false, 11_499, None),
            (Ready, 10_000, false, 11_500, Some(Suspect)),
            (Suspect, 10_000, false, 11_500, None),
            (Suspect, 10_000, false, 12_999, None),
            (Suspect, 10_000, false, 13_000, Some(Down)),
            (Ready, 10_000, false, 13_000, Some(Down)),
            (Down, 10_000, false, 13_000, None),
            (Suspect, 10_000, false, 10_100, Some(Ready)),
            (Down, 10_000, false, 10_100, Some(Ready)),
            (Down, 10_000, true, 10_100, Some(Draining)),
            (Ready, 10_000, true, 10_100, Some(Draining)),
            (Draining, 10_000, true, 12_000, None),
            (Draining, 10_000, false, 10_100, None),
            (Draining, 10_000, true, 13_000, Some(Down)),
        ] {
            let mut liveness = Liveness::new(Millis(0));
            liveness.heard(ID, LIFE, draining, Millis(heard));
            let got = verdict(&liveness, known, now);
            assert_eq!(got, expected, "{known} heard {heard} now {now}");
        }
    }

    #[test]
    fn a_new_leader_judges_nobody_for_a_while() {
        let liveness = Liveness::new(Millis(100_000));
        let end = 100_000 + limits::WORKER_GRACE_MS;
        assert_eq!(verdict(&liveness, WorkerStatus::Ready, end - 1), None);
        assert_eq!(verdict(&liveness, WorkerStatus::Ready, end), Some(WorkerStatus::Down));
        assert_eq!(verdict(&liveness, WorkerStatus::Down, end), None);
    }

    #[test]
    fn an_older_life_does_not_speak_for_the_newer() {
        let mut liveness = Liveness::new(Millis(0));
        liveness.heard(ID, LIFE, false, Millis(10_000));
        liveness.heard(ID, Incarnation(6), false, Millis(12_900));
        assert_eq!(verdict(&liveness, WorkerStatus::Ready, 13_000), Some(WorkerStatus::Down));
        liveness.heard(ID, Incarnation(8), false, Millis(20_000));
        assert_eq!(verdict(&liveness, WorkerStatus::Down, 20_000), None);
        liveness.forget_unknown(&State::default());
        assert!(liveness.heard.is_empty());
    }
}
