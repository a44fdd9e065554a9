//! Workers: a newer life of the same worker fences the older, and takes its memory with it.

use super::check;
use super::draft::Draft;
use super::orders;
use crate::change::Change;
use crate::command::Command;
use crate::record::{Placement, WorkerRecord};
use crate::rejection::Rejection;
use ollamamax_proto::placement::{Phase, WorkerStatus};
use ollamamax_proto::{Incarnation, WorkerId, limits};

pub(super) fn register(draft: &mut Draft, command: &Command) -> Result<(), Rejection> {
    let Command::RegisterWorker { id, incarnation, name, address, device, pid } = command else {
        return Ok(());
    };
    check::display_name("name", name)?;
    check::address("address", address)?;
    check::bytes("device.kind", &device.kind, limits::DISPLAY_NAME_CHARS)?;
    check::bytes("device.name", &device.name, limits::DISPLAY_NAME_CHARS)?;
    let known = draft.state().workers.get(id).cloned();
    let mut record = WorkerRecord {
        id: *id,
        incarnation: *incarnation,
        name: name.clone(),
        address: address.clone(),
        device: device.clone(),
        pid: *pid,
        status: WorkerStatus::Ready,
        reason: String::new(),
        since: draft.now(),
    };
    match known {
        None if draft.state().workers.len() >= limits::WORKERS_COUNT => {
            return Err(check::over("workers", limits::WORKERS_COUNT));
        }
        None => {}
        Some(known) if known.incarnation > *incarnation => {
            return Err(stale(&known, *incarnation));
        }
        Some(known) => {
            let same_life = known.incarnation == *incarnation;
            // A draining process that lost its connection registers again: it is still draining.
            if same_life && known.status == WorkerStatus::Draining {
                record.status = known.status;
                record.reason.clone_from(&known.reason);
            }
            if same_life && known.status == record.status {
                record.since = known.since;
                record.reason.clone_from(&known.reason);
            }
            if known.device.memory_bytes != device.memory_bytes || known.device.kind != device.kind
            {
                // Its placements were sized for another device.
                draft.drop_placements(|placement| placement.worker == *id);
            } else if !same_life {
                start_over(draft, *id);
            }
        }
    }
    let (status, reason) = (record.status, std::mem::take(&mut record.reason));
    (record.status, record.reason) = orders::under_orders(draft, *id, status, reason);
    draft.push(Change::WorkerPut(record));
    Ok(())
}

pub(super) fn set_status(
    draft: &mut Draft,
    id: WorkerId,
    incarnation: Incarnation,
    status: WorkerStatus,
    reason: &str,
) -> Result<(), Rejection> {
    let known = find(draft, id)?;
    if known.incarnation != incarnation {
        return Err(stale(&known, incarnation));
    }
    let (status, reason) = orders::under_orders(draft, id, status, check::cut_reason(reason));
    let since = if known.status == status { known.since } else { draft.now() };
    if status == WorkerStatus::Down {
        draft.drop_placements(|placement| placement.worker == id);
    }
    draft.push(Change::WorkerPut(WorkerRecord { status, reason, since, ..known }));
    Ok(())
}

pub(super) fn remove(draft: &mut Draft, id: WorkerId) -> Result<(), Rejection> {
    find(draft, id)?;
    draft.drop_placements(|placement| placement.worker == id);
    orders::forget(draft, id);
    draft.push(Change::WorkerRemoved(id));
    Ok(())
}

pub(super) fn find(draft: &Draft, id: WorkerId) -> Result<WorkerRecord, Rejection> {
    draft.state().workers.get(&id).cloned().ok_or(Rejection::UnknownWorker(id))
}

pub(super) fn stale(known: &WorkerRecord, got: Incarnation) -> Rejection {
    Rejection::StaleIncarnation { id: known.id, known: known.incarnation, got }
}

/// The process that held these placements is gone; the new one gets them anew, fenced from the old
/// one's reports.
fn start_over(draft: &mut Draft, id: WorkerId) {
    let held: Vec<Placement> =
        draft.state().placements.values().filter(|p| p.worker == id).cloned().collect();
    for mut placement in held {
        placement.assignment.generation = draft.next_generation();
        draft.push(Change::PlacementPut(Placement {
            phase: Phase::Pending,
            since: draft.now(),
            resident_bytes: 0,
            load_ns: 0,
            ..placement
        }));
    }
}
