//! Answers a command: either a rejection, or an outcome and the changes that make it true.
//!
//! ```text
//! decide(&State, &Entry) -> Draft (a cheap copy)
//!     -> one file per table pushes changes -> Advanced(counters) last
//! ```
//!
//! Everything here is replayed from the log, by newer programs too: a rule may only get looser for
//! commands that were once accepted, and nothing here may depend on a cost formula or a hash that
//! could be improved later.

mod access;
mod adopted;
mod check;
mod checkpoints;
mod deployments;
mod draft;
mod models;
mod nodes;
mod orders;
mod placement;
mod replicas;
mod rollouts;
mod workers;

use crate::change::Change;
use crate::command::{Command, Entry, Outcome};
use crate::rejection::Rejection;
use crate::state::State;
use draft::Draft;
use ollamamax_proto::NodeId;

/// What an accepted command answers and what it makes true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The answer for whoever asked.
    pub outcome: Outcome,
    /// Empty when nothing is different now; else the last one is [`Change::Advanced`].
    pub changes: Vec<Change>,
}

/// Answers `entry` from `state` alone: the same on every node.
///
/// # Errors
/// A [`Rejection`] when the command is refused; it then changes nothing.
pub fn decide(state: &State, entry: &Entry) -> Result<Decision, Rejection> {
    let mut draft = Draft::begin(state, entry.at);
    let said = dispatch(&mut draft, &entry.command)?;
    orders::settle(&mut draft);
    rollouts::settle(&mut draft);
    let cluster = draft.state().cluster.as_ref().map(|c| c.id.clone()).unwrap_or_default();
    let changes = draft.finish();
    let changed = !changes.is_empty();
    let revision = if changed { state.revision().next() } else { state.revision() };
    let outcome = match said {
        Said::Admitted(node) => Outcome::Admitted { node, cluster, revision },
        Said::Reused => Outcome::Reused { revision },
        Said::Done => Outcome::Done { changed, revision },
    };
    Ok(Decision { outcome, changes })
}

/// Decides and evolves in one go; the changes are what was applied.
pub fn apply(state: &mut State, entry: &Entry) -> (Result<Outcome, Rejection>, Vec<Change>) {
    match decide(state, entry) {
        Ok(decision) => {
            decision.changes.iter().for_each(|change| state.evolve(change));
            (Ok(decision.outcome), decision.changes)
        }
        Err(rejection) => (Err(rejection), Vec::new()),
    }
}

/// What a command answers beside what it changed.
enum Said {
    Done,
    Admitted(NodeId),
    Reused,
}

fn dispatch(draft: &mut Draft, command: &Command) -> Result<Said, Rejection> {
    use Command as C;
    if let C::Bootstrap { cluster, http, raft } = command {
        return nodes::bootstrap(draft, cluster, http, raft).map(Said::Admitted);
    }
    if draft.state().cluster.is_none() {
        return Err(Rejection::NotBootstrapped);
    }
    match command {
        C::Bootstrap { .. } => {}
        C::AdmitNode { http, raft, voter } => {
            return nodes::admit(draft, http, raft, *voter).map(Said::Admitted);
        }
        C::AnnounceNode { node, http, raft, pid } => {
            nodes::announce(draft, *node, http, raft, *pid)?;
        }
        C::PromoteNode { node } => nodes::promote(draft, *node)?,
        C::RemoveNode { node } => nodes::remove(draft, *node)?,
        C::ForgetNode { node } => nodes::forget(draft, *node)?,
        C::PutModel { name, version } => models::put(draft, name, version)?,
        C::CopyModel { source, destination } => models::copy(draft, source, destination)?,
        C::DeleteModel { name } => models::delete(draft, name)?,
        C::DemandModel { demand } => models::demand(draft, demand)?,
        C::ReleaseModel { name } => models::release(draft, name)?,
        C::ExpireDemands => models::expire(draft),
        C::RegisterWorker { id, .. } => {
            let is_new = !draft.state().workers.contains_key(id);
            workers::register(draft, command)?;
            if is_new {
                access::joins::label(draft, *id)?;
            }
        }
        C::SetWorkerStatus { id, incarnation, status, reason } => {
            workers::set_status(draft, *id, *incarnation, *status, reason)?;
        }
        C::RemoveWorker { id } => {
            // One that was let in and never came is removed as well.
            let is_enrolled = draft.state().access.enrolments.contains_key(id);
            if draft.state().workers.contains_key(id) || !is_enrolled {
                workers::remove(draft, *id)?;
            }
            access::joins::unenrol(draft, *id);
        }
        C::ApplyPlan { base, steps } => placement::apply_plan(draft, *base, steps)?,
        C::ReportPlacements { worker, incarnation, transitions } => {
            placement::report(draft, *worker, *incarnation, transitions)?;
        }
        C::PutCheckpoint { name, value, expected } => {
            checkpoints::put(draft, name, value, *expected)?;
        }
        C::DeleteCheckpoint { name, expected } => checkpoints::delete(draft, name, *expected)?,
        C::Deploy { deployment, demand } => deployments::deploy(draft, deployment, demand)?,
        C::ClearDeployment { name } => deployments::clear(draft, name)?,
        C::LabelWorker { id, labels } => orders::label(draft, *id, labels)?,
        C::DrainWorker { id, reason } => orders::drain(draft, *id, reason)?,
        C::ResumeWorker { id } => orders::resume(draft, *id)?,
        C::MigrateModel { name, from, to } => orders::migrate(draft, name, *from, *to)?,
        C::RollOut { name, version, weight } => rollouts::roll_out(draft, name, version, *weight)?,
        C::ShiftTraffic { name, version, weight } => {
            rollouts::shift(draft, name, *version, *weight)?;
        }
        C::RevertRollout { name, began, reason } => rollouts::revert(draft, name, *began, reason)?,
        C::ScaleModel { name, from, to } => deployments::scale(draft, name, *from, *to)?,
        C::Access(command) => return access::decide(draft, command),
        C::AdoptServer { server } => adopted::adopt(draft, server)?,
        C::ReleaseServer { id } => adopted::release(draft, *id)?,
        C::Noted { note, command } => {
            let said = dispatch(draft, command)?;
            access::trail::note(draft, note, "done");
            return Ok(said);
        }
    }
    Ok(Said::Done)
}
