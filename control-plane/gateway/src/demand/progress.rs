//! How far a wish for a model has come, and why there is nobody to fulfil it.

use crate::error::Failure;
use ollamamax_core::State;

/// How far a wish has come.
pub(super) enum Progress {
    /// Some worker can answer.
    Ready,
    /// It is on its way.
    Waiting,
    /// Nobody wants it any more.
    Forgotten,
    /// As things are it will not come; things may change in a moment.
    Stuck(Failure),
    /// It will not come.
    Hopeless(Failure),
}

pub(super) fn no_worker(state: &State) -> String {
    if state.workers.is_empty() {
        return "no worker has registered".to_owned();
    }
    let all: Vec<String> = state
        .workers
        .values()
        .take(5)
        .map(|worker| format!("worker {} is {} ({})", worker.name, worker.status, worker.reason))
        .collect();
    all.join(", ")
}
