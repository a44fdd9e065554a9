//! What operators say of workers: labels, draining, and models that move.

use super::check;
use super::draft::Draft;
use super::workers;
use crate::change::Change;
use crate::orders::{Migration, WorkerOrders};
use crate::record::{Placement, WorkerRecord};
use crate::rejection::Rejection;
use ollamamax_proto::placement::WorkerStatus;
use ollamamax_proto::{ModelName, WorkerId, limits, mutant};
use std::collections::BTreeMap;

/// The worker of an order; `None`: it is an adopted server, of which nothing more is kept.
fn find(draft: &Draft, id: WorkerId) -> Result<Option<WorkerRecord>, Rejection> {
    match draft.state().adopted.contains_key(&id) {
        true => Ok(None),
        false => workers::find(draft, id).map(Some),
    }
}

/// Sets the labels that have a value and removes those that have none.
pub(super) fn label(
    draft: &mut Draft,
    id: WorkerId,
    labels: &BTreeMap<String, Option<String>>,
) -> Result<(), Rejection> {
    find(draft, id)?;
    let mut orders = of(draft, id);
    for (key, value) in labels {
        label_part("label", key)?;
        match value {
            Some(value) => {
                label_part("label", value)?;
                orders.labels.insert(key.clone(), value.clone());
            }
            None => {
                orders.labels.remove(key);
            }
        }
    }
    if orders.labels.len() > limits::WORKER_LABELS_COUNT {
        return Err(check::over("labels of a worker", limits::WORKER_LABELS_COUNT));
    }
    put(draft, orders);
    Ok(())
}

/// A key or value that prints on one line and holds no `=` or comma, so that it can be written as `key=value`.
pub(super) fn label_part(field: &str, text: &str) -> Result<(), Rejection> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if text.is_empty() || text.len() > limits::LABEL_CHARS || !text.chars().all(plain) {
        let limit = limits::LABEL_CHARS;
        let reason =
            format!("`{text}`, expected 1 to {limit} letters, digits, `-`, `_`, `.` or `/`");
        return Err(check::invalid(field, reason));
    }
    Ok(())
}

/// Labels that a worker could be given.
pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Rejection> {
    if labels.len() > limits::WORKER_LABELS_COUNT {
        return Err(check::over("labels of a worker", limits::WORKER_LABELS_COUNT));
    }
    let mut parts = labels.iter().flat_map(|(key, value)| [key, value]);
    parts.try_for_each(|part| label_part("label", part))
}

/// It finishes what it runs, gives away what it holds and takes nothing new until it is resumed.
pub(super) fn drain(draft: &mut Draft, id: WorkerId, reason: &str) -> Result<(), Rejection> {
    let known = find(draft, id)?;
    let reason = check::cut_reason(reason);
    let orders = WorkerOrders { drained: Some(reason.clone()), ..of(draft, id) };
    put(draft, orders);
    let Some(known) = known else { return Ok(()) };
    let status = match known.status {
        WorkerStatus::Down => WorkerStatus::Down,
        _ => WorkerStatus::Draining,
    };
    turn(draft, known, status, reason);
    Ok(())
}

/// Ends what [`drain`] began. A process that is about to end says so again with its next heartbeat.
pub(super) fn resume(draft: &mut Draft, id: WorkerId) -> Result<(), Rejection> {
    let known = find(draft, id)?;
    let orders = of(draft, id);
    if orders.drained.is_none() || mutant::planted("drained-for-ever") {
        return Ok(());
    }
    put(draft, WorkerOrders { drained: None, ..orders });
    if let Some(known) = known.filter(|known| known.status == WorkerStatus::Draining) {
        turn(draft, known, WorkerStatus::Ready, String::new());
    }
    Ok(())
}

/// What a worker becomes that would be `status`: one that shall drain is not ready, whatever it says.
pub(super) fn under_orders(
    draft: &Draft,
    id: WorkerId,
    status: WorkerStatus,
    reason: String,
) -> (WorkerStatus, String) {
    let drained = draft.state().orders.get(&id).and_then(|orders| orders.drained.clone());
    match (status, drained) {
        (WorkerStatus::Ready | WorkerStatus::Suspect, Some(why)) => (WorkerStatus::Draining, why),
        _ => (status, reason),
    }
}

pub(super) fn migrate(
    draft: &mut Draft,
    model: &ModelName,
    from: WorkerId,
    to: WorkerId,
) -> Result<(), Rejection> {
    let state = draft.state();
    if !state.models.contains_key(model) {
        return Err(Rejection::UnknownModel(model.clone()));
    }
    workers::find(draft, from)?;
    let target = workers::find(draft, to)?;
    if target.status != WorkerStatus::Ready {
        let reason = format!("worker `{to}` is {}, expected ready", target.status);
        return Err(check::invalid("to", reason));
    }
    let holds = |worker| {
        let mut held = state.placements.values().filter(|placement| placement.worker == worker);
        held.any(|placement| placement.assignment.model == *model)
    };
    let part = |placement: &&Placement| {
        placement.worker == from
            && placement.assignment.model == *model
            && state.replica_of(placement.assignment.id).is_some()
    };
    if state.placements.values().any(|placement| part(&placement)) {
        let reason = format!("worker `{from}` holds a part of '{model}'; drain it instead");
        return Err(check::invalid("from", reason));
    }
    if from == to || !holds(from) {
        return Err(check::invalid("from", format!("worker `{from}` does not hold '{model}'")));
    }
    if holds(to) {
        return Err(check::invalid("to", format!("worker `{to}` holds '{model}' already")));
    }
    if state.migrations.len() >= limits::MIGRATIONS_COUNT {
        return Err(check::over("migrations", limits::MIGRATIONS_COUNT));
    }
    draft.push(Change::MigrationPut(Migration { model: model.clone(), from, to }));
    Ok(())
}

/// Ends the migrations that are done, and those that cannot be done any more.
pub(super) fn settle(draft: &mut Draft) {
    let state = draft.state();
    let goes_on = |migration: &Migration| {
        let there = state.workers.get(&migration.to);
        let there = there.is_some_and(|worker| worker.status != WorkerStatus::Down);
        let mut held = state.placements.values().filter(|held| held.worker == migration.from);
        there && held.any(|placement| placement.assignment.model == migration.model)
    };
    let over: Vec<ModelName> = state
        .migrations
        .values()
        .filter(|migration| !goes_on(migration))
        .map(|migration| migration.model.clone())
        .collect();
    for model in over {
        draft.push(Change::MigrationRemoved(model));
    }
}

/// Nothing is ordered of a worker that is gone.
pub(super) fn forget(draft: &mut Draft, id: WorkerId) {
    draft.push(Change::OrdersRemoved(id));
}

fn of(draft: &Draft, worker: WorkerId) -> WorkerOrders {
    let known = draft.state().orders.get(&worker).cloned();
    known.unwrap_or(WorkerOrders { worker, labels: BTreeMap::new(), drained: None })
}

fn put(draft: &mut Draft, orders: WorkerOrders) {
    draft.push(match orders.is_empty() {
        true => Change::OrdersRemoved(orders.worker),
        false => Change::OrdersPut(orders),
    });
}

fn turn(draft: &mut Draft, known: WorkerRecord, status: WorkerStatus, reason: String) {
    let since = if known.status == status { known.since } else { draft.now() };
    draft.push(Change::WorkerPut(WorkerRecord { status, reason, since, ..known }));
}
