//! Why the plan does not do more, for the people who wait.

use super::PlanLimits;
use super::partition::{Map, Misfit, Other};
use super::rings::{Held, Planned};
use super::room::Room;
use super::view::View;
use crate::record::Placement;
use ollamamax_proto::placement::{Phase, WorkerStatus};
use ollamamax_proto::{Millis, ModelName, WorkerId};
use std::fmt;

/// One line of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Replicas that have no place.
    Waits {
        /// Of which model.
        model: ModelName,
        /// How many.
        replicas: usize,
        /// For what.
        why: Why,
    },
    /// A worker that could not load a model is left alone with it for a while.
    Failed {
        /// Which model.
        model: ModelName,
        /// Which worker.
        worker: WorkerId,
        /// Its words.
        reason: String,
        /// When it may be tried again.
        retry_at: Millis,
    },
    /// A draining worker keeps a model until its successor serves.
    Leaves {
        /// Which model.
        model: ModelName,
        /// Which worker.
        worker: WorkerId,
    },
    /// A placement with a shorter context than wanted serves until its successor does.
    Short {
        /// Which model.
        model: ModelName,
        /// Which worker.
        worker: WorkerId,
        /// Tokens it holds.
        holds: u32,
        /// Tokens wanted.
        wanted: u32,
    },
    /// A replica that is cut over several workers, and what else it could have been.
    Split {
        /// Which model.
        model: ModelName,
        /// How, by whom and with which promise.
        map: Map,
        /// Sequences it runs at once.
        sequences: u32,
        /// What was not taken.
        others: Vec<Other>,
    },
    /// There is no room for a new version beside the old one.
    Rolls {
        /// Which model.
        model: ModelName,
        /// Replicas of the new version that have no place.
        missing: usize,
        /// Replicas of either version that serve, or are about to.
        serving: usize,
    },
    /// A model that was idle goes for one that is asked for.
    Evicted {
        /// Which model.
        model: ModelName,
        /// For which one.
        by: ModelName,
    },
}

/// What a replica waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// No worker is ready.
    NoReadyWorker,
    /// Every ready worker holds the model already.
    TooFewWorkers {
        /// How many are ready.
        ready: usize,
    },
    /// The only workers left failed lately.
    CoolingDown {
        /// When the first of them may be tried again.
        until: Millis,
    },
    /// It fits nowhere.
    Memory {
        /// What it takes with one sequence.
        needs_bytes: u64,
        /// What the emptiest worker open to it has left.
        free_bytes: u64,
    },
    /// It cannot be split as wanted, or nowhere.
    Misfit(Misfit),
}

impl Note {
    /// Which model it is about.
    pub fn model(&self) -> &ModelName {
        match self {
            Self::Waits { model, .. }
            | Self::Failed { model, .. }
            | Self::Leaves { model, .. }
            | Self::Short { model, .. }
            | Self::Split { model, .. }
            | Self::Rolls { model, .. }
            | Self::Evicted { model, .. } => model,
        }
    }
}

pub(super) fn notes(
    view: &View<'_>,
    chosen_count: usize,
    misfit: Option<&Misfit>,
    room: &Room,
    limits: &PlanLimits,
) -> Vec<Note> {
    let model = view.name();
    let mut notes = Vec::new();
    let replicas = view.missing().saturating_sub(chosen_count);
    if replicas > 0 {
        let why = match misfit {
            Some(misfit) => Why::Misfit(misfit.clone()),
            None => why(view, room, limits),
        };
        notes.push(Note::Waits { model: model.clone(), replicas, why });
        if let Some(rolling) = view.rolling.as_ref().filter(|rolling| !rolling.old) {
            let serving = rolling.others + view.serving_count();
            notes.push(Note::Rolls { model: model.clone(), missing: replicas, serving });
        }
    }
    for placement in &view.cooling {
        let reason = match &placement.phase {
            Phase::Failed { reason } => reason.clone(),
            phase => phase.to_string(),
        };
        let retry_at = placement.since.plus(limits.retry_ms);
        let worker = placement.worker;
        notes.push(Note::Failed { model: model.clone(), worker, reason, retry_at });
    }
    for (worker, since, reason) in view.rings.cooling.iter().flat_map(|held| &held.failed) {
        let (worker, reason) = (*worker, reason.clone());
        let retry_at = since.plus(limits.retry_ms);
        notes.push(Note::Failed { model: model.clone(), worker, reason, retry_at });
    }
    if view.successor_comes(chosen_count) && !view.has_ready() {
        let leaves = |worker| Note::Leaves { model: model.clone(), worker };
        notes.extend(view.leaving.iter().map(|placement| leaves(placement.worker)));
        let rings = view.rings.leaving.iter().flat_map(|held: &Held<'_>| &held.taken);
        let draining = |worker: &WorkerId| {
            room.seats.get(worker).is_some_and(|seat| seat.status == WorkerStatus::Draining)
        };
        let rings = rings.filter(|(worker, _)| draining(worker));
        notes.extend(rings.map(|(worker, _)| leaves(*worker)));
    }
    let short = |p: &&&Placement| p.assignment.context_length < view.context;
    notes.extend(view.small.iter().filter(short).map(|placement| Note::Short {
        model: model.clone(),
        worker: placement.worker,
        holds: placement.assignment.context_length,
        wanted: view.context,
    }));
    notes
}

/// What a replica of several stages is, and what it could have been.
pub(super) fn split(planned: &Planned, view: &View<'_>) -> Note {
    Note::Split {
        model: view.name().clone(),
        map: planned.choice.map.clone(),
        sequences: planned.sequences,
        others: planned.choice.others.clone(),
    }
}

fn why(view: &View<'_>, room: &Room, limits: &PlanLimits) -> Why {
    let ready = room.ready_count();
    if ready == 0 {
        return Why::NoReadyWorker;
    }
    let open = room.seats.iter().filter(|(id, seat)| view.may_use(**id, seat));
    if let Some(free_bytes) = open.map(|(_, seat)| seat.free_bytes()).max() {
        return Why::Memory { needs_bytes: view.least_bytes, free_bytes };
    }
    let is_ready = |worker: &WorkerId| {
        room.seats.get(worker).is_some_and(|seat| seat.status == WorkerStatus::Ready)
    };
    let cooling = view.cooling.iter().filter(|placement| is_ready(&placement.worker));
    match cooling.map(|placement| placement.since.plus(limits.retry_ms)).min() {
        Some(until) => Why::CoolingDown { until },
        None => Why::TooFewWorkers { ready },
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waits { model, replicas, why } => {
                write!(f, "{model}: {replicas} more wanted, {why}")
            }
            Self::Failed { model, worker, reason, .. } => {
                write!(f, "{model}: worker `{worker}` could not load it: {reason}")
            }
            Self::Leaves { model, worker } => {
                write!(f, "{model}: draining worker `{worker}` keeps it until its successor serves")
            }
            Self::Split { model, map, sequences, others } => {
                write!(f, "{model}: {map}, {sequences} sequences")?;
                for Other { form, map } in others {
                    match map {
                        Ok(map) => write!(f, "; not {map}")?,
                        Err(misfit) => write!(f, "; not {form}: {misfit}")?,
                    }
                }
                Ok(())
            }
            Self::Rolls { model, missing, serving: 0 | 1 } => write!(
                f,
                "{model}: no room for {missing} more of its new version beside the old one, whose last replica stays \
                 until there is; give it memory, or `stop` the model and the new version is loaded next"
            ),
            Self::Rolls { model, missing, .. } => write!(
                f,
                "{model}: no room for {missing} more of its new version beside the old one, which goes replica by \
                 replica"
            ),
            Self::Evicted { model, by } => {
                write!(
                    f,
                    "{model}: nobody has used it for the longest time, it makes room for {by}"
                )
            }
            Self::Short { model, worker, holds, wanted } => {
                write!(f, "{model}: worker `{worker}` holds {holds} tokens, {wanted} are wanted")
            }
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoReadyWorker => f.write_str("no worker is ready"),
            Self::TooFewWorkers { ready } => {
                write!(f, "each of the {ready} ready workers holds it already")
            }
            Self::Misfit(misfit) => write!(f, "{misfit}"),
            Self::CoolingDown { .. } => f.write_str("every worker left has just failed to load it"),
            Self::Memory { needs_bytes, free_bytes } => {
                let short = needs_bytes.saturating_sub(*free_bytes);
                write!(
                    f,
                    "it needs {needs_bytes} bytes with one sequence, the emptiest worker has \
                     {free_bytes} left: needs {short} more"
                )
            }
        }
    }
}
