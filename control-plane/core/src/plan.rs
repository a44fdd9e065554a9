//! Who should run what: a value computed from the state, proposed with the revision it was computed
//! from.
//!
//! ```text
//! placements --sort--> drop | serve | small | leave (draining) | cool (failed)   view.rs
//! missing replicas --score--> best worker, first replicas first   score.rs, search.rs
//! what shall be, or must be, split --partition--> replicas of several stages    rings.rs, partition.rs
//! steps: unassign first, assign then;  report: why a replica waits      step.rs, report.rs
//! ```
//!
//! Planning is a fixpoint: the plan of a state to which a plan was applied is empty, until a report
//! or a demand changes it. A model is whole on each of its workers where that is possible, unless its deployment says
//! otherwise.

mod evict;
mod explain;
mod memory;
mod moving;
pub mod partition;
mod rebalance;
mod report;
mod rings;
mod rolling;
mod room;
mod score;
mod search;
mod split;
mod step;
mod view;

pub use explain::{Explained, explain};
pub use memory::{kv_bytes, member_bytes, need_bytes, predicted_bytes, usable_bytes};
pub use moving::moves;
pub use rebalance::rebalance;
pub use report::{Note, Why};
pub use score::Score;

use crate::apply;
use crate::command::{Command, Entry, PlanStep};
use crate::state::State;
use ollamamax_proto::placement::DeviceHealth;
use ollamamax_proto::{AssignmentId, Millis, Revision, WorkerId, limits};
use std::collections::{BTreeMap, BTreeSet};

/// What the leader sees beside the state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Requests running and queued on each worker; absent: none.
    pub busy: BTreeMap<WorkerId, u32>,
    /// Nanoseconds each worker takes to read a MiB of weights while computing; absent: as its kind of device does.
    pub ns_per_mib: BTreeMap<WorkerId, u64>,
    /// Workers that have been much slower than usual for a while.
    pub slow: BTreeSet<WorkerId>,
    /// Requests running and queued for each assignment; absent: none.
    pub requests: BTreeMap<AssignmentId, u32>,
    /// How each GPU is.
    pub health: BTreeMap<WorkerId, DeviceHealth>,
}

/// What bounds a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanLimits {
    /// Share of a worker's memory kept free, in percent.
    pub headroom_percent: u64,
    /// Tokens a sequence may hold when nobody asked for another number.
    pub context_tokens: u32,
    /// Most sequences run at once per placement.
    pub sequences_max: u32,
    /// How long a worker that failed to load a model is left alone with it, in milliseconds.
    pub retry_ms: u64,
    /// Most steps.
    pub steps_max: usize,
    /// How often to look again at what the steps before leave free.
    pub looks_max: usize,
}

impl Default for PlanLimits {
    fn default() -> Self {
        Self {
            headroom_percent: limits::WORKER_HEADROOM_PERCENT,
            context_tokens: limits::CONTEXT_TOKENS,
            sequences_max: limits::SEQUENCES_COUNT,
            retry_ms: limits::PLACEMENT_RETRY_MS,
            steps_max: limits::PLAN_STEPS_COUNT,
            looks_max: limits::PLAN_LOOKS_COUNT,
        }
    }
}

/// What to do, and why not more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The placement revision it was computed from: `ApplyPlan` is refused at any other.
    pub base: Revision,
    /// In order: everything taken away comes first.
    pub steps: Vec<PlanStep>,
    /// For people, in the order of the models' names.
    pub report: Vec<Note>,
}

/// Plans placements for what is demanded at `now`.
pub fn plan(state: &State, observed: &Observed, limits: &PlanLimits, now: Millis) -> Plan {
    let mut whole = look(state, observed, limits, now);
    let mut after = state.clone();
    let mut steps = whole.steps.clone();
    for _ in 0..limits.looks_max {
        // Only what goes makes room that the look which took it away did not see.
        if !steps.iter().any(PlanStep::takes) || whole.steps.len() >= limits.steps_max {
            break;
        }
        let command = Command::ApplyPlan { base: after.counters.placement_revision, steps };
        if apply(&mut after, &Entry { index: 0, at: now, command }).0.is_err() {
            break;
        }
        let next = look(&after, observed, limits, now);
        if next.steps.iter().any(|step| is_new(step, state)) {
            break;
        }
        let told = |note: &Note| {
            matches!(note, Note::Evicted { .. } | Note::Rolls { .. } | Note::Split { .. })
        };
        whole.report.retain(|note| told(note) && !next.report.contains(note));
        whole.report.extend(next.report);
        whole.steps.extend(next.steps.iter().cloned());
        steps = next.steps;
    }
    whole.steps.sort_by_key(|step| !step.takes());
    whole.steps.truncate(limits.steps_max);
    whole
}

/// Whether the step takes away what the state does not hold yet.
fn is_new(step: &PlanStep, state: &State) -> bool {
    match step {
        PlanStep::Unassign { id } => !state.placements.contains_key(id),
        PlanStep::RemoveReplica { id } => !state.replicas.contains_key(id),
        PlanStep::Assign { .. } | PlanStep::AddReplica { .. } | PlanStep::Release { .. } => false,
    }
}

/// The plan of what is seen at one look.
fn look(state: &State, observed: &Observed, limits: &PlanLimits, now: Millis) -> Plan {
    let mut room = room::Room::new(state, observed, limits);
    let (mut views, mut drops) = view::sort(state, observed, limits, now, &mut room);
    let missing = step::missing(&views, room.ready_count());
    let mut chosen = score::place(&views, &missing, &mut room);
    if chosen.len() < missing.len() {
        chosen = search::improve(&views, &missing, chosen, &mut room);
    }
    step::replace_in_place(&mut views, &mut chosen, &mut drops, &mut room);
    let mut split = split::Split::default();
    split::place(&mut views, &mut chosen, &mut split, &mut drops, &mut room, limits);
    rolling::replace_old(&mut views, &mut chosen, &mut drops, &mut room, observed);
    let evicted = evict::make_room(&views, &split, &mut chosen, &mut room, (observed, now));
    let mut report = evicted.iter().map(|evicted| evicted.note.clone()).collect::<Vec<_>>();
    for (index, view) in views.iter().enumerate() {
        let whole = chosen.iter().filter(|choice| choice.view == index).count();
        let planned = || split.planned.iter().filter(|planned| planned.view == index);
        let chosen_count = whole + planned().count();
        if evicted.iter().any(|evicted| evicted.view == index) {
            continue;
        }
        step::let_go(view, chosen_count, &mut drops);
        report.extend(planned().map(|planned| report::split(planned, view)));
        let misfit = split.misfits.get(&index);
        report.extend(report::notes(view, chosen_count, misfit, &room, limits));
    }
    let mut steps: Vec<PlanStep> = drops.steps().collect();
    evicted.iter().for_each(|evicted| steps.extend(evicted.steps()));
    steps.extend(step::assignments(&views, &chosen, &mut room, limits));
    steps.extend(split.planned.iter().map(|planned| rings::step(planned, &views[planned.view])));
    steps.truncate(limits.steps_max);
    Plan { base: state.counters.placement_revision, steps, report }
}
