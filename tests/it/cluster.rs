//! A quorum of real processes: what it keeps when its members die.

use crate::binary;
use ollamamax_tests::{Cluster, ClusterOptions, HarnessError, Member};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// What a survivor may take to accept a write after the leader's death: an election and the request.
const TAKEOVER: Duration = Duration::from_secs(2);
/// What a refused write may take, with time to notice.
const REFUSAL: Duration = Duration::from_secs(5);

async fn start(nodes: usize, workers: usize) -> Cluster {
    let options = ClusterOptions::new(binary()).size(nodes, workers);
    Cluster::start(options).await.expect("a cluster")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_survivor_takes_writes_after_the_leader_is_killed_and_nothing_is_lost() {
    let mut cluster = start(3, 0).await;
    let leader = cluster.leader(PATIENCE).await.expect("a leader");
    let revision = cluster.api(leader).put_checkpoint("a", b"1", Some(0)).await.expect("a write");
    let survivor = (leader + 1) % 3;
    cluster.kill9(Member::Node(leader));
    let killed = Instant::now();
    let again = cluster
        .wait("a write on a survivor", TAKEOVER, async || {
            let put = cluster.api(survivor).put_checkpoint("b", b"2", None).await;
            put.map_err(|error| error.to_string())
        })
        .await
        .expect("a survivor takes over");
    eprintln!("a write succeeded {:?} after the kill", killed.elapsed());
    assert!(again > revision);
    cluster.restart(Member::Node(leader)).expect("restarted");
    cluster.wait_for_quorum(3, PATIENCE).await.expect("it comes back");
    for node in 0..3 {
        for (name, value) in [("a", b"1"), ("b", b"2")] {
            let kept = cluster.api(node).get_checkpoint(name).await.expect("a read");
            assert_eq!(kept.expect("it is there").value, value, "{name} on node {node}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_writes_fail_fast_and_say_why() {
    let mut cluster = start(3, 0).await;
    let leader = cluster.leader(PATIENCE).await.expect("a leader");
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    others.iter().for_each(|node| cluster.kill9(Member::Node(*node)));
    cluster
        .wait("the loss is noticed", PATIENCE, async || {
            let status = cluster.api(leader).status().await.map_err(|error| error.to_string())?;
            status.leader.map_or(Ok(()), |leader| Err(format!("leader {leader}")))
        })
        .await
        .expect("a leader without followers is none");
    let asked = Instant::now();
    let refused = cluster.api(leader).put_checkpoint("x", b"1", None).await;
    let refused = refused.expect_err("no quorum");
    let plain = matches!(&refused, HarnessError::Refused { status: 503, body, .. } if body.contains("quorum"));
    assert!(plain, "{refused}");
    assert!(asked.elapsed() < REFUSAL, "it took {:?}", asked.elapsed());
    others.iter().for_each(|node| cluster.restart(Member::Node(*node)).expect("restarted"));
    cluster.wait_for_quorum(3, PATIENCE).await.expect("they come back");
    cluster.api(leader).put_checkpoint("x", b"1", None).await.expect("writes go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_told_to_stop_hands_over_and_comes_back_and_a_removed_one_ends() {
    let mut cluster = start(3, 1).await;
    let leader = cluster.leader(PATIENCE).await.expect("a leader");
    let code = cluster.stop(Member::Node(leader), PATIENCE).await.expect("it stops");
    assert_eq!(code, Some(0), "{}", cluster.logs());
    let next = cluster.leader(PATIENCE).await.expect("another leader");
    assert_ne!(next, leader);
    cluster.restart(Member::Node(leader)).expect("restarted");
    cluster.wait_for_quorum(3, PATIENCE).await.expect("it comes back");

    cluster.wait_caught_up(leader, next, PATIENCE).await.expect("it catches up");
    let status = cluster.api(next).status().await.expect("a status");
    let port = cluster.url(leader);
    let port = port.rsplit(':').next().expect("a port");
    let id = status.nodes.iter().find(|node| node.http.ends_with(port)).expect("a member").id;
    let path = format!("/admin/v1/cluster/nodes/{id}");
    cluster.api(next).delete(&path, None).await.expect("it is told to leave");
    let left = cluster.process_mut(Member::Node(leader)).wait(PATIENCE).await;
    assert_eq!(left.expect("it hears of it and ends"), Some(0), "{}", cluster.logs());
    cluster.wait_for_quorum(2, PATIENCE).await.expect("two are left");

    let code = cluster.stop(Member::Worker(0), PATIENCE).await.expect("it drains");
    assert_eq!(code, Some(0), "{}", cluster.logs());
}
