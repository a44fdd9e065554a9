//! Random histories of access: invariants hold after each command, rows rebuild the state, an administrator is left, and no
//! refresh token is good twice.

use super::access::{ask, key, refresh, session, set, user};
use crate::access::{AccessCommand, KeyId, Making, Quota, QuotaOf, ROLE_ADMIN, SessionId};
use crate::command::{Command, Outcome};
use crate::testing::{World, config};
use crate::{invariant, table};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn name() -> impl Strategy<Value = String> {
    (0..4u8).prop_map(|nth| format!("u{nth}"))
}

fn roles() -> impl Strategy<Value = &'static [&'static str]> {
    prop_oneof![Just(&["admin"][..]), Just(&["user"][..]), Just(&[][..])]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        1 => (name(), roles()).prop_map(|(name, roles)| user(&name, roles)),
        1 => (name(), roles())
            .prop_map(|(user, r)| ask(AccessCommand::SetRoles { user, roles: set(r) })),
        1 => (name(), any::<bool>())
            .prop_map(|(user, disabled)| ask(AccessCommand::DisableUser { user, disabled })),
        1 => name().prop_map(|user| ask(AccessCommand::DeleteUser { user })),
        1 => name().prop_map(|user| ask(AccessCommand::LogOut { user })),
        1 => (0..6u64, name()).prop_map(|(id, owner)| key(id, &owner, None)),
        1 => (0..6u64).prop_map(|id| ask(AccessCommand::RevokeKey { id: KeyId(id) })),
        1 => (0..6u64, any::<bool>()).prop_map(|(id, some)| {
            let quota = some.then(Quota::default);
            let making = quota.map(|_| Making::default());
            ask(AccessCommand::SetQuotas { of: QuotaOf::Key(KeyId(id)), quota, making })
        }),
        1 => (0..4u128, name()).prop_map(|(id, user)| session(id, &user, 0)),
        4 => (0..4u128, 0..6u8).prop_map(|(id, presented)| refresh(id, presented)),
        1 => (0..4u128).prop_map(|id| ask(AccessCommand::CloseSession { id: SessionId(id) })),
        1 => Just(ask(AccessCommand::Expire)),
    ]
}

proptest! {
    #![proptest_config(config(400))]
    #[test]
    fn every_history_keeps_the_promises(
        history in proptest::collection::vec((command(), 0..6_000u64), 1..60),
    ) {
        let mut world = World::new();
        world.ok(user("u0", &["admin"]));
        // Which tokens of which session were replaced by one that was used itself.
        let mut spent: BTreeSet<(u128, u8)> = BTreeSet::new();
        for (command, pause_ms) in history {
            world.now = world.now.plus(pause_ms);
            let (reply, _) = world.run(command.clone());
            if let Command::Access(asked) = &command {
                match &**asked {
                    AccessCommand::OpenSession { session } if reply.is_ok() => {
                        spent.retain(|(id, _)| *id != session.id.0);
                    }
                    AccessCommand::RefreshSession { id, presented, .. } => {
                        let nth = presented.0[0];
                        if matches!(reply, Ok(Outcome::Done { .. })) {
                            prop_assert!(!spent.contains(&(id.0, nth)), "a spent token was good");
                            if let Some(before) = nth.checked_sub(1) {
                                spent.insert((id.0, before));
                            }
                        }
                    }
                    _ => {}
                }
            }
            prop_assert_eq!(invariant::check(&world.state), vec![]);
            let admin = |user: &&crate::access::UserRecord| {
                !user.disabled && user.roles.contains(ROLE_ADMIN)
            };
            prop_assert!(world.state.access.users.values().any(|user| admin(&user)));
        }
        let rows = table::rows(&world.state).expect("short");
        prop_assert_eq!(table::load(rows).expect("own rows"), world.state);
    }
}
