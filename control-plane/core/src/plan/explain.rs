//! Why a model is where it is, and where else it could be: for people, never for the plan itself.

use super::partition::{Choice, Misfit};
use super::report::Note;
use super::room::Room;
use super::view::{self, View};
use super::{Observed, PlanLimits, plan, rings};
use crate::record::{Demand, Lifetime};
use crate::state::State;
use ollamamax_proto::{Millis, ModelName};
use std::borrow::Cow;

/// What there is to say of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Tokens a sequence shall hold.
    pub context: u32,
    /// The cheapest of all ways to place one replica of one sequence, if the model were nowhere yet, and the others.
    pub choice: Result<Choice, Misfit>,
    /// What the plan of now says about it.
    pub notes: Vec<Note>,
}

/// Explains `model`; `None`: there is no such model.
pub fn explain(
    state: &State,
    observed: &Observed,
    limits: &PlanLimits,
    now: Millis,
    model: &ModelName,
) -> Option<Explained> {
    let record = state.models.get(model)?;
    let notes = plan(state, observed, limits, now).report;
    let notes = notes.into_iter().filter(|note| note.model() == model).collect();
    let mut others = state.clone();
    for (id, _) in state.placements.iter().filter(|(_, p)| p.assignment.model == *model) {
        others.placements.remove(id);
    }
    for (id, _) in state.replicas.iter().filter(|(_, replica)| replica.model == *model) {
        others.replicas.remove(id);
    }
    let mut room = Room::new(&others, observed, limits);
    // Takes the room of all other models.
    view::sort(&others, observed, limits, now, &mut room);
    let wanted = state.demands.get(model).cloned().unwrap_or(Demand {
        model: model.clone(),
        replicas: 1,
        lifetime: Lifetime::Forever,
        context_length: 0,
        keep_alive_ms: -1,
    });
    let view = View::new(&others, Cow::Borrowed(record), &wanted, limits);
    Some(Explained { context: view.context, choice: rings::every(&view, &room), notes })
}
