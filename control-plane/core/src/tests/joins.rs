//! Who is let in by a join token, as whom, and how that ends.

use super::access::ask;
use crate::Rejection;
use crate::access::{AccessCommand, Hidden, JoinRole, JoinToken, JoinTokenId};
use crate::command::{Command, Outcome};
use crate::testing::{World, register};
use ollamamax_proto::{Millis, WorkerId, limits};
use std::collections::BTreeMap;

pub(super) fn join_token(id: u64, role: JoinRole, uses_left: u32, expires_at: Millis) -> Command {
    let id = JoinTokenId(id);
    let (hash, created_at) = (Hidden([7; 32]), Millis(0));
    let token = JoinToken { id, hash, role, uses_left, created_at, expires_at };
    ask(AccessCommand::CreateJoinToken { token })
}

fn enrol(token: u64, hash: u8, worker: u128) -> Command {
    let presented = Hidden([hash; 32]);
    ask(AccessCommand::Enrol { token: JoinTokenId(token), presented, worker: WorkerId(worker) })
}

#[test]
fn a_join_token_lets_in_as_many_as_it_says_and_what_it_is_for() {
    let mut world = World::new();
    let later = world.now.plus(60_000);
    let labels = BTreeMap::from([("rack".to_owned(), "a1".to_owned())]);
    let worker = JoinRole::Worker { labels };
    world.ok(join_token(1, worker.clone(), 1, later));
    assert_eq!(world.err(enrol(1, 8, 5)), Rejection::NotLetIn, "a wrong secret");
    assert_eq!(world.err(enrol(2, 7, 5)), Rejection::NotLetIn, "an unknown token");
    world.ok(enrol(1, 7, 5));
    assert_eq!(world.err(enrol(1, 7, 6)), Rejection::NotLetIn, "used up");
    world.ok(register(5, 1, 100));
    assert_eq!(world.state.orders[&WorkerId(5)].labels["rack"], "a1");
    world.ok(Command::RemoveWorker { id: WorkerId(5) });
    assert!(!world.state.access.enrolments.contains_key(&WorkerId(5)), "removal is for good");
    world.ok(join_token(3, JoinRole::Node { voter: true }, 2, later));
    assert_eq!(world.err(enrol(3, 7, 5)), Rejection::NotLetIn, "it is for nodes");
    let node = AccessCommand::EnrolNode {
        token: JoinTokenId(3),
        presented: Hidden([7; 32]),
        http: "h:1".into(),
        raft: "h:2".into(),
    };
    assert!(matches!(world.run(ask(node)).0, Ok(Outcome::Admitted { .. })));
    world.now = later;
    assert_eq!(world.err(enrol(3, 7, 5)), Rejection::NotLetIn, "expired");
    let late = Millis(later.0 + limits::JOIN_TOKEN_MAX_MS + 1);
    assert!(matches!(world.err(join_token(4, worker, 1, late)), Rejection::Invalid { .. }));
}

#[test]
fn a_join_token_makes_nobody_somebody_else() {
    let mut world = World::new();
    let later = world.now.plus(60_000);
    let worker = |id| join_token(id, JoinRole::Worker { labels: BTreeMap::new() }, 9, later);
    world.ok(worker(1));
    world.ok(enrol(1, 7, 5));
    world.ok(enrol(1, 7, 5));
    world.ok(register(5, 1, 100));
    let trusted = BTreeMap::from([("trusted".to_owned(), Some("yes".to_owned()))]);
    world.ok(Command::LabelWorker { id: WorkerId(5), labels: trusted });
    assert_eq!(world.err(enrol(1, 7, 5)), Rejection::NotLetIn, "it lives");
    world.status(5, ollamamax_proto::placement::WorkerStatus::Down);
    world.ok(enrol(1, 7, 5));
    assert!(!world.state.orders.contains_key(&WorkerId(5)), "what was said of the one before");
    let node = |raft: &str| {
        let (http, raft) = ("h:9".to_owned(), raft.to_owned());
        ask(AccessCommand::EnrolNode {
            token: JoinTokenId(3),
            presented: Hidden([7; 32]),
            http,
            raft,
        })
    };
    world.ok(join_token(3, JoinRole::Node { voter: false }, 9, later));
    assert!(world.run(node("n:2")).0.is_ok() && world.run(node("n:2")).0.is_ok(), "asked again");
    let raft = "n:2".to_owned();
    let (id, http) = (ollamamax_proto::NodeId(2), "h:9".to_owned());
    world.ok(Command::AnnounceNode { node: id, http, raft, pid: 7 });
    assert_eq!(world.err(node("n:2")), Rejection::NotLetIn, "it has been there");
}

#[test]
fn who_was_let_in_and_never_came_can_be_removed() {
    let mut world = World::new();
    let later = world.now.plus(60_000);
    world.ok(join_token(1, JoinRole::Worker { labels: BTreeMap::new() }, 1, later));
    world.ok(enrol(1, 7, 5));
    world.ok(Command::RemoveWorker { id: WorkerId(5) });
    assert!(world.state.access.enrolments.is_empty());
    assert_eq!(
        world.err(Command::RemoveWorker { id: WorkerId(5) }),
        Rejection::UnknownWorker(WorkerId(5))
    );
}
