//! Every record lies under its own identity.

use crate::state::State;

pub(super) fn check(state: &State) -> Vec<String> {
    let nodes = state.nodes.iter().filter(|(id, node)| node.id != **id);
    let models = state.models.iter().filter(|(name, model)| model.name != **name);
    let demands = state.demands.iter().filter(|(name, demand)| demand.model != **name);
    let workers = state.workers.iter().filter(|(id, worker)| worker.id != **id);
    let placements = state.placements.iter().filter(|(id, p)| p.assignment.id != **id);
    let checkpoints = state.checkpoints.iter().filter(|(name, c)| c.name != **name);
    let nodes = nodes.map(|(id, _)| format!("node `{id}`"));
    let models = models.map(|(name, _)| format!("model `{name}`"));
    let demands = demands.map(|(name, _)| format!("demand `{name}`"));
    let workers = workers.map(|(id, _)| format!("worker `{id}`"));
    let placements = placements.map(|(id, _)| format!("placement `{id}`"));
    let checkpoints = checkpoints.map(|(name, _)| format!("checkpoint `{name}`"));
    let deployments = state.deployments.iter().filter(|(name, d)| d.model != **name);
    let orders = state.orders.iter().filter(|(id, orders)| orders.worker != **id);
    let replicas = state.replicas.iter().filter(|(id, replica)| replica.id != **id);
    let migrations = state.migrations.iter().filter(|(name, m)| m.model != **name);
    let deployments = deployments.map(|(name, _)| format!("deployment `{name}`"));
    let orders = orders.map(|(id, _)| format!("orders `{id}`"));
    let replicas = replicas.map(|(id, _)| format!("replica `{id}`"));
    let migrations = migrations.map(|(name, _)| format!("migration `{name}`"));
    let rollouts = state.rollouts.iter().filter(|(name, r)| r.model != **name);
    let versions = state.versions.iter().filter(|((name, digest), record)| {
        record.model != *name || record.version.digest != *digest
    });
    let rollouts = rollouts.map(|(name, _)| format!("rollout `{name}`"));
    let versions = versions.map(|((name, digest), _)| format!("version `{digest}` of `{name}`"));
    let later = deployments.chain(orders).chain(replicas).chain(migrations);
    let adopted = state.adopted.iter().filter(|(id, server)| server.id != **id);
    let adopted = adopted.map(|(id, _)| format!("adopted server `{id}`"));
    let later = later.chain(rollouts).chain(versions).chain(adopted);
    nodes
        .chain(models)
        .chain(demands)
        .chain(workers)
        .chain(placements)
        .chain(checkpoints)
        .chain(later)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariant;
    use crate::testing::World;
    use ollamamax_proto::WorkerId;

    fn violating() -> State {
        let mut world = World::with(&[1_000], &[]);
        let record = world.worker(1).clone();
        world.state.workers.insert(WorkerId(2), record);
        world.state
    }

    #[test]
    fn the_violating_state_is_found_out_by_this_invariant_alone() {
        let found: Vec<&str> =
            invariant::check(&violating()).iter().map(|violation| violation.invariant).collect();
        assert_eq!(found, ["keys_match"]);
    }
}
