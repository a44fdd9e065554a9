//! Tables and wishes stay within their limits.

use crate::state::State;
use ollamamax_proto::limits;

pub(super) fn check(state: &State) -> Vec<String> {
    let tables = [
        ("nodes", state.nodes.len(), limits::NODES_COUNT),
        ("models", state.models.len(), limits::MODELS_COUNT),
        ("workers", state.workers.len(), limits::WORKERS_COUNT),
        ("placements", state.placements.len(), limits::PLACEMENTS_COUNT),
        ("replicas", state.replicas.len(), limits::PLACEMENTS_COUNT),
        ("deployments", state.deployments.len(), limits::MODELS_COUNT),
        ("orders", state.orders.len(), limits::WORKERS_COUNT + limits::ADOPTED_COUNT),
        ("adopted servers", state.adopted.len(), limits::ADOPTED_COUNT),
        ("migrations", state.migrations.len(), limits::MIGRATIONS_COUNT),
        ("rollouts", state.rollouts.len(), limits::MODELS_COUNT),
        (
            "versions",
            state.versions.len(),
            limits::MODELS_COUNT.saturating_mul(limits::MODEL_VERSIONS_COUNT),
        ),
        ("checkpoints", state.checkpoints.len(), limits::CHECKPOINTS_COUNT),
        ("users", state.access.users.len(), limits::USERS_COUNT),
        ("roles", state.access.roles.len(), limits::ROLES_COUNT),
        ("keys", state.access.keys.len(), limits::KEYS_COUNT),
        ("sessions", state.access.sessions.len(), limits::SESSIONS_COUNT),
        ("revoked access tokens", state.access.revoked.len(), limits::REVOKED_TOKENS_COUNT),
        ("join tokens", state.access.join_tokens.len(), limits::JOIN_TOKENS_COUNT),
        ("enrolments", state.access.enrolments.len(), limits::WORKERS_COUNT),
        ("quotas", state.access.quotas.len(), limits::QUOTAS_COUNT),
        ("bounds of what is made", state.access.makings.len(), limits::QUOTAS_COUNT),
        ("receivers of the trail", state.access.exported.len(), limits::AUDIT_RECEIVERS_COUNT),
        ("records of the trail", state.access.trail.len(), limits::AUDIT_RECORDS_COUNT),
    ];
    let tables = tables.into_iter().filter(|(_, count, limit)| count > limit);
    let tables = tables.map(|(name, count, limit)| format!("{count} {name}, at most {limit}"));
    let wishes = state
        .demands
        .values()
        .filter(|demand| demand.replicas == 0 || demand.replicas > limits::REPLICAS_COUNT);
    let wishes = wishes.map(|d| format!("{} replicas of '{}'", d.replicas, d.model));
    tables.chain(wishes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariant;
    use crate::testing::World;
    use crate::testing::{demand, name};

    fn violating() -> State {
        let mut world = World::with(&[], &[100]);
        world.demand("m0", 1);
        world.state.demands.insert(name("m0"), demand("m0", 0));
        world.state
    }

    #[test]
    fn the_violating_state_is_found_out_by_this_invariant_alone() {
        let found: Vec<&str> =
            invariant::check(&violating()).iter().map(|violation| violation.invariant).collect();
        assert_eq!(found, ["sizes_bounded"]);
    }
}
