//! Keys, sessions and quotas belong to somebody who is there, and roles that somebody has are there, too.

use crate::access::{QuotaOf, built_in};
use crate::state::State;

pub(super) fn check(state: &State) -> Vec<String> {
    let access = &state.access;
    let is_there = |user: &String| access.users.contains_key(user);
    let keys = access.keys.values().filter(|key| !is_there(&key.owner));
    let keys = keys.map(|key| format!("key {} of nobody: `{}`", key.id, key.owner));
    let sessions = access.sessions.values().filter(|session| !is_there(&session.user));
    let sessions = sessions.map(|s| format!("session {} of nobody: `{}`", s.id, s.user));
    let quotas = access.quotas.keys().chain(access.makings.keys()).filter(|of| match of {
        QuotaOf::Key(id) => !access.keys.contains_key(id),
        QuotaOf::User(user) => !is_there(user),
        QuotaOf::Model(_) | QuotaOf::Anybody => false,
    });
    let quotas = quotas.map(|of| format!("a quota of nobody: {of}"));
    let known = |role: &String| built_in(role).is_some() || access.roles.contains_key(role);
    let had = access.users.values().flat_map(|user| &user.roles);
    let inherited = access.roles.values().flat_map(|role| &role.inherits);
    let roles = had.chain(inherited).filter(|role| !known(role));
    let roles = roles.map(|role| format!("no such role: `{role}`"));
    keys.chain(sessions).chain(quotas).chain(roles).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Quota;
    use crate::invariant;

    fn violating() -> State {
        let mut state = crate::testing::World::with(&[], &[]).state;
        state.access.quotas.insert(QuotaOf::User("ghost".into()), Quota::default());
        state
    }

    #[test]
    fn the_violating_state_is_found_out_by_this_invariant_alone() {
        let found: Vec<&str> =
            invariant::check(&violating()).iter().map(|violation| violation.invariant).collect();
        assert_eq!(found, ["access_has_owner"]);
    }
}
