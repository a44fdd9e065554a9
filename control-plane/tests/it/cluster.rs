//! A quorum in one process: agreement, take-over, membership.

use crate::support::{Cluster, checkpoint, eventually, model, retried, value, within};
use bytes::Bytes;
use futures_util::StreamExt;
use ollamamax_control_plane::NodeFailure;
use ollamamax_core::{Command, Rejection};
use ollamamax_gateway::ports::ControlError;
use ollamamax_proto::{Digest, NodeId};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn what_the_first_start_makes_is_in_the_trail() {
    let cluster = Cluster::start(1).await;
    let told = || -> Vec<String> {
        let state = cluster.control(1).state();
        let notes = state.access.trail.values().map(|record| record.note.clone());
        notes
            .filter(|n| n.actor == "node:1")
            .map(|n| format!("{} {}", n.action, n.outcome))
            .collect()
    };
    let all = ["authority.put done", "user.create done", "key.create done"];
    eventually("the first administrator and its key are told of", || told() == all).await;
    let state = cluster.control(1).state();
    let key = state.access.keys.values().next().expect("the first key");
    let object = key.id.to_string();
    assert!(state.access.trail.values().any(|record| record.note.object == object));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_agree_and_every_node_takes_writes_and_linearizable_reads() {
    let cluster = Cluster::start(3).await;
    let ids: Vec<u64> = cluster.nodes.keys().copied().collect();
    assert_eq!(ids, [1, 2, 3]);
    for writer in &ids {
        let text = format!("by {writer}");
        cluster.put(*writer, "who", &text).await.expect("a write is accepted");
        let own = cluster.control(*writer).state();
        assert_eq!(value(&own, "who"), Some(text.clone()), "a node reads its own writes");
        for reader in &ids {
            let state = cluster.control(*reader).linearizable().await.expect("a read is answered");
            assert_eq!(value(&state, "who"), Some(text.clone()), "node {reader}");
        }
    }
    let control = cluster.control(2);
    let rejected =
        control.propose(Command::DeleteCheckpoint { name: "absent".to_owned(), expected: None });
    let rejected = rejected.await.expect_err("nothing to delete");
    assert_eq!(rejected, ControlError::Rejected(Rejection::UnknownCheckpoint("absent".to_owned())));
    let state = cluster.converge().await;
    eventually("every node has introduced itself", || {
        let state = cluster.control(1).state();
        state.nodes.len() == 3 && state.nodes.values().all(|node| node.pid == std::process::id())
    })
    .await;
    assert!(state.cluster.is_some());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writes_share_entries_and_each_gets_its_own_answer() {
    let cluster = Cluster::start(1).await;
    let control = cluster.control(1);
    let before = control.quorum().applied;
    let writes = (0..500).map(|n| {
        let control = control.clone();
        async move { control.propose(checkpoint(&format!("c/{n}"), &n.to_string())).await }
    });
    let outcomes = futures_util::future::join_all(writes).await;
    let mut revisions: Vec<u64> =
        outcomes.into_iter().map(|outcome| outcome.expect("accepted").revision().0).collect();
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), 500, "every write has a revision of its own");
    let entries = control.quorum().applied - before;
    assert!(entries < 100, "500 writes took {entries} entries");
    let state = control.state();
    for n in 0..500 {
        assert_eq!(value(&state, &format!("c/{n}")), Some(n.to_string()));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_and_loses_nothing() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let survivor = cluster.follower().await;
    cluster.put(survivor, "before", "1").await.expect("accepted");
    cluster.nodes.remove(&leader).expect("it runs").kill().await;
    let killed = Instant::now();
    let control = cluster.control(survivor);
    retried("a write on a survivor", Duration::from_secs(2), || {
        control.propose(checkpoint("after", "2"))
    })
    .await;
    assert!(killed.elapsed() < Duration::from_secs(2), "took {:?}", killed.elapsed());
    cluster.restart(leader).await;
    cluster.settle(3).await;
    let state = cluster.control(leader).linearizable().await.expect("a read is answered");
    assert_eq!(value(&state, "before").as_deref(), Some("1"));
    assert_eq!(value(&state, "after").as_deref(), Some("2"));
    cluster.converge().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_leader_hands_over_first() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let survivor = cluster.follower().await;
    let term = cluster.control(survivor).quorum().term;
    let node = cluster.nodes.remove(&leader).expect("it runs");
    let stopping = tokio::spawn(node.stop());
    let control = cluster.control(survivor);
    within("another node leads", Duration::from_secs(2), || {
        control.quorum().leader.is_some_and(|now| now.0 != leader)
    })
    .await;
    assert!(control.quorum().term > term);
    cluster.put(survivor, "after", "1").await.expect("accepted");
    stopping.await.expect("it stops");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_writes_fail_fast_and_say_why_and_reads_of_the_last_state_go_on() {
    let mut cluster = Cluster::start(3).await;
    cluster.put(1, "kept", "1").await.expect("accepted");
    cluster.converge().await;
    let survivor = cluster.follower().await;
    let others: Vec<u64> = cluster.nodes.keys().copied().filter(|id| *id != survivor).collect();
    for id in others {
        cluster.nodes.remove(&id).expect("it runs").kill().await;
    }
    let control = cluster.control(survivor);
    let asked = Instant::now();
    let error = control.propose(checkpoint("lost", "1")).await.expect_err("no quorum");
    assert!(asked.elapsed() < Duration::from_millis(3_500), "took {:?}", asked.elapsed());
    assert!(matches!(error, ControlError::NoQuorum { proposed: false, .. }), "{error:?}");
    assert!(error.to_string().contains("1 of 3 voting nodes"), "{error}");
    let asked = Instant::now();
    control.propose(checkpoint("lost", "1")).await.expect_err("still no quorum");
    control.linearizable().await.expect_err("no linearizable read either");
    assert!(asked.elapsed() < Duration::from_millis(500), "a known outage is told at once");
    assert_eq!(value(&control.state(), "kept").as_deref(), Some("1"));
    assert_eq!(control.quorum().leader, None);
    for node in std::mem::take(&mut cluster.nodes).into_values() {
        node.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_leaves_the_membership_and_is_told_so() {
    let mut cluster = Cluster::start(3).await;
    let leaver = cluster.follower().await;
    let stays = cluster.leader().await;
    let node = NodeId(leaver);
    cluster.control(stays).propose(Command::RemoveNode { node }).await.expect("accepted");
    let removed = cluster.nodes.remove(&leaver).expect("it runs");
    let failure = tokio::time::timeout(Duration::from_secs(10), removed.failed());
    let failure = failure.await.expect("the removed node notices");
    assert_eq!(failure.exit_code(), 0, "{failure}");
    cluster.settle(2).await;
    eventually("its record is gone", || !cluster.control(stays).state().nodes.contains_key(&node))
        .await;
    removed.kill().await;
    cluster.put(stays, "after", "1").await.expect("two nodes go on");
    let newcomer = cluster.add().await;
    assert!(newcomer > 3, "a node id is never reused");
    cluster.settle(3).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_dead_when_it_was_removed_hears_of_it_at_its_restart() {
    hears_of_its_removal_at_its_restart(true).await;
}

/// One that only listens asks for no votes and has to hear of it another way.
#[tokio::test(flavor = "multi_thread")]
async fn so_does_one_that_does_not_vote() {
    hears_of_its_removal_at_its_restart(false).await;
}

async fn hears_of_its_removal_at_its_restart(voter: bool) {
    let mut cluster = Cluster::start(2).await;
    let stays = cluster.leader().await;
    let leaver = cluster.add_as(voter).await;
    cluster.settle(2 + usize::from(voter)).await;
    cluster.converge().await;
    cluster.nodes.remove(&leaver).expect("it runs").kill().await;
    let node = NodeId(leaver);
    cluster.control(stays).propose(Command::RemoveNode { node }).await.expect("accepted");
    eventually("its record is gone", || !cluster.control(stays).state().nodes.contains_key(&node))
        .await;
    cluster.restart(leaver).await;
    let removed = cluster.nodes.remove(&leaver).expect("it runs");
    let failure = tokio::time::timeout(Duration::from_secs(10), removed.failed());
    let failure = failure.await.expect("it is told");
    assert_eq!(failure, NodeFailure::Removed(leaver));
    assert_eq!(failure.exit_code(), 0, "{failure}");
    removed.kill().await;
    cluster.put(stays, "after", "1").await.expect("the others go on");
    cluster.settle(2).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_can_be_told_to_leave() {
    let mut cluster = Cluster::start(3).await;
    let leaver = cluster.leader().await;
    let stays = cluster.follower().await;
    let node = NodeId(leaver);
    cluster.control(stays).propose(Command::RemoveNode { node }).await.expect("accepted");
    let removed = cluster.nodes.remove(&leaver).expect("it runs");
    eventually("its record is gone", || !cluster.control(stays).state().nodes.contains_key(&node))
        .await;
    cluster.settle(2).await;
    removed.kill().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_reach_every_node() {
    let cluster = Cluster::start(3).await;
    let bytes: Vec<u8> = (0..700_000u32).map(|n| (n % 251) as u8).collect();
    let digest = Digest::of(&bytes);
    let body = |bytes: Vec<u8>| futures_util::stream::iter([Ok(Bytes::from(bytes))]).boxed();
    let first = cluster.nodes[&1].blobs();
    let wrong = first.put(Digest::of(b"other"), body(bytes.clone())).await;
    assert!(wrong.is_err(), "bytes of another digest are refused");
    assert!(first.put(digest, body(bytes.clone())).await.expect("stored"));
    assert!(!first.put(digest, body(bytes.clone())).await.expect("known"));
    let fetched = cluster.nodes[&2].blobs().open(digest).await.expect("fetched from a peer");
    assert_eq!(std::fs::read(fetched).expect("readable"), bytes);
    assert_eq!(cluster.nodes[&3].blobs().stat(digest), None);
    cluster.control(1).propose(model("tiny", &bytes)).await.expect("accepted");
    eventually("node 3 has it too", || cluster.nodes[&3].blobs().stat(digest).is_some()).await;
    cluster.stop().await;
}
