//! Replicas of several stages: added whole, and gone whole as soon as one of their members goes.

use super::check;
use super::draft::Draft;
use super::{models, placement};
use crate::change::Change;
use crate::deployment::Strategy;
use crate::rejection::Rejection;
use crate::replica::{Cover, Member, NewReplica, ReplicaRecord, covers};
use ollamamax_proto::{ReplicaId, WorkerId, limits};
use std::collections::BTreeSet;

/// Memory is the planner's business, as everywhere.
pub(super) fn add(draft: &mut Draft, wanted: &NewReplica) -> Result<(), Rejection> {
    let count = wanted.members.len();
    if !(2..=limits::REPLICA_STAGES_COUNT).contains(&count) {
        let reason = format!("{count}, expected 2 to {}", limits::REPLICA_STAGES_COUNT);
        return Err(check::invalid("members", reason));
    }
    if matches!(wanted.strategy, Strategy::Data | Strategy::Auto) {
        let reason = format!("a replica cut by `{}`", wanted.strategy);
        return Err(check::invalid("strategy", reason));
    }
    if wanted.steps_in_flight == 0 || wanted.steps_in_flight as usize > limits::REPLICA_STAGES_COUNT
    {
        let reason = format!("expected 1 to {}", limits::REPLICA_STAGES_COUNT);
        return Err(check::invalid("steps_in_flight", reason));
    }
    let current = &models::find(draft, &wanted.model)?.version;
    let blob = wanted.members.first().map_or(current.blob, |member| member.assignment.blob);
    let version = draft.state().wanted_version(&wanted.model, blob).unwrap_or(current);
    let layers = version.facts.layers;
    let parts: Vec<Cover> = wanted
        .members
        .iter()
        .map(|member| (member.assignment.stage, member.first_head, member.end_head))
        .collect();
    covers(layers, &parts).map_err(|reason| check::invalid("members", reason))?;
    let workers: BTreeSet<WorkerId> = wanted.members.iter().map(|member| member.worker).collect();
    if workers.len() != count {
        return Err(check::invalid("members", "two are on one worker"));
    }
    let mut members = Vec::with_capacity(count);
    for member in &wanted.members {
        if member.assignment.model != wanted.model {
            let reason =
                format!("'{}' in a replica of '{}'", member.assignment.model, wanted.model);
            return Err(check::invalid("model", reason));
        }
        if member.assignment.blob != blob {
            return Err(check::invalid("blob", "members of two versions in a replica"));
        }
        let assignment = placement::assign(draft, member.worker, &member.assignment)?;
        let (first_head, end_head) = (member.first_head, member.end_head);
        members.push(Member { assignment, first_head, end_head });
    }
    // Generations count up and are never reused, so one of them names the replica.
    let id = ReplicaId(draft.next_generation().0);
    draft.push(Change::ReplicaPut(Box::new(ReplicaRecord {
        id,
        model: wanted.model.clone(),
        strategy: wanted.strategy,
        activations: wanted.activations,
        steps_in_flight: wanted.steps_in_flight,
        members,
    })));
    Ok(())
}

pub(super) fn remove(draft: &mut Draft, id: ReplicaId) -> Result<(), Rejection> {
    let known = draft.state().replicas.get(&id).ok_or(Rejection::UnknownReplica(id))?;
    let members: BTreeSet<_> = known.members.iter().map(|member| member.assignment).collect();
    draft.drop_placements(|placement| members.contains(&placement.assignment.id));
    Ok(())
}
